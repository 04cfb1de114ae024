"""The IDX format of the MNIST family: a big-endian header, then unsigned bytes."""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np

from data.dataset import U8
from data.errors import DataError

_NAME = re.compile(r"(?P<split>train|t10k|test)-(?P<what>images|labels)[.-]idx[13]-ubyte(?:\.gz)?")
_PARTS = {"train": "train", "t10k": "validation", "test": "validation"}
MAX_BYTES = 1 << 32
"""The most that one file may hold, so that a small compressed file cannot fill the memory."""

Parts = Mapping[tuple[str, str], Path]
"""(``train`` or ``validation``, ``images`` or ``labels``) to the file."""


def idx_files(folder: Path) -> Parts:
    """The files of an IDX folder by what they hold; empty if `folder` has none of their names.

    Names are those of MNIST: ``train-images-idx3-ubyte``, ``t10k-labels-idx1-ubyte``, with or without ``.gz``, ``.`` or
    ``-`` before ``idx``. Raises DataError if some of the four are missing.
    """
    found: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.iterdir()):  # of a file and its .gz, the plain one (sorted first) is taken
        if match := _NAME.fullmatch(path.name):
            found.setdefault((_PARTS[match["split"]], match["what"]), path)
    missing = [f"{part} {what}" for part in ("train", "validation") for what in ("images", "labels")
               if found and (part, what) not in found]  # fmt: skip
    if missing:
        raise DataError(f"an IDX folder must have training and test images and labels. Missing: {', '.join(missing)}. "
                        f"In: {folder}")  # fmt: skip
    return found


def read_pair(parts: Parts, part: str) -> tuple[U8, U8]:
    """The images uint8 (N, H, W) and the labels uint8 (N,) of `part`. Raises DataError."""
    images, labels = (read_idx(parts[part, what], axes) for what, axes in (("images", 3), ("labels", 1)))
    if len(images) != len(labels) or not images.size:
        received, where = f"{len(images)} images and {len(labels)} labels", parts[part, "images"]
        raise DataError(f"there must be one label for each image. Received: {received}. In: {where}")
    return images, labels


def read_idx(path: Path, axes: int) -> U8:
    """The array in the IDX file `path`, plain or gzip: uint8 with `axes` axes. Raises DataError."""
    try:
        with path.open("rb") as plain:
            if plain.read(2) == b"\x1f\x8b":
                plain.seek(0)
                with gzip.open(plain) as stream:
                    return _read(stream, axes)
            plain.seek(0)
            return _read(plain, axes)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(
            f"an IDX file of unsigned bytes with {axes} axes is required. Received: {error}. In: {path}"
        ) from error


def _read(stream: IO[bytes] | gzip.GzipFile, axes: int) -> U8:
    header = stream.read(4 + 4 * axes)
    if len(header) < 4 + 4 * axes or header[:4] != bytes((0, 0, 8, axes)):
        raise ValueError(f"a header of {header[:4].hex(' ') or 'no bytes'}, not 00 00 08 {axes:02x} and {axes} sizes")
    shape = struct.unpack(f">{axes}I", header[4:])
    size = int(np.prod(shape, dtype=object))
    if size > MAX_BYTES:
        raise ValueError(f"{size:,} values, more than {MAX_BYTES:,}")
    values = stream.read(size)
    if len(values) != size or stream.read(1):
        raise ValueError(
            f"a header that says {size:,} values and {'more' if len(values) == size else f'{len(values):,}'}"
        )
    return np.frombuffer(values, np.uint8).reshape(shape)
