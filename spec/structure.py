"""What a network computes, step by step, apart from names and spelling: the form in which networks are compared.

A specification and a file of a framework both become a :class:`Structure`. Two spellings of one computation are one
here: rounding and explicit padding, a flatten that stands anywhere between the maps and the first dense layer, a
convolution over the whole map and a dense layer, a pool of one element and nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from spec.arithmetic import LayerGeometry, Shape, geometry
from spec.language import AvgPool, Conv, Dense, Dropout, Flatten, Local, Lrn, MaxPool, SpatialNorm, Spec, Tanh, Windowed

POOLS = ("max_pool", "avg_pool")


@dataclass(frozen=True)
class Step:
    """One step: `op` of the language (or another word for what the language lacks), and what defines it.

    `facts` of windowed steps have kernel and stride (rows, columns) and padding (top, bottom, left, right) as far as
    windows reach beyond the map, negative where they end before it; of normalisations the coefficient that a sum is
    multiplied by.
    """

    name: str
    op: str
    facts: Mapping[str, Any]
    input: Shape
    output: Shape


@dataclass(frozen=True)
class Structure:
    """A network: its input (C, H, W) and its steps."""

    input: Shape
    steps: tuple[Step, ...]


def effective_padding(
    sizes: tuple[int, int],
    counts: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    before: tuple[int, int],
) -> tuple[int, int, int, int]:
    """Rows and columns that windows reach beyond a map of `sizes`: top, bottom, left, right.

    Negative at the bottom or the right: as many are never seen. counts: of windows. before: padding at top and left.
    """
    bottom, right = (
        (count - 1) * step + window - size - pad
        for size, count, window, step, pad in zip(sizes, counts, kernel, stride, before)
    )
    return before[0], bottom, before[1], right


def padding_of(at: LayerGeometry) -> tuple[int, int, int, int]:
    """:func:`effective_padding` of a windowed layer of a specification."""
    layer, padding = at.layer, at.padding
    assert isinstance(layer, Windowed)
    assert padding is not None
    return effective_padding(
        (at.input_shape[1], at.input_shape[2]),
        (at.output_shape[1], at.output_shape[2]),
        (layer.kernel.height, layer.kernel.width),
        (layer.stride.height, layer.stride.width),
        (padding.top, padding.left),
    )


def facts_of(at: LayerGeometry) -> dict[str, Any]:
    """What defines one layer of a specification."""
    layer = at.layer
    found: dict[str, Any] = {}
    if isinstance(layer, Windowed):
        found["kernel"] = (layer.kernel.height, layer.kernel.width)
        found["stride"] = (layer.stride.height, layer.stride.width)
        found["padding"] = padding_of(at)
    match layer:
        case Conv() | Local():
            found |= {"out_channels": layer.out_channels, "groups": layer.groups, "bias": layer.bias}
        case Dense():
            found |= {"out_features": layer.out_features, "groups": layer.groups, "bias": layer.bias}
        case AvgPool():
            found["divisor"] = layer.divisor
        case Lrn():
            before, after = layer.window
            found |= {"before": before, "after": after, "coefficient": layer.coefficient}
            found |= {"beta": layer.beta, "k": layer.k, "groups": layer.groups}
        case SpatialNorm():
            found |= {"size": layer.size, "coefficient": layer.coefficient, "beta": layer.beta, "k": layer.k}
        case Tanh():
            found |= {"amplitude": layer.amplitude, "slope": layer.slope}
        case Dropout():
            found |= {"rate": layer.rate, "scale": layer.scale}
        case MaxPool() | _:
            pass
    return found


def of_spec(spec: Spec) -> Structure:
    """The structure of a specification."""
    network = geometry(spec)
    steps = (
        Step(at.name, at.layer.op, facts_of(at), at.input_shape, at.output_shape)
        for at in network.layers
        if not isinstance(at.layer, Flatten)
    )
    return Structure(network.input_shape, normalised(steps))


def normalised(steps: Iterable[Step]) -> tuple[Step, ...]:
    """Steps with one spelling for what is the same: see the head of this module."""
    return tuple(_one_spelling(step) for step in steps if not _does_nothing(step))


def _does_nothing(step: Step) -> bool:
    if step.op in POOLS:
        return step.facts["kernel"] == step.facts["stride"] == (1, 1) and not any(step.facts["padding"])
    return step.op == "dropout" and step.facts["rate"] == 0


def _one_spelling(step: Step) -> Step:
    facts = dict(step.facts)
    if step.op == "conv" and facts["kernel"] == step.input[1:] and not any(facts["padding"]):
        dense = {"out_features": facts["out_channels"], "groups": facts["groups"], "bias": facts["bias"]}
        return replace(step, op="dense", facts=dense)
    if step.op == "avg_pool" and max(facts["padding"]) <= 0:
        facts["divisor"] = "window"  # no window leaves the map: both divisors are its area
    return replace(step, facts=facts)


__all__ = ["POOLS", "Step", "Structure", "effective_padding", "normalised", "of_spec", "padding_of"]
