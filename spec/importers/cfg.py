"""The grammar of cuda-convnet's definition and parameter files: sections of ``key=value`` lines.

It is that of Python's ConfigParser. Keys are the same in upper and lower case. A value may be a list, one item for each
input of its layer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from spec.errors import SpecError
from spec.importers.common import cannot_say, read_lines, refuse, shown

MAX_SECTIONS = 1000
MAX_INPUTS = 64
_SECTION = re.compile(r"\[([^\]]{1,100})\]")
_FIELD = re.compile(r"([A-Za-z_][\w.]{0,60})\s*[=:]\s*(.*)")
_NUMBER = {int: re.compile(r"[-+]?\d{1,15}"), float: re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")}
_WORDS = {int: "a whole number", float: "a number"}
N = TypeVar("N", int, float)


@dataclass(frozen=True, slots=True)
class Field:
    """One ``key=value`` line."""

    key: str
    text: str
    line: int


@dataclass
class Section:
    """One layer's fields in one file; remembers which of them were read."""

    name: str
    file: str
    line: int
    fields: dict[str, Field] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)

    def has(self, key: str) -> bool:
        return key.lower() in self.fields

    def line_of(self, key: str) -> int:
        return self.fields[key.lower()].line if self.has(key) else self.line

    def refuse(self, key: str, required: str, received: str) -> SpecError:
        return refuse(self.file, self.line_of(key), f"[{self.name}] {key}", required, received)

    def cannot_say(self, key: str, required: str, received: str) -> SpecError:
        return cannot_say(self.file, self.line_of(key), f"[{self.name}] {key}", required, received)

    def text(self, key: str, default: str | None = None) -> str:
        """The field's text; it counts as read. Raises SpecError if it is missing and has no default."""
        if not self.has(key):
            if default is None:
                raise self.refuse(key, "is required", "nothing")
            return default
        self.read.add(key.lower())
        return self.fields[key.lower()].text

    def names(self, key: str) -> list[str]:
        """A list of names."""
        found = [item.strip() for item in self.text(key).split(",")]
        if len(found) > MAX_INPUTS or not all(found):
            raise self.refuse(key, f"must be one to {MAX_INPUTS} names with commas between", shown(self.text(key)))
        return found

    def number(self, key: str, kind: type[N], default: N | None = None) -> N:
        """A number of `kind`."""
        text = self.text(key, None if default is None else str(default))
        return self._number(key, text, kind)

    def shared(self, key: str, kind: type[N], inputs: int, default: N | None = None) -> N:
        """A list of numbers, one for each of `inputs`, as the one number that they all are."""
        numbers = self.each(key, kind, inputs, default)
        if len(set(numbers)) != 1:
            raise self.cannot_say(key, "must be the same for every input", shown(self.text(key)))
        return numbers[0]

    def each(self, key: str, kind: type[N], inputs: int, default: N | None = None) -> list[N]:
        """A list of numbers, one for each of `inputs`."""
        if not self.has(key) and default is not None:
            return [default] * inputs
        numbers = [self._number(key, item.strip(), kind) for item in self.text(key).split(",")]
        if len(numbers) != inputs:
            raise self.refuse(key, f"must have one value for each of the {inputs} inputs", shown(self.text(key)))
        return numbers

    def truth(self, key: str, default: bool | None = None) -> bool:
        text = self.text(key, None if default is None else str(default).lower()).lower()
        if text not in ("1", "yes", "true", "on", "0", "no", "false", "off"):
            raise self.refuse(key, "must be true or false", shown(text))
        return text in ("1", "yes", "true", "on")

    def _number(self, key: str, text: str, kind: type[N]) -> N:
        if not _NUMBER[kind].fullmatch(text):
            raise self.refuse(key, f"must be {_WORDS[kind]}", shown(text))
        value = kind(text)
        if not math.isfinite(value):
            raise self.refuse(key, "must be finite", shown(text))
        return value

    def unread(self) -> list[Field]:
        return [item for key, item in self.fields.items() if key not in self.read]


def read(path: Path) -> dict[str, Section]:
    """The sections of a file, in its order. Raises SpecError naming file and line."""
    sections: dict[str, Section] = {}
    current: Section | None = None
    for number, line in enumerate(read_lines(path), 1):
        text = re.split(r"\s;", line, maxsplit=1)[0].rstrip()
        if not text or text[0] in "#;":
            continue
        if found := _SECTION.match(text):
            current = sections.setdefault(found[1], Section(found[1], path.name, number))
            if len(sections) > MAX_SECTIONS:
                raise refuse(path.name, number, "", f"A definition must have at most {MAX_SECTIONS} sections", "more")
            continue
        found = _FIELD.fullmatch(text)
        if current is None or found is None:
            required = "A line must be a [section], a key=value in one, or a comment"
            raise refuse(path.name, number, "", required, shown(text))
        current.fields[found[1].lower()] = Field(found[1], found[2].strip(), number)
    if not sections:
        raise refuse(path.name, None, "", "A definition must have [sections]", "none")
    return sections


def cite(sections: Sequence[Section], key: str) -> str:
    """Where `key` of these sections of one file stands, as a source; layer.py's default if none of them states it."""
    stating = [section for section in sections if section.has(key)]
    if not stating:
        return f"layer.py, default of {key}"
    return f"{stating[0].file} [{', '.join(section.name for section in stating)}] {key}"


__all__ = ["Field", "Section", "cite", "read"]
