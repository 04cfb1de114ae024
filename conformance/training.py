"""Training as the oracle does it: a few steps across every change of the settings, with what rounding makes of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from backends.base import Array, Arrays, Masks
from backends.numpy.network import Step
from backends.numpy.ops import cross_entropy
from backends.numpy.optimizer import update
from conformance.bounds import Arithmetic, bound, channel_largest, loss_rounding, representable, update_rounding
from conformance.cases import Case, NoSafeCase, drawn_inputs, kept
from conformance.oracle import (
    INPUT,
    Draw,
    Expected,
    Losses,
    backward,
    drawn,
    forward,
    logit_gradient,
    unsafe_decisions,
)
from spec import Place, Settings, Spec, geometry, settings
from spec.arithmetic import Geometry
from spec.language import Optimizer

MOST_STEPS = 7
STEPS_PER_EPOCH = 5005
"""ImageNet in batches of 256, so that schedules in steps turn within a recipe's epochs."""
ATTEMPTS = 40
"""How often the images of a step are drawn again before the run is given up."""


def plan(spec: Spec, steps: int = 0) -> list[dict[str, Settings]]:
    """The settings of a few steps that cross the changes of the recipe: twice the first ones, then each that differs.

    steps: how many they are instead, spread evenly over all changes. Validation errors are flat, so that a plateau
    schedule drops.
    """
    found: list[dict[str, Settings]] = []
    for epoch in range(spec.training.epochs):
        place = Place(epoch, epoch * STEPS_PER_EPOCH, STEPS_PER_EPOCH, spec.training.epochs)
        here = settings(spec, place, [0.5] * epoch)
        if not found or here != found[-1]:
            found.append(here)
    if steps:
        return [found[step * len(found) // steps] for step in range(steps)]
    return [found[0], *found][:MOST_STEPS]


@dataclass(frozen=True)
class Batch:
    """What one step of training sees."""

    images: Array
    labels: Array
    masks: Masks
    settings: Mapping[str, Settings]
    start: tuple[Arrays, Arrays] | None = None
    """Parameters and velocities from which the step is made, in what the dtype can hold; None: those it has."""


@dataclass(frozen=True)
class State:
    """What a backend must hold after a step. Loss and logits are those of the step, before its update."""

    parameters: dict[str, Expected]
    velocities: dict[str, Expected]
    loss: Expected
    logits: Expected


@dataclass(frozen=True)
class Course:
    """Where training starts, what it sees, and what it must come to, step by step."""

    spec: Spec
    parameters: dict[str, Array]
    velocities: dict[str, Array]
    batches: list[Batch]
    states: list[State]


def wide(arrays: Arrays) -> dict[str, Array]:
    return {name: np.asarray(value, np.float64) for name, value in arrays.items()}


class Run:
    """One run of training: the clean one if it has no generator."""

    def __init__(self, parameters: Arrays, velocities: Arrays, draw: Draw) -> None:
        self.draw = draw
        self.restart(parameters, velocities)
        self.steps: list[Step] = []
        self.loss = 0.0

    def restart(self, parameters: Arrays, velocities: Arrays) -> None:
        """Go on from there."""
        self.parameters, self.velocities = wide(parameters), wide(velocities)

    def forward(self, network: Geometry, batch: Batch, losses: Losses) -> None:
        self.steps = forward(network, self.parameters, batch.images, batch.masks, losses, self.draw)
        self.loss = cross_entropy(self.steps[-1].output, batch.labels)

    def update(self, batch: Batch, losses: Losses, optimizer: Optimizer) -> None:
        cotangent = logit_gradient(self.steps[-1].output, batch.labels, losses, self.draw)
        for name, gradient in list(backward(self.steps, cotangent, losses, self.draw)):
            if name == INPUT or batch.settings[name].frozen:
                continue
            g = gradient if self.draw is None else drawn(gradient, losses.parameters[name], self.draw)
            w, v = self.parameters[name], self.velocities[name]
            at_w, at_v = update_rounding(w, v, g, batch.settings[name], optimizer, losses.arithmetic)
            w, v = update(w, v, g, batch.settings[name], optimizer)
            self.parameters[name], self.velocities[name] = drawn(w, at_w, self.draw), drawn(v, at_v, self.draw)


def drawn_velocities(case: Case, dtype: str) -> dict[str, Array]:
    """Normal velocities, float32, of a hundredth of their parameters' size."""
    draw = np.random.default_rng([case.seed, 5])
    return {
        name: kept(
            draw.standard_normal(value.shape, np.float32)
            * np.float32(0.01 * math.sqrt(np.vdot(value, value) / value.size)),
            dtype,
        )
        for name, value in case.parameters.items()
    }


def _held(arrays: Arrays, dtype: str) -> Arrays:
    return {name: representable(value, dtype) for name, value in arrays.items()}


@dataclass(frozen=True)
class Way:
    """How a course goes through the recipe."""

    steps: int = 0
    """As :func:`plan` has it."""
    restarted: bool = False
    """Every step begins from the oracle's state, rounded to what the dtype can hold."""
    safe: bool = True
    """The images of a step are drawn until no decision is within reach of rounding; else decisions may turn."""


def course(case: Case, arithmetic: Arithmetic, *, replicas: int, images: int, way: Way | None = None) -> Course:
    """Train from the parameters of `case`, and from velocities that are not zero, through :func:`plan`.

    The perturbed runs are left to run freely beside the clean one, unless all are restarted. Raises NoSafeCase.
    """
    way = way or Way()
    network, optimizer = geometry(case.spec), case.spec.training.optimizer
    draw = np.random.default_rng([case.seed, 3])
    velocities = drawn_velocities(case, arithmetic.dtype)
    clean = Run(case.parameters, velocities, None)
    perturbed = [
        Run(case.parameters, velocities, np.random.default_rng([case.seed, 4, replica])) for replica in range(replicas)
    ]

    def expected(value: Array, others: list[Array], axis: int, last: Array | None = None) -> Expected:
        deviations = [channel_largest(other - value, axis) for other in others]
        return Expected(value, bound(deviations, last, arithmetic.dtype, value.size))

    def forwarded(batch: Batch) -> tuple[Losses, dict[str, Array]]:
        """What the operations lose, and which decisions rounding can turn."""
        losses = Losses(arithmetic)
        for run in (clean, *perturbed):  # the clean run first: the others draw from what it records
            run.forward(network, batch, losses)
        return losses, unsafe_decisions(clean.steps, [run.steps for run in perturbed], arithmetic)

    batches, states = [], []
    for chosen in plan(case.spec, way.steps):
        start = None
        if way.restarted:
            start = _held(clean.parameters, arithmetic.dtype), _held(clean.velocities, arithmetic.dtype)
            for run in (clean, *perturbed):
                run.restart(*start)
        for _ in range(ATTEMPTS):
            batch = Batch(*drawn_inputs(case.spec, images, draw, arithmetic.dtype), chosen, start)
            losses, unsafe = forwarded(batch)
            if not unsafe or not way.safe:
                break
        else:
            raise NoSafeCase(f"after {ATTEMPTS} attempts, rounding can still turn decisions of {', '.join(unsafe)}")
        for run in (clean, *perturbed):
            run.update(batch, losses, optimizer)
        logits = clean.steps[-1].output
        last = loss_rounding(logits, clean.loss, arithmetic)
        states.append(
            State(
                {n: expected(w, [run.parameters[n] for run in perturbed], 0) for n, w in clean.parameters.items()},
                {n: expected(v, [run.velocities[n] for run in perturbed], 0) for n, v in clean.velocities.items()},
                expected(np.asarray(clean.loss), [np.asarray(run.loss) for run in perturbed], 0, last),
                expected(logits, [run.steps[-1].output for run in perturbed], 1),
            )
        )
        batches.append(batch)
    return Course(case.spec, case.parameters, velocities, batches, states)
