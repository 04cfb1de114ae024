"""README, "Schedules": the learning rate at every place of a run."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pydantic import TypeAdapter

import spec
from spec import Place, Settings
from spec.language import PlateauRate, Schedule
from spec.schedule import matched, plateau_drops, rate, scaled_learning_rates


def schedule(**fields: Any) -> Any:
    return TypeAdapter(Schedule).validate_python(fields)


def place(epoch: int = 0, step: int | None = None, steps_per_epoch: int = 10, epochs: int = 90) -> Place:
    return Place(epoch, epoch * steps_per_epoch if step is None else step, steps_per_epoch, epochs)


def plateau(**fields: Any) -> PlateauRate:
    given = {"rate": 1.0, "factor": 0.1, "patience": 2, "threshold": 0.01, "drops": 3} | fields
    return PlateauRate(kind="plateau", **given)


def test_constant() -> None:
    assert rate(schedule(kind="constant", rate=0.02), place(89)) == 0.02


def test_stages_begin_with_their_epoch() -> None:
    stages = schedule(
        kind="stages", stages=({"epoch": 0, "rate": 1.0}, {"epoch": 3, "rate": 0.5}, {"epoch": 7, "rate": 0})
    )
    assert [rate(stages, place(epoch)) for epoch in range(9)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0, 0]


def test_steps_count_epochs_or_optimizer_steps() -> None:
    by_epoch = schedule(kind="step", rate=1.0, factor=0.5, every=3, unit="epoch")
    assert [rate(by_epoch, place(epoch)) for epoch in (0, 2, 3, 5, 6)] == [1, 1, 0.5, 0.5, 0.25]
    by_step = schedule(kind="step", rate=1.0, factor=0.5, every=3, unit="step")
    assert [rate(by_step, place(0, step)) for step in (0, 2, 3, 5, 6)] == [1, 1, 0.5, 0.5, 0.25]


def test_exponential_steps_are_those_of_cuda_convnet2() -> None:
    """``dexp[base=0.01;tgtFactor=250;numSteps=4]``: four quarters of the run."""
    dexp = schedule(kind="exponential_steps", rate=0.01, target_factor=250.0, steps=4)
    found = [rate(dexp, place(0, step, 10, 10)) for step in (0, 24, 25, 49, 50, 74, 75, 99)]
    expected = [0.01, 0.01, 0.0015874, 0.0015874, 0.00025198, 0.00025198, 0.00004, 0.00004]
    assert found == pytest.approx(expected, rel=1e-4)
    assert rate(dexp, place(0, 100, 10, 10)) == pytest.approx(0.00004)


@pytest.mark.parametrize(
    ("errors", "drops"),
    [
        ([], 0),
        ([0.9], 0),
        ([0.9, 0.9], 0),
        ([0.9, 0.9, 0.9], 1),
        ([0.9, 0.895, 0.892], 1),  # better, but never by the threshold
        ([0.9, 0.895, 0.889], 0),
        ([0.9, 0.9, 0.9, 0.9, 0.9], 2),
        ([0.9] + [0.9] * 20, 3),  # at most `drops`
        ([0.5, 0.9, 0.6], 1),  # compared with the best, not with the last
        ([float("nan")] * 2, 1),
    ],
)
def test_plateau(errors: list[float], drops: int) -> None:
    assert plateau_drops(plateau(), errors) == drops
    assert rate(plateau(), place(len(errors)), errors) == pytest.approx(0.1**drops)


def test_plateau_without_threshold_still_needs_a_better_error() -> None:
    assert plateau_drops(plateau(threshold=0.0), [0.5, 0.5, 0.5]) == 1
    assert plateau_drops(plateau(threshold=0.0), [0.5, 0.5, 0.4999999]) == 0


@examples(max_examples=200, deadline=None)
@given(errors=st.lists(st.floats(0, 1), max_size=40), patience=st.integers(1, 6), drops=st.integers(1, 4))
def test_plateau_never_recovers_and_waits_its_patience(errors: list[float], patience: int, drops: int) -> None:
    found = [plateau_drops(plateau(patience=patience, drops=drops), errors[:n]) for n in range(len(errors) + 1)]
    assert all(0 <= b - a <= 1 for a, b in pairwise(found))
    assert found[-1] <= min(drops, len(errors) // patience)


def test_the_pattern_written_last_holds() -> None:
    patterns = {"*": 1, "*.bias": 2, "conv1.*": 3}
    assert [matched(patterns, name) for name in ("fc6.weight", "fc6.bias", "conv1.bias")] == [1, 2, 3]
    with pytest.raises(KeyError, match="no pattern of conv1"):
        matched({"conv1.*": 1}, "fc6.bias")


def test_the_2012_schedule() -> None:
    """The notes of layers/layer-params-145.cfg: 25, 51, 67 (conv1 alone), 72 (conv1 frozen), 79."""
    alexnet = spec.load("source-2012")
    table = {
        epoch: spec.settings(alexnet, place(epoch, epochs=91)) for epoch in (0, 24, 25, 51, 66, 67, 71, 72, 78, 79, 90)
    }
    conv1 = [table[epoch]["conv1.weight"].learning_rate for epoch in table]
    assert conv1 == [0.01, 0.01, 0.001, 0.0001, 0.0001, 0.00001, 0.00001, 0, 0, 0, 0]
    others = [table[epoch]["conv2.weight"].learning_rate for epoch in table]
    assert others == [0.01, 0.01, 0.001, 0.0001, 0.0001, 0.0001, 0.0001, 0.0001, 0.0001, 0.00001, 0.00001]
    assert {table[epoch]["fc8.bias"].learning_rate for epoch in table} == {0.02}
    assert table[72]["conv1.bias"].frozen
    assert not table[71]["conv1.bias"].frozen
    assert {name: found.weight_decay for name, found in table[0].items()} == {
        name: 0.0005 if name.endswith(".weight") else 0.0 for name in spec.geometry(alexnet).parameters
    }


def test_settings_are_in_network_order() -> None:
    found = spec.settings(spec.load("torchvision"), place(30))
    assert list(found) == list(spec.geometry(spec.load("torchvision")).parameters)
    assert set(found.values()) == {Settings(0.01 * 0.1, 0.0001)}


def test_scaled_rates_keep_their_ratios() -> None:
    alexnet = spec.load("source-2012")
    scaled = spec.load("source-2012", {"training": {"learning_rate": scaled_learning_rates(alexnet, 0.1)}})
    for epoch in (0, 30, 72):
        before, after = spec.settings(alexnet, place(epoch)), spec.settings(scaled, place(epoch))
        for name, settings in before.items():
            assert after[name].learning_rate == pytest.approx(10 * settings.learning_rate)
