"""Tar archives, read where they lie: nothing is ever unpacked, and no name in one is ever a path.

The format is POSIX ustar (IEEE 1003.1, pax) with GNU's long names: a header of 512 bytes, the content, zeros up to a
multiple of 512; two headers of zeros end the archive.
"""

from __future__ import annotations

import gzip
import io
import os
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from data.errors import DataError

_BLOCK = 512
_MAX_EXTENSION = 1 << 20
"""The most that a long name or a pax header may hold."""
_KINDS = {b"0": "file", b"\0": "file", b"7": "file", b"5": "folder", b"1": "link", b"2": "link",
          b"3": "device", b"4": "device", b"6": "device", b"S": "sparse file"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Member:
    """One entry. `kind` is ``file``, ``folder``, ``link``, ``device`` or what else it is."""

    name: str
    kind: str
    offset: int
    """Where in the outermost archive its content begins."""
    size: int


class Archive:
    """An open archive, read at any place by any thread. Raises OSError."""

    def __init__(self, path: Path, content: bytes | None = None) -> None:
        """The archive at `path`, or `content` that came from there."""
        self.path = path
        self._file: BinaryIO = path.open("rb") if content is None else io.BytesIO(content)
        self._by_place = content is None and hasattr(os, "pread")
        self._lock = threading.Lock()
        self.size = self._file.seek(0, os.SEEK_END)

    def read(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset` on."""
        if self._by_place:
            return os.pread(self._file.fileno(), size, offset)
        with self._lock:
            self._file.seek(offset)
            return self._file.read(size)

    def open(self, member: Member) -> io.BufferedReader:
        """The content of `member`, as a file."""
        return io.BufferedReader(_Window(self, member.offset, member.size), 1 << 16)

    def members(self, inside: Member | None = None) -> Iterator[Member]:
        """The entries, in their order; those of the archive that the entry `inside` is, if it is stated.

        Raises DataError if the archive is cut or damaged, since what follows cannot be found.
        """
        place, end = (0, self.size) if inside is None else (inside.offset, inside.offset + inside.size)
        end = min(end, self.size)
        long_name, extended = "", dict[str, str]()
        while place < end:
            header = self.read(place, min(_BLOCK, end - place))
            if header == bytes(_BLOCK):
                return
            start = place + _BLOCK
            size, kind = self._size(header, place), header[156:157]
            if "size" in extended:
                size = self._number(extended["size"], place)
            if kind in b"LKxg" and size > _MAX_EXTENSION:
                raise self._damaged(place, f"a name of {size} bytes")
            if size < 0 or start + size > end:
                raise self._damaged(place, f"an entry of {size:,} bytes, where {max(0, end - start):,} follow")
            if kind == b"L":
                long_name = self.read(start, size).split(b"\0")[0].decode("utf-8", "surrogateescape")
            elif kind == b"x":
                extended = self._pax(self.read(start, size), place)
            elif kind not in b"Kg":
                name = extended.get("path") or long_name or _name(header)
                yield Member(name, _KINDS.get(kind, f"entry of type {kind!r}"), start, size)
                long_name, extended = "", {}
            place = start + -(-size // _BLOCK) * _BLOCK
        if place > end and inside is None:
            raise self._damaged(end, "an end in the middle of a block")

    def _size(self, header: bytes, place: int) -> int:
        """The size field of a header, whose checksum is checked first."""
        if len(header) < _BLOCK:
            raise self._damaged(place, f"a header of {len(header)} bytes")
        total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
        if total != self._octal(header[148:156], place):
            raise self._damaged(place, "a header with a wrong checksum")
        if header[124] & 0x80:  # GNU: a binary number where octal digits do not suffice
            return int.from_bytes(header[125:136], "big")
        return self._octal(header[124:136], place)

    def _octal(self, text: bytes, place: int) -> int:
        try:
            return int(text.strip(b" \0") or b"0", 8)
        except ValueError:
            raise self._damaged(place, f"the number {text!r}") from None

    def _number(self, text: str, place: int) -> int:
        if not (text.isascii() and text.isdecimal()) or len(text) > 20:
            raise self._damaged(place, f"the number {text[:30]!r}")
        return int(text)

    def _pax(self, content: bytes, place: int) -> dict[str, str]:
        """The records ``"%d %s=%s\\n" % (length, keyword, value)`` of a pax header that matter: path and size."""
        found, rest = {}, content
        while rest:
            digits = rest[:12].split(b" ")[0]
            length = int(digits) if digits.isdigit() else 0
            keyword, equals, value = rest[len(digits) + 1 : length - 1].partition(b"=")
            if not equals or length > len(rest) or rest[length - 1 : length] != b"\n":
                raise self._damaged(place, "an unreadable pax header")
            if keyword in (b"path", b"size"):
                found[keyword.decode()] = value.decode("utf-8", "surrogateescape")
            rest = rest[length:]
        return found

    def _damaged(self, place: int, received: str) -> DataError:
        return DataError(f"a tar archive must be whole. Received: {received} at byte {place:,}. In: {self.path}")


class _Window(io.RawIOBase):
    """A part of an archive as a file."""

    def __init__(self, archive: Archive, start: int, size: int) -> None:
        self._archive, self._start, self._size, self._place = archive, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = max(0, {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence] + offset)
        return self._place

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        wanted = max(0, min(len(view), self._size - self._place))
        content = self._archive.read(self._start + self._place, wanted)
        view[: len(content)] = content
        self._place += len(content)
        return len(content)


def _name(header: bytes) -> str:
    """The name field, behind the prefix field of ustar."""
    prefix = header[345:500].split(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    parts = [part for part in (prefix, header[:100].split(b"\0")[0]) if part]
    return b"/".join(parts).decode("utf-8", "surrogateescape")


def why_unsafe(member: Member) -> str:
    """Why an entry is not read: it is no plain file, or its name leads elsewhere. Nothing if it is read."""
    if member.kind != "file":
        return f"a {member.kind}"
    parts = member.name.replace("\\", "/").split("/")
    if ".." in parts or parts[0] == "" or parts[0].endswith(":"):
        return "a name that leads out of the archive"
    return "" if member.name.isprintable() else "a name that cannot be printed"


def unpacked(path: Path, most: int) -> bytes:
    """The tar in the ``.tar.gz`` at `path`, of at most `most` bytes. Raises DataError if it is damaged or larger."""
    try:
        with gzip.open(path) as stream:
            content = stream.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"a .tar.gz must be whole. Received: {error}. In: {path}") from error
    if len(content) > most:
        raise DataError(f"an archive must hold at most {most:,} bytes. Received: more. In: {path}")
    return content
