"""Data sets as Hugging Face keeps them: Parquet files with a column of encoded images and one of labels.

Needs the package pyarrow, which is imported when such a folder is opened and not before.
"""

from __future__ import annotations

import importlib
import io
import json
import re
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from data.contents import Contents, Part, Picture, Source
from data.dataset import I64
from data.errors import DataError
from data.folders import TRAIN, VALIDATION, held_out, held_out_words, subfolders
from data.images import ImageError

IMAGES = ("image", "img")
LABELS = ("label", "labels", "fine_label")
"""The columns, by the names that data sets give them; the first that is there counts."""
SUFFIX = ".parquet"
_SPLIT = re.compile(r"([A-Za-z]+)(?:-\d+-of-\d+.*|-.*)?\.parquet")
_ROWS = 32
"""Rows read at a time."""
_WINDOW = 1024
"""How many rows are held until they are asked for; more than all threads together work on."""


def recognise(root: Path, seed: int) -> Source | None:
    """The Parquet files in `root`, or in a folder or split folders below it; None if there are none.

    Raises DataError and OSError.
    """
    files = _files(root)
    if not files:
        return None
    train = [path for split, path in files if split in TRAIN]
    validation = next(
        (chosen for name in VALIDATION if (chosen := [path for split, path in files if split == name])), []
    )
    if not train and validation:
        received = validation[0].name
        raise DataError(f"there must be training images (train-*.parquet). Received: {received}. In: {root}")
    return _source(root, train or [path for _, path in files], validation, seed)


def recognise_file(path: Path, seed: int) -> Source | None:
    """The Parquet file `path`; None if it is something else."""
    return _source(path, [path], [], seed) if path.suffix.lower() == SUFFIX else None


def _source(root: Path, train: Sequence[Path], validation: Sequence[Path], seed: int) -> Source:
    statuses = [(path, path.stat()) for path in (*train, *validation)]
    identity = [[path.name, status.st_size, status.st_mtime_ns] for path, status in statuses]
    return Source(
        f"Parquet files in {root}", str(root), ["parquet", identity, None if validation else seed],
        lambda: _contents(root, train, validation, seed),
    )  # fmt: skip


def _files(root: Path) -> list[tuple[str, Path]]:
    """(split, or nothing, and file) of all Parquet files in the first place that has some."""
    below = subfolders(root)
    for place in (root, root / "data", root / "default", *([root / below[0]] if len(below) == 1 else [])):
        if flat := sorted(path for path in place.glob(f"*{SUFFIX}") if path.is_file()):
            matches = ((_SPLIT.fullmatch(path.name), path) for path in flat)
            return [(match[1].lower() if match else "", path) for match, path in matches]
        nested = sorted(path for path in place.glob(f"*/*{SUFFIX}") if path.is_file())
        if named := [(split, path) for path in nested if (split := path.parent.name.lower()) in (*TRAIN, *VALIDATION)]:
            return named
    return []


def _contents(root: Path, train: Sequence[Path], validation: Sequence[Path], seed: int) -> Contents:
    table = _Table(root, train)
    labels, classes = table.labels(), table.classes()
    if not classes:
        classes = tuple(str(label) for label in range(int(labels.max()) + 1)) if labels.size else ()
    _require_labels(labels, classes, root)
    if validation:
        other = _Table(root, validation)
        other_labels = other.labels()
        if other.classes() not in ((), classes):
            raise DataError(f"training and validation images must have the same classes. Received: others. In: {root}")
        _require_labels(other_labels, classes, root)
        return Contents(classes, {"train": table.part(labels), "validation": other.part(other_labels)})
    held = held_out(labels.tolist(), seed)
    parts = {"train": table.part(labels, np.flatnonzero(~held)), "validation": table.part(labels, np.flatnonzero(held))}
    return Contents(classes, parts, held_out_words(seed))


def _require_labels(labels: I64, classes: Sequence[str], root: Path) -> None:
    if len(classes) < 2 or len(set(classes)) < len(classes) or not all(name.isprintable() for name in classes):
        required = "at least two classes with different printable names are required"
        raise DataError(f"{required}. Received: {classes!r:.200}. In: {root}")
    if labels.size and not 0 <= labels.min() <= labels.max() < len(classes):
        received = f"{labels.min()} to {labels.max()}"
        raise DataError(f"labels must be those of {len(classes)} classes. Received: {received}. In: {root}")


class _Table:
    """The rows of several files, read forwards, since that is what Parquet is quick at."""

    def __init__(self, root: Path, files: Sequence[Path]) -> None:
        self._arrow = _pyarrow()
        self._root, self._files = root, files
        self._opened = [self._open(path) for path in files]
        counts = [file.metadata.num_rows for file in self._opened]
        self._starts = [0, *accumulate(counts)]
        self._image = self._column(IMAGES)
        self._label = self._column(LABELS)
        self._lock = threading.Lock()
        self._held: dict[int, bytes | None] = {}
        self._next = 0
        self._batches: Iterator[Any] | None = None

    def _open(self, path: Path) -> Any:
        with _readable(path):
            return self._arrow.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False, memory_map=False)

    def _column(self, names: Sequence[str]) -> str:
        for path, file in zip(self._files, self._opened):
            if not any(name in file.schema_arrow.names for name in names):
                columns = ", ".join(file.schema_arrow.names[:10])
                raise DataError(f"there must be a column {' or '.join(names)}. Received: {columns}. In: {path}")
        return next(name for name in names if name in self._opened[0].schema_arrow.names)

    def labels(self) -> I64:
        found = []
        for path, file in zip(self._files, self._opened):
            with _readable(path):
                found.append(np.asarray(file.read([self._label])[self._label].to_numpy()))
        labels = np.concatenate(found)
        if labels.dtype.kind not in "iu":
            raise DataError(f"labels must be whole numbers. Received: {labels.dtype}. In: {self._root}")
        return labels.astype(np.int64)

    def classes(self) -> tuple[str, ...]:
        """The names in the metadata that Hugging Face's ``datasets`` writes; empty if there are none."""
        metadata = self._opened[0].schema_arrow.metadata or {}
        try:
            feature = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"][self._label]
            return tuple(str(name) for name in feature["names"])
        except (ValueError, KeyError, TypeError):
            return ()

    def part(self, labels: I64, chosen: I64 | None = None) -> Part:
        """The rows `chosen`, all unless stated."""
        rows = np.arange(len(labels)) if chosen is None else chosen

        def picture(i: int) -> Picture:
            return io.BytesIO(self._content(int(rows[i])))

        return Part(labels[rows], picture, lambda i: self._name(int(rows[i])))

    def _name(self, row: int) -> str:
        file = bisect_right(self._starts, row) - 1
        return f"{self._files[file].name}, row {row - self._starts[file]}"

    def _content(self, row: int) -> bytes:
        """The encoded image of a row. Rows are asked for nearly in order; those passed on the way are held."""
        with self._lock:
            if row not in self._held:
                if self._batches is None or not self._next <= row < self._next + _WINDOW:
                    self._batches = self._from(row)
                while self._next <= row:
                    self._advance(row)
            content = self._held.pop(row)
        if not content:
            raise ImageError("no image in the row")
        return content

    def _from(self, row: int) -> Iterator[Any]:
        """The rows from the beginning of the row group on that holds `row`."""
        which = bisect_right(self._starts, row) - 1
        counts = [self._opened[which].metadata.row_group(i).num_rows for i in range(self._opened[which].num_row_groups)]
        starts = [self._starts[which], *accumulate(counts, initial=self._starts[which])][1:]
        group = bisect_right(starts, row) - 1
        self._held.clear()
        self._next = starts[group]
        return self._read(which, group)

    def _read(self, which: int, group: int) -> Iterator[Any]:
        for number in range(which, len(self._files)):
            file = self._opened[number]
            groups = list(range(group if number == which else 0, file.num_row_groups))
            yield from file.iter_batches(_ROWS, row_groups=groups, columns=[self._image], use_threads=False)

    def _advance(self, row: int) -> None:
        assert self._batches is not None
        try:
            batch = next(self._batches, None)
        except Exception as error:  # Arrow's own types again
            raise ImageError(f"unreadable Parquet ({' '.join(str(error).split())})") from error
        if batch is None:
            raise ImageError(f"no row {row}")
        for value in batch.column(0).to_pylist():
            content = value.get("bytes") if isinstance(value, dict) else value
            self._held[self._next] = content if isinstance(content, bytes) else None
            self._next += 1
        while self._held and (oldest := next(iter(self._held))) < self._next - _WINDOW:
            del self._held[oldest]  # held out, or wanted by nobody


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Arrow raises types of its own on damaged files; each becomes a DataError that names the file."""
    try:
        yield
    except Exception as error:
        received = " ".join(str(error).split())
        raise DataError(f"a Parquet file must be readable. Received: {received}. In: {path}") from error


def _pyarrow() -> Any:
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise DataError(f"Parquet files are read with the package pyarrow (pip install pyarrow). "
                        f"Received: {error}") from error  # fmt: skip
