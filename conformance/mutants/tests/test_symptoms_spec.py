"""What the links of the shipped mistakes describe, seen on the mutants of ``spec``: a test for each, under its name."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from conformance.mutants import CATALOGUE, find
from conformance.mutants.witnesses import specification
from spec import Place, Spec, draws, geometry, initial_parameters, settings

HERE = [mutant.name for mutant in CATALOGUE if mutant.target == "spec" and mutant.kind == "shipped"]
END: dict[str, Any] = {"flatten": {"op": "flatten"}, "fc": {"op": "dense", "out_features": 3}}


@pytest.mark.parametrize("name", HERE)
def test_every_shipped_mutant_has_its_symptom_shown(name: str) -> None:
    assert hasattr(sys.modules[__name__], f"test_{name.replace('-', '_')}")


def weights(mutant: str | None, groups: int, **distribution: Any) -> Any:
    """The weight of a convolution (64, 64 / groups, 3, 3) as it is drawn."""
    conv = {"op": "conv", "out_channels": 64, "kernel": 3, "groups": groups}
    spec = specification((64, 3), {"conv": conv, **END}, init={"weight": {"kind": "variance_scaling", **distribution}})
    if mutant is None:
        return initial_parameters(spec)["conv.weight"]
    with find(mutant).apply():
        return initial_parameters(spec)["conv.weight"]


def test_spec_init_scaled_normal_truncated() -> None:
    """The variance is scale / n times 1 - 4 phi(2) / (2 Phi(2) - 1), that is 0.774; uniform draws are right."""
    name, he = "spec-init-scaled-normal-truncated", {"scale": 2, "fan": "fan_in"}
    right, wrong = (weights(m, 1, distribution="normal", **he).var() / (2 / 576) for m in (None, name))
    assert right == pytest.approx(1, abs=0.03)
    assert wrong == pytest.approx(0.7737, abs=0.03)
    uniform = [weights(m, 1, distribution="uniform", **he) for m in (None, name)]
    np.testing.assert_array_equal(*uniform)


@pytest.mark.parametrize("groups", [1, 4])
def test_spec_init_fan_in_ungrouped(groups: int) -> None:
    """The largest weight is the square root of the groups too small for 1 / sqrt(fan_in)."""
    found = weights("spec-init-fan-in-ungrouped", groups, scale=1 / 3, fan="fan_in", distribution="uniform")
    bound = 1 / np.sqrt(64 // groups * 9)
    assert np.abs(found).max() / bound == pytest.approx(1 / np.sqrt(groups), rel=0.01)


def test_spec_init_fans_without_window() -> None:
    """The limit of Glorot's uniform is sqrt(6 / (in + out)) for convolutions too, whose kernels have 9 places."""
    limit = np.sqrt(6 / (64 + 64))
    right, wrong = (
        np.abs(weights(m, 1, scale=1, fan="fan_avg", distribution="uniform")).max()
        for m in (None, "spec-init-fans-without-window")
    )
    assert wrong == pytest.approx(limit, rel=0.01)
    assert right == pytest.approx(limit / 3, rel=0.01)


def masks(mutant: str | None, epoch: int) -> Any:
    """Of two images."""
    if mutant is None:
        return draws.dropout_mask(1, "drop", 0.5, (99,), images=np.array([3, 4]), epoch=epoch)
    with find(mutant).apply():
        return draws.dropout_mask(1, "drop", 0.5, (99,), images=np.array([3, 4]), epoch=epoch)


def test_spec_dropout_always_the_same() -> None:
    """There is no randomness in the masks."""
    found = [mask for epoch in range(3) for mask in masks("spec-dropout-always-the-same", epoch)]
    assert all((mask == found[0]).all() for mask in found)
    assert (masks(None, 0)[0] != masks(None, 0)[1]).any()


def test_spec_draws_repeat_every_epoch() -> None:
    """In each epoch the sequence of numbers is exactly the same, for crops as for anything drawn."""
    name = "spec-draws-repeat-every-epoch"
    np.testing.assert_array_equal(masks(name, 0), masks(name, 5))
    with find(name).apply():
        orders = [draws.permutation(1, draws.Purpose.SHUFFLE, 50, epoch=epoch).tolist() for epoch in range(3)]
    assert orders[0] == orders[1] == orders[2]
    assert masks(None, 0).tolist() != masks(None, 5).tolist()


def rates(mutant: str | None, schedule: dict[str, Any], errors: Sequence[float] = (), epochs: int = 6) -> list[float]:
    """The learning rate in each epoch."""
    training = {"learning_rate": {"*": schedule}, "epochs": epochs}
    spec: Spec = specification((1, 1), END, training)

    def of(epoch: int) -> float:
        return settings(spec, Place(epoch, epoch, 1, epochs), errors[:epoch])["fc.weight"].learning_rate

    if mutant is None:
        return [of(epoch) for epoch in range(epochs)]
    with find(mutant).apply():
        return [of(epoch) for epoch in range(epochs)]


def plateau(patience: int) -> dict[str, Any]:
    return {"kind": "plateau", "rate": 0.1, "factor": 0.1, "patience": patience, "threshold": 0.0001, "drops": 5}


def test_spec_plateau_one_epoch_late() -> None:
    """A flat metric, a patience of 2: the first epoch is the best; the rate drops after the fourth, not the third."""
    flat = [0.5] * 6
    np.testing.assert_allclose(rates(None, plateau(2), flat), [0.1, 0.1, 0.1, 0.01, 0.01, 0.001])
    np.testing.assert_allclose(rates("spec-plateau-one-epoch-late", plateau(2), flat), [0.1, 0.1, 0.1, 0.1, 0.01, 0.01])


def test_spec_plateau_without_patience() -> None:
    """The patience does not seem to do anything."""
    name, flat = "spec-plateau-without-patience", [0.5] * 6
    assert rates(name, plateau(1), flat) == rates(name, plateau(4), flat) == rates(None, plateau(1), flat)


STEP = {"kind": "step", "rate": 0.1, "factor": 0.5, "every": 2, "unit": "epoch"}


def test_spec_schedule_first_epoch_skipped() -> None:
    """The first value of the schedule is skipped."""
    right = rates(None, STEP, epochs=7)
    assert rates("spec-schedule-first-epoch-skipped", STEP) == right[1:]


def test_spec_schedule_one_epoch_late() -> None:
    """After the first step of the scheduler the rate remains what it was."""
    right = rates(None, {**STEP, "every": 1})
    assert rates("spec-schedule-one-epoch-late", {**STEP, "every": 1}) == [right[0], *right[:-1]]


def test_spec_pools_always_round_up() -> None:
    """64x64, kernel 3, padding 1, stride 2: 33 whether rounding up is asked for or not; convolutions give 32."""
    window = {"kernel": 3, "stride": 2, "padding": 1}

    def sizes() -> list[int]:
        ends = [
            {"op": "max_pool", **window},
            {"op": "max_pool", **window, "rounding": "ceil"},
            {"op": "conv", "out_channels": 1, **window},
        ]
        return [geometry(specification((1, 64), {"a": end, **END})).layers[0].output_shape[1] for end in ends]

    assert sizes() == [32, 33, 32]
    with find("spec-pools-always-round-up").apply():
        assert sizes() == [33, 33, 32]
    assert sizes() == [32, 33, 32]
