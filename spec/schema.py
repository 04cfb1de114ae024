"""The JSON Schema of a specification *file*, generated from the language, for editors to complete and check.

It says less than the loader (no geometry, no inheritance) and never more: what loads, validates. A file that extends
another may state any part of anything, and null to remove; one that extends nothing states its sections in full.
"""

from __future__ import annotations

import ast
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from spec import language
from spec.language import Spec

FILE = Path(__file__).resolve().parent / "schema.json"
_SECTIONS = ("input", "init", "training", "data", "evaluation")
_NAME = "^[a-z][a-z0-9_]{0,39}$"

Schema = dict[str, Any]


def file_schema() -> Schema:
    """The schema, as plain values."""
    spec = Spec.model_json_schema(mode="validation", ref_template="#/$defs/{model}")
    definitions: dict[str, Schema] = spec["$defs"]
    described = _descriptions()
    for name, definition in definitions.items():
        for field, words in described.get(name, {}).items():
            definition["properties"][field]["description"] = words
    layers = {name for name in definitions if "op" in definitions[name].get("properties", {})}
    for name in layers:
        properties: Schema = definitions[name]["properties"]
        del properties["name"]
        definitions[name]["required"].remove("name")
        properties["after"] = {"type": "string", "description": "The layer that this one is to follow."}
    for definition in definitions.values():
        _tidy(definition)
    patches = {f"{name}Patch": _patch(definition) for name, definition in definitions.items()}
    refs = [f"#/$defs/{name}" for name in sorted(layers)]
    properties = {name: field for name, field in spec["properties"].items() if name not in ("layers", *_SECTIONS)}
    for field in properties.values():
        _tidy(field)
    properties["extends"] = {
        "type": "string",
        "description": "The variant, or the path of the file, that this one states its difference to.",
    }
    whole = {name: spec["properties"][name] for name in _SECTIONS}
    partial = {name: _patched(field) for name, field in whole.items()}
    whole["layers"] = _named({"oneOf": [{"$ref": ref} for ref in refs]})
    partial["layers"] = _named({"anyOf": [*({"$ref": f"{ref}Patch"} for ref in refs), {"type": "null"}]})
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A specification of AlexNet or a neighbour",
        "description": spec["description"],
        "type": "object",
        "properties": properties | {name: {} for name in partial},
        "additionalProperties": False,
        "required": ["title"],
        "if": {"required": ["extends"]},
        "then": {"properties": partial},
        "else": {"properties": whole, "required": ["layers", *_SECTIONS]},
        "$defs": definitions | patches,
    }


def _descriptions() -> dict[str, dict[str, str]]:
    """Class to field to the words under it in ``language.py``."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(Path(language.__file__).read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for field, words in pairwise(node.body):
            match field, words:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(said))):
                    found.setdefault(node.name, {})[name] = " ".join(said.split())
    return found


def _named(layer: Schema) -> Schema:
    return {"type": "object", "patternProperties": {_NAME: layer}, "additionalProperties": False}


def _tidy(schema: Schema) -> None:
    """Drop generated titles, which only repeat names, and OpenAPI's discriminators, which JSON Schema does not know."""
    schema.pop("title", None)
    schema.pop("discriminator", None)
    for value in list(schema.values()):
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict):
                _tidy(part)


def _patch(definition: Schema) -> Schema:
    """A mapping of which any part may be stated, and null to remove."""
    if definition.get("type") != "object" or "properties" not in definition:
        return definition
    properties = {name: _nullable(_patched(field)) for name, field in definition["properties"].items()}
    return {key: value for key, value in definition.items() if key != "required"} | {"properties": properties}


def _patched(field: Schema) -> Schema:
    """`field` with every mapping in it replaced by its patch; sequences are stated whole."""
    if "$ref" in field:
        return {**field, "$ref": f"{field['$ref']}Patch"}
    if field.get("type") == "array":
        return field
    changed = dict(field)
    for key in ("anyOf", "oneOf"):
        if key in field:  # several patches may fit a mapping that says little
            changed.pop(key)
            changed["anyOf"] = [_patched(option) for option in field[key]]
    if isinstance(field.get("additionalProperties"), dict):
        changed["additionalProperties"] = _nullable(_patched(field["additionalProperties"]))
        changed.pop("minProperties", None)
    return changed


def _nullable(field: Schema) -> Schema:
    return {"anyOf": [field, {"type": "null"}]}


def text() -> str:
    """The text of ``schema.json``."""
    return json.dumps(file_schema(), indent=1, sort_keys=True) + "\n"
