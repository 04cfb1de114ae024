"""CIFAR-10 and CIFAR-100 (A. Krizhevsky, 2009), in their "python version": pickles of rows of 3072 bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.contents import Contents, Source, array_part
from data.dataset import I64, U8, sha256_of
from data.errors import DataError
from data.pickles import read_pickle
from data.tars import Archive, Member, unpacked, why_unsafe

_MAX_BYTES = 1 << 30
_SIDE = 32


@dataclass(frozen=True, slots=True)
class _Family:
    title: str
    archive: str
    folder: str
    files: Mapping[str, tuple[str, ...]]
    labels: bytes
    meta: str
    names: bytes


_FAMILIES = (
    _Family(
        "CIFAR-10", "cifar-10-python.tar.gz", "cifar-10-batches-py",
        {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "validation": ("test_batch",)},
        b"labels", "batches.meta", b"label_names",
    ),
    _Family(
        "CIFAR-100", "cifar-100-python.tar.gz", "cifar-100-python", {"train": ("train",), "validation": ("test",)},
        b"fine_labels", "meta", b"fine_label_names",
    ),
)  # fmt: skip


def recognise(root: Path) -> Source | None:
    """CIFAR-10 or CIFAR-100 in `root`, in its archive's folder there, or in its archive there; None if it is neither.

    Raises DataError and OSError.
    """
    for family in _FAMILIES:
        for folder in (root, root / family.folder):
            if (folder / family.meta).is_file() and any((folder / name).is_file() for name in _names(family)):
                return _source(family, _Files(folder))
    archives = [root / family.archive for family in _FAMILIES]
    return next((recognise_archive(path) for path in archives if path.is_file()), None)


def recognise_archive(path: Path) -> Source | None:
    """CIFAR-10 or CIFAR-100 in the ``.tar.gz`` `path`, known by its name; None if it is neither. Raises DataError."""
    family = next((family for family in _FAMILIES if family.archive == path.name), None)
    return None if family is None else _source(family, _Files(path, unpacked(path, _MAX_BYTES)))


@dataclass(frozen=True, slots=True)
class _Files:
    """The files of a family, in the folder `place`, or in the archive `place`, whose tar is `content`."""

    place: Path
    content: bytes | None = None

    def missing(self, names: Sequence[str]) -> list[str]:
        there = (
            self._members() if self.content is not None else {name for name in names if (self.place / name).is_file()}
        )
        return [name for name in names if name not in there]

    def load(self, name: str) -> dict[bytes, Any]:
        """The dict in the pickle `name`, with keys as bytes. Raises DataError."""
        try:
            value = read_pickle(self._read(name))
            if not isinstance(value, dict):
                raise ValueError(f"a {type(value).__name__}")
            return {key.encode() if isinstance(key, str) else key: item for key, item in value.items()}
        except ValueError as error:
            required = "a CIFAR file must be a pickled dict of plain data"
            raise DataError(f"{required}. Received: {error}. In: {self.place / name}") from error

    def _read(self, name: str) -> bytes:
        if self.content is not None:
            member = self._members()[name]
            return Archive(self.place, self.content).read(member.offset, member.size)
        if (size := (self.place / name).stat().st_size) > _MAX_BYTES:
            raise ValueError(f"{size:,} bytes")
        return (self.place / name).read_bytes()

    def _members(self) -> dict[str, Member]:
        members = Archive(self.place, self.content).members()
        return {member.name.rsplit("/", 1)[-1]: member for member in members if not why_unsafe(member)}


def _names(family: _Family) -> list[str]:
    return [name for names in family.files.values() for name in names]


def _source(family: _Family, files: _Files) -> Source:
    if missing := files.missing([*_names(family), family.meta]):
        raise DataError(f"{family.title} must be whole. Missing: {', '.join(missing)}. In: {files.place}")
    classes = _classes(family, files)
    arrays = {part: _read(family, files, names, len(classes)) for part, names in family.files.items()}
    contents = Contents(classes, {name: array_part(*both) for name, both in arrays.items()})
    identity = {name: [sha256_of(array) for array in both] for name, both in arrays.items()}
    what = f"{family.title} in {files.place}"
    return Source(what, str(files.place), [classes, identity], lambda: contents, arrays)


def _classes(family: _Family, files: _Files) -> tuple[str, ...]:
    path = files.place / family.meta
    names = files.load(family.meta).get(family.names)
    if not isinstance(names, list) or not all(isinstance(name, bytes | str) for name in names):
        raise DataError(f"{family.title} must name its classes. Received: no {family.names.decode()}. In: {path}")
    texts = tuple(name if isinstance(name, str) else name.decode("utf-8", "backslashreplace") for name in names)
    if len(texts) < 2 or len(set(texts)) < len(texts) or not all(text and text.isprintable() for text in texts):
        raise DataError(f"classes must have different printable names. Received: {texts[:10]!r}. In: {path}")
    return texts


def _read(family: _Family, files: _Files, names: tuple[str, ...], classes: int) -> tuple[U8, I64]:
    """Images uint8 (N, 32, 32, 3) and labels (N,). A row is the red plane, the green one, the blue one."""
    pictures, labels = [], []
    for name in names:
        path = files.place / name
        batch = files.load(name)
        rows, numbers = batch.get(b"data"), batch.get(family.labels)
        if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.shape[1] != 3 * _SIDE**2 or not len(rows):
            raise DataError(f"images must be uint8 (N, {3 * _SIDE**2}). Received: {_kind(rows)}. In: {path}")
        if (
            not isinstance(numbers, list)
            or len(numbers) != len(rows)
            or not all(type(number) is int and 0 <= number < classes for number in numbers)
        ):
            required = f"there must be a label below {classes} for each of {len(rows)} images"
            raise DataError(f"{required}. Received: {_kind(numbers)}. In: {path}")
        pictures.append(np.ascontiguousarray(rows.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)))
        labels.append(np.array(numbers, np.int64))
    return np.concatenate(pictures), np.concatenate(labels)


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return f"a list of {len(value)}" if isinstance(value, list) else type(value).__name__
