"""The oracle with its uncertainty: clean values in float64, and beside each the bound that ``bounds.py`` derives.

The clean run records what every operation would lose in the backend's arithmetic; perturbed runs draw errors of that
size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from backends.base import Array, Arrays, Masks
from backends.numpy.network import Step, call_of
from backends.numpy.ops import (
    BACKWARD,
    FORWARD,
    Gradient,
    cross_entropy,
    cross_entropy_backward,
    flat_windows,
)
from conformance.bounds import (
    ROUNDED,
    UNIFORM,
    Arithmetic,
    backward_rounding,
    bound,
    channel_largest,
    forward_rounding,
    loss_rounding,
)
from spec import geometry
from spec.arithmetic import Geometry
from spec.language import Spec

INPUT = "input"
"""The name under which the gradient by the images is reported."""


@dataclass(frozen=True)
class Expected:
    """What a tensor must be, and by how much it may differ; the bound broadcasts to the value."""

    value: Array
    bound: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    def part(self, rows: slice) -> Expected:
        """The same of some rows of the first dimension; a number is a row."""
        return Expected(np.atleast_1d(self.value)[rows], np.atleast_1d(np.broadcast_to(self.bound, self.shape))[rows])


@dataclass
class Losses:
    """What every operation loses: standard deviations by layer, recorded by the clean run, drawn from by the others."""

    arithmetic: Arithmetic
    forward: dict[str, Array] = field(default_factory=dict)
    backward: dict[str, Array] = field(default_factory=dict)
    parameters: dict[str, Array] = field(default_factory=dict)
    """Of parameters' gradients the largest by channel only: nothing is computed from them any more."""


Draw = np.random.Generator | None
"""None: the clean run."""


def drawn(y: Array, std: Array, draw: Draw) -> Array:
    return y if draw is None or not std.any() else y + std * draw.standard_normal(y.shape)


def forward(
    network: Geometry, parameters: Arrays, images: Array, masks: Masks | None, losses: Losses, draw: Draw = None
) -> list[Step]:
    """As :func:`backends.numpy.network.forward`; the clean run fills `losses`, a drawing run errs by them."""
    steps: list[Step] = []
    x = drawn(np.asarray(images, np.float64), np.asarray(UNIFORM * losses.arithmetic.input_step), draw)
    for layer in network.layers:
        call = call_of(layer, x, parameters, masks)
        x = FORWARD[layer.layer.op](call)
        if draw is None:
            losses.forward[layer.name] = forward_rounding(call, x, losses.arithmetic)
        x = drawn(x, losses.forward[layer.name], draw)
        steps.append(Step(call, x))
    return steps


ENOUGH = 1 << 20
"""Of a large matrix, about this many elements show how far a perturbed run's gradient strays."""


LOUDEST = 16
"""Rows of such a matrix that are always looked at: those of the largest gradients stray the furthest."""


def _watched(steps: list[Step], gradients: Mapping[str, Array]) -> dict[str, Array]:
    """By the name of a large weight, the rows that show how far its gradient strays: the loudest, and every so many."""
    rows = {}
    for step in steps:
        call, name = step.call, f"{step.name}.weight"
        large = call.layer.op == "dense" and call.layer.groups == 1 and call.parameters["weight"].size > ENOUGH
        if large:
            loudness = np.abs(gradients[name]).max(axis=1)
            every = math.ceil(call.parameters["weight"].size / ENOUGH)
            rows[name] = np.union1d(np.argsort(loudness)[-LOUDEST:], np.arange(0, len(loudness), every))
    return rows


def _thinned(step: Step, dy: Array, rows: Array | None) -> Gradient:
    """The op's backward, of the weight's gradient only `rows` where they are given."""
    call = step.call
    if rows is None:
        return BACKWARD[call.layer.op](call, step.output, dy)
    gradients = {"weight": dy[:, rows].T @ call.x}
    if "bias" in call.parameters:
        gradients["bias"] = dy.sum(axis=0)
    return dy @ call.parameters["weight"], gradients


def backward(
    steps: list[Step],
    cotangent: Array,
    losses: Losses,
    draw: Draw = None,
    watched: Mapping[str, Array] | None = None,
) -> Iterator[tuple[str, Array]]:
    """The gradients of sum(cotangent * logits) one by one from the last layer's to the first's, then the input's.

    watched: of these weights only these rows.
    """
    dy = np.asarray(cotangent, np.float64)
    for step in reversed(steps):
        name = step.name
        dx, gradients = _thinned(step, dy, (watched or {}).get(f"{name}.weight"))
        if draw is None:
            losses.backward[name], stds = backward_rounding(step.call, dy, dx, gradients, losses.arithmetic)
            losses.parameters |= {f"{name}.{short}": std for short, std in stds.items()}
        for short in sorted(gradients):
            yield f"{name}.{short}", gradients[short]
        dy = drawn(dx, losses.backward[name], draw)
    yield INPUT, dy


def _axis(name: str) -> int:
    """The axis of a gradient that counts channels: of kernels the first, of images the second."""
    return 1 if name == INPUT else 0


def logit_gradient(logits: Array, labels: Array, losses: Losses, draw: Draw) -> Array:
    """d(mean cross-entropy)/d logits. A softmax loses a few units of each probability, and of 1 at the label; in mixed
    precision its gradient is rounded on its way back."""
    dz, arithmetic = cross_entropy_backward(logits, labels), losses.arithmetic
    std = arithmetic.kept * 2.0 * np.maximum(np.abs(dz), np.abs(dz).max(axis=1, keepdims=True) * arithmetic.kept)
    if arithmetic.mixed:
        std += arithmetic.u * ROUNDED * np.abs(dz)
    return drawn(dz, std, draw)


def unsafe_decisions(
    clean: list[Step], perturbed: list[list[Step]], arithmetic: Arithmetic, margin: float = 1.0
) -> dict[str, Array]:
    """Which channels of which ReLUs and max-pools decide within `margin` bounds: layer name to bool (C,) or (F,).

    A ReLU decides by the sign of x, a max-pool by the difference of the two largest of a window. Numbers that no
    rounding has touched are safe, and so are exact zeros: they come from an earlier ReLU, a mask or padding, and are
    zeros in every backend.
    """
    unsafe = {}
    for i, step in enumerate(clean):
        call = step.call
        if call.layer.op not in ("relu", "max_pool"):
            continue
        deviations = [channel_largest(run[i].call.x - call.x, 1) for run in perturbed]
        reach = margin * bound(deviations, None, arithmetic.dtype, call.x.size)
        if call.layer.op == "relu":
            close = (np.abs(call.x) <= reach) & (call.x != 0)
        else:
            values = flat_windows(call, -np.inf)
            if values.shape[-1] == 1:
                continue
            best = np.partition(values, values.shape[-1] - 2, axis=-1)[..., -2:]
            close = (best[..., 1] - best[..., 0] <= 2 * reach) & (best != 0).any(axis=-1)
        close &= reach > 0
        found = close.any(axis=tuple(j for j in range(close.ndim) if j != 1))
        if found.any():
            unsafe[step.name] = found
    return unsafe


class Oracle:
    """What a backend must answer for one set of parameters, images and masks.

    replicas: how many perturbed runs measure the conditioning. seed: of their errors.
    """

    def __init__(
        self,
        spec: Spec,
        parameters: Arrays,
        images: Array,
        masks: Masks | None,
        arithmetic: Arithmetic,
        *,
        replicas: int,
        seed: int = 0,
    ) -> None:
        self.arithmetic, self._network = arithmetic, geometry(spec)
        self._losses = Losses(arithmetic)
        wide = {name: np.asarray(value, np.float64) for name, value in parameters.items()}
        self._clean = forward(self._network, wide, images, masks, self._losses)
        self._seeds = [[seed, replica] for replica in range(replicas)]
        self._perturbed = [
            forward(self._network, wide, images, masks, self._losses, np.random.default_rng([*one, 0]))
            for one in self._seeds
        ]

    @property
    def steps(self) -> list[Step]:
        """The clean run."""
        return self._clean

    def unsafe(self) -> dict[str, Array]:
        """See :func:`unsafe_decisions`."""
        return unsafe_decisions(self._clean, self._perturbed, self.arithmetic)

    def outputs(self) -> dict[str, Expected]:
        """Of every layer, in network order."""
        expected = {}
        for i, step in enumerate(self._clean):
            deviations = [channel_largest(run[i].output - step.output, 1) for run in self._perturbed]
            allowed = bound(deviations, None, self.arithmetic.dtype, step.output.size)
            expected[step.name] = Expected(step.output, allowed)
        return expected

    def loss(self, labels: Array) -> Expected:
        """Mean softmax cross-entropy, of shape ()."""
        logits = self._clean[-1].output
        clean = cross_entropy(logits, labels)
        deviations = [np.asarray(abs(cross_entropy(run[-1].output, labels) - clean)) for run in self._perturbed]
        last = loss_rounding(logits, clean, self.arithmetic)
        return Expected(np.asarray(clean), bound(deviations, last, self.arithmetic.dtype, 1))

    def gradients(self, cotangent: Array) -> dict[str, Expected]:
        """Of sum(cotangent * logits) by every parameter, from the last layer's to the first's, and by the images."""
        draws = [np.random.default_rng([*one, 1]) for one in self._seeds]
        return self._gradients([cotangent] * (1 + len(draws)), draws)

    def loss_gradients(self, labels: Array) -> dict[str, Expected]:
        """Of the loss, likewise."""
        draws = [np.random.default_rng([*one, 2]) for one in self._seeds]
        runs = zip([self._clean, *self._perturbed], [None, *draws], strict=True)
        return self._gradients(
            [logit_gradient(run[-1].output, labels, self._losses, draw) for run, draw in runs], draws
        )

    def _gradients(self, cotangents: list[Array], draws: list[np.random.Generator]) -> dict[str, Expected]:
        values = dict(backward(self._clean, cotangents[0], self._losses))
        watched = _watched(self._clean, values)
        deviations: dict[str, list[Array]] = {name: [] for name in values}
        for run, draw, cotangent in zip(self._perturbed, draws, cotangents[1:], strict=True):
            for name, gradient in backward(run, cotangent, self._losses, draw, watched):
                gradient -= values[name][watched.get(name, slice(None))]
                deviations[name].append(channel_largest(gradient, _axis(name)))
        last = self._losses.parameters
        return {
            name: Expected(value, bound(deviations[name], last.get(name), self.arithmetic.dtype, value.size))
            for name, value in values.items()
        }
