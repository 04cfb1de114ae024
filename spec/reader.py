"""YAML text to plain values, each with the file and line it was written on.

The reader accepts the part of YAML 1.2 that a specification needs and refuses the rest by name: no tags, no duplicate
keys, no non-finite numbers, bounded size, depth and aliases. ``1e-4`` is a number here, as in YAML 1.2 and unlike PyYAML's
default (YAML 1.1), where it is a string. ``yes``, ``no``, ``on`` and ``off`` are strings, also as in YAML 1.2.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from spec.errors import Problem, SpecError, shown

MAX_BYTES = 256 * 1024
"""A specification larger than this is refused unread. The largest in this repository has about a tenth of it."""
MAX_DEPTH = 24
MAX_NODES = 20_000
"""Values in one document, every alias counted with all that it stands for."""

Path_ = tuple[str | int, ...]
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass(frozen=True)
class Origin:
    """Where a value was written."""

    file: str
    line: int | None


@dataclass(frozen=True)
class Document:
    """The values of one file (mappings as dict, sequences as tuple) and the origin of each, by path."""

    file: str
    values: dict[str, Any]
    origins: dict[Path_, Origin]


def dotted(path: Path_) -> str:
    """``('layers', 'norm1', 'k')`` as ``layers.norm1.k``; a key that holds a dot is quoted."""
    return ".".join(f'"{key}"' if isinstance(key, str) and "." in key else str(key) for key in path)


def read_file(path: Path) -> Document:
    """Read one specification file. Raises SpecError naming the file, whatever is wrong with it."""
    name = str(path)

    def refuse(required: str, received: str) -> SpecError:
        return SpecError([Problem(name, None, "", required, received)])

    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise refuse("A specification must be a readable file", error.strerror or str(error)) from None
    if len(raw) > MAX_BYTES:
        raise refuse(f"A specification must have at most {MAX_BYTES} bytes", f"{path.stat().st_size} bytes")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise refuse("A specification must be UTF-8", f"byte 0x{raw[error.start]:02x} at offset {error.start}") from None
    return read_text(text, name)


def read_text(text: str, file: str = "<text>") -> Document:
    """Read one specification from `text`; `file` is the name used in errors."""
    builder = _Builder(file)
    try:
        events = iter(yaml.parse(text, Loader=_LOADER))
        values = builder.document(events)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        what = " ".join(part for part in (error.context, error.problem) if part)
        raise SpecError([Problem(file, line, "", "A specification must be well-formed YAML", what)]) from None
    except yaml.YAMLError as error:
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SpecError([Problem(file, None, "", "A specification must be well-formed YAML", what)]) from None
    if not isinstance(values, dict):
        received = "an empty document" if values is None else shown(values)
        raise SpecError([Problem(file, 1, "", "A specification must be a mapping of fields", received)])
    return Document(file, values, builder.origins)


class _Builder:
    """Builds values from PyYAML's event stream, which is lazy: a document too deep is refused before it is read."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.origins: dict[Path_, Origin] = {}
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.nodes = 0

    def refuse(self, event: yaml.Event, path: Path_, required: str, received: str) -> SpecError:
        return SpecError([Problem(self.file, event.start_mark.line + 1, dotted(path), required, received)])

    def document(self, events: Iterator[yaml.Event]) -> Any:
        value: Any = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self.refuse(event, (), "A specification must be one YAML document", "a second document")
                value = self.value(next(events), events, (), 0)
        return value

    def value(self, event: yaml.Event, events: Iterator[yaml.Event], path: Path_, depth: int) -> Any:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise self.refuse(event, path, "An alias must follow its anchor", f"*{event.anchor}")
            value, size = self.anchors[event.anchor]
            self.count(size, event, path)
            self.origins[path] = Origin(self.file, line)
            return value
        if depth > MAX_DEPTH:
            raise self.refuse(event, path[:4], f"Values must nest at most {MAX_DEPTH} deep", "deeper nesting")
        if getattr(event, "tag", None) not in (None, "!"):
            raise self.refuse(event, path, "Values must have no YAML tag", shown(event.tag))
        before = self.nodes
        self.count(1, event, path)
        self.origins[path] = Origin(self.file, line)
        value = None
        if isinstance(event, yaml.ScalarEvent):
            value = self.scalar(event, path)
        elif isinstance(event, yaml.SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(child := next(events), yaml.SequenceEndEvent):
                items.append(self.value(child, events, (*path, len(items)), depth + 1))
            value = tuple(items)
        elif isinstance(event, yaml.MappingStartEvent):
            value = {}
            while not isinstance(key := next(events), yaml.MappingEndEvent):
                if not isinstance(key, yaml.ScalarEvent):
                    raise self.refuse(key, path, "A field name must be plain text", "a composite key")
                if key.value in value:
                    raise self.refuse(key, (*path, key.value), "A field must be stated once", "a second statement")
                child = next(events)
                value[key.value] = self.value(child, events, (*path, key.value), depth + 1)
                self.origins[(*path, key.value)] = Origin(self.file, key.start_mark.line + 1)
        if getattr(event, "anchor", None):
            self.anchors[event.anchor] = (value, self.nodes - before)
        return value

    def count(self, size: int, event: yaml.Event, path: Path_) -> None:
        self.nodes += size
        if self.nodes > MAX_NODES:
            received = "more, aliases counted with all that they stand for"
            raise self.refuse(event, path[:4], f"A specification must have at most {MAX_NODES} values", received)

    def scalar(self, event: yaml.ScalarEvent, path: Path_) -> Any:
        text = event.value
        if not event.implicit[0]:  # quoted: text, whatever it looks like
            return text
        if text in ("", "~", "null", "Null", "NULL"):
            return None
        if text in ("true", "True", "TRUE"):
            return True
        if text in ("false", "False", "FALSE"):
            return False
        if _NOT_FINITE.fullmatch(text):
            raise self.refuse(event, path, "A number must be finite", text)
        if _INT.fullmatch(text):
            if len(text) > 20:
                raise self.refuse(event, path, "A whole number must have at most 20 digits", f"{len(text)} digits")
            return int(text)
        if _FLOAT.fullmatch(text):
            number = float(text)
            if not math.isfinite(number):
                raise self.refuse(event, path, "A number must be finite", shown(text))
            return number
        return text
