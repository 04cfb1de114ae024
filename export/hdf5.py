"""What an HDF5 file holds, read by a process of its own (:mod:`export.hdf5_child`) that a damaged file may end."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from export.tensors import Array, Shape, Unreadable

CHILD = Path(__file__).with_name("hdf5_child.py")
LIST_SECONDS, READ_SECONDS = 60, 600
"""Far beyond what whole files take, of which the largest known here has half a gigabyte."""


@dataclass(frozen=True)
class Dataset:
    """One array: where it lies, its shape, the name that Keras keeps beside it, and whether its data lies elsewhere."""

    place: str
    shape: Shape
    layer: str | None
    outside: bool


@dataclass(frozen=True)
class Listing:
    """What a file holds, without its values, those of an optimizer left out."""

    datasets: tuple[Dataset, ...]
    groups: tuple[str, ...]
    """In ``layers``: Keras calls them after the layers' classes."""
    model: str
    config: str | None


def listing(path: Path) -> Listing:
    """What the HDF5 file, or the ``.keras`` file, at `path` holds. Raises Unreadable, and ModuleNotFoundError."""
    found = path.stat()
    return _listing(str(path), found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=4)
def _listing(path: str, _changed: int, _size: int) -> Listing:
    """Remembered, because a file is first asked what it is."""
    found = json.loads(_asked(["list", path], LIST_SECONDS))
    datasets = tuple(
        Dataset(one["place"], tuple(one["shape"]), one["layer"], one["outside"]) for one in found["arrays"]
    )
    return Listing(datasets, tuple(found["groups"]), found["model"] or "", found["config"])


def values(path: Path, places: Sequence[str]) -> dict[str, Array]:
    """The arrays at `places`. Their shapes are to be known to be right, so that no more is read than was wanted."""
    stream = io.BytesIO(_asked(["read", str(path), *places], READ_SECONDS))
    try:
        return {place: np.load(stream, allow_pickle=False) for place in places}
    except ValueError as error:
        raise Unreadable(f"the arrays of an HDF5 file must be numbers. Received: {str(error)[:80]}") from None


def _asked(arguments: list[str], seconds: int) -> bytes:
    """What the other process writes. ``-P``: the modules of this folder are not to be taken for others."""
    if importlib.util.find_spec("h5py") is None:
        raise ModuleNotFoundError("h5py comes with keras", name="h5py")
    try:
        done = subprocess.run([sys.executable, "-P", str(CHILD), *arguments], capture_output=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise Unreadable(f"must be readable in {seconds} s. Received: an HDF5 file that is not") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        received = said[-1][:100] if done.returncode == 3 and said else "one at which the HDF5 library ends"
        raise Unreadable(f"must be a readable HDF5 file. Received: {received}")
    return done.stdout


__all__ = ["Dataset", "Listing", "listing", "values"]
