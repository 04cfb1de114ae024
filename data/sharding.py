"""The shards of an unfinished folder: images prepared by threads, written in their order, each shard under its name
once the disk has all of it, and then its record."""

from __future__ import annotations

import hashlib
import io
import json
import os
import queue
import shutil
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data.contents import Part
from data.dataset import U8
from data.errors import DataError
from data.images import ImageError
from data.parallel import in_order
from data.prepared import HEADER, npy_header, shard_path
from data.statistics import Progress, Sums, sums
from spec.language import Storage

_BLOCK_BYTES = 4 << 20
_BLOCK_IMAGES = 32
"""What a thread prepares at a time, at most."""
PARTIAL = ".partial"
"""The end of the name of a file that is being written."""


class NoSpace(DataError):
    """The disk is too full for the images that are still to be prepared."""


def write(path: Path, content: bytes) -> None:
    """`content` under the name `path`: all of it, once the disk has it, or nothing."""
    partial = path.with_name(path.name + PARTIAL)
    with partial.open("wb") as file:
        file.write(content)
        _flush(file)
    _rename(partial, path)


def _rename(partial: Path, path: Path) -> None:
    partial.replace(path)
    if os.name != "nt":  # where a folder cannot be opened
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


@dataclass(frozen=True, slots=True)
class Plan:
    key: str
    what: str
    place: str
    storage: Storage
    channels: int
    shard_bytes: int
    leave_out: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.storage.size, self.storage.size, self.channels

    @property
    def per_shard(self) -> int:
        return max(1, self.shard_bytes // int(np.prod(self.shape)))


@dataclass(frozen=True, slots=True)
class _Range:
    """Some images of one shard."""

    part: str
    shard: int
    first: int
    last: int
    ends: bool
    """Whether they are the last of the shard."""


@dataclass(frozen=True, slots=True)
class _Block:
    """The images of a range, prepared."""

    range: _Range
    buffer: U8
    """uint8 (at least n, S, S, C)."""
    images: int
    """So many of the buffer are images."""
    left_out: list[tuple[int, str]]
    handled: list[tuple[str, str]]
    sums: Sums | None


def _ranges(plan: Plan, part: str, shard: int, count: int) -> Sequence[_Range]:
    step = max(1, min(_BLOCK_IMAGES, _BLOCK_BYTES // int(np.prod(plan.shape))))
    start, end = shard * plan.per_shard, min((shard + 1) * plan.per_shard, count)
    return [_Range(part, shard, first, min(first + step, end), first + step >= end)
            for first in range(start, end, step)]  # fmt: skip


def _block(plan: Plan, part: Part, wanted: _Range, spare: queue.SimpleQueue[U8]) -> _Block:
    count = wanted.last - wanted.first
    try:
        buffer = spare.get_nowait()
    except queue.Empty:
        buffer = np.empty((0, *plan.shape), np.uint8)
    if len(buffer) < count:
        buffer = np.empty((count, *plan.shape), np.uint8)
    made, left_out, handled = 0, [], []
    for i in range(wanted.first, wanted.last):
        try:
            buffer[made], remarks = part.prepared(i, plan.storage, plan.channels)
        except ImageError as error:
            left_out.append((i, str(error)))
        else:
            made += 1
            handled += [(remark, part.name(i)) for remark in remarks]
    return _Block(wanted, buffer, made, left_out, handled, sums(buffer[:made]) if wanted.part == "train" else None)


class _Writer:
    """One shard being written."""

    def __init__(self, folder: Path, part: str, number: int, shape: tuple[int, int, int]) -> None:
        self._path = shard_path(folder, part, number)
        self._partial = self._path.with_name(self._path.name + PARTIAL)
        self._file: BinaryIO = self._partial.open("wb")
        self._file.write(bytes(HEADER))
        self._digest = hashlib.sha256()
        self._shape = shape
        self._images = 0
        self._left_out: list[tuple[int, str]] = []
        self._handled: list[tuple[str, str]] = []
        self._sums: Sums | None = None

    def add(self, block: _Block) -> None:
        content = block.buffer[: block.images].data.cast("B") if block.images else b""
        self._digest.update(content)
        self._file.write(content)
        self._images += block.images
        self._left_out += block.left_out
        self._handled += block.handled
        if block.sums is not None:
            self._sums = block.sums if self._sums is None else self._sums + block.sums

    def finish(self) -> Finished:
        with self._file as file:
            file.seek(0)
            file.write(npy_header((self._images, *self._shape)))
            _flush(file)
        _rename(self._partial, self._path)
        if self._sums is not None:
            content = io.BytesIO()
            np.save(content, self._sums.places)
            write(sums_path(self._path), content.getvalue())
        products = None if self._sums is None else self._sums.products.tolist()
        finished = Finished(self._images, self._digest.hexdigest(), self._left_out, self._handled, products)
        write(_record_path(self._path), json.dumps(finished.as_json()).encode())
        return finished


@dataclass(frozen=True, slots=True)
class Finished:
    """What is kept of a finished shard besides the shard, until all are."""

    images: int
    sha256: str
    left_out: list[tuple[int, str]]
    handled: list[tuple[str, str]]
    products: list[list[int]] | None

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def _record_path(shard: Path) -> Path:
    return shard.with_suffix(".json")


def sums_path(shard: Path) -> Path:
    return shard.with_name(f"{shard.stem}-sums.npy")


def _finished(folder: Path, part: str, number: int) -> Finished | None:
    """The record of a finished shard, or None."""
    shard = shard_path(folder, part, number)
    try:
        return Finished(**json.loads(_record_path(shard).read_bytes())) if shard.is_file() else None
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise DataError(f"the record of a finished shard must be readable. Received: {error}. Delete "
                        f"{_record_path(shard)}, and the shard is made again.") from error  # fmt: skip


def _require_space(plan: Plan, count: int, folder: Path) -> None:
    needed, free = count * int(np.prod(plan.shape)), shutil.disk_usage(folder).free
    if needed > free:
        raise NoSpace(
            f"preparing {plan.place} needs {needed / 1e9:.2f} GB. Received: {free / 1e9:.2f} GB free. In: {folder}"
        )


Records = dict[tuple[str, int], Finished]
"""Of every shard, by part and number."""


def make_shards(
    plan: Plan, parts: Mapping[str, Part], folder: Path, workers: int, progress: Progress | None
) -> Records:
    """Write those shards of `parts` that `folder` has not. Returns the records of all. Raises DataError and OSError."""
    total = sum(len(part.labels) for part in parts.values())
    records = {(name, i): _finished(folder, name, i) for name, part in parts.items()
               for i in range(-(-len(part.labels) // plan.per_shard))}  # fmt: skip
    ranges = [r for (name, i), record in records.items() if record is None
              for r in _ranges(plan, name, i, len(parts[name].labels))]  # fmt: skip
    remaining = sum(r.last - r.first for r in ranges)
    _require_space(plan, remaining, folder)
    spare: queue.SimpleQueue[U8] = queue.SimpleQueue()
    done, writer = total - remaining, None
    with warnings.catch_warnings():
        # Pillow warns of large pictures, which are refused by their size, and of damaged metadata, which is not used.
        warnings.simplefilter("ignore")
        blocks = in_order(lambda r: _block(plan, parts[r.part], r, spare), ranges, workers=workers, ahead=workers + 2)
        with closing(blocks):  # type: ignore[type-var]
            for block in blocks:
                writer = writer or _Writer(folder, block.range.part, block.range.shard, plan.shape)
                writer.add(block)
                spare.put(block.buffer)
                done += block.range.last - block.range.first
                if progress is not None:
                    progress(done, total)
                if block.range.ends:
                    records[block.range.part, block.range.shard] = writer.finish()
                    writer = None
    return {place: record for place, record in records.items() if record is not None}
