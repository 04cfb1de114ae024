"""Protobuf's text format, as far as Caffe's files use it: fields of numbers, words, strings and messages in braces.

Read without a schema; a field may be stated more than once. Bounded in size, number of fields and depth.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spec.errors import SpecError
from spec.importers.common import cannot_say, read_lines, refuse, shown

MAX_DEPTH = 12
MAX_FIELDS = 20_000
_TOKEN = re.compile(
    r"""(?P<space>[\s,;]+|\#.*)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<string>"[^"\\]*"|'[^'\\]*')"""
    r"""|(?P<number>[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?f?)|(?P<sign>[{}<>:\[\]])"""
)
_CLOSING = {"{": "}", "<": ">"}


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    text: str
    line: int


@dataclass
class Entry:
    """One stated field: a scalar token's text, or a message."""

    name: str
    value: str | Message
    kind: str
    line: int
    read: bool = False


@dataclass
class Message:
    """The fields of a message in the order of the file. Reading one marks it as read."""

    file: str
    line: int
    path: str
    entries: list[Entry] = field(default_factory=list)

    def place(self, name: str) -> tuple[str, int, str]:
        """File, line and path of the field `name`, for errors; the message's own line if it is not stated."""
        line = next((entry.line for entry in self.entries if entry.name == name), self.line)
        return self.file, line, f"{self.path}.{name}".lstrip(".")

    def refuse(self, name: str, required: str, received: str) -> SpecError:
        return refuse(*self.place(name), required, received)

    def cannot_say(self, name: str, required: str, received: str) -> SpecError:
        return cannot_say(*self.place(name), required, received)

    def has(self, name: str) -> bool:
        return any(entry.name == name for entry in self.entries)

    def messages(self, name: str) -> list[Message]:
        """Every message called `name`."""
        return [entry.value for entry in self._stated(name) if isinstance(self._scalar(entry, False), Message)]  # type: ignore[misc]

    def message(self, name: str) -> Message:
        """The message called `name`, an empty one if it is not stated."""
        found = self.messages(name)
        if len(found) > 1:
            raise self.refuse(name, "must be stated once", f"{len(found)} times")
        return found[0] if found else Message(self.file, self.line, f"{self.path}.{name}".lstrip("."))

    def texts(self, name: str) -> list[str]:
        """Every value of the scalar field `name`, as text."""
        return [str(self._scalar(entry, True)) for entry in self._stated(name)]

    def text(self, name: str, default: str | None = None) -> str:
        found = self.texts(name)
        if not found and default is None:
            raise self.refuse(name, "is required", "nothing")
        return found[-1] if found else str(default)  # the last holds, as protobuf has it

    def numbers(self, name: str, kind: type[Any]) -> list[Any]:
        """Every value of the field `name` as numbers of `kind` (int or float)."""
        found = []
        for text in self.texts(name):
            try:
                value = kind(text.rstrip("f") if kind is float else text)
            except ValueError:
                words = "a number" if kind is float else "a whole number"
                raise self.refuse(name, f"must be {words}", shown(text)) from None
            if not math.isfinite(value) or abs(value) > 2**53:
                raise self.refuse(name, "must be finite and below 2^53", shown(text))
            found.append(value)
        return found

    def number(self, name: str, kind: type[Any], default: Any = None) -> Any:
        found = self.numbers(name, kind)
        if not found and default is None:
            raise self.refuse(name, "is required", "nothing")
        return found[-1] if found else default

    def truth(self, name: str, default: bool) -> bool:
        text = self.text(name, str(default).lower())
        if text not in ("true", "false", "1", "0", "t", "f", "True", "False"):
            raise self.refuse(name, "must be true or false", shown(text))
        return text in ("true", "1", "t", "True")

    def unread(self) -> Iterator[tuple[str, int, str]]:
        """(path, line, text) of every scalar below that nobody read."""
        for entry in self.entries:
            if isinstance(entry.value, Message):
                yield from entry.value.unread()
            elif not entry.read:
                yield f"{self.path}.{entry.name}".lstrip("."), entry.line, entry.value

    def _stated(self, name: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.name == name]

    def _scalar(self, entry: Entry, scalar: bool) -> str | Message:
        if isinstance(entry.value, Message) == scalar:
            required = "must be a value" if scalar else "must be a message in braces"
            received = "a message" if scalar else shown(entry.value)
            raise refuse(self.file, entry.line, f"{self.path}.{entry.name}".lstrip("."), required, received)
        entry.read = True
        return entry.value


def _tokens(path: Path) -> Iterator[Token]:
    for number, line in enumerate(read_lines(path), 1):
        position = 0
        while position < len(line):
            found = _TOKEN.match(line, position)
            if found is None:
                required = "must be protobuf text: names, numbers, strings and braces"
                raise refuse(path.name, number, "", required, shown(line[position : position + 40]))
            position = found.end()
            if found.lastgroup != "space" and found["space"] is None:
                kind = next(name for name in ("name", "string", "number", "sign") if found[name] is not None)
                yield Token(kind, found[0], number)


class _Parser:
    """Recursive descent over the tokens of one file."""

    def __init__(self, path: Path) -> None:
        self.file = path.name
        self.tokens = _tokens(path)
        self.ahead: Token | None = next(self.tokens, None)
        self.fields = 0
        self.line = 1

    def take(self, required: str) -> Token:
        token = self.ahead
        if token is None:
            raise refuse(self.file, self.line, "", required, "the end of the file")
        self.line = token.line
        self.ahead = next(self.tokens, None)
        return token

    def message(self, path: str, line: int, closing: str | None, depth: int) -> Message:
        if depth > MAX_DEPTH:
            raise refuse(self.file, line, path[:80], f"messages must nest at most {MAX_DEPTH} deep", "deeper nesting")
        built = Message(self.file, line, path)
        while True:
            if self.ahead is None and closing is None:
                return built
            token = self.take(f"must be a field or {closing}")
            if token.text == closing:
                return built
            if token.kind != "name":
                raise refuse(self.file, token.line, path, "must be a field's name", shown(token.text))
            self.entry(built, token, depth)

    def entry(self, within: Message, name: Token, depth: int) -> None:
        path = f"{within.path}.{name.text}".lstrip(".")
        colon = self.ahead is not None and self.ahead.text == ":"
        if colon:
            self.take(":")
        token = self.take("must have a value")
        if token.text in _CLOSING:
            value: Any = self.message(path, token.line, _CLOSING[token.text], depth + 1)
            self.add(within, Entry(name.text, value, "message", name.line))
        elif token.text == "[" and colon:
            while (item := self.take("must be a value or ]")).text != "]":
                self.scalar(within, name, item)
        elif colon:
            self.scalar(within, name, token)
        else:
            raise refuse(self.file, token.line, path, "a field's name must be followed by : or {", shown(token.text))

    def scalar(self, within: Message, name: Token, token: Token) -> None:
        if token.kind == "sign":
            path = f"{within.path}.{name.text}".lstrip(".")
            raise refuse(self.file, token.line, path, "must be a number, a word or a string", token.text)
        text = token.text[1:-1] if token.kind == "string" else token.text
        self.add(within, Entry(name.text, text, token.kind, token.line))

    def add(self, within: Message, entry: Entry) -> None:
        self.fields += 1
        if self.fields > MAX_FIELDS:
            raise refuse(self.file, entry.line, "", f"A file must have at most {MAX_FIELDS} fields", "more")
        within.entries.append(entry)


def parse(path: Path) -> Message:
    """The message that a text file holds. Raises SpecError naming file and line."""
    return _Parser(path).message("", 1, None, 0)


__all__ = ["Entry", "Message", "parse"]
