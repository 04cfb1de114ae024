"""The optimizer against the plain formula, through a drop of the learning rate and a thaw."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from backends.tests import small
from backends.torch import SGD
from backends.torch.optimizer import _blocks
from spec import Settings

MU, WD = 0.9, 0.05
RATES = (0.1, 0.1, 0.0, 0.01, 0.01, 0.1)
"""A drop, a frozen step, and a rise: the places where the rules part."""


def by_formula(in_velocity: bool, coupled: bool, gradients: list[float]) -> tuple[list[float], float]:
    """Every value of one number w, from 1, and its last velocity, written as the specification's text has it."""
    w, v, seen = 1.0, 0.0, []
    for lr, g in zip(RATES, gradients, strict=True):
        if lr != 0.0:
            direction = g + WD * w if coupled else g
            beside = 0.0 if coupled else lr * WD * w
            v = MU * v - lr * direction if in_velocity else MU * v + direction
            w = w + v - beside if in_velocity else w - lr * v - beside
        seen.append(w)
    return seen, v


def optimizer(in_velocity: bool, coupled: bool, w: torch.Tensor | None = None) -> tuple[torch.nn.Parameter, SGD]:
    """Of one parameter, by default the number 1."""
    decay = "coupled" if coupled else "decoupled"
    rule = {"kind": "sgd", "momentum": MU, "learning_rate_in_velocity": in_velocity, "decay": decay}
    chosen = small.spec({"flatten": {"op": "flatten"}, "fc": {"op": "dense", "out_features": 2}}, optimizer=rule)
    parameter = torch.nn.Parameter(torch.ones((), dtype=torch.float64) if w is None else w)
    return parameter, SGD([("fc.weight", parameter)], chosen)


@pytest.mark.parametrize(("in_velocity", "coupled"), list(itertools.product((True, False), repeat=2)))
def test_follows_the_formula(in_velocity: bool, coupled: bool) -> None:
    gradients = np.random.default_rng(0).normal(size=len(RATES)).tolist()
    w, ours = optimizer(in_velocity, coupled)
    seen = []
    for lr, g in zip(RATES, gradients, strict=True):
        w.grad = torch.tensor(g, dtype=torch.float64)
        ours.use({"fc.weight": Settings(lr, WD)})
        ours.step()
        seen.append(w.item())
    expected, velocity = by_formula(in_velocity, coupled, gradients)
    np.testing.assert_allclose(seen, expected, rtol=1e-14)
    np.testing.assert_allclose(ours.velocities()["fc.weight"].item(), velocity, rtol=1e-13)


def test_torch_optim_sgd_is_one_of_the_rules() -> None:
    ours, theirs = (torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64)) for _ in range(2))
    rule = {"kind": "sgd", "momentum": MU, "learning_rate_in_velocity": False, "decay": "coupled"}
    chosen = small.spec({"flatten": {"op": "flatten"}, "fc": {"op": "dense", "out_features": 2}}, optimizer=rule)
    a, b = SGD([("fc.weight", ours)], chosen), torch.optim.SGD([theirs], lr=1.0, momentum=MU, weight_decay=WD)
    for lr in (0.1, 0.1, 0.01):
        for w in (ours, theirs):
            w.grad = torch.tensor([0.3, 0.7], dtype=torch.float64)
        a.use({"fc.weight": Settings(lr, WD)})
        b.param_groups[0]["lr"] = lr
        a.step()
        b.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=0)


def test_a_frozen_parameter_and_its_velocity_stay_bit_for_bit() -> None:
    w, ours = optimizer(True, True)
    w.grad = torch.ones((), dtype=torch.float64)
    ours.step()
    before = w.item(), ours.velocities()["fc.weight"].item()
    ours.use({"fc.weight": Settings(0.0, WD)})
    ours.step()
    assert (w.item(), ours.velocities()["fc.weight"].item()) == before
    assert before[1] != 0.0


def test_starts_with_the_settings_of_the_first_step_and_obeys_schedulers() -> None:
    w, ours = optimizer(False, True)
    assert ours.param_groups[0]["lr"] == 0.05
    assert ours.param_groups[0]["weight_decay"] == 0.0005
    scheduler = torch.optim.lr_scheduler.StepLR(ours, step_size=1, gamma=0.1)
    w.grad = torch.ones((), dtype=torch.float64)
    assert ours.step(lambda: 1.5) == 1.5
    scheduler.step()
    assert ours.param_groups[0]["lr"] == pytest.approx(0.005)


@pytest.mark.parametrize("shape", [(7, 5, 3, 3), (64, 9), (11,)])
@pytest.mark.parametrize(("in_velocity", "coupled"), list(itertools.product((True, False), repeat=2)))
def test_blocks_of_a_parameter_have_the_bits_of_the_whole(
    shape: tuple[int, ...], in_velocity: bool, coupled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    found = []
    for block in (1 << 30, 20, 1):
        monkeypatch.setattr("backends.torch.optimizer.BLOCK", block)
        torch.manual_seed(0)
        w, ours = optimizer(in_velocity, coupled, torch.randn(shape).contiguous(memory_format=layout))
        for lr in RATES:
            w.grad = torch.randn(shape)
            ours.use({"fc.weight": Settings(lr, WD)})
            ours.step()
        found.append((w.detach().clone(), ours.velocities()["fc.weight"].clone()))
    for w, v in found[1:]:
        assert torch.equal(w, found[0][0])
        assert torch.equal(v, found[0][1])


@pytest.mark.parametrize(("in_velocity", "coupled"), list(itertools.product((True, False), repeat=2)))
def test_parameters_together_as_on_a_gpu_are_updated_as_one_by_one(
    monkeypatch: pytest.MonkeyPatch, in_velocity: bool, coupled: bool
) -> None:
    rule = {"kind": "sgd", "momentum": MU, "learning_rate_in_velocity": in_velocity,
            "decay": "coupled" if coupled else "decoupled"}  # fmt: skip
    layers = {"flatten": {"op": "flatten"}, **{f"fc{i}": {"op": "dense", "out_features": 2} for i in range(3)}}
    chosen, found = small.spec(layers, optimizer=rule), []
    given = {"fc0.weight": (0.1, WD), "fc0.bias": (0.2, 0.0), "fc1.weight": (0.1, WD), "fc1.bias": (0.0, WD),
             "fc2.weight": (0.2, 0.0)}  # fmt: skip
    for together in (False, True):
        if together:
            monkeypatch.setattr("backends.torch.optimizer._blocks", lambda *several: iter([several]))
        drawn = torch.Generator().manual_seed(0)
        parameters = {name: torch.nn.Parameter(torch.randn(4, 3, generator=drawn)) for name in given}
        ours = SGD(parameters.items(), chosen)
        for _ in range(3):
            for w in parameters.values():
                w.grad = torch.randn(4, 3, generator=drawn)
            ours.use({name: Settings(*one) for name, one in given.items()})
            ours.step()
        found.append([*(w.detach() for w in parameters.values()), *ours.velocities().values()])
    assert all(map(torch.equal, *found))


def test_on_another_device_all_parameters_are_one_block() -> None:
    lists = tuple([torch.empty(3, device="meta"), torch.empty(5, device="meta")] for _ in range(3))
    (only,) = _blocks(*lists)
    assert all(one is other for one, other in zip(only, lists, strict=True))
