"""Reading MATLAB's level 5 MAT-files as far as ImageNet's ``meta.mat`` needs it: structures of numbers and texts.

The format is that of "MAT-File Format" (The MathWorks): a header of 128 bytes, then elements of a tag (type, size) and
content padded to 8 bytes; an array is an element of elements. Nothing is evaluated, and sizes are checked before they
are believed.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

MAX_BYTES = 64 << 20
"""The most that a compressed element may become."""
_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_CHAR, _STRUCT = 4, 2
_NUMERIC = range(6, 16)
_DEPTH = 8

Value = float | int | str | tuple[float | int, ...] | list[dict[str, "Value"]] | None


@dataclass(frozen=True, slots=True)
class _Element:
    kind: int
    content: memoryview


def read_mat(content: bytes) -> dict[str, Value]:
    """The variables of a MAT-file by name.

    A numeric array is a tuple in MATLAB's (column) order, or a single number; a text is a str; an array of structures
    is a list of dicts; anything else is None. Raises ValueError if the file is damaged, or no level 5 MAT-file.
    """
    if len(content) < _HEADER or content[126:128] not in (b"IM", b"MI") or not content.startswith(b"MATLAB 5.0"):
        raise ValueError("no MAT-file of level 5")
    order = "<" if content[126:128] == b"IM" else ">"
    found: dict[str, Value] = {}
    try:
        for element in _elements(memoryview(content)[_HEADER:], order):
            inner = [element]
            if element.kind == _COMPRESSED:
                inner = list(_elements(memoryview(_inflated(element.content)), order))
            for matrix in inner:
                if matrix.kind == _MATRIX:
                    name, value = _matrix(matrix.content, order, 0)
                    found[name] = value
    except (struct.error, LookupError, StopIteration, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"a damaged MAT-file ({error or type(error).__name__})") from error
    return found


def _inflated(content: memoryview) -> bytes:
    stream = zlib.decompressobj()
    whole = stream.decompress(content, MAX_BYTES)
    if stream.unconsumed_tail:
        raise ValueError(f"an element of more than {MAX_BYTES:,} bytes")
    return whole


def _elements(content: memoryview, order: str) -> Iterator[_Element]:
    place = 0
    while place + 8 <= len(content):
        first, size = struct.unpack_from(order + "II", content, place)
        if first >> 16:  # a small element: size and type in one word, the content in the other
            kind, size, start, following = first & 0xFFFF, first >> 16, place + 4, place + 8
            if size > 4:
                raise ValueError(f"a small element of {size} bytes")
        else:
            kind, start = first, place + 8
            following = start + size + (0 if kind == _COMPRESSED else -size % 8)
        if start + size > len(content):
            raise ValueError(f"an element of {size:,} bytes, where {len(content) - start:,} follow")
        yield _Element(kind, content[start : start + size])
        place = following


def _matrix(content: memoryview, order: str, depth: int) -> tuple[str, Value]:
    if depth > _DEPTH:
        raise ValueError(f"structures in more than {_DEPTH} structures")
    if not content:
        return "", None
    parts = _elements(content, order)
    (kind,) = struct.unpack_from(order + "I", next(parts).content)
    shape = _numbers(next(parts), order)
    name = bytes(next(parts).content).decode("latin-1")
    count = 1
    for side in shape:
        count *= int(side)
    return name, _value(kind & 0xFF, count, parts, order, depth)


def _value(kind: int, count: int, parts: Iterator[_Element], order: str, depth: int) -> Value:
    if kind == _CHAR:
        text = next(parts)
        codec = _TEXTS[text.kind] + ("" if text.kind in (1, 2, 16) else {"<": "-le", ">": "-be"}[order])
        return bytes(text.content).decode(codec)
    if kind in _NUMERIC:
        numbers = _numbers(next(parts), order)
        if len(numbers) != count:
            raise ValueError(f"{len(numbers)} numbers in an array of {count}")
        return numbers[0] if count == 1 else numbers
    if kind == _STRUCT:
        (width,) = _numbers(next(parts), order)
        joined = bytes(next(parts).content)
        width = int(width)
        if width < 1 or len(joined) % width:
            raise ValueError(f"field names of {width} bytes in {len(joined)}")
        names = [joined[i : i + width].split(b"\0")[0].decode("latin-1") for i in range(0, len(joined), width)]
        values = iter([_matrix(part.content, order, depth + 1)[1] for part in parts if part.kind == _MATRIX])
        rows = []
        while row := dict(zip(names, values)):
            rows.append(row)
        if len(rows) != count or (rows and len(rows[-1]) != len(names)):
            raise ValueError(f"{len(rows)} structures in an array of {count}")
        return rows
    return None


def _numbers(element: _Element, order: str) -> tuple[float | int, ...]:
    if element.kind not in _NUMBERS:
        raise ValueError(f"numbers of type {element.kind}")
    letter = _NUMBERS[element.kind]
    count = len(element.content) // struct.calcsize(order + letter)
    return struct.unpack_from(f"{order}{count}{letter}", element.content)
