"""What a file holds, whatever it is called: the network of an ONNX or Keras file, or the shapes of weights alone."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from export.read_weights import BROKEN_ZIP, Shapes, hdf5, safetensors, torch_state
from export.recognition import chain
from export.tensors import Tensor, Unreadable
from spec.departures import Found
from spec.structure import Step, Structure

HDF5 = b"\x89HDF\r\n\x1a\n"
PICKLE = b"\x80"


@dataclass(frozen=True)
class Weights:
    """A file of arrays without a network."""

    kind: str
    shapes: Shapes


def read(path: Path) -> Found | Weights:
    """What the file holds, known by its first bytes. Raises Unreadable in one line for anything else, and
    ModuleNotFoundError for a package that reading it needs."""
    if path.exists() and not path.is_file():  # a pipe would never end
        raise Unreadable("must be a readable file. Received: a folder, a pipe or a device")
    try:
        with path.open("rb") as stream:
            head = stream.read(16)
    except OSError as error:
        raise Unreadable(f"must be a readable file. Received: {error.strerror or error}") from None
    return _format(path, head)(path)


def _format(path: Path, head: bytes) -> Callable[[Path], Found | Weights]:
    if head.startswith(b"PK"):
        return _keras if "config.json" in _members(path) else _torch
    if head.startswith(HDF5):
        return _hdf5
    if head[4:9] == b"\0\0\0\0{":  # the size of a header may begin as a pickle does
        return _safetensors
    if head.startswith(PICKLE):
        return _torch
    if head[8:9] == b"{":
        return _safetensors
    return _onnx


def _members(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except BROKEN_ZIP as error:
        raise Unreadable(f"must be a readable zip. Received: {str(error)[:80]}") from None


def _safetensors(path: Path) -> Weights:
    return Weights("safetensors file", safetensors(path))


def _torch(path: Path) -> Weights:
    return Weights("PyTorch state dictionary", torch_state(path))


def _hdf5(path: Path) -> Found | Weights:
    try:
        return _keras(path)
    except Unreadable as error:
        if "model_config" not in str(error):
            raise
    return Weights("HDF5 file of weights", hdf5(path))


def _onnx(path: Path) -> Found:
    from export import read_onnx

    start, output, notes = read_onnx.read(path)
    found = _found("ONNX graph", start, output, notes)
    return replace(found, keeps_dropout=any(step.op == "dropout" for step in _scaled_in_training(found)))


def _keras(path: Path) -> Found:
    from export import read_keras

    found = _found("Keras model", *read_keras.read(path))
    code = sum(step.op.endswith(read_keras.CODE) for step in found.structure.steps)
    note = f"code, which is not read, makes up {code} of its steps: what is missing may be what it computes"
    return replace(found, notes=(*found.notes, note)) if code else found


def _scaled_in_training(found: Found) -> list[Step]:
    return [step for step in found.structure.steps if step.op == "dropout" and step.facts["scale"] == "train"]


def _found(kind: str, start: Tensor, output: Tensor, notes: tuple[str, ...] = ()) -> Found:
    read = chain(start, output)
    return Found(kind, Structure(read.input, tuple(read.steps)), read.flatten, (*notes, *dict.fromkeys(read.notes)))


__all__ = ["Weights", "read"]
