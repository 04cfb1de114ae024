"""The update rules of spec/README.md, "Optimizer", against hand-computed runs and against each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from backends.numpy.optimizer import update
from spec import Settings
from spec.language import Optimizer


def sgd(in_velocity: bool, decay: str = "coupled", momentum: float = 0.9) -> Optimizer:
    return Optimizer.model_validate(
        {"kind": "sgd", "momentum": momentum, "learning_rate_in_velocity": in_velocity, "decay": decay}
    )


def run(optimizer: Optimizer, rates: Sequence[float], gradients: Sequence[float], decay: float = 0.0) -> list[float]:
    w, v, path = np.ones(()), np.zeros(()), []
    for lr, g in zip(rates, gradients, strict=True):
        w, v = update(w, v, np.array(g), Settings(lr, decay), optimizer)
        path.append(float(w))
    return path


GRADIENTS = (1.0, 0.5, 0.25, 0.1)


def test_with_a_constant_rate_the_place_of_the_rate_does_not_matter():
    assert run(sgd(True), [0.1] * 4, GRADIENTS) == pytest.approx(run(sgd(False), [0.1] * 4, GRADIENTS), rel=1e-14)


def test_across_a_drop_it_does():
    """By hand, w0 = 1, mu 0.9: in the velocity, v = -.1, -.14, -.1285, -.11665; outside, v = 1, 1.4, 1.51, 1.459."""
    rates = [0.1, 0.1, 0.01, 0.01]
    assert run(sgd(True), rates, GRADIENTS) == pytest.approx([0.9, 0.76, 0.6315, 0.51485], rel=1e-13)
    assert run(sgd(False), rates, GRADIENTS) == pytest.approx([0.9, 0.76, 0.7449, 0.73031], rel=1e-13)


@pytest.mark.parametrize("in_velocity", [True, False])
def test_decay_coupled_and_decoupled(in_velocity):
    """By hand, lr 0.1, wd 0.05, two steps. Coupled: w1 = 1 - .105 = .895; w2 = .895 - .0945 - .054475 = .746025.
    Decoupled: w1 = 1 - .1 - .005 = .895; w2 = .895 - .09 - .05 - .1 * .05 * .895 = .750525."""
    coupled = run(sgd(in_velocity, "coupled"), [0.1, 0.1], GRADIENTS[:2], decay=0.05)
    decoupled = run(sgd(in_velocity, "decoupled"), [0.1, 0.1], GRADIENTS[:2], decay=0.05)
    assert coupled == pytest.approx([0.895, 0.746025], rel=1e-13)
    assert decoupled == pytest.approx([0.895, 0.750525], rel=1e-13)


@pytest.mark.parametrize("in_velocity", [True, False])
@pytest.mark.parametrize("decay", ["coupled", "decoupled"])
def test_a_frozen_parameter_and_its_velocity_stay(in_velocity, decay):
    w, v = np.array([1.0, 2.0]), np.array([3.0, 4.0])
    new_w, new_v = update(w, v, np.array([5.0, 6.0]), Settings(0.0, 0.1), sgd(in_velocity, decay))
    assert new_w.tolist() == [1.0, 2.0]
    assert new_v.tolist() == [3.0, 4.0]


def test_the_arguments_are_left_alone():
    w, v, g = np.ones(3), np.ones(3), np.ones(3)
    update(w, v, g, Settings(0.1, 0.1), sgd(True, "decoupled"))
    assert [*w, *v, *g] == [1.0] * 9
