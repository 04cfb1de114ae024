"""CIFAR-10 and CIFAR-100 (A. Krizhevsky, 2009), as their "python version" unpacks: pickles of rows of 3072 bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.contents import Contents, Source, array_part
from data.dataset import I64, U8, sha256_of
from data.errors import DataError
from data.pickles import read_pickle

_MAX_BYTES = 1 << 30
_SIDE = 32


@dataclass(frozen=True, slots=True)
class _Family:
    title: str
    folder: str
    files: Mapping[str, tuple[str, ...]]
    labels: bytes
    meta: str
    names: bytes


_FAMILIES = (
    _Family(
        "CIFAR-10", "cifar-10-batches-py",
        {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "validation": ("test_batch",)},
        b"labels", "batches.meta", b"label_names",
    ),
    _Family(
        "CIFAR-100", "cifar-100-python", {"train": ("train",), "validation": ("test",)},
        b"fine_labels", "meta", b"fine_label_names",
    ),
)  # fmt: skip


def recognise(root: Path) -> Source | None:
    """CIFAR-10 or CIFAR-100 in `root`, or in its archive's folder there; None if it is neither. Raises DataError."""
    for family in _FAMILIES:
        for folder in (root, root / family.folder):
            if (folder / family.meta).is_file() and any((folder / name).is_file() for name in _names(family)):
                return _source(family, folder)
    return None


def _names(family: _Family) -> list[str]:
    return [name for names in family.files.values() for name in names]


def _source(family: _Family, folder: Path) -> Source:
    if missing := [name for name in _names(family) if not (folder / name).is_file()]:
        raise DataError(f"{family.title} must be whole. Missing: {', '.join(missing)}. In: {folder}")
    classes = _classes(family, folder)
    arrays = {part: _read(family, folder, names, len(classes)) for part, names in family.files.items()}
    contents = Contents(classes, {name: array_part(*both) for name, both in arrays.items()})
    identity = {name: [sha256_of(array) for array in both] for name, both in arrays.items()}
    return Source(f"{family.title} in {folder}", str(folder), [classes, identity], lambda: contents, arrays)


def _classes(family: _Family, folder: Path) -> tuple[str, ...]:
    path = folder / family.meta
    names = _load(path).get(family.names)
    if not isinstance(names, list) or not all(isinstance(name, bytes | str) for name in names):
        raise DataError(f"{family.title} must name its classes. Received: no {family.names.decode()}. In: {path}")
    texts = tuple(name if isinstance(name, str) else name.decode("utf-8", "backslashreplace") for name in names)
    if len(texts) < 2 or len(set(texts)) < len(texts) or not all(text and text.isprintable() for text in texts):
        raise DataError(f"classes must have different printable names. Received: {texts[:10]!r}. In: {path}")
    return texts


def _read(family: _Family, folder: Path, names: tuple[str, ...], classes: int) -> tuple[U8, I64]:
    """Images uint8 (N, 32, 32, 3) and labels (N,). A row is the red plane, the green one, the blue one."""
    pictures, labels = [], []
    for name in names:
        path = folder / name
        batch = _load(path)
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
        pictures.append(rows.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1))
        labels.append(np.array(numbers, np.int64))
    return np.ascontiguousarray(np.concatenate(pictures)), np.concatenate(labels)


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return f"a list of {len(value)}" if isinstance(value, list) else type(value).__name__


def _load(path: Path) -> dict[bytes, Any]:
    """The dict in the pickle at `path`, with keys as bytes. Raises DataError."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"{path.stat().st_size:,} bytes")
        value = read_pickle(path.read_bytes())
        if not isinstance(value, dict):
            raise ValueError(f"a {type(value).__name__}")
        return {key.encode() if isinstance(key, str) else key: item for key, item in value.items()}
    except ValueError as error:
        raise DataError(f"a CIFAR file must be a pickled dict of plain data. Received: {error}. In: {path}") from error
