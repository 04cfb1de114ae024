"""Images prepared once: a folder of plain ``.npy`` files that are mapped into memory ever after."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from data import images
from data.dataset import I64, U8, Dataset
from data.errors import DataError, some
from data.parallel import cores, in_order
from spec.language import Storage

Progress = Callable[[int, int], None]
"""Called with how many images are done and how many there are."""

FORMAT = 1
IN_MEMORY = 256 << 20
"""Bytes of pictures that are quickly made from arrays (IDX, embedded) and so need no cache."""
_STALE_S = 3600.0
"""An unfinished folder in which nothing has been written for so long is a killed run's."""


@dataclass(frozen=True, slots=True)
class Part:
    """The images of one split before they are prepared."""

    labels: I64
    prepare: Callable[[int], U8]
    """Image i, prepared: uint8 (S, S, C). Raises ImageError."""
    name: Callable[[int], str]
    """What image i is called in an error."""


def default_cache_dir() -> Path:
    """``$XDG_CACHE_HOME/alexnet-spec``, or ``~/.cache/alexnet-spec`` where the variable is not set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alexnet-spec"


def cache_key(identity: Mapping[str, Any], storage: Storage, channels: int) -> str:
    """32 hexadecimal digits for all that decides the prepared bytes: what is prepared, how, and by which Pillow."""
    how = {"format": FORMAT, "images": images.VERSION, "pillow": PIL.__version__}
    everything = {**how, "storage": storage.model_dump(), "channels": channels, **identity}
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:32]


def prepared(
    parts: Mapping[str, Part],
    key: str,
    *,
    classes: tuple[str, ...],
    storage: Storage,
    channels: int,
    source: str,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Dataset]:
    """Each part prepared, out of the cache if it holds `key`, otherwise prepared with all cores and put there.

    Images are memory maps. The folder ``<cache_dir>/<key>`` appears at once and complete, or not at all; the image file
    of a part is (N, S, S, C) bytes behind a ``.npy`` header. Raises DataError if an image is unreadable (how many and
    which, after all were tried), if the disk is too full, or if the cache cannot be written or read.
    """
    cache_dir = cache_dir or default_cache_dir()
    final = cache_dir / key
    if not final.is_dir():
        partial = cache_dir / f"{key}.partial-{uuid.uuid4().hex[:8]}"
        try:
            _remove_stale(cache_dir, key)
            partial.mkdir(parents=True)
            with warnings.catch_warnings():
                # Pillow warns of large pictures, which are refused by their size, and of damaged metadata, which is
                # not used.
                warnings.simplefilter("ignore")
                _write(partial, parts, classes, (storage.size, storage.size, channels), source, progress)
            _publish(partial, final)
        except OSError as error:
            raise DataError(
                f"the cache of prepared images must be writable. Received: {error}. In: {cache_dir}"
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)  # after success it is gone; otherwise nothing half-made stays
    return _open(final, parts, classes, (storage.size, storage.size, channels))


def prepared_in_memory(
    parts: Mapping[str, Part], *, classes: tuple[str, ...], storage: Storage, channels: int
) -> dict[str, Dataset]:
    """As :func:`prepared`, for few small images that are surely readable: arrays, and nothing is written."""
    made = {}
    for name, part in parts.items():
        pictures = np.empty((len(part.labels), storage.size, storage.size, channels), np.uint8)
        for i in range(len(pictures)):
            pictures[i] = part.prepare(i)
        made[name] = Dataset(pictures, part.labels, classes)
    return made


def _write(
    folder: Path,
    parts: Mapping[str, Part],
    classes: tuple[str, ...],
    shape: tuple[int, int, int],
    source: str,
    progress: Progress | None,
) -> None:
    total = sum(len(part.labels) for part in parts.values())
    needed, free = total * int(np.prod(shape)), shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"preparing {source} needs {needed / 1e9:.2f} GB. Received: {free / 1e9:.2f} GB free. In: {folder.parent}"
        )
    index: dict[str, Any] = {"format": FORMAT, "source": source, "classes": list(classes), "parts": {}}
    failures: list[str] = []
    done = 0
    for name, part in parts.items():
        digest = hashlib.sha256()
        with (folder / f"{name}-images.npy").open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(part.labels), *shape)}
            np.lib.format.write_array_header_1_0(file, header)
            for picture in _attempts(part):
                done += 1
                if progress is not None:
                    progress(done, total)
                if isinstance(picture, str):
                    failures.append(picture)
                elif not failures:
                    row = np.ascontiguousarray(picture).tobytes()
                    digest.update(row)
                    file.write(row)
            _flush(file)
        index["parts"][name] = {"images": len(part.labels), "sha256": digest.hexdigest()}
    if failures:
        received = f"{len(failures)} of {total} unreadable: {some(failures)}"
        raise DataError(f"every image must be readable. Received: {received}. In: {source}")
    with (folder / "index.json").open("wb") as file:
        file.write(json.dumps(index, indent=1).encode())
        _flush(file)


def _attempts(part: Part) -> Iterator[U8 | str]:
    """The prepared images in order; in the place of an unreadable one, its name and the reason."""

    def attempt(i: int) -> U8 | str:
        try:
            return part.prepare(i)
        except images.ImageError as error:
            return f"{part.name(i)} ({error})"

    workers = cores()
    return in_order(attempt, range(len(part.labels)), workers=workers, ahead=8 * workers)


def _open(
    folder: Path, parts: Mapping[str, Part], classes: tuple[str, ...], shape: tuple[int, int, int]
) -> dict[str, Dataset]:
    try:
        index = json.loads((folder / "index.json").read_bytes())
        opened = {}
        for name, part in parts.items():
            pictures = np.load(folder / f"{name}-images.npy", mmap_mode="r", allow_pickle=False)
            if pictures.dtype != np.uint8 or pictures.shape != (len(part.labels), *shape):
                raise ValueError(f"{pictures.dtype} {pictures.shape} as {name} images")
            digest = str(index["parts"][name]["sha256"])
            opened[name] = Dataset(pictures, part.labels, classes, digest, folder / f"{name}-statistics.npz")
        return opened
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"a cache must hold the images that were put there. Received: {error}. "
                        f"Delete {folder} and run again.") from error  # fmt: skip


def _publish(partial: Path, final: Path) -> None:
    try:
        partial.rename(final)
    except OSError:
        if not final.is_dir():  # otherwise another process was first, with the same bytes
            raise


def _remove_stale(cache_dir: Path, key: str) -> None:
    for folder in cache_dir.glob(f"{key}.partial-*"):
        try:
            written = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
        except FileNotFoundError:  # it has just been finished, or removed by its owner
            continue
        if time.time() - written > _STALE_S:
            shutil.rmtree(folder, ignore_errors=True)


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
