"""Inputs on which a comparison means something: parameters, images, masks, labels and a cotangent for one
specification.

They are not what training would start from. They are made so that a wrong implementation cannot hide and a right one
cannot be accused:

- every layer's output has the scale at which the next nonlinearity is in play: in front of a response normalisation the
sum
  of squares is of the order of k, in front of a tanh it bends; otherwise numbers are of the order of 1;
- biases are never zero, images are signed, no two channels are alike;
- no ReLU and no max-pool decides within reach of rounding (``oracle.unsafe_decisions``): the channels of the layer
before,
  where one would, are drawn again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.base import Array
from conformance.bounds import MIXED, Arithmetic, bfloat16
from conformance.oracle import Losses, forward, unsafe_decisions
from spec import Spec, dropout_shapes, geometry
from spec.arithmetic import Geometry, LayerGeometry

BIAS = 0.25
"""Standard deviation of biases, in units of their layer's output."""
ATTEMPTS = 60
"""How often the unsafe channels of a layer are drawn again before the case is given up."""
DRAWING_REPLICAS = 2
MARGIN = 2.0
"""Decisions keep this many bounds away from where they would turn: other perturbed runs give other bounds."""


class NoSafeCase(RuntimeError):
    """No parameters were found with which every decision is out of reach of rounding."""


@dataclass(frozen=True)
class Case:
    """One specification with everything a comparison needs. All arrays float32, labels int64, masks bool."""

    spec: Spec
    seed: int
    images: Array
    labels: Array
    masks: dict[str, Array]
    cotangent: Array
    parameters: dict[str, Array]

    @property
    def name(self) -> str:
        return f"{self.spec.name} (seed {self.seed}, {len(self.images)} images)"


@dataclass(frozen=True)
class Scale:
    """What the outputs of layers are made to be like."""

    logits: float = 1.0
    """Of the last layer. A softmax is saturated at some tens; 0: all are equal."""
    responsive: bool = True
    """In front of a response normalisation the sum of squares is of the order of k; else of the order of 1, where
    training with the rates of a recipe is stable."""

    loud: bool = False
    """In front of a response normalisation over channels one channel is LOUD times as large as the others."""


NONLINEAR = Scale()
LOUD = 256.0


def exact(array: Array, dtype: str) -> Array:
    """float32 numbers that `dtype` has: what is given to a backend is not rounded by taking it."""
    return bfloat16(array) if dtype in ("bfloat16", MIXED) else array


def kept(array: Array, dtype: str) -> Array:
    """The same for parameters and velocities, of which mixed precision keeps every digit."""
    return array if dtype == MIXED else exact(array, dtype)


def drawn_inputs(
    spec: Spec, images: int, draw: np.random.Generator, dtype: str, whole: bool = False
) -> tuple[Array, Array, dict[str, Array]]:
    """Random images (float32, signed, normal or whole numbers), labels (int64) and masks (bool) for `spec`."""
    shape = (spec.input.channels, spec.input.height, spec.input.width)
    x = draw.standard_normal((images, *shape), np.float32)
    x = exact(np.rint(x) if whole else x, dtype)
    labels = draw.integers(0, geometry(spec).output_shape[0], images)
    masks = {name: draw.random((images, *mask)) >= spec.layer(name).rate for name, mask in dropout_shapes(spec).items()}
    return x, labels, masks


def build(
    spec: Spec,
    seed: int,
    *,
    images: int,
    arithmetic: Arithmetic,
    scale: Scale = NONLINEAR,
    whole: bool = False,
) -> Case:
    """A case for `spec`.

    arithmetic: in which it will be compared, which decides how far decisions keep away. whole: images of whole numbers,
    many of which are equal. Raises NoSafeCase, which says at which layer.
    """
    draw = np.random.default_rng([seed, 1])
    x, labels, masks = drawn_inputs(spec, images, draw, arithmetic.dtype, whole)
    cotangent = exact(draw.standard_normal((images, geometry(spec).output_shape[0]), np.float32), arithmetic.dtype)
    parameters = _parameters(geometry(spec), x, masks, draw, arithmetic, scale)
    return Case(spec, seed, x, labels, masks, cotangent, parameters)


def _segments(network: Geometry) -> list[list[LayerGeometry]]:
    """The layers cut before every layer with weights: what follows one, up to the next, decides by its channels."""
    segments: list[list[LayerGeometry]] = [[]]
    for layer in network.layers:
        if layer.parameters:
            segments.append([])
        segments[-1].append(layer)
    return [segment for segment in segments if segment]


def _target(segment: list[LayerGeometry], scale: Scale, last: bool) -> float:
    """The scale that a layer's output should have for what comes before the next layer with weights."""
    for follower in segment[1:]:
        layer: Any = follower.layer
        if layer.op in ("lrn", "spatial_norm") and scale.responsive:
            terms = layer.size if layer.op == "lrn" else layer.size**2
            return math.sqrt(layer.k / (layer.coefficient * terms))
        if layer.op == "tanh":
            return float(1.0 / layer.slope)
    return scale.logits if last else 1.0


def _loud(segment: list[LayerGeometry], scale: Scale) -> Array:
    """Which output channels of the segment's first layer are loud: none, or one of the first third."""
    rows = np.zeros(segment[0].output_shape[0], np.bool_)
    rows[len(rows) // 6] = scale.loud and any(follower.layer.op == "lrn" for follower in segment[1:])
    return rows


class _Streams:
    """One mode of the network on its way through the layers: the clean run and a few perturbed ones."""

    def __init__(self, runs: list[Array], masks: dict[str, Array] | None, arithmetic: Arithmetic, draw: Any) -> None:
        self.runs, self.masks, self.arithmetic = runs, masks, arithmetic
        self.draws = [None, *draw.spawn(len(runs) - 1)]

    def through(
        self, segment: list[LayerGeometry], parameters: dict[str, Array]
    ) -> tuple[list[Array], dict[str, Array]]:
        """What the runs become behind `segment`, and its unsafe decisions."""
        part = Geometry(segment[0].input_shape, tuple(segment))
        losses = Losses(self.arithmetic)
        # A run whose input already errs keeps that error; the others start from it.
        clean, *perturbed = [
            forward(part, parameters, x, self.masks, losses, draw)
            for x, draw in zip(self.runs, self.draws, strict=True)
        ]
        unsafe = unsafe_decisions(clean, perturbed, self.arithmetic, MARGIN)
        return [run[-1].output for run in (clean, *perturbed)], unsafe


def _parameters(
    network: Geometry, images: Array, masks: dict[str, Array], draw: Any, arithmetic: Arithmetic, scale: Scale
) -> dict[str, Array]:
    modes = [_Streams([np.asarray(images, np.float64)] * (1 + DRAWING_REPLICAS), masks, arithmetic, draw)]
    found: dict[str, Array] = {}
    segments = _segments(network)
    for number, segment in enumerate(segments):
        first = segment[0]
        if len(modes) == 1 and any(layer.name in masks for layer in segment):
            modes.append(_Streams(modes[0].runs, None, arithmetic, draw))  # here evaluation parts from training
        size = _target(segment, scale, last=number == len(segments) - 1)
        own = _drawn(first, size, modes[0].runs[0], draw, arithmetic.dtype)
        loud = _loud(segment, scale)
        for value in own.values():
            value[loud] *= np.float32(LOUD)
        for _ in range(ATTEMPTS):
            wide = {name: value.astype(np.float64) for name, value in own.items()}
            passed = [mode.through(segment, wide) for mode in modes]
            rows = _unsafe_rows(first, [unsafe for _, unsafe in passed])
            if not rows.any() or not own:
                break
            for some in (rows & ~loud, rows & loud):  # what is drawn again is as large as what was there
                if some.any():
                    _redraw(own, some, size, draw, arithmetic.dtype)
        if rows.any():
            layers = ", ".join(sorted({name for _, unsafe in passed for name in unsafe}))
            raise NoSafeCase(f"after {ATTEMPTS} attempts, rounding can still turn decisions of {layers}")
        for mode, (runs, _) in zip(modes, passed, strict=True):
            mode.runs = runs
        found |= own
    return found


def _drawn(layer: LayerGeometry, scale: float, x: Array, draw: Any, dtype: str) -> dict[str, Array]:
    """Normal parameters of `layer` with which its output on x has the scale `scale`, within a factor of sqrt 2.

    The factor is a power of 2, so that the weights' digits are those of the draw.
    """
    own: dict[str, Array] = {}
    for name, shape in layer.parameters.items():
        if name.endswith(".weight"):
            fan_in = math.prod(shape[1:4])
            size = float(np.sqrt(np.mean(np.square(x)))) or 1.0
            spread = 2.0 ** round(math.log2(scale / (size * math.sqrt(fan_in)))) if scale else 0.0
            own[name] = draw.standard_normal(shape, np.float32) * np.float32(spread)
        else:
            own[name] = draw.standard_normal(shape, np.float32) * np.float32(BIAS * scale)
    return {name: kept(value, dtype) for name, value in own.items()}


def _redraw(own: dict[str, Array], rows: Array, scale: float, draw: Any, dtype: str) -> None:
    """New weights and biases for the output channels `rows`, of the size of the old."""
    for name, value in own.items():
        size = np.float32(BIAS * scale if name.endswith(".bias") else np.sqrt(np.mean(np.square(value[rows]))))
        value[rows] = kept(draw.standard_normal(value[rows].shape, np.float32) * size, dtype)


def _unsafe_rows(layer: LayerGeometry, unsafe: list[dict[str, Array]]) -> Array:
    """Which output channels of `layer` led to an unsafe decision. A flattened unit belongs to its channel."""
    channels = layer.output_shape[0]
    rows = np.zeros(channels, np.bool_)
    for found in unsafe:
        for where in found.values():
            rows |= where.reshape(channels, -1).any(axis=1)
    return rows
