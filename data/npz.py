"""``.npz`` files that are the same bytes each time they are made."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt


def npz(arrays: Mapping[str, npt.NDArray[Any]], *, compress: bool = False) -> bytes:
    """An ``.npz`` file whose bytes depend on the arrays alone, and on zlib if it is compressed."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as file:
        for name, array in arrays.items():
            one = io.BytesIO()
            np.lib.format.write_array(one, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy")  # 1 January 1980
            entry.compress_type = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
            file.writestr(entry, one.getvalue(), compresslevel=9)
    return whole.getvalue()
