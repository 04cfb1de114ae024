"""A folder of prepared images: what lies in it, and reading it.

    index.json                what it is, the classes, the number and SHA-256 of every shard's images; written last
    train-00000.npy           uint8 (n, S, S, C) behind a header of 128 bytes; train-00001.npy and so on
    train-labels.npy          int64 (N,); likewise validation-00000.npy and validation-labels.npy
    train-statistics.npz      the statistics of the training images
    report.json               what was left out and why, and what was out of the ordinary

A folder without ``index.json`` is unfinished. Reading checks every file's size and header each time, and the SHA-256 of
its contents whenever its size, times or place are not those of the last check (:data:`CHECKED`), or always if asked.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data.dataset import I64, U8, Dataset, Shards, Splits, digest_of, sha256_of
from data.errors import DataError
from data.statistics import Progress
from spec.language import Storage

FORMAT = 2
INDEX = "index.json"
REPORT = "report.json"
PLAN = "plan.json"
"""What an unfinished folder is to hold."""
CHECKED = "checked"
"""The folder, in the user's cache, that remembers which files were found to have their SHA-256."""
HEADER = 128
"""Bytes before the first image of a shard."""
_MAX_JSON = 64 << 20
_READ = 8 << 20
_FIRST_CLASSES = 5

_Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_Count = Annotated[int, Field(ge=0, le=2**40)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ShardRecord(_Record):
    """One shard: how many images, and the SHA-256 of their bytes, without the header."""

    images: _Count
    sha256: _Sha256


class PartRecord(_Record):
    """One split."""

    images: _Count
    labels_sha256: _Sha256
    shards: tuple[ShardRecord, ...]


class Index(_Record):
    """``index.json``."""

    format: Literal[2]
    key: str
    """What decides the bytes, digested: the images, the storage and Pillow's version."""
    what: str
    how: str
    pillow: str
    storage: Storage
    channels: Literal[1, 3]
    classes: tuple[str, ...]
    left_out: _Count
    parts: dict[Literal["train", "validation"], PartRecord]
    statistics_sha256: _Sha256


def shard_path(folder: Path, part: str, number: int) -> Path:
    return folder / f"{part}-{number:05}.npy"


def labels_path(folder: Path, part: str) -> Path:
    return folder / f"{part}-labels.npy"


def statistics_path(folder: Path) -> Path:
    return folder / "train-statistics.npz"


def npy_header(shape: tuple[int, ...]) -> bytes:
    """The header of a ``.npy`` file (version 1.0) of bytes of `shape`, always HEADER bytes long."""
    text = repr({"descr": "|u1", "fortran_order": False, "shape": shape}).encode()
    magic = b"\x93NUMPY\x01\x00" + (HEADER - 10).to_bytes(2, "little")
    return magic + text.ljust(HEADER - len(magic) - 1) + b"\n"


def is_prepared(folder: Path) -> bool:
    """Whether `folder` holds prepared images, finished or not."""
    return (folder / INDEX).is_file() or (folder / PLAN).is_file()


def read_index(folder: Path) -> Index:
    """The index of a finished folder. Raises DataError."""
    path = folder / INDEX
    try:
        if not path.is_file():
            raise ValueError("none; the preparation was not finished, and the same command takes it up again")
        if path.stat().st_size > _MAX_JSON:
            raise ValueError(f"{path.stat().st_size:,} bytes, more than any index has")
        index = Index.model_validate_json(path.read_bytes())
        if set(index.parts) != {"train", "validation"}:
            raise ValueError(f"the parts {', '.join(index.parts) or 'none'}")
        return index
    except (OSError, ValueError) as error:
        received = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise DataError(f"prepared images must have their {INDEX}. Received: {received}. In: {folder}") from error


def open_prepared(
    folder: Path,
    *,
    storage: Storage | None = None,
    channels: int | None = None,
    checked: Path | None = None,
    verify: bool = False,
    named: str = "",
    progress: Progress | None = None,
) -> Splits:
    """The images in the finished `folder`, mapped into memory.

    storage, channels: what is wanted; anything unless stated. checked: the folder of remembered checks. verify: check
    the SHA-256 of every file, whatever is remembered. named: how the description begins. progress: called with
    (done, total) images while contents are checked.

    Raises DataError, with the name of the file, if one is missing, cut, longer, or has other contents than were put
    there, and if the images are not those that are wanted.
    """
    index = read_index(folder)
    if (storage, channels) != (None, None) and (storage, channels) != (index.storage, index.channels):
        raise DataError(
            f"the images must be prepared as the specification says, {_words(storage, channels)}. "
            f"Received: {_words(index.storage, index.channels)}. In: {folder}"
        )
    check = _Check(folder, checked, verify, sum(part.images for part in index.parts.values()), progress)
    try:
        train, validation = (_open_part(folder, name, index, check) for name in ("train", "validation"))
        check.file(statistics_path(folder), index.statistics_sha256)
        check.remember()
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"prepared images must be readable. Received: {error}. In: {folder}") from error
    what = named + index.what + (f" ({index.how})" if index.how else "")
    return Splits(train, validation, describe(what, train, validation))


def describe(what: str, train: Dataset, validation: Dataset) -> str:
    """One line: what it is, how many images and classes, the first classes."""
    first = ", ".join(train.classes[:_FIRST_CLASSES]) + (", ..." if len(train.classes) > _FIRST_CLASSES else "")
    size, channels = train.images.shape[2:]
    return (
        f"{what}: {len(train):,} training and {len(validation):,} validation images, kept at {size}x{size} "
        f"{'RGB' if channels == 3 else 'grey'}, {len(train.classes):,} classes: {first}"
    )


def _words(storage: Storage | None, channels: int | None) -> str:
    assert storage is not None
    return f"{storage.size}x{storage.size} {'RGB' if channels == 3 else 'grey'} with fit: {storage.fit}"


def _open_part(folder: Path, name: str, index: Index, check: _Check) -> Dataset:
    record = index.parts[name]  # type: ignore[index]
    shape = (index.storage.size, index.storage.size, index.channels)
    pieces = [_open_shard(shard_path(folder, name, i), shard, shape, check) for i, shard in enumerate(record.shards)]
    labels = _open_labels(labels_path(folder, name), record, len(index.classes))
    if sum(len(piece) for piece in pieces) != record.images:
        raise ValueError(f"{sum(len(piece) for piece in pieces)} {name} images in shards, and {record.images} in all")
    digest = digest_of([shard.sha256 for shard in record.shards])
    return Dataset(Shards(pieces), labels, index.classes, digest, statistics_path(folder) if name == "train" else None)


def _open_shard(path: Path, record: ShardRecord, shape: tuple[int, int, int], check: _Check) -> U8:
    whole = (record.images, *shape)
    size = HEADER + int(np.prod(whole, dtype=object))
    received = path.stat().st_size
    if received != size:
        raise DataError(f"the shard must be {size:,} bytes. Received: {received:,}. In: {path}")
    with path.open("rb") as file:
        if file.read(HEADER) != npy_header(whole):
            raise DataError(f"the shard must have the header of {record.images} images. Received: another. In: {path}")
    check.file(path, record.sha256, HEADER, record.images)
    if not record.images:
        return np.empty(whole, np.uint8)
    return np.memmap(path, np.uint8, "r", HEADER, whole).view(np.ndarray)


def _open_labels(path: Path, record: PartRecord, classes: int) -> I64:
    labels = np.load(path, allow_pickle=False)
    if labels.dtype != np.int64 or labels.shape != (record.images,) or sha256_of(labels) != record.labels_sha256:
        raise DataError(f"the labels must be those of {record.images} images. Received: others. In: {path}")
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise DataError(f"labels must be below {classes}. Received: {labels.min()} to {labels.max()}. In: {path}")
    return np.asarray(labels, np.int64)


class _Check:
    """SHA-256 of files, and what is remembered of earlier checks of one folder."""

    def __init__(self, folder: Path, checked: Path | None, always: bool, total: int, progress: Progress | None) -> None:
        name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]
        self._memory = None if checked is None else checked / f"{name}.json"
        self._before = {} if always else _remembered(self._memory)
        self._now: dict[str, list[Any]] = {}
        self._done, self._total, self._progress = 0, total, progress

    def file(self, path: Path, sha256: str, start: int = 0, images: int = 0) -> None:
        """Raise DataError unless the bytes of `path` from `start` on have `sha256`, now or when it was last seen."""
        status = path.stat()
        stamp = [sha256, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        if self._before.get(path.name) != stamp:
            received = file_sha256(path, start)
            if received != sha256:
                raise DataError(
                    f"the contents must have SHA-256 {sha256[:16]}... as when they were prepared, and are damaged. "
                    f"Received: {received[:16]}.... In: {path}"
                )
            self._done += images
            if self._progress is not None and images:
                self._progress(self._done, self._total)
        self._now[path.name] = stamp

    def remember(self) -> None:
        if self._memory is None or self._now == self._before:
            return
        with suppress(OSError):  # what cannot be remembered is checked again
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            partial = self._memory.with_suffix(f".{os.getpid()}.partial")
            partial.write_text(json.dumps(self._now))
            partial.replace(self._memory)


def _remembered(path: Path | None) -> dict[str, list[Any]]:
    try:
        stamps = {} if path is None else json.loads(path.read_bytes())
    except (OSError, ValueError):  # nothing is remembered, or nothing that can be trusted
        return {}
    return stamps if isinstance(stamps, dict) else {}


def file_sha256(path: Path, start: int = 0) -> str:
    """SHA-256 of the bytes of `path` from `start` on."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(start)
        while block := file.read(_READ):
            digest.update(block)
    return digest.hexdigest()
