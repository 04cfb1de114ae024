"""Making a folder of prepared images, so that a kill at any instant costs the shard at hand and nothing else.

What an unfinished folder holds besides the files of :mod:`data.prepared`:

    plan.json                 what it is to hold; locked by the process that works on it
    train-00000.json          that the shard is finished: how many images, SHA-256, what was left out or unusual
    train-00000-sums.npy      the sums over its pixels, of which the statistics will be made
    *.partial                 files being written, which get their name when the disk has them

A shard holds the readable ones of a fixed range of the source's images, so that its bytes depend on nothing else.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import queue
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL

from data import images
from data.contents import SPLITS, Contents, Part, Source
from data.dataset import I64, U8, sha256_of
from data.errors import DataError, some
from data.images import ImageError
from data.locking import Busy, held
from data.npz import npz
from data.parallel import cores, in_order
from data.prepared import (
    FORMAT,
    HEADER,
    INDEX,
    PLAN,
    REPORT,
    Index,
    PartRecord,
    ShardRecord,
    labels_path,
    npy_header,
    read_index,
    shard_path,
    statistics_path,
)
from data.statistics import Progress, Sums, statistics_of, sums
from spec.language import Storage

SHARD_BYTES = 1 << 30
"""The most that a shard holds."""
_BLOCK_BYTES = 4 << 20
_BLOCK_IMAGES = 32
"""What a thread prepares at a time, at most."""
_EXAMPLES = 10
"""How many of the images that were out of the ordinary in one way are named in the report."""
_PARTIAL = ".partial"


class NoSpace(DataError):
    """The disk is too full for the images that are still to be prepared."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An image that could not be used."""

    image: str
    reason: str


@dataclass(slots=True)
class Report:
    """What came of a preparation."""

    images: dict[str, int]
    left_out: list[LeftOut] = field(default_factory=list)
    handled: dict[str, list[str]] = field(default_factory=dict)
    """What was out of the ordinary, and the names of the images that were so."""
    passed_over: dict[str, int] = field(default_factory=dict)
    """How many files of which ending were no images."""

    def as_json(self) -> dict[str, Any]:
        handled = {
            what: {"images": len(names), "first": names[:_EXAMPLES]} for what, names in sorted(self.handled.items())
        }
        left_out = [{"image": one.image, "reason": one.reason} for one in self.left_out]
        return {"images": self.images, "left_out": left_out, "handled": handled, "passed_over": self.passed_over}


def plan_key(identity: Any, storage: Storage, channels: int, shard_bytes: int = SHARD_BYTES) -> str:
    """32 hexadecimal digits for all that decides the prepared bytes: what is prepared, how, and by which Pillow."""
    how = {"format": FORMAT, "images": images.VERSION, "pillow": PIL.__version__, "shard_bytes": shard_bytes}
    everything = {**how, "storage": storage.model_dump(), "channels": channels, "identity": identity}
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:32]


def prepare(
    source: Source,
    folder: Path,
    *,
    storage: Storage,
    channels: int,
    leave_out: bool,
    wait: bool = False,
    shard_bytes: int = SHARD_BYTES,
    workers: int | None = None,
    progress: Progress | None = None,
    looked: Callable[[Contents], None] = lambda contents: None,
) -> None:
    """Prepare the images of `source` into `folder`, or finish what was begun there.

    leave_out: whether an image that cannot be read is left out and reported; otherwise it is an error, after all were
    tried. wait: whether to wait for another process that works on the same folder. workers: threads, as many as cores
    unless stated. progress: called with (done, total) images. looked: called with what the source holds, before
    anything is prepared.

    Nothing is written outside `folder`. Raises DataError if `folder` holds anything else, if the disk is too full, if
    an image is unreadable and shall not be left out, or if nothing is left of a class or of the validation images;
    OSError if the disk fails or fills up, after which the same call goes on where it stopped.
    """
    key = plan_key(source.identity, storage, channels, shard_bytes)
    folder.mkdir(parents=True, exist_ok=True)
    if not _claimed(folder, key, source.what):
        try:
            with held(folder / PLAN, wait=wait):
                if not (folder / INDEX).is_file():
                    if not (folder / PLAN).is_file():
                        raise DataError(
                            f"another process must finish what it began. Received: it gave up. In: {folder}"
                        )
                    plan = _Plan(key, source.what, source.place, storage, channels, shard_bytes, leave_out)
                    contents = _contents(source)
                    looked(contents)
                    _make(plan, contents, folder, workers or cores(), progress)
        except Busy:
            raise DataError(f"one process at a time can prepare a folder. Received: a second. In: {folder}") from None
    _remove_the_unfinished(folder)


def read_report(folder: Path) -> dict[str, Any]:
    """``report.json`` of a finished `folder`. Raises DataError."""
    try:
        report = json.loads((folder / REPORT).read_bytes())
        if not isinstance(report, dict):
            raise ValueError("something else")
        return report
    except (OSError, ValueError) as error:
        raise DataError(f"prepared images must have their {REPORT}. Received: {error}. In: {folder}") from error


# --- the folder -------------------------------------------------------------------------------------------------------


def _claimed(folder: Path, key: str, what: str) -> bool:
    """Whether `folder` is finished. If not, it is now one for this plan. Raises DataError if it is another's."""
    if (folder / INDEX).is_file():
        index = read_index(folder)
        if index.key != key:
            raise _occupied(folder, f"others, of {index.what}")
        return True
    if (folder / PLAN).is_file():
        try:
            plan = json.loads((folder / PLAN).read_bytes())
            received = None if plan["key"] == key else f"an unfinished preparation of {plan['what']} as it was then"
        except (ValueError, KeyError, TypeError):
            received = f"an unreadable {PLAN}"
        if received:
            raise _occupied(folder, received)
        return False
    if names := sorted(path.name for path in folder.iterdir() if path.name != PLAN + _PARTIAL):
        raise _occupied(folder, some(names))
    _write(folder / PLAN, json.dumps({"key": key, "what": what}).encode())
    return False


def _occupied(folder: Path, received: str) -> DataError:
    return DataError(f"the folder must be new, empty or hold the same images. Received: {received}. In: {folder}")


def _contents(source: Source) -> Contents:
    try:
        return source.contents()
    except OSError as error:
        raise DataError(f"the images must be readable. Received: {error}. In: {source.place}") from error


def _remove_the_unfinished(folder: Path) -> None:
    """Remove what only an unfinished folder needs."""
    for path in folder.iterdir():
        if path.name.endswith((_PARTIAL, "-sums.npy")) or (path.suffix == ".json" and path.name not in (INDEX, REPORT)):
            path.unlink(missing_ok=True)


def _write(path: Path, content: bytes) -> None:
    """`content` under the name `path`: all of it, once the disk has it, or nothing."""
    partial = path.with_name(path.name + _PARTIAL)
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


# --- the work ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Plan:
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


def _make(plan: _Plan, contents: Contents, folder: Path, workers: int, progress: Progress | None) -> None:
    parts = contents.parts
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
    _finish(plan, contents, folder, {place: record for place, record in records.items() if record is not None})


def _ranges(plan: _Plan, part: str, shard: int, count: int) -> Sequence[_Range]:
    step = max(1, min(_BLOCK_IMAGES, _BLOCK_BYTES // int(np.prod(plan.shape))))
    start, end = shard * plan.per_shard, min((shard + 1) * plan.per_shard, count)
    return [_Range(part, shard, first, min(first + step, end), first + step >= end)
            for first in range(start, end, step)]  # fmt: skip


def _block(plan: _Plan, part: Part, wanted: _Range, spare: queue.SimpleQueue[U8]) -> _Block:
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
        self._partial = self._path.with_name(self._path.name + _PARTIAL)
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

    def finish(self) -> _Finished:
        with self._file as file:
            file.seek(0)
            file.write(npy_header((self._images, *self._shape)))
            _flush(file)
        _rename(self._partial, self._path)
        if self._sums is not None:
            content = io.BytesIO()
            np.save(content, self._sums.places)
            _write(_sums_path(self._path), content.getvalue())
        products = None if self._sums is None else self._sums.products.tolist()
        finished = _Finished(self._images, self._digest.hexdigest(), self._left_out, self._handled, products)
        _write(_record_path(self._path), json.dumps(finished.as_json()).encode())
        return finished


@dataclass(frozen=True, slots=True)
class _Finished:
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


def _sums_path(shard: Path) -> Path:
    return shard.with_name(f"{shard.stem}-sums.npy")


def _finished(folder: Path, part: str, number: int) -> _Finished | None:
    """The record of a finished shard, or None."""
    shard = shard_path(folder, part, number)
    try:
        return _Finished(**json.loads(_record_path(shard).read_bytes())) if shard.is_file() else None
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise DataError(f"the record of a finished shard must be readable. Received: {error}. Delete "
                        f"{_record_path(shard)}, and the shard is made again.") from error  # fmt: skip


def _require_space(plan: _Plan, count: int, folder: Path) -> None:
    needed, free = count * int(np.prod(plan.shape)), shutil.disk_usage(folder).free
    if needed > free:
        raise NoSpace(
            f"preparing {plan.place} needs {needed / 1e9:.2f} GB. Received: {free / 1e9:.2f} GB free. In: {folder}"
        )


# --- the end ----------------------------------------------------------------------------------------------------------


def _finish(plan: _Plan, contents: Contents, folder: Path, records: Mapping[tuple[str, int], _Finished]) -> None:
    of = {name: [record for (part, _), record in records.items() if part == name] for name in SPLITS}
    report = _report(contents, of)
    _write(folder / REPORT, json.dumps(report.as_json(), indent=1).encode())
    if report.left_out and not plan.leave_out:
        total = sum(len(part.labels) for part in contents.parts.values()) + len(contents.refused)
        named = some([f"{one.image!r} ({one.reason})" for one in report.left_out])
        received = f"{len(report.left_out)} of {total} unreadable: {named}"
        required = "every image must be readable, unless python -m data.prepare leaves it out"
        raise DataError(f"{required}. Received: {received}. In: {plan.place}")
    labels = {name: _labels(contents.parts[name], of[name]) for name in SPLITS}
    _require_every_class(contents, labels, folder)
    statistics = npz(statistics_of(_total(folder, of["train"])).arrays())
    _write(statistics_path(folder), statistics)
    for name, values in labels.items():
        content = io.BytesIO()
        np.save(content, values)
        _write(labels_path(folder, name), content.getvalue())
    parts = {
        name: PartRecord(
            images=len(labels[name]),
            labels_sha256=sha256_of(labels[name]),
            shards=tuple(ShardRecord(images=record.images, sha256=record.sha256) for record in of[name]),
        )
        for name in SPLITS
    }
    index = Index.model_validate({
        "format": FORMAT, "key": plan.key, "what": plan.what, "how": contents.how, "pillow": PIL.__version__,
        "storage": plan.storage, "channels": plan.channels, "classes": contents.classes,
        "left_out": len(report.left_out), "parts": parts,
        "statistics_sha256": hashlib.sha256(statistics).hexdigest(),
    })  # fmt: skip
    _write(folder / INDEX, index.model_dump_json(indent=1).encode())


def _report(contents: Contents, records: Mapping[str, Sequence[_Finished]]) -> Report:
    report = Report({name: sum(record.images for record in records[name]) for name in SPLITS})
    report.passed_over = dict(sorted(contents.passed_over.items()))
    report.left_out += [LeftOut(name, reason) for name, reason in contents.refused]
    for name in SPLITS:
        for record in records[name]:
            report.left_out += [LeftOut(contents.parts[name].name(i), reason) for i, reason in record.left_out]
            for what, image in record.handled:
                report.handled.setdefault(what, []).append(image)
    return report


def _labels(part: Part, records: Sequence[_Finished]) -> I64:
    gone = [i for record in records for i, _ in record.left_out]
    return np.delete(part.labels, gone)


def _require_every_class(contents: Contents, labels: Mapping[str, I64], folder: Path) -> None:
    counts = np.bincount(labels["train"], minlength=len(contents.classes))
    received = ""
    if not counts.all():
        received = "none of " + some([contents.classes[label] for label in np.flatnonzero(counts == 0)])
    elif not len(labels["validation"]):
        received = "no validation image"
    if received:
        required = "every class must keep a readable training image, and some validation images must be readable"
        raise DataError(f"{required}. Received: {received}. In: {folder / REPORT}")


def _total(folder: Path, records: Sequence[_Finished]) -> Sums:
    total: Sums | None = None
    for number, record in enumerate(records):
        places = np.load(_sums_path(shard_path(folder, "train", number)), allow_pickle=False)
        one = Sums(record.images, places, np.array(record.products, np.int64))
        total = one if total is None else total + one
    assert total is not None
    return total
