"""Arrays between processes: a folder of ``.npy`` files, numbered, so that any name can travel. Never a pickle."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from backends.base import Array

SHARED_MEMORY = Path("/dev/shm")
"""Where Linux keeps files in memory: the parameters of one full network are 244 MB."""


def new_folder() -> Path:
    """An empty folder for exchange, in memory where the system has such a place."""
    place = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    return Path(tempfile.mkdtemp(prefix="conformance-", dir=place))


def write_arrays(folder: Path, arrays: Mapping[str, Any]) -> list[str]:
    """Write `arrays` into the new folder `folder`. Returns their names, in the order of the files.

    Raises TypeError for anything that is not a mapping of names to NumPy arrays, ValueError for arrays that would take
    more than half of the room that is left: no answer does.
    """
    if not isinstance(arrays, Mapping):
        raise TypeError(f"what a backend returns must be NumPy arrays by name. Received: {type(arrays).__name__}")
    folder.mkdir(parents=True)
    for number, (name, array) in enumerate(arrays.items()):
        if not isinstance(array, np.ndarray):
            raise TypeError(f"what a backend returns must be NumPy arrays. Received: {type(array).__name__} for {name}")
        if array.nbytes > shutil.disk_usage(folder).free // 2:
            size = f"{array.nbytes / 2**30:.1f} GiB, shape {array.shape}"
            raise ValueError(f"what a backend returns must have the size of the network's tensors. Received: {size}")
        np.save(folder / f"{number}.npy", array, allow_pickle=False)
    return [str(name) for name in arrays]


def read_arrays(folder: Path, names: list[str]) -> dict[str, Array]:
    """The arrays of a folder that :func:`write_arrays` wrote, mapped into memory and not writable."""
    return {
        name: np.load(folder / f"{number}.npy", mmap_mode="r", allow_pickle=False) for number, name in enumerate(names)
    }
