"""Names and shapes of the arrays in a file of weights: no array is read, nothing unpickled but by torch's safe loader.

Reads safetensors (its header), Keras' HDF5 weights (the datasets' shapes) and torch's state dictionaries
(``torch.load(weights_only=True)`` on a map without memory).
"""

from __future__ import annotations

import json
import lzma
import math
import pickle
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from export.hdf5 import listing
from export.tensors import Shape, Unreadable

MAX_HEADER = 16 * 2**20
MAX_ARRAYS = 20_000
MAX_ELEMENTS = 2**40
Shapes = tuple[tuple[str, Shape], ...]
_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
         "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
         "F64": 64, "I64": 64, "U64": 64, "C64": 64}  # fmt: skip
"""The dtypes of safetensors 0.8, and how many bits an element has."""
_REFUSED = (
    pickle.UnpicklingError,
    struct.error,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What torch.load raises for files that are none of its own."""
BROKEN_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
)
"""What zipfile raises for archives that are none, or damaged."""


def safetensors(path: Path) -> Shapes:
    """What the header of a safetensors file says."""
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if not 2 <= size <= MAX_HEADER:
            raise Unreadable(f"a safetensors header must have at most {MAX_HEADER} bytes. Received: {size}")
        text = stream.read(size)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise Unreadable("a safetensors header must be JSON. Received: other bytes") from None
    if not isinstance(header, dict):
        raise Unreadable("a safetensors header must be an object. Received: another value")
    found, parts = [], []
    for name, entry in header.items():
        if name != "__metadata__":
            shape = entry.get("shape") if isinstance(entry, Mapping) else None
            if not isinstance(shape, list) or not all(type(side) is int and side >= 0 for side in shape):
                raise Unreadable(f"a tensor must have a shape of whole numbers. Received: {str(shape)[:60]}")
            found.append((str(name), tuple(shape)))
            parts.append(_span(str(name), entry, math.prod(shape)))
    at = 0
    for first, end in sorted(parts):
        if first != at:
            raise Unreadable(f"tensors must lie one behind the other. Received: one from byte {first} on, not {at}")
        at = end
    if at != path.stat().st_size - 8 - size:
        received = path.stat().st_size - 8 - size
        raise Unreadable(f"a whole safetensors file must have {at} bytes behind its header. Received: {received}")
    return _bounded(found)


def _span(name: str, entry: Mapping[str, Any], elements: int) -> tuple[int, int]:
    """The bytes of one tensor, first and end, as many as its shape and dtype need."""
    offsets, bits = entry.get("data_offsets"), _BITS.get(str(entry.get("dtype")))
    if bits is None:
        raise Unreadable(f"{name[:60]} must be of a known dtype. Received: {str(entry.get('dtype'))[:20]}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(one) is int and one >= 0 for one in offsets):
        raise Unreadable(f"{name[:60]} must state where it lies. Received: {str(offsets)[:60]}")
    first, end = offsets
    if 8 * (end - first) != elements * bits:
        raise Unreadable(f"{name[:60]} must have {elements} elements of {bits} bits. Received: {end - first} bytes")
    return first, end


def hdf5(path: Path) -> Shapes:
    """The datasets of an HDF5 file, without those of an optimizer."""
    return _bounded([(dataset.place, dataset.shape) for dataset in listing(path).datasets])


def torch_state(path: Path) -> Shapes:
    """The shapes of the tensors of a state dictionary, or of the only one in a checkpoint."""
    return _bounded([(name, tuple(value.shape)) for name, value in torch_tensors(path, "meta")])


def torch_tensors(path: Path, device: str) -> list[tuple[str, Any]]:
    """The tensors themselves, on `device`; on ``meta`` they have no values."""
    import torch

    if zipfile.is_zipfile(path):
        _check_archive(path)
    try:
        with warnings.catch_warnings(action="ignore"), path.open("rb") as stream:  # of a path the name counts too
            state = torch.load(stream, map_location=device, weights_only=True)
    except _REFUSED as error:
        raise Unreadable(
            f"must be a state dictionary that torch loads with weights_only. Received: {_why(error)}"
        ) from None
    found = _tensors(state, torch.Tensor)
    if not found and isinstance(state, Mapping):
        inner = [_tensors(value, torch.Tensor) for value in state.values()]
        found = max(inner, key=len, default=[])
    return found


def _check_archive(path: Path) -> None:
    """torch stores without compression: what grows when it is unpacked is no file of torch's."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except BROKEN_ZIP as error:
        raise Unreadable(f"must be a readable zip. Received: {str(error)[:80]}") from None
    for marks, kind in (("/constants.pkl", "a TorchScript module"), ("/archive_format", "an exported program")):
        if any(entry.filename.endswith(marks) for entry in entries):
            raise Unreadable(f"a file of torch's must be a state dictionary; save model.state_dict(). Received: {kind}")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise Unreadable("an archive of torch's must not be compressed. Received: one that is")
    if any(entry.filename.endswith("data.pkl") and entry.file_size > MAX_HEADER for entry in entries):
        raise Unreadable(f"the index of a state dictionary must have at most {MAX_HEADER} bytes. Received: more")


def _why(error: Exception) -> str:
    """What torch.load says of a file, in a few words: what it wants of a pickle, or else its first line."""
    said = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    wanted = re.search(r"GLOBAL ([\w.]+)", said)
    if wanted:
        return f"a pickle that asks for {wanted[1][:60]}, which is code; save model.state_dict()"
    return said.splitlines()[0][:100] if said else type(error).__name__


def _tensors(state: Any, kind: Any) -> list[tuple[str, Any]]:
    if not isinstance(state, Mapping):
        return []
    return [(str(name), value) for name, value in state.items() if isinstance(value, kind)]


def _bounded(found: list[tuple[str, Shape]]) -> Shapes:
    if not found or len(found) > MAX_ARRAYS:
        raise Unreadable(f"a file of weights must have one to {MAX_ARRAYS} arrays. Received: {len(found) or 'none'}")
    if any(len(shape) > 8 or math.prod(shape) > MAX_ELEMENTS for _, shape in found):
        raise Unreadable("arrays must have at most 8 axes and 2^40 elements. Received: more")
    return tuple(found)


__all__ = ["BROKEN_ZIP", "Shapes", "hdf5", "safetensors", "torch_state", "torch_tensors"]
