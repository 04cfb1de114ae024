"""Reads an HDF5 file in a process of its own: ``python -P hdf5_child.py list FILE`` or ``... read FILE PLACE...``.

The HDF5 library can crash or run on for ever on damaged files, and takes its process with it: see :mod:`export.hdf5`.
FILE may be a zip (``.keras``) that holds one. ``list`` writes JSON, ``read`` the arrays one after another as .npy; what
is wrong with a file is one line on stderr and exit code 3. Links are not followed, data outside the file is not read.
"""

from __future__ import annotations

import io
import json
import sys
import zipfile
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np

WEIGHTS = "model.weights.h5"
"""The member of a ``.keras`` file."""
MAX_BYTES = 2**32
"""Of what a zip unpacks."""
MAX_GROWTH = 100
"""How many times as large a member may be as it is in the zip: Keras does not compress, and numbers hardly are."""
MAX_ARRAYS = 20_000
MAX_TEXT = 8 * 2**20
"""Of a model's configuration."""


def opened(file: str) -> Any:
    if not zipfile.is_zipfile(file):
        return h5py.File(file, "r")
    with zipfile.ZipFile(file) as archive:
        if WEIGHTS not in archive.namelist():
            raise ValueError(f"a .keras file must hold {WEIGHTS}")
        member = archive.getinfo(WEIGHTS)
        if member.file_size > MAX_BYTES or member.file_size > MAX_GROWTH * max(member.compress_size, 1 << 16):
            raise ValueError(f"{WEIGHTS} must have at most {MAX_BYTES} bytes, {MAX_GROWTH} times what is stored")
        with archive.open(WEIGHTS) as stream:
            return h5py.File(io.BytesIO(stream.read(MAX_BYTES)), "r")


def text(value: Any) -> str | None:
    value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return value if isinstance(value, str) and len(value) <= MAX_TEXT else None


def listing(file: str) -> dict[str, Any]:
    """The model's name and configuration if there is one, the groups in ``layers``, and every array with the name that
    its group has."""
    arrays: list[dict[str, Any]] = []
    groups: list[str] = []

    def visit(place: str, item: Any) -> bool | None:
        parts = place.split("/")
        if len(parts) == 2 and parts[0] == "layers":
            groups.append(parts[1])
        if isinstance(item, h5py.Dataset) and parts[0] not in ("optimizer", "seed_generator"):
            arrays.append({"place": place, "shape": [int(side) for side in item.shape or ()],
                           "layer": text(item.parent.attrs.get("name")),
                           "outside": bool(item.external) or bool(item.is_virtual)})  # fmt: skip
        return True if len(arrays) > MAX_ARRAYS or len(groups) > MAX_ARRAYS else None

    with opened(file) as stored:
        stored.visititems(visit)
        config = text(stored.attrs.get("model_config"))
        model = text(stored["vars"].attrs.get("name")) if stored.get("vars", getlink=True) is not None else None
    return {"config": config, "model": model, "groups": groups, "arrays": arrays}


def main(arguments: list[str]) -> int:
    task, file, *places = arguments
    try:
        if task == "list":
            sys.stdout.write(json.dumps(listing(file)))
        else:
            with opened(file) as stored:
                for place in places:
                    np.save(sys.stdout.buffer, np.asarray(stored[place]), allow_pickle=False)
    except Exception as error:  # whatever a damaged file makes the library raise, it is the file's fault
        sys.stderr.write(str(error).splitlines()[0][:100] if str(error) else type(error).__name__)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
