"""From a file of weights to a specification with its parameters, every difference of keeping converted or refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import spec
from backends import checkpoint
from backends.base import Array, check_arrays
from export import conversions
from export.conversions import TORCHVISION, Refused
from export.tensors import Unreadable
from export.weight_files import Opened, Stored, json_list, open_file
from export.whose import graph_scales, specification
from spec import Spec, geometry


@dataclass(frozen=True)
class Stated:
    """What the user says of a file; None where it is to be found out."""

    spec: Spec | None = None
    channel_order: str | None = None
    """Of the images that the file's network takes: ``rgb`` or ``bgr``."""
    dropout: str | None = None
    """What the file's weights were trained for: dropout that scales in ``train`` or ``test``."""
    flatten: str | None = None
    """``chw`` or ``hwc``."""
    classes: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    """Of the training images, per channel in the order red, green, blue, in units of scaled pixels."""


@dataclass(frozen=True, eq=False)
class Imported:
    """Parameters in canonical layout, and what was done to them, in lines for people."""

    spec: Spec
    parameters: dict[str, Array]
    classes: tuple[str, ...]
    statistics: Mapping[str, Array]
    kind: str
    lines: tuple[str, ...]


def import_weights(path: Path, stated: Stated | None = None) -> Imported:
    """The network that the file at `path` holds the weights of. Raises Refused or SpecError: required, received."""
    stated = stated or Stated()
    try:
        opened = open_file(path)
        return _imported(opened, stated, path)
    except Unreadable as error:
        raise Refused(str(error)) from None


def _imported(opened: Opened, stated: Stated, path: Path) -> Imported:
    lines = [f"{path}: {opened.kind}, {len(opened.arrays)} arrays"]
    arrays, whose = _without_wrapper(opened.arrays)
    torchvision = bool(arrays) and {name.rpartition(".")[0] for name in arrays} == set(TORCHVISION)
    graph = opened.network is not None and opened.kind == "ONNX graph" and "spec" not in opened.said
    of, how = specification(opened, arrays, torchvision, stated.spec)
    lines.append(f"variant: {of.name}, {how}")
    names, said = _names(of, arrays, torchvision, graph)
    lines.append(f"names: {said}{whose}")
    parameters = _values(of, opened, {canonical: arrays[name] for name, canonical in names.items()})
    kept = "(rows, columns, in, out) and (in, out): transposed" if opened.keras_axes else "(out, in, ...): kept"
    lines.append(f"layout: {kept}")
    parameters, line = _flattened(of, parameters, opened, stated)
    lines.append(f"flatten order: {line}")
    parameters, line = _channels(of, parameters, stated)
    lines.append(f"channel order: {line}")
    parameters, line = _dropout(of, parameters, _file_scales(of, opened, torchvision, stated))
    lines.append(f"dropout: {line}")
    classes, line = _classes(of, opened, stated)
    lines.append(f"classes: {line}")
    if stated.mean is not None:
        of = _with_mean(of, stated.mean)
    statistics = _statistics(opened, path)
    lines.append(f"images: {_preparation(of, bool(statistics))}")
    for name, value in parameters.items():
        if not np.isfinite(value).all():
            raise Refused(f"{name} must be finite. Received: values that are not")
    return Imported(of, parameters, classes, statistics, opened.kind, tuple(lines))


# --- names and values -------------------------------------------------------------------------------------------------


def _without_wrapper(arrays: Mapping[str, Stored]) -> tuple[dict[str, Stored], str]:
    """The arrays without the ``module.`` that torch's parallel wrappers put into names."""
    found = {name.replace("module.", ""): stored for name, stored in arrays.items()}
    if len(found) != len(arrays):
        raise Refused("names must differ apart from `module.`. Received: some that do not")
    return found, ", without `module.`" if found.keys() != arrays.keys() else ""


def _names(of: Spec, arrays: Mapping[str, Stored], torchvision: bool, graph: bool) -> tuple[dict[str, str], str]:
    """The file's names to canonical ones, and a line about it."""
    wanted = list(geometry(of).parameters)
    if torchvision:
        names, said = conversions.torchvision_names(of), "torchvision's (features.0.weight is conv1.weight, ...)"
    elif graph:
        layers = conversions.weighted(of)
        names = {f"{i}.{kind}": f"{layer}.{kind}" for i, layer in enumerate(layers) for kind in ("weight", "bias")}
        said = "of the graph's nodes, matched in their order"
    else:
        names, said = {name: name for name in wanted}, "the specification's"
    missing = [name for name, canonical in names.items() if canonical in wanted and name not in arrays]
    extra = [name for name in arrays if names.get(name) not in wanted]
    if missing or extra:
        kept = f"missing {conversions.named(missing)}" if missing else f"also {conversions.named(extra)}"
        raise Refused(f"the file must hold the parameters of {of.name} and no others. Received: {kept[:200]}")
    return {name: canonical for name, canonical in names.items() if canonical in wanted}, said


def _values(of: Spec, opened: Opened, arrays: Mapping[str, Stored]) -> dict[str, Array]:
    """The arrays in canonical layout, read only once all shapes are right."""
    shapes = {}
    for name, shape in geometry(of).parameters.items():
        axes = conversions.KERAS_AXES.get(len(shape)) if opened.keras_axes else None
        kept = tuple(shape[axis] for axis in axes) if axes else shape
        if arrays[name].shape != kept:
            raise Refused(f"{name} must have shape {kept}, as {of.name} says. Received: {arrays[name].shape}")
        shapes[name] = shape
    found = {}
    for name in shapes:
        value = arrays[name].read()
        found[name] = conversions.from_keras(value) if opened.keras_axes else value
    check_arrays(found, of, "parameters")
    return found


# --- what is converted ------------------------------------------------------------------------------------------------


def _flattened(of: Spec, parameters: dict[str, Array], opened: Opened, stated: Stated) -> tuple[dict[str, Array], str]:
    order = stated.flatten or opened.flatten or ("" if opened.keras_axes and opened.network is None else "chw")
    if stated.flatten and opened.flatten and stated.flatten != opened.flatten:
        raise Refused(f"--flatten must be what the file shows, {opened.flatten}. Received: {stated.flatten}")
    if order == "hwc":
        return conversions.from_hwc(parameters, of), "H, W, C in the file: the first dense weight's columns permuted"
    if order == "chw":
        return parameters, "C, H, W: kept"
    if order:
        raise Refused(f"maps must become a vector in the order C, H, W or H, W, C. Received: {order}")
    raise Refused("--flatten must be chw or hwc, which this file does not show. Received: nothing")


def _channels(of: Spec, parameters: dict[str, Array], stated: Stated) -> tuple[dict[str, Array], str]:
    own = of.data.channel_order
    if of.input.channels == 1:
        return parameters, "one channel: kept"
    if stated.channel_order is None or stated.channel_order == own:
        how = "stated" if stated.channel_order else f"as {of.name} says of its images"
        return parameters, f"{own}, {how}: kept"
    first = conversions.weighted(of)[0]
    reversed_ = conversions.with_reversed_channels(parameters, of)
    return reversed_, f"{stated.channel_order} in the file, {own} in {of.name}: {first}.weight reversed"


def _file_scales(of: Spec, opened: Opened, torchvision: bool, stated: Stated) -> str:
    shown = graph_scales(opened.network) if opened.network is not None else "train" if torchvision else ""
    if stated.dropout and shown and stated.dropout != shown:
        raise Refused(f"--dropout must be what the file shows, {shown}. Received: {stated.dropout}")
    return stated.dropout or shown or conversions.dropout_scales(of)


def _dropout(of: Spec, parameters: dict[str, Array], scales: str) -> tuple[dict[str, Array], str]:
    wanted = conversions.dropout_scales(of)
    if not wanted:
        return parameters, "none"
    if scales == wanted:
        return parameters, f"scales in {wanted}ing: kept" if wanted != "both" else "kept"
    if "both" in (scales, wanted):
        raise Refused(f"dropouts must scale alike in file and specification. Received: {scales} and {wanted}")
    factor = "1 - rate" if scales == "test" else "1 / (1 - rate)"
    changed = conversions.rescaled(parameters, of, scales, wanted)
    return changed, f"scales in {scales}ing in the file, in {wanted}ing in {of.name}: weights behind it times {factor}"


def _classes(of: Spec, opened: Opened, stated: Stated) -> tuple[tuple[str, ...], str]:
    (count,) = geometry(of).output_shape
    said = json_list(opened.said["classes"]) if "classes" in opened.said else None
    if "classes" in opened.said and said is None:
        raise Refused("classes in the file must be a list of names in JSON. Received: other text")
    names = stated.classes or said
    if names is None:
        numbered = tuple(f"class {i}" for i in range(count))
        return numbered, f"unknown to the file: {numbered[0]} ... {numbered[-1]}; --classes states them in order"
    if len(names) != count or len(set(names)) != count:
        raise Refused(f"there must be {count} names of classes, all different. Received: {len(names)}")
    return names, f"{names[0]} ... {names[-1]}, {'stated' if stated.classes else 'as the file says'}: order kept"


def _with_mean(of: Spec, mean: tuple[float, ...]) -> Spec:
    if len(mean) not in (1, of.input.channels):
        raise Refused(f"--mean must be {of.input.channels} numbers, red first. Received: {len(mean)}")
    values = of.statement()
    values["data"]["mean"] = {"kind": "values", "values": list(mean)}
    stale = [path for path in values["provenance"] if path.startswith("data.mean")]
    for path in stale:
        del values["provenance"][path]
    return spec.from_values(values, of.name)


def _statistics(opened: Opened, path: Path) -> Mapping[str, Array]:
    """The mean that a checkpoint of this project records."""
    if opened.said.get("format") != checkpoint.FORMAT:
        return {}
    return checkpoint.load(path).statistics


def _preparation(of: Spec, recorded: bool) -> str:
    mean = of.data.mean
    said = f"prepared as {of.name} says, bytes times {of.data.scale:g}"
    if mean.kind in ("image", "channel") and not recorded:
        return f"{said} minus the mean of training images, which the file lacks: predict needs it, --mean states it"
    return f"{said}, mean {mean.kind}"


__all__ = ["Imported", "Stated", "import_weights"]
