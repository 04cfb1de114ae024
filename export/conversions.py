"""What differs between ways of keeping the same weights, one function for each: all are permutations or exact factors.

Names of torchvision's AlexNet, Keras' axes, the order in which maps become a vector, the order of an image's channels,
and what dropout scales. What cannot be converted without rounding raises :class:`Refused`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from backends.base import Array
from export.tensors import one_line
from spec import Spec, geometry
from spec.language import Conv, Dense, Dropout, Flatten, Local
from spec.parameter_fit import LAYOUTS

KERAS_AXES = LAYOUTS["rows, columns, in, out"]
TORCHVISION = {
    "features.0": "conv1",
    "features.3": "conv2",
    "features.6": "conv3",
    "features.8": "conv4",
    "features.10": "conv5",
    "classifier.1": "fc6",
    "classifier.4": "fc7",
    "classifier.6": "fc8",
}
"""torchvision's modules with weights, in network order (torchvision/models/alexnet.py), and the variant's layers."""
WEIGHTED = (Conv, Local, Dense)
PASSING = ("relu", "max_pool", "avg_pool", "flatten", "dropout")
"""Ops that pass a positive factor on unchanged."""


class Refused(ValueError):
    """What was asked cannot be converted. One line: what was required and received."""

    def __init__(self, words: str) -> None:
        super().__init__(one_line(words))


def weighted(stated: Spec) -> list[str]:
    """The layers with parameters, in network order."""
    return [step.name for step in geometry(stated).layers if isinstance(step.layer, WEIGHTED)]


def torchvision_names(stated: Spec) -> dict[str, str]:
    """torchvision's name of each parameter of `stated`, whose layers are those of torchvision's network in order."""
    modules = dict(zip(weighted(stated), TORCHVISION, strict=True))
    return {f"{modules[layer]}.{kind}": f"{layer}.{kind}" for layer in modules for kind in ("weight", "bias")}


def to_keras(array: Array) -> Array:
    """A canonical parameter with Keras' axes."""
    return np.ascontiguousarray(array.transpose(KERAS_AXES.get(array.ndim, tuple(range(array.ndim)))))


def from_keras(array: Array) -> Array:
    """The inverse of :func:`to_keras`."""
    axes = KERAS_AXES.get(array.ndim, tuple(range(array.ndim)))
    return np.ascontiguousarray(array.transpose(np.argsort(axes)))


def from_hwc(parameters: Mapping[str, Array], stated: Spec) -> dict[str, Array]:
    """Parameters whose first dense layer behind maps reads them as (H, W, C), made to read (C, H, W)."""
    found, maps = dict(parameters), None
    for step in geometry(stated).layers:
        if isinstance(step.layer, Flatten):
            maps = step.input_shape
        elif isinstance(step.layer, Dense) and maps is not None:
            if step.layer.groups != 1:
                raise Refused(
                    f"{step.name}: inputs in the order H, W, C must belong to one group. "
                    f"Received: {step.layer.groups} groups"
                )
            channels, rows, columns = maps
            weight = found[f"{step.name}.weight"]
            turned = weight.reshape(-1, rows, columns, channels).transpose(0, 3, 1, 2)
            found[f"{step.name}.weight"] = np.ascontiguousarray(turned).reshape(weight.shape)
            break
    return found


def with_reversed_channels(parameters: Mapping[str, Array], stated: Spec) -> dict[str, Array]:
    """Parameters for images whose channels come in the opposite order: the first layer's weight, reversed."""
    first = geometry(stated).layers[0]
    if not isinstance(first.layer, Conv) or first.layer.groups != 1:
        raise Refused(
            "to reverse the channels of its images, a network must begin with a convolution of one group. "
            f"Received: {first.name}"
        )
    name = f"{first.name}.weight"
    return {**parameters, name: np.ascontiguousarray(parameters[name][:, ::-1])}


def rescaled(parameters: Mapping[str, Array], stated: Spec, scales: str, wanted: str) -> dict[str, Array]:
    """Parameters trained with dropout that scales in ``train`` or ``test`` (`scales`), for a network where it does in
    the other (`wanted`): the weights behind a dropout times 1 - rate, or divided by it.

    Raises Refused where that would round.
    """
    found, layers = dict(parameters), geometry(stated).layers
    for place, step in enumerate(layers):
        if scales == wanted or not isinstance(step.layer, Dropout):
            continue
        behind = next((after for after in layers[place + 1 :] if after.layer.op not in PASSING), None)
        if behind is None or not isinstance(behind.layer, WEIGHTED):
            raise Refused(f"{step.name}: a layer with weights must follow what a dropout scales. Received: none")
        keep = 1 - step.layer.rate
        if keep <= 0 or math.frexp(keep)[0] != 0.5:
            raise Refused(
                f"{step.name}: weights can be scaled by 1 - rate exactly if it is a power of two. Received: {keep:g}"
            )
        name = f"{behind.name}.weight"
        factor = np.asarray(keep if scales == "test" else 1 / keep, found[name].dtype)
        with np.errstate(over="ignore"):
            scaled = found[name] * factor
        if not np.array_equal(scaled / factor, found[name]):
            raise Refused(f"{name}: its values times {float(factor):g} must be exact. Received: some that are not")
        found[name] = scaled
    return found


def dropout_scales(stated: Spec) -> str:
    """Where the dropouts of `stated` scale: ``train``, ``test``, ``both``, or nothing without dropout."""
    scales = {layer.scale for layer in stated.layers if isinstance(layer, Dropout)}
    return "both" if len(scales) > 1 else next(iter(scales), "")


def named(names: Sequence[str], count: int = 3) -> str:
    """Some of `names`, for a line."""
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
