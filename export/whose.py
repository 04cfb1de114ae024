"""Whose weights a file holds: the specification that is stated, that the file names, or that its network or its arrays
are those of. What does not agree is refused, with the first departure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import spec
from export import conversions
from export.conversions import TORCHVISION, Refused
from export.weight_files import Opened, Stored
from spec import Spec, geometry, with_classes
from spec.departures import Candidate, Found, against, structures
from spec.language import Flatten
from spec.structure import Structure, of_spec

_AT_224: dict[str, Any] = {
    "input": {"height": 224, "width": 224},
    "layers": {
        "pool1": {"rounding": "floor"},
        "pool2": {"rounding": "floor"},
        "pool5": {"padding": {"top": 0, "bottom": 1, "left": 0, "right": 1}, "rounding": "floor"},
    },
}
"""What ONNX' model zoo made of Caffe's networks for 227 pixels: see the variant onnx-zoo."""
LEFT_OPEN = ("out_channels", "out_features", "classes", "scale")
"""Facts that the names of a state dictionary leave open, and where dropout scales, which is converted."""


def specification(
    opened: Opened, arrays: Mapping[str, Stored], torchvision: bool, stated: Spec | None
) -> tuple[Spec, str]:
    """The specification, and how it is known."""
    if stated is not None or "spec" in opened.said:
        of = stated or _said_spec(opened)
        how = "as stated" if stated is not None else "as the file says of itself"
        if opened.network is not None:
            _require(of, opened.network)
        if torchvision:
            require_torchvision(of)
        return of, how
    if opened.network is not None:
        return _identified(opened.network)
    if torchvision:
        of = _of_classes(spec.load("torchvision"), arrays["classifier.6.weight"].shape[:1])
        return of, "whose names these are"
    fitting = [one for name in spec.names() if (one := _fitting(name, opened, arrays)) is not None]
    named = [one for one in fitting if one.name.replace(".", "_") == opened.said.get("model")]
    found = named or fitting
    if not found:
        raise Refused(
            "the arrays must be those of a variant, with torchvision's or the specification's names, or --spec must "
            f"state whose they are. Received: {conversions.named(list(arrays))}"
        )
    if len(found) > 1:
        raise Refused(f"--spec must say which one it is. Received: {' or '.join(one.name for one in found)}")
    return found[0], "whose name the file has" if named else "the only one with these names and shapes"


def _said_spec(opened: Opened) -> Spec:
    try:
        values = json.loads(opened.said["spec"])
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise Refused("the specification in the file must be a mapping in JSON. Received: other text")
    return spec.from_values(values, opened.said.get("spec_name") or "unnamed")


def _fitting(name: str, opened: Opened, arrays: Mapping[str, Stored]) -> Spec | None:
    """The variant, with the file's number of classes, if its parameters are exactly these."""
    of = spec.load(name)
    last = f"{conversions.weighted(of)[-1]}.weight"
    if set(geometry(of).parameters) != set(arrays):
        return None
    axes = conversions.KERAS_AXES if opened.keras_axes else {}
    shape = arrays[last].shape
    of = _of_classes(of, shape[-1:] if opened.keras_axes else shape[:1])
    kept = {
        name: tuple(shape[axis] for axis in axes.get(len(shape), range(len(shape))))
        for name, shape in geometry(of).parameters.items()
    }
    return of if kept == {name: stored.shape for name, stored in arrays.items()} else None


def _of_classes(of: Spec, count: Sequence[int]) -> Spec:
    return with_classes(of, count[0]) if count and count[0] > 0 else of


def _identified(found: Found) -> tuple[Spec, str]:
    """The variant that a network is, apart from its number of classes."""
    caffenet = spec.load("caffenet", _AT_224)
    candidates = against(found, {**structures(), "caffenet at 224 pixels": of_spec(caffenet)})
    nearest = [one for one in candidates if one.distance == 0] or [one for one in candidates if _only(one, "classes")]
    if not nearest:
        raise Refused(
            f"a network must be a variant, or --spec must state it. Received: nearest {candidates[0].name}, where "
            f"{candidates[0].departures[0]}"
        )
    if len(nearest) > 1:
        raise Refused(f"--spec must say which one it is. Received: {' or '.join(one.name for one in nearest)}")
    (one,) = nearest
    of = caffenet if one.name not in spec.names() else spec.load(one.name)
    last = [step for step in found.structure.steps if step.op == "dense"][-1:]
    of = _of_classes(of, last[0].output if last else ())
    return of, "by what the graph computes" + (" (at 224 pixels)" if one.name not in spec.names() else "")


def _only(one: Candidate, fact: str) -> bool:
    return all(departure.fact == fact for departure in one.departures)


def _require(of: Spec, found: Found) -> None:
    """Raise Refused unless the network is that of the specification, wherever dropout scales."""
    scales = graph_scales(found)
    steps = tuple(
        replace(step, facts={**step.facts, "scale": scales}) if step.op == "dropout" else step
        for step in of_spec(of).steps
    )
    (one,) = against(found, {of.name: Structure(of_spec(of).input, steps)})
    if one.departures:
        raise Refused(f"the file's network must be that of {of.name}. Received: {one.departures[0]}")


def require_torchvision(of: Spec) -> None:
    """Raise Refused unless the network is torchvision's, of whatever widths."""
    (one,) = against(Found("specification", of_spec(of)), {"torchvision": structures()["torchvision"]})
    departures = [
        departure for departure in one.departures if departure.fact not in LEFT_OPEN and departure.step != "input"
    ]
    vectors = [step.input_shape[1:] for step in geometry(of).layers if isinstance(step.layer, Flatten)]
    if departures or len(conversions.weighted(of)) != len(TORCHVISION) or vectors != [(6, 6)]:
        what = departures[0] if departures else "maps before the first dense layer are not 6 x 6: it would resize them"
        raise Refused(f"weights in torchvision's layout must be of its network. Received: {of.name}, where {what}")


def graph_scales(found: Found) -> str:
    """Where the dropouts of a graph scale; what a graph for inference left out scaled in training."""
    scales = {str(step.facts["scale"]) for step in found.structure.steps if step.op == "dropout"}
    return "both" if len(scales) > 1 else next(iter(scales), "train")


__all__ = ["graph_scales", "require_torchvision", "specification"]
