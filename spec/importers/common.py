"""What the importers share: a specification under construction, a source for every value, and what was left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from spec.errors import Problem, SpecError, shown
from spec.language import Spec
from spec.loading import from_values
from spec.reader import dotted

MAX_BYTES = 1024 * 1024
"""A definition larger than this is refused unread. The largest of the 2012 source has 20 kB."""
NAME_LENGTH = 40


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A field of an imported file that the specification does not have.

    `matters`: the network or its training would differ from the one specified (weights from a file, a constraint);
    otherwise the field says how something is computed, or repeats what other fields give.
    """

    file: str
    line: int | None
    field: str
    value: str
    why: str
    matters: bool = False

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.field} = {self.value}: {self.why}"


@dataclass(frozen=True, slots=True)
class Imported:
    """A specification read from other software's files, with everything that is not in it or not from them."""

    spec: Spec
    values: Mapping[str, Any]
    """The specification in the shape of its file, with a source for every value."""
    left_out: tuple[LeftOut, ...]
    filled: tuple[tuple[str, str], ...]
    """(path, why): values that the language requires and the files do not state."""

    @property
    def whole(self) -> bool:
        """Whether nothing that matters was left out."""
        return not any(item.matters for item in self.left_out)


class Inexpressible(SpecError):
    """What a file describes is outside the language; the file itself may be right."""


def refuse(file: str, line: int | None, field: str, required: str, received: str) -> SpecError:
    """An error about one field of an imported file."""
    return SpecError([Problem(file, line, field, required, received)])


def cannot_say(file: str, line: int | None, field: str, required: str, received: str) -> Inexpressible:
    """An error about something that the language has no words for."""
    return Inexpressible([Problem(file, line, field, required, received)])


def read_lines(path: Path) -> list[str]:
    """The lines of a definition file. Raises SpecError if it is unreadable, too large or not text."""
    name = path.name
    if path.exists() and not path.is_file():  # a pipe would never end
        raise refuse(str(path), None, "", "A definition must be a readable file", "a folder, a pipe or a device")
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise refuse(
            str(path), None, "", "A definition must be a readable file", error.strerror or str(error)
        ) from None
    if len(raw) > MAX_BYTES:
        raise refuse(name, None, "", f"A definition must have at most {MAX_BYTES} bytes", "a larger file")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        received = f"byte 0x{raw[error.start]:02x} at offset {error.start}"
        raise refuse(name, None, "", "A definition must be UTF-8 text", received) from None
    if "\0" in text:
        raise refuse(name, None, "", "A definition must be text", "a zero byte")
    return text.splitlines()


def language_name(wish: str, taken: Iterable[str]) -> str:
    """`wish` as a layer's name of the language, unlike those in `taken`."""
    plain = re.sub(r"[^a-z0-9_]+", "_", wish.lower()).strip("_")
    if not plain or not plain[0].isalpha():
        plain = f"layer_{plain}".rstrip("_")
    plain = plain[:NAME_LENGTH]
    name, number, used = plain, 2, set(taken)
    while name in used:
        suffix = f"_{number}"
        name, number = plain[: NAME_LENGTH - len(suffix)] + suffix, number + 1
    return name


class Draft:
    """Values of a specification to be, each with its source."""

    def __init__(self, name: str, title: str, file: str) -> None:
        self.file = file
        self.values: dict[str, Any] = {"name": name, "title": title}
        self.provenance: dict[str, str] = {}
        self.left_out: list[LeftOut] = []
        self.filled: list[tuple[str, str]] = []

    @property
    def layer_names(self) -> tuple[str, ...]:
        return tuple(self.values.get("layers", {}))

    def put(self, path: tuple[str, ...], value: Any, source: str) -> None:
        """State one value (a scalar or a sequence) with its source."""
        at = self.values
        for step in path[:-1]:
            at = at.setdefault(step, {})
        at[path[-1]] = value
        self.provenance[dotted(path)] = source

    def layer(self, wish: str, op: str, fields: Mapping[str, tuple[Any, str]], source: str) -> str:
        """Append a layer. `fields`: name to (value, source). Returns the layer's name."""
        name = language_name(wish, self.layer_names)
        self.put(("layers", name, "op"), op, source)
        for field, (value, origin) in fields.items():
            self.put(("layers", name, field), value, origin)
        return name

    def fill(self, path: tuple[str, ...], value: Any, why: str) -> None:
        """State a value that the files do not have."""
        self.put(path, value, why)
        self.filled.append((dotted(path), why))

    def fill_tree(self, path: tuple[str, ...], values: Mapping[str, Any], why: str) -> None:
        """State plain values to all depths that the files do not have; what is absent there stays absent."""
        for key, value in values.items():
            if isinstance(value, Mapping):
                self.fill_tree((*path, key), value, why)
            elif value is not None:
                self.fill((*path, key), value, why)

    def per_parameter(
        self,
        path: tuple[str, ...],
        patterns: tuple[str, str],
        stated: Mapping[str, tuple[Mapping[str, Any], str]],
        others: tuple[str, ...] = (),
    ) -> None:
        """State something that every parameter has.

        The most frequent of the weights and of the biases go under `patterns`, the rest under the names of parameters
        below `others`. `stated`: parameter to (fields, source); the field ``""`` is the value itself.
        """
        for pattern, kind in zip(patterns, (".weight", ".bias")):
            of_kind = {name: value for name, value in stated.items() if name.endswith(kind)}
            if not of_kind:
                continue
            counted = Counter(tuple(sorted(fields.items())) for fields, _ in of_kind.values())
            common = dict(counted.most_common(1)[0][0])
            sources = dict.fromkeys(source for fields, source in of_kind.values() if dict(fields) == common)
            self._put_fields((*path, pattern), common, merged(sources))
            for name, (fields, source) in of_kind.items():
                if dict(fields) != common:
                    self._put_fields((*path, *others, name), fields, source)

    def _put_fields(self, path: tuple[str, ...], fields: Mapping[str, Any], source: str) -> None:
        if set(fields) == {""}:  # the value itself
            self.put(path, fields[""], source)
            return
        for field, value in fields.items():
            self.put((*path, field), value, source)

    def finish(self) -> Imported:
        """The checked specification. Raises SpecError if what was read does not hold together."""
        self.values["provenance"] = dict(self.provenance)
        spec = from_values(self.values, self.file)
        return Imported(spec, self.values, tuple(self.left_out), tuple(self.filled))


def merged(sources: Iterable[str]) -> str:
    """Several sources as one text; ``file [a] key`` and ``file [b] key`` become ``file [a, b] key``."""
    groups: dict[tuple[str, str], list[str]] = {}
    for source in sources:
        found = re.fullmatch(r"(\S+) \[([^\]]*)\] (.*)", source)
        key, item = ((found[1], found[3]), found[2]) if found else ((source, ""), "")
        groups.setdefault(key, []).append(item)
    said = [
        f"{file} [{', '.join(dict.fromkeys(items))}] {key}" if key else file for (file, key), items in groups.items()
    ]
    return "; ".join(said)


def yaml_text(values: Mapping[str, Any]) -> str:
    """A specification's values as the text of its file; the name is the file's."""
    parts = []
    for section in ("title", "notes", *Spec.SECTIONS, "expect", "provenance"):
        if section not in values:
            continue
        value = values[section]
        flow = None if isinstance(value, Mapping) and section != "provenance" else False
        parts.append(
            yaml.safe_dump({section: value}, sort_keys=False, default_flow_style=flow, width=120, allow_unicode=True)
        )
    return "\n".join(parts)


def report(imported: Imported) -> str:
    """What was left out and what was filled in, for people: like fields in one line."""
    lines = []
    groups: dict[tuple[str, str, str, bool], list[LeftOut]] = {}
    for item in imported.left_out:
        key = item.field.rpartition(" ")[2]
        groups.setdefault((item.file, key, item.why, item.matters), []).append(item)
    for matters, heading in ((True, "not taken over, and it matters"), (False, "not taken over")):
        chosen = {key: items for key, items in groups.items() if key[3] == matters}
        lines += [f"{heading}:"] if chosen else []
        for (file, key, why, _), items in chosen.items():
            values = ", ".join(dict.fromkeys(item.value for item in items))
            places = ", ".join(dict.fromkeys(item.field.rpartition(" ")[0] for item in items))
            lines.append(f"  {file} {places} {key} = {shown(values, 60)}: {why}")
    if imported.filled:
        lines.append("not in these files, filled in:")
        reasons: dict[str, list[str]] = {}
        for path, why in imported.filled:
            reasons.setdefault(why, []).append(path)
        lines += [f"  {', '.join(paths)}: {why.removeprefix('not in these files: ')}" for why, paths in reasons.items()]
    return "\n".join(lines)


__all__ = [
    "Draft",
    "Imported",
    "Inexpressible",
    "LeftOut",
    "cannot_say",
    "language_name",
    "merged",
    "read_lines",
    "refuse",
    "report",
    "shown",
    "yaml_text",
]
