"""README, "Files": the JSON Schema is the language's, takes what loads and refuses what is plainly wrong."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

import spec
from spec import schema
from spec.loading import MODELS
from spec.reader import read_file

SCHEMA = schema.file_schema()
TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
}
BOUNDS: dict[str, Callable[[Any, Any], bool]] = {
    "minimum": lambda value, bound: value >= bound,
    "maximum": lambda value, bound: value <= bound,
    "exclusiveMinimum": lambda value, bound: value > bound,
    "exclusiveMaximum": lambda value, bound: value < bound,
}
WORDS = {"description", "default", "title", "$schema", "$defs"}


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """JSON Schema (draft 7), as far as it is used here; a keyword that is not known is an error, not a pass."""
    for key, said in schema.items():
        match key:
            case "$ref":
                ok = fits(value, SCHEMA["$defs"][said.removeprefix("#/$defs/")])
            case "type":
                ok = TYPES[said](value)
            case "enum":
                ok = value in said
            case "const":
                ok = value == said
            case "pattern":
                ok = not isinstance(value, str) or re.search(said, value) is not None
            case "anyOf":
                ok = any(fits(value, option) for option in said)
            case "oneOf":
                ok = sum(fits(value, option) for option in said) == 1
            case "required":
                ok = not isinstance(value, dict) or set(said) <= value.keys()
            case "properties" | "patternProperties" | "additionalProperties" | "then" | "else":
                continue
            case "if":
                ok = fits(value, schema["then" if fits(value, said) else "else"])
            case "items":
                ok = not isinstance(value, list) or all(fits(item, said) for item in value)
            case "minItems" | "maxItems" | "minProperties" | "maxProperties":
                kind = list if key.endswith("Items") else dict
                size = len(value) if isinstance(value, kind) else said
                ok = size >= said if key.startswith("min") else size <= said
            case _ if key in BOUNDS:
                ok = not TYPES["number"](value) or BOUNDS[key](value, said)
            case _:
                assert key in WORDS, f"the test's validator does not know {key}"
                continue
        if not ok:
            return False
    return not isinstance(value, dict) or all(fits_field(key, item, schema) for key, item in value.items())


def fits_field(key: str, value: Any, schema: dict[str, Any]) -> bool:
    if key in schema.get("properties", {}):
        return fits(value, schema["properties"][key])
    for pattern, field in schema.get("patternProperties", {}).items():
        if re.search(pattern, key):
            return fits(value, field)
    additional = schema.get("additionalProperties", True)
    return additional if isinstance(additional, bool) else fits(value, additional)


def plain(name: str) -> Any:
    return json.loads(json.dumps(read_file(MODELS / f"{name}.yaml").plain()))


def test_the_file_beside_this_room_is_up_to_date() -> None:
    assert schema.FILE.read_text(encoding="utf-8") == schema.text(), "run: python -m spec schema"


@pytest.mark.parametrize("name", spec.names())
def test_every_variant_fits(name: str) -> None:
    assert fits(plain(name), SCHEMA)
    first = (MODELS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=../schema.json"


@pytest.mark.parametrize("name", spec.names())
def test_every_statement_fits(name: str) -> None:
    assert fits(spec.load(name).model_dump(mode="json") | spec.load(name).statement(), SCHEMA)


def changed(name: str, path: str, value: Any) -> Any:
    values = copy.deepcopy(plain(name))
    *way, last = path.split(".")
    inner = values
    for key in way:
        inner = inner.setdefault(key, {})
    inner[last] = value
    return values


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("caffenet", "layers.norm1", None),
        ("caffenet", "layers.norm1.after", "conv1"),
        ("caffenet", "layers.new", {"op": "relu", "after": "conv1"}),
        ("caffenet", "layers.conv1.kernel", {"height": 3}),
        ("caffenet", "data.color_noise", None),
        ("caffenet", "training.learning_rate.*", None),
        ("caffenet", "provenance", {"layers.norm1.k": "PAPER"}),
        ("paper-2012", "layers.conv1.kernel", {"height": 3, "width": 5}),
    ],
)
def test_what_loads_fits(name: str, path: str, value: Any) -> None:
    assert fits(changed(name, path, value), SCHEMA)


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("caffenet", "layers.norm1.alpha", "x"),
        ("caffenet", "layers.norm1.sizes", 5),
        ("caffenet", "layers.conv1.kernel", -1),
        ("caffenet", "layers.conv1.rounding", "up"),
        ("caffenet", "layers.Conv1", {"op": "relu"}),
        ("caffenet", "training.epochs", 0),
        ("caffenet", "layer", {}),
        ("caffenet", "title", 5),
        ("paper-2012", "layers.new", {"kernel": 3}),
        ("paper-2012", "layers.relu1", None),
        ("paper-2012", "init", {"weight": {"kind": "normal", "std": 1}}),
        ("paper-2012", "training.learning_rate", {}),
        ("paper-2012", "data.crop.kind", "left"),
    ],
)
def test_what_is_plainly_wrong_does_not_fit(name: str, path: str, value: Any) -> None:
    assert not fits(changed(name, path, value), SCHEMA)


def test_a_file_that_extends_nothing_states_every_section() -> None:
    whole = plain("paper-2012")
    for section in ("layers", "input", "init", "training", "data", "evaluation"):
        assert not fits({key: value for key, value in whole.items() if key != section}, SCHEMA)


def test_fields_carry_the_words_of_the_language() -> None:
    assert "2012 source" in SCHEMA["$defs"]["Lrn"]["properties"]["alpha_over"]["description"]
