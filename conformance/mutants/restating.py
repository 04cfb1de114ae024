"""Patches that any backend understands: it builds a layer other than the one that the specification states.

The mistakes that people make in attributes (ignored, swapped, off by one, another framework's default or meaning) are
of this kind, and one table says them for every backend.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from conformance.mutants.mutant import Live, Patch
from spec import LayerGeometry
from spec.language import (
    AvgPool,
    Conv,
    Dense,
    Dropout,
    Flatten,
    LayerBase,
    Local,
    Lrn,
    MaxPool,
    Padding,
    Relu,
    SpatialNorm,
    Tanh,
)

CLASSES: dict[str, type[LayerBase]] = {
    "conv": Conv,
    "local": Local,
    "max_pool": MaxPool,
    "avg_pool": AvgPool,
    "lrn": Lrn,
    "spatial_norm": SpatialNorm,
    "relu": Relu,
    "tanh": Tanh,
    "dropout": Dropout,
    "flatten": Flatten,
    "dense": Dense,
}

Change = Callable[[LayerGeometry], LayerGeometry]


def values(**stated: Any) -> Change:
    """A change of a layer's values: each a value, or a function of the layer as it is stated."""

    def change(place: LayerGeometry) -> LayerGeometry:
        new = {name: value(place.layer) if callable(value) else value for name, value in stated.items()}
        return replace(place, layer=place.layer.model_copy(update=new))

    return change


def padding(rule: Callable[[Padding], dict[str, int]]) -> Change:
    """A change of the explicit padding of a windowed layer; sides that `rule` leaves out stay."""

    def change(place: LayerGeometry) -> LayerGeometry:
        assert place.padding is not None
        return replace(place, padding=place.padding.model_copy(update=rule(place.padding)))

    return change


def restated(op: str, change: Change) -> Patch:
    """The backend realises every `op` as if the specification said `change` of it."""

    def patch(live: Live) -> None:
        _REALISE[live.target](live, op, change)

    return patch


def _torch(live: Live, op: str, change: Change) -> None:
    modules = live.model.MODULES
    make = modules[CLASSES[op]]
    live.put(modules, CLASSES[op], lambda place: make(change(place)))


def _onnx(live: Live, op: str, change: Change) -> None:
    lowerings = live.layers.LOWERINGS
    lower = lowerings[CLASSES[op]]
    live.put(lowerings, CLASSES[op], lambda g, at, x, y: lower(g, change(at), x, y))


def _keras(live: Live, op: str, change: Change) -> None:
    make = live.model.layer_of

    def layer_of(step: LayerGeometry, *rest: Any) -> Any:
        return make(change(step) if step.layer.op == op else step, *rest)

    live.set(live.model, "layer_of", layer_of)


def _numpy(live: Live, op: str, change: Change) -> None:
    forward, backward = live.ops.FORWARD[op], live.ops.BACKWARD[op]

    def changed(call: Any) -> Any:
        return replace(call, geometry=change(call.geometry))

    live.put(live.ops.FORWARD, op, lambda call: forward(changed(call)))
    live.put(live.ops.BACKWARD, op, lambda call, y, dy: backward(changed(call), y, dy))


_REALISE: dict[str, Callable[[Live, str, Change], None]] = {
    "torch": _torch,
    "onnx": _onnx,
    "keras": _keras,
    "numpy": _numpy,
}
