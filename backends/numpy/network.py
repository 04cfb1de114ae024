"""The chain of layers: forward keeps every call, backward walks them from the last to the first."""

from __future__ import annotations

from dataclasses import dataclass

from backends.base import Array, Arrays, Masks
from backends.numpy.ops import BACKWARD, FORWARD, Call
from spec.arithmetic import Geometry, LayerGeometry


@dataclass(frozen=True)
class Step:
    """One layer's call and what came out of it."""

    call: Call
    output: Array

    @property
    def name(self) -> str:
        return self.call.geometry.name


def call_of(layer: LayerGeometry, x: Array, parameters: Arrays, masks: Masks | None) -> Call:
    """The call of `layer` on x (N, ...): its parameters out of all, its mask if it has one and this is training."""
    own = {name.rpartition(".")[2]: parameters[name] for name in layer.parameters}
    return Call(layer, x, own, None if masks is None else masks.get(layer.name))


def forward(geometry: Geometry, parameters: Arrays, images: Array, masks: Masks | None) -> list[Step]:
    """Apply every layer to images (N, C, H, W). masks None: evaluation; a mapping: training."""
    steps: list[Step] = []
    x = images
    for layer in geometry.layers:
        call = call_of(layer, x, parameters, masks)
        x = FORWARD[layer.layer.op](call)
        steps.append(Step(call, x))
    return steps


def backward(steps: list[Step], cotangent: Array) -> tuple[dict[str, Array], Array]:
    """The gradients of sum(cotangent * logits): by parameter, in network order, and by the images."""
    gradients: dict[str, Array] = {}
    dy = cotangent
    for step in reversed(steps):
        dy, own = BACKWARD[step.call.layer.op](step.call, step.output, dy)
        gradients.update({f"{step.name}.{short}": own[short] for short in own})
    order = [name for step in steps for name in step.call.geometry.parameters]
    return {name: gradients[name] for name in order}, dy
