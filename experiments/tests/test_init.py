"""The signal of one layer, the small networks, and the run as a whole."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import spec
from experiments.init import COMPARED, reduced, signal
from experiments.tests.small import run
from spec import geometry


@given(st.floats(-5, 5), st.floats(0.1, 3))
def test_a_constant_is_no_signal(constant: float, scale: float) -> None:
    noise = np.random.default_rng(0).standard_normal((8, 2, 3, 3)) * scale
    found, moved = signal("x", noise), signal("x", noise + constant)
    assert moved.deviation == pytest.approx(found.deviation)
    assert moved.level == pytest.approx(np.sqrt(((noise + constant) ** 2).mean()))
    same = signal("x", np.full((4, 3), constant))
    assert same.deviation == pytest.approx(0, abs=1e-12)
    assert same.switching == 0
    assert same.live == (constant > 0)


def test_by_hand() -> None:
    """Four images, three units: one that is always on, one never, one for half of the images."""
    values = np.array([[1.0, -1.0, 1.0], [1.0, -1.0, -1.0], [3.0, -1.0, 1.0], [3.0, -1.0, -1.0]])
    found = signal("x", values)
    assert found.deviation == pytest.approx((1 + 0 + 1) / 3)
    assert found.live == pytest.approx(6 / 12)
    assert found.switching == pytest.approx(1 / 3)
    assert found.level == pytest.approx(math.sqrt((1 + 1 + 9 + 9 + 4 + 4) / 12))


@pytest.mark.parametrize("name", COMPARED)
def test_the_small_network_has_all_widths_and_passes_on_as_much(name: str) -> None:
    whole = spec.load(name)
    small = reduced(whole, 64)
    before, after = geometry(whole).parameters, geometry(small).parameters
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {"fc6.weight"}
    assert small.input.height == 64
    assert small.data.storage.size >= 64
    if name == "torchvision":  # its deviation follows the number of inputs by itself
        assert small.init.of("fc6.weight") == whole.init.of("fc6.weight")
    else:
        power = [
            s.init.of("fc6.weight").model_dump()["std"] ** 2 * shapes["fc6.weight"][1]
            for s, shapes in ((whole, before), (small, after))
        ]
        assert power[1] == pytest.approx(power[0])
    assert small.init.of("conv3.weight") == whole.init.of("conv3.weight")


def test_the_whole_is_the_network_itself() -> None:
    whole = spec.load("source-2012")
    assert reduced(whole, 224).statement()["layers"] == whole.statement()["layers"]
    assert reduced(whole, 224).init.of("fc6.weight") == whole.init.of("fc6.weight")


def test_a_run(small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.init.COMPARED", ("lenet-5", "fashion-mini"))
    monkeypatch.setattr("experiments.init.JUDGED", "conv3")
    monkeypatch.setattr("experiments.init.QUICK_STEPS", 3)
    result = run(tmp_path / "run", "init", *small[2:], "--spec", "lenet-5", "--quick", "--pixels", "40")
    numbers = result["numbers"]
    assert numbers["guessing_loss"] == pytest.approx(math.log(3))
    assert [len(losses) for losses in numbers["lenet-5"]["losses"]] == [3]
    layers = [layer.name for layer in spec.load("lenet-5").layers if layer.op in ("conv", "dense")]
    assert list(numbers["lenet-5"]["signal"]["deviation"]) == layers
    assert all(value > 0 for value in numbers["fashion-mini"]["signal"]["deviation"].values())
