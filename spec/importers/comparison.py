"""Whether two specifications say the same, layer by layer in order: names aside, values exactly.

It is how transcriptions are checked: what is imported from the originals must be what the variant's file says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from spec.arithmetic import geometry
from spec.language import Spec, Windowed
from spec.schedule import matched
from spec.structure import padding_of


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that two specifications have differently; None: one of them lacks it."""

    path: str
    imported: Any
    variant: Any

    def __str__(self) -> str:
        return f"{self.path}: {self.imported}, should be {self.variant}"


def architecture(spec: Spec) -> dict[str, Any]:
    """The input and every layer by its number, effective padding in place of padding and rounding."""
    network = geometry(spec)
    found: dict[str, Any] = {"input": network.input_shape}
    for number, layer in enumerate(network.layers):
        fields = layer.layer.model_dump(mode="json", exclude={"name", "padding", "rounding"})
        if isinstance(layer.layer, Windowed):
            fields["padding"] = padding_of(layer)
        fields["output"] = layer.output_shape
        found |= {f"layer {number} ({layer.layer.op}) {key}": value for key, value in fields.items()}
    return found


def _by_parameter(spec: Spec, value: Callable[[str], Any]) -> dict[str, Any]:
    """`value` of every parameter, under its layer's number."""
    return {
        f"layer {number} {name.rpartition('.')[2]}": value(name)
        for number, layer in enumerate(geometry(spec).layers)
        for name in layer.parameters
    }


def _initialisation(spec: Spec) -> dict[str, Any]:
    return _by_parameter(spec, lambda name: spec.init.of(name).model_dump(mode="json"))


def _learning_rate(spec: Spec) -> dict[str, Any]:
    return _by_parameter(spec, lambda name: matched(spec.training.learning_rate, name).model_dump(mode="json"))


SECTIONS: Mapping[str, Callable[[Spec], dict[str, Any]]] = {
    "architecture": architecture,
    "initialisation": _initialisation,
    "momentum": lambda spec: spec.training.optimizer.model_dump(mode="json"),
    "weight decay": lambda spec: _by_parameter(spec, lambda name: matched(spec.training.weight_decay, name)),
    "learning rate": _learning_rate,
    "batch": lambda spec: {"size": spec.training.batch_size, "loss": spec.training.loss},
    "data": lambda spec: {
        key: spec.data.model_dump(mode="json")[key] for key in ("channel_order", "scale", "mean", "std", "crop", "flip")
    },
    "evaluation": lambda spec: spec.evaluation.model_dump(mode="json"),
}
"""What can be compared. A file of cuda-convnet gives the first four; a pair of Caffe's gives all."""
TRANSCRIBED = ("architecture", "initialisation", "momentum", "weight decay")


def compare(imported: Spec, variant: Spec, sections: Iterable[str] = TRANSCRIBED) -> list[Difference]:
    """Every value of `sections` that differs, in the network's order; empty: the transcription is right."""
    found = []
    for section in sections:
        one, other = SECTIONS[section](imported), SECTIONS[section](variant)
        for path in dict.fromkeys(key for pair in zip_longest(one, other) for key in pair if key is not None):
            if one.get(path) != other.get(path):
                found.append(Difference(f"{section}: {path}", one.get(path), other.get(path)))
    return found


__all__ = ["SECTIONS", "TRANSCRIBED", "Difference", "architecture", "compare"]
