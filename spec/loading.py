"""From a name, a file or plain values to a checked :class:`~spec.language.Spec`.

``extends`` is resolved by merging mappings field by field, child over parent. A mapping whose `op` or `kind` changes replaces
the parent's whole; a null field removes the parent's; a layer with `after` is inserted behind that layer (or moved, if it
exists), and one without it stands at the end. Every value keeps the file and line that stated it, so that an error found
after the merge still points at its source.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from spec.draws import tag
from spec.errors import Problem, SpecError, shown
from spec.arithmetic import GeometryError, geometry
from spec.language import Spec
from spec.reader import Document, Origin, Path_, dotted, read_file
from spec.schedule import matched

MODELS = Path(__file__).resolve().parent / "models"
MAX_ANCESTORS = 16
_DISCRIMINATORS = ("op", "kind")
_OWN = ("name", "title", "notes", "expect", "provenance")
"""Sections that speak of one file alone and are not inherited."""


@dataclass
class _Merged:
    """Values under construction, and the origin of each."""

    values: dict[str, Any]
    origins: dict[Path_, Origin]
    problems: list[Problem] = field(default_factory=list)

    def origin(self, path: Path_) -> Origin:
        """Where `path` was stated, or the nearest thing around it that was stated anywhere."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.origins:
                return self.origins[path[:end]]
        return Origin("<values>", None)

    def refuse(self, path: Path_, required: str, received: str) -> None:
        origin = self.origin(path)
        self.problems.append(Problem(origin.file, origin.line, dotted(path), required, received))


def names() -> tuple[str, ...]:
    """The variants of this repository, in alphabetical order."""
    return tuple(sorted(path.stem for path in MODELS.glob("*.yaml")))


def load(reference: str | Path, overrides: Mapping[str, Any] | None = None) -> Spec:
    """The specification called `reference`: a variant's name (``source-2012``), or the path of a YAML file.

    overrides: plain values merged over the file's, for options of a command line (``{"training": {"epochs": 3}}``).
    Raises SpecError with every problem found: unknown names, unreadable files, wrong fields, impossible geometry.
    """
    merged = _inherit(_locate(reference, None), ())
    if overrides:
        _merge(merged, dict(overrides), {(): Origin("<overrides>", None)}, ())
        merged.values.pop("expect", None) if {"input", "layers"} & set(overrides) else None
    return _checked(merged)


def from_values(values: Mapping[str, Any], file: str = "<values>") -> Spec:
    """A specification from plain values in the shape of a file without ``extends``. Raises SpecError."""
    return _checked(_Merged(_tuples(dict(values)), {(): Origin(file, None)}))


def with_classes(spec: Spec, classes: int) -> Spec:
    """`spec` with its last dense layer widened or narrowed to `classes`; unchanged if it already has as many."""
    if geometry(spec).output_shape == (classes,):
        return spec
    values = spec.statement()
    last = next((name for name in reversed(values["layers"]) if values["layers"][name]["op"] == "dense"), None)
    if last is None:
        raise SpecError([Problem(spec.name, None, "layers", "a network must end in a dense layer to change its classes", "none")])
    values["layers"][last]["out_features"] = classes
    values.pop("expect")
    return from_values(values, spec.name)


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _locate(reference: str | Path, origin: Origin | None) -> Path:
    """The file of a variant's name or of a path; a path in ``extends`` is relative to the file that says it."""
    text = str(reference)
    if text in names():
        return MODELS / f"{text}.yaml"
    path = Path(text)
    if origin is not None and not path.is_absolute():
        path = Path(origin.file).parent / path
    if path.suffix in (".yaml", ".yml") and (origin is not None or path.is_file()):
        return path
    where = (origin.file, origin.line, "extends") if origin else (text, None, "")
    near = difflib.get_close_matches(text, names(), 3, 0.5)
    hint = f" Nearest: {', '.join(near)}." if near else ""
    required = f"A specification must be the path of a .yaml file or one of {', '.join(names())}.{hint}"
    raise SpecError([Problem(*where, required.rstrip("."), shown(text) if not path.exists() else f"{text}, not a .yaml file")])


def _inherit(path: Path, seen: tuple[Path, ...]) -> _Merged:
    document = read_file(path)
    values = dict(document.values)
    parent = values.pop("extends", None)
    if parent is None:
        merged = _Merged({}, {})
    else:
        origin = document.origins[("extends",)]
        if not isinstance(parent, str):
            required = "must be the name of a variant or the path of a file"
            raise SpecError([Problem(origin.file, origin.line, "extends", required, shown(parent))])
        resolved = _locate(parent, origin)
        chain = (*seen, path.resolve())
        if resolved.resolve() in chain or len(chain) > MAX_ANCESTORS:
            received = " -> ".join(step.stem for step in (*chain, resolved.resolve()))
            raise SpecError([Problem(origin.file, origin.line, "extends", "must not come back to the file itself", received)])
        merged = _inherit(resolved, chain)
        for section in _OWN:
            merged.values.pop(section, None)
    _merge(merged, values, document.origins, ())
    merged.origins[()] = Origin(document.file, None)
    merged.values.setdefault("name", path.stem)
    return merged


def _merge(merged: _Merged, values: dict[str, Any], origins: dict[Path_, Origin], path: Path_) -> None:
    """Merge `values`, stated at `path`, over what is there."""
    target = merged.values
    for key in path:
        target = target[key]
    for key, value in values.items():
        here = (*path, key)
        in_layers = path == ("layers",)
        after = value.get("after") if in_layers and isinstance(value, dict) else None
        old = target.get(key)
        _take_origins(merged, origins, here, keep=isinstance(old, dict) and isinstance(value, dict))
        if value is None and path and key not in target and key not in _NULLABLE:
            merged.refuse(here, "null removes what the extended specification states, and it must state it", "nothing to remove")
        elif value is None and (in_layers or key in target) and path:
            target.pop(key, None)
        elif isinstance(value, dict) and isinstance(old, dict) and not _replaces(value, old):
            new = {k: v for k, v in value.items() if not (in_layers and k == "after")}
            _merge(merged, new, origins, here)
        elif in_layers and isinstance(value, dict):
            if old is None and "op" not in value:
                known = difflib.get_close_matches(key, list(target), 1, 0.5)
                hint = f"; nearest: {known[0]}" if known else ""
                merged.refuse(here, f"a layer that is patched must exist, and a new one must state its op{hint}", shown(key))
                continue
            target[key] = {k: v for k, v in value.items() if k != "after"}
        else:
            target[key] = value
        if after is not None:
            _place(merged, target, key, after, here)


_NULLABLE = frozenset({"std", "color_noise", "until_epoch", "before", "values", "top1_error", "top5_error", "loss"})
"""Optional fields, for which null in a file that extends nothing says "none"."""


def _replaces(new: dict[str, Any], old: dict[str, Any]) -> bool:
    return any(key in new and new[key] != old.get(key) for key in _DISCRIMINATORS)


def _take_origins(merged: _Merged, origins: dict[Path_, Origin], here: Path_, keep: bool) -> None:
    """Adopt the origins of everything stated at or below `here`; forget the parent's unless its fields are kept."""
    if not keep:
        for path in [path for path in merged.origins if path[: len(here)] == here]:
            del merged.origins[path]
    merged.origins.update({path: origin for path, origin in origins.items() if path[: len(here)] == here})
    if () in origins and here not in merged.origins:
        merged.origins[here] = origins[()]


def _place(merged: _Merged, layers: dict[str, Any], name: str, after: Any, path: Path_) -> None:
    if after not in layers or after == name:
        received = shown(after)
        merged.refuse((*path, "after"), "must name another layer of the network", received)
        return
    moved = layers.pop(name)
    items = list(layers.items())
    layers.clear()
    for key, value in items:
        layers[key] = value
        if key == after:
            layers[name] = moved


def _checked(merged: _Merged) -> Spec:
    """Validate the merged values, then what follows from them. Raises SpecError with every problem."""
    values = dict(merged.values)
    layers = values.get("layers")
    if isinstance(layers, dict):
        named = []
        for name, layer in layers.items():
            if not isinstance(layer, dict):
                merged.refuse(("layers", name), "a layer must be a mapping of its fields", shown(layer))
            elif "name" in layer:
                merged.refuse(("layers", name, "name"), "a layer is named by its key alone", shown(layer["name"]))
            else:
                named.append({**layer, "name": name})
        values["layers"] = tuple(named)
    elif layers is not None:
        merged.refuse(("layers",), "must be a mapping of layer names to layers", shown(layers))
        values["layers"] = ()
    spec: Spec | None = None
    try:
        spec = Spec.model_validate(values)
    except ValidationError as error:
        for details in error.errors():
            _refuse_validation(merged, values, details)
    if merged.problems:
        raise SpecError(_unique(merged.problems))
    assert spec is not None
    _check_consequences(merged, spec)
    if merged.problems:
        raise SpecError(_unique(merged.problems))
    return spec


def _unique(problems: list[Problem]) -> list[Problem]:
    return list(dict.fromkeys(problems))


_REQUIRED = {
    "missing": "is required",
    "extra_forbidden": "is not a field here",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "tuple_type": "must be a sequence",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping of its fields",
    "finite_number": "must be finite",
}


def _refuse_validation(merged: _Merged, values: dict[str, Any], details: Any) -> None:
    """Turn one of pydantic's errors into a problem: the path in the file's words, the requirement in ours."""
    path: list[str | int] = []
    value: Any = values
    for key in details["loc"]:
        if path == ["layers"] and isinstance(key, int):
            value = value[key]
            path.append(value["name"] if isinstance(value, dict) else key)
            continue
        present = isinstance(value, dict) and key in value or isinstance(value, tuple) and isinstance(key, int)
        if present:
            value = value[key]
            path.append(key)
        elif key == details["loc"][-1] and details["type"] in ("missing", "extra_forbidden"):
            path.append(key)
        # anything else is the name of a union's member, which the file does not contain
    kind, context = details["type"], details.get("ctx", {})
    received = shown(details["input"])
    if kind == "missing":
        received = "nothing"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        discriminator = str(context.get("discriminator", "'op'")).strip("'")
        path.append(discriminator)
        required = f"must be one of {context['expected_tags']}" if "expected_tags" in context else "is required"
        received = shown(value.get(discriminator)) if isinstance(value, dict) and discriminator in value else "nothing"
    elif kind == "value_error":
        required = str(context["error"])
    elif kind == "extra_forbidden":
        near = ""
        received = shown(details["input"])
        required = _REQUIRED[kind] + near
    else:
        required = _REQUIRED.get(kind) or details["msg"].replace("Input should", "must").replace("String should", "must")
    merged.refuse(tuple(path), required, received)


def _check_consequences(merged: _Merged, spec: Spec) -> None:
    """What must hold between sections: geometry, parameter names, patterns, sizes, expectations."""
    seen: dict[int, str] = {}
    try:
        network = geometry(spec)
    except GeometryError as error:
        merged.refuse(("layers", error.layer, error.field), error.required, error.received)
        return
    parameters = network.parameters
    for name in (*parameters, *(layer.name for layer in spec.layers)):
        other = seen.setdefault(tag(name), name)
        if other != name:
            merged.refuse(("layers",), "names must differ in their CRC-32, which the draws use", f"{other} and {name}")
    if len(network.output_shape) != 1:
        merged.refuse(("layers",), "the network must end in a vector of class scores", f"{network.output_shape}")
    for name in spec.init.parameters:
        if name not in parameters:
            merged.refuse(("init", "parameters", name), f"must be one of {', '.join(parameters)}", shown(name))
    for section in ("learning_rate", "weight_decay"):
        patterns = getattr(spec.training, section)
        for name in parameters:
            try:
                matched(patterns, name)
            except KeyError:
                merged.refuse(("training", section), f"a pattern must match {name}", shown(", ".join(patterns)))
    data, channels = spec.data, spec.input.channels
    if spec.input.height != spec.input.width or data.storage.size < spec.input.height:
        received = f"{data.storage.size} for an input of {spec.input.height}x{spec.input.width}"
        merged.refuse(("data", "storage", "size"), "must be at least the network's square input", received)
    for where, values in ((("data", "std"), data.std), (("data", "mean", "values"), data.mean.values)):
        if values is not None and len(values) != channels:
            merged.refuse(where, f"must have one value for each of the {channels} channels", shown(values))
    _check_expectations(merged, spec)


def _check_expectations(merged: _Merged, spec: Spec) -> None:
    network = geometry(spec)
    for what, expected, found in (
        ("parameters", spec.expect.parameters, network.parameter_count),
        ("macs", spec.expect.macs, network.macs),
    ):
        if expected is not None and expected != found:
            merged.refuse(("expect", what), f"must be what the layers give, {found}", str(expected))
    shapes = {layer.name: layer.output_shape for layer in network.layers}
    for name, shape in spec.expect.shapes.items():
        if shapes.get(name) != shape:
            required = f"must be what the layers give, {shapes[name]}" if name in shapes else "must name a layer"
            merged.refuse(("expect", "shapes", name), required, shown(shape))


__all__ = ["Document", "from_values", "load", "names", "with_classes"]
