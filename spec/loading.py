"""From a name, a file or plain values to a checked :class:`~spec.language.Spec`.

``extends`` is resolved by :mod:`spec.merging`. Every value keeps the file and line that stated it, so that an error
found after the merge still points at its source.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from spec.arithmetic import GeometryError, geometry
from spec.errors import Problem, SpecError, shown
from spec.language import FIELDS, SHORTHANDS, FieldFault, Spec, tag
from spec.merging import Merger, node_of
from spec.provenance import attached
from spec.reader import Node, Path_, dotted, read_file
from spec.schedule import matched

MODELS = Path(__file__).resolve().parent / "models"
MAX_ANCESTORS = 6
_OWN = ("name", "title", "notes", "expect", "provenance")
"""Sections that speak of one file alone and are not inherited."""


def names() -> tuple[str, ...]:
    """The variants of this repository, in alphabetical order."""
    return tuple(sorted(path.stem for path in MODELS.glob("*.yaml")))


def load(reference: str | Path, overrides: Mapping[str, Any] | None = None) -> Spec:
    """The specification called `reference`: a variant's name (``source-2012``), or the path of a YAML file.

    overrides: plain values merged over the file's, for options of a command line (``{"training": {"epochs": 3}}``).
    Where they touch the network, what the file expects of it no longer holds and is dropped. Raises SpecError with
    every problem found: unknown names, unreadable files, wrong fields, impossible geometry.
    """
    path = _locate(reference, None)
    merger, node = _inherit(path, ())
    if overrides:
        values = dict(overrides)
        if {"input", "layers"} & values.keys():
            node = Node({key: item for key, item in node.value.items() if key != "expect"}, node.file, node.line)
        node = merger.merge(node, node_of(values, "<overrides>"))
    return _checked(merger, node, str(path))


def from_values(values: Mapping[str, Any], file: str = "<values>") -> Spec:
    """A specification from plain values in the shape of a file without ``extends``. Raises SpecError."""
    merger = Merger()
    stated = attached(node_of(dict(values), file), merger.problems)
    return _checked(merger, merger.merge(Node({}, file, None), stated), file)


def with_classes(spec: Spec, classes: int) -> Spec:
    """`spec` with its last dense layer widened or narrowed to `classes`; unchanged if it already has as many.

    The result keeps its name, and loses what was expected of the network.
    """
    if geometry(spec).output_shape == (classes,):
        return spec
    values = spec.statement()
    last = next((name for name in reversed(values["layers"]) if values["layers"][name]["op"] == "dense"), None)
    if last is None:
        raise SpecError(
            [Problem(spec.name, None, "layers", "a network must end in a dense layer to change its classes", "none")]
        )
    values["layers"][last]["out_features"] = classes
    if f"layers.{last}.out_features" in values["provenance"]:
        values["provenance"][f"layers.{last}.out_features"] = "chosen here: as many as the data has classes"
    values.pop("expect")
    return from_values(values, spec.name)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, or with a character no file system has
        return False


def _locate(reference: str | Path, stated: Node | None) -> Path:
    """The file of a variant's name or of a path; a path in ``extends`` is relative to the file that says it."""
    text = str(reference)
    if text in names():
        return MODELS / f"{text}.yaml"
    path = Path(text)
    if stated is not None and not path.is_absolute():
        path = Path(stated.file).parent / path
    if path.suffix in (".yaml", ".yml") and _is_file(path):
        return path
    where = (stated.file, stated.line, "extends") if stated else (text if len(text) < 80 else shown(text), None, "")
    near = difflib.get_close_matches(text[:80], names(), 3, 0.5)
    hint = f" (nearest: {', '.join(near)})" if near else ""
    required = f"A specification must be the path of a .yaml file or one of {', '.join(names())}{hint}"
    received = f"{shown(text)}, not a .yaml file" if _is_file(path) else f"{shown(text)}, no such file or name"
    raise SpecError([Problem(*where, required, received)])


def _inherit(path: Path, seen: tuple[Path, ...]) -> tuple[Merger, Node]:
    """The merger that resolved `path`'s ancestors, and the merged node."""
    stated = read_file(path)
    fields = dict(stated.value)
    parent: Node | None = fields.pop("extends", None)
    if parent is None:
        merger, node = Merger(), Node({}, stated.file, 1)
    else:
        if not isinstance(parent.value, str):
            required = "must be the name of a variant or the path of a file"
            raise SpecError([Problem(parent.file, parent.line, "extends", required, shown(parent.plain()))])
        chain = (*seen, path.resolve())
        found = _locate(parent.value, parent)
        if found.resolve() in chain:
            received = " -> ".join(step.stem for step in (*chain, found.resolve()))
            raise SpecError(
                [Problem(parent.file, parent.line, "extends", "must not come back to the file itself", received)]
            )
        if len(chain) >= MAX_ANCESTORS:
            required = f"must not go through more than {MAX_ANCESTORS} files"
            raise SpecError([Problem(parent.file, parent.line, "extends", required, "a longer chain")])
        merger, inherited = _inherit(found, chain)
        node = Node({key: item for key, item in inherited.value.items() if key not in _OWN}, stated.file, 1)
    node = merger.merge(node, attached(Node(fields, stated.file, 1), merger.problems))
    node.value.setdefault("name", Node(path.stem, stated.file, None))
    return merger, node


class _Draft:
    """A merged node on its way to a specification, and what is wrong with it."""

    def __init__(self, merger: Merger, node: Node, file: str) -> None:
        self.merger, self.node, self.file = merger, node, file
        self.problems = list(merger.problems)

    def refuse(self, path: Path_, required: str, received: str) -> None:
        """Report at the place where `path` was stated, or the nearest thing around it that was."""
        nearest = self.merger.removed.get(path) or self.node.nearest(path)
        extended_by = self.file if nearest.file != self.file else ""
        self.problems.append(Problem(nearest.file, nearest.line, dotted(path), required, received, extended_by))

    def raise_problems(self) -> None:
        if self.problems:
            raise SpecError(dict.fromkeys(self.problems))


def _checked(merger: Merger, node: Node, file: str) -> Spec:
    """Validate the merged values, then what follows from them. Raises SpecError with every problem."""
    merged = _Draft(merger, node, file)
    origins = merger.origins(node)
    values = node.plain()
    values["provenance"] = merger.provenance(node)
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
            if details["loc"][0] == "layers" and not isinstance(layers, dict) and layers is not None:
                continue  # said above
            _refuse_validation(merged, values, details)
    merged.raise_problems()
    assert spec is not None
    _check_consequences(merged, spec)
    merged.raise_problems()
    spec._origins.update(origins)
    return spec


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
    "model_attributes_type": "must be a mapping of its fields",
    "finite_number": "must be finite",
    "too_short": "must have at least {min_length} item",
    "too_long": "must have at most {max_length} items",
    "string_pattern_mismatch": "must match {pattern}",
    "union_tag_invalid": "must be one of {expected_tags}",
    "union_tag_not_found": "is required",
}
"""Pydantic's kinds of error in our words; of the others, its own words are used."""


def _refuse_validation(merged: _Draft, values: dict[str, Any], details: Any) -> None:
    """Turn one of pydantic's errors into a problem: the path in the file's words, the requirement in ours."""
    kind, context = details["type"], details.get("ctx", {})
    path: list[str | int] = []
    value: Any = values
    member: Any = None
    for key in details["loc"]:
        if isinstance(value, dict) and key in (value.get("op"), value.get("kind")) and member is not value:
            member = value  # the name of a union's member, which the file does not contain as a field
        elif path == ["layers"] and isinstance(key, int):
            value = value[key]
            path.append(value["name"])
        elif (isinstance(value, dict) and key in value) or (isinstance(value, tuple) and isinstance(key, int)):
            value = value[key]
            path.append(key)
        elif key == details["loc"][-1] and kind in ("missing", "extra_forbidden"):
            path.append(key)
    received = "nothing" if kind == "missing" else shown(details["input"])
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        discriminator = context["discriminator"].strip("'")
        path.append(discriminator)
        received = shown(value[discriminator]) if discriminator in value else "nothing"
    if kind == "value_error":
        fault = context["error"]
        required = str(fault)
        if isinstance(fault, FieldFault):
            path.append(fault.field)
            received = "nothing" if fault.received is None else shown(fault.received)
    elif kind in _REQUIRED:
        required = _REQUIRED[kind].format(**context)
    else:
        required = details["msg"].replace("Input should", "must").replace("String should", "must")
    if kind == "extra_forbidden" and path[-1] not in FIELDS:
        known = {*Spec.model_fields, "extends"} if len(path) == 1 else FIELDS
        near = difflib.get_close_matches(str(path[-1])[:40], sorted(known), 1, 0.7)
        required += f"; nearest: {near[0]}" if near else ""
    if kind == "string_pattern_mismatch" and path[0] == "layers":
        path.pop()
        required = "a layer's name must be of lower case letters, digits and _, at most 40, a letter first"
    if path and path[-1] in SHORTHANDS and kind == "model_type":
        required = f"must be a whole number, or {', '.join(SHORTHANDS[str(path[-1])])}"
    merged.refuse(tuple(path), required, received)


def _check_consequences(merged: _Draft, spec: Spec) -> None:
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
    height, width = spec.input.height, spec.input.width
    if height != width:
        merged.refuse(("input", "height"), f"must be the width ({width}): stored images are square", str(height))
    elif data.storage.size < height:
        required = f"must be at least the network's input, {height}x{width}"
        merged.refuse(("data", "storage", "size"), required, str(data.storage.size))
    for where, values in ((("data", "std"), data.std), (("data", "mean", "values"), data.mean.values)):
        if values is not None and len(values) != channels:
            merged.refuse(where, f"must have one value for each of the {channels} channels", shown(values))
    _check_expectations(merged, spec)


def _check_expectations(merged: _Draft, spec: Spec) -> None:
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


__all__ = ["from_values", "load", "names", "with_classes"]
