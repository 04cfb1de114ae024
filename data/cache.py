"""The user's own prepared folders: one for each source and storage, made when it is first asked for."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path

import numpy as np

from data import preparation
from data.contents import Contents, Source
from data.dataset import Dataset, Splits
from data.errors import DataError
from data.images import ImageError
from data.locking import Busy, held
from data.prepared import CHECKED, INDEX, PLAN, open_prepared
from data.sharding import NoSpace
from data.statistics import Progress
from spec.language import Storage

IN_MEMORY = 256 << 20
"""Bytes of pictures that are quickly made from arrays (IDX, CIFAR, embedded) and so need no cache."""
_STALE_S = 7 * 86_400.0
"""An unfinished folder in which nothing has been written for so long is nobody's."""
_KEY = re.compile("[0-9a-f]{32}")


def default_cache_dir() -> Path:
    """``$XDG_CACHE_HOME/alexnet-spec``, or ``~/.cache/alexnet-spec`` where the variable is not set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alexnet-spec"


def cached(
    source: Source, *, storage: Storage, channels: int, cache_dir: Path | None = None, progress: Progress | None = None
) -> Splits:
    """The images of `source`, prepared: from the cache if it holds them, otherwise prepared on all cores and put there.

    The folder ``<cache_dir>/<key>`` is a prepared folder like any other. Two processes that want the same wait for each
    other. Raises DataError if an image is unreadable (how many and which, after all were tried), if the disk is too
    full, or if the cache cannot be written or read.
    """
    cache_dir = cache_dir or default_cache_dir()
    folder = cache_dir / preparation.plan_key(source.identity, storage, channels)
    try:
        if not (folder / INDEX).is_file():
            _remove_stale(cache_dir)
            try:
                preparation.prepare(
                    source, folder, storage=storage, channels=channels, leave_out=False, wait=True, progress=progress
                )
            except DataError as error:
                if not isinstance(error, NoSpace):  # with space, it can go on where it stopped
                    shutil.rmtree(folder, ignore_errors=True)
                raise
    except OSError as error:
        raise DataError(f"the cache of prepared images must be writable. Received: {error}. In: {cache_dir}") from error
    try:
        return open_prepared(folder, storage=storage, channels=channels, checked=cache_dir / CHECKED, progress=progress)
    except DataError as error:
        raise DataError(f"{error}. Delete {folder} and run again.") from error


def in_memory(contents: Contents, *, storage: Storage, channels: int) -> dict[str, Dataset]:
    """The prepared images of few small pictures that are surely readable: arrays, and nothing is written."""
    made = {}
    for name, part in contents.parts.items():
        pictures = np.empty((len(part.labels), storage.size, storage.size, channels), np.uint8)
        for i in range(len(pictures)):
            try:
                pictures[i], _ = part.prepared(i, storage, channels)
            except ImageError as error:
                raise DataError(f"every image must be usable. Received: {part.name(i)} ({error})") from error
        made[name] = Dataset(pictures, part.labels, contents.classes)
    return made


def _remove_stale(cache_dir: Path) -> None:
    """Remove folders that were begun long ago and that nobody works on."""
    for folder in cache_dir.iterdir() if cache_dir.is_dir() else ():
        if not _KEY.fullmatch(folder.name) or not (folder / PLAN).is_file() or (folder / INDEX).is_file():
            continue
        try:
            written = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
            if time.time() - written > _STALE_S:
                with held(folder / PLAN, wait=False):
                    shutil.rmtree(folder, ignore_errors=True)
        except (Busy, FileNotFoundError):  # somebody does, or has just finished, or removed it
            continue
