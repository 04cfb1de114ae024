"""YAML text to nodes: values, each with the file and line it was written on.

The reader accepts the part of YAML 1.2 that a specification needs and refuses the rest by name: no tags, no duplicate
keys, no non-finite numbers, bounded size, depth and aliases. ``1e-4`` is a number here, as in YAML 1.2 and unlike
PyYAML's default (YAML 1.1), where it is a string. ``yes``, ``no``, ``on`` and ``off`` are strings, also as in YAML 1.2.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from spec.errors import Problem, SpecError, shown

MAX_BYTES = 256 * 1024
"""A specification larger than this is refused unread. The largest in this repository has about a tenth of it."""
MAX_DEPTH = 24
MAX_NODES = 10_000
"""Values in one document, every alias counted with all that it stands for."""

Path_ = tuple[str | int, ...]
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_*-]{1,60}")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass(frozen=True, slots=True)
class Node:
    """A value as it was written: a scalar, a tuple of nodes or a dict of nodes, and where; `source` is known later."""

    value: Any
    file: str
    line: int | None
    source: str | None = None

    def plain(self) -> Any:
        """The value alone, to all depths."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        return tuple(node.plain() for node in self.value) if isinstance(self.value, tuple) else self.value

    def nearest(self, path: Path_) -> Node:
        """The node at `path`, or the last one on the way to it."""
        if path and isinstance(self.value, dict) and path[0] in self.value:
            child: Node = self.value[path[0]]
            return child.nearest(path[1:])
        return self


def dotted(path: Path_) -> str:
    """``('layers', 'norm1', 'k')`` as ``layers.norm1.k``; a key that is more than a plain word is quoted."""
    return ".".join(str(key) if isinstance(key, int) or _PLAIN_KEY.fullmatch(key) else _quoted(key) for key in path)


def _quoted(key: str) -> str:
    return json.dumps(key if len(key) <= 60 else key[:59] + "…", ensure_ascii=False)


def read_file(path: Path) -> Node:
    """Read one specification file into a mapping node. Raises SpecError naming the file, whatever is wrong with it."""
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
        raise refuse(
            "A specification must be UTF-8", f"byte 0x{raw[error.start]:02x} at offset {error.start}"
        ) from None
    return read_text(text, name)


def read_text(text: str, file: str = "<text>") -> Node:
    """Read one specification from `text` into a mapping node; `file` is the name used in errors. Raises SpecError."""
    try:
        node = _Builder(file).document(iter(yaml.parse(text, Loader=_LOADER)))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        what = " ".join(part for part in (error.context, error.problem) if part)
        raise SpecError([Problem(file, line, "", "A specification must be well-formed YAML", what)]) from None
    except yaml.YAMLError as error:
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SpecError([Problem(file, None, "", "A specification must be well-formed YAML", what)]) from None
    if node is None or not isinstance(node.value, dict):
        received = "an empty document" if node is None or node.value is None else shown(node.plain())
        raise SpecError([Problem(file, 1, "", "A specification must be a mapping of fields", received)])
    return node


def _line(event: Any) -> int:
    line: int = event.start_mark.line
    return line + 1


class _Builder:
    """Builds nodes from PyYAML's event stream, which is lazy: a document too deep is refused before it is read."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.anchors: dict[str, tuple[Node, int]] = {}
        self.nodes = 0

    def refuse(self, event: Any, path: Path_, required: str, received: str) -> SpecError:
        return SpecError([Problem(self.file, _line(event), dotted(path), required, received)])

    def document(self, events: Iterator[Any]) -> Node | None:
        node = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self.refuse(event, (), "A specification must be one YAML document", "a second document")
                node = self.node(next(events), events, (), 0)
        return node

    def node(self, event: Any, events: Iterator[Any], path: Path_, depth: int) -> Node:
        line = _line(event)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise self.refuse(event, path, "An alias must follow its anchor", f"*{event.anchor}")
            anchored, size = self.anchors[event.anchor]
            self.count(size, event, path)
            return replace(anchored, line=line)
        if depth > MAX_DEPTH:
            raise self.refuse(event, path[:4], f"Values must nest at most {MAX_DEPTH} deep", "deeper nesting")
        if getattr(event, "tag", None) not in (None, "!"):
            raise self.refuse(event, path, "Values must have no YAML tag", shown(event.tag))
        before = self.nodes
        self.count(1, event, path)
        value: Any = None
        if isinstance(event, yaml.ScalarEvent):
            value = self.scalar(event, path)
        elif isinstance(event, yaml.SequenceStartEvent):
            items: list[Node] = []
            while not isinstance(child := next(events), yaml.SequenceEndEvent):
                items.append(self.node(child, events, (*path, len(items)), depth + 1))
            value = tuple(items)
        elif isinstance(event, yaml.MappingStartEvent):
            value = {}
            while not isinstance(key := next(events), yaml.MappingEndEvent):
                if not isinstance(key, yaml.ScalarEvent):
                    raise self.refuse(key, path, "A field name must be plain text", "a composite key")
                if key.value in value:
                    raise self.refuse(key, (*path, key.value), "A field must be stated once", "a second statement")
                field = self.node(next(events), events, (*path, key.value), depth + 1)
                value[key.value] = replace(field, line=_line(key))
        built = Node(value, self.file, line)
        if getattr(event, "anchor", None):
            self.anchors[event.anchor] = (built, self.nodes - before)
        return built

    def count(self, size: int, event: Any, path: Path_) -> None:
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
