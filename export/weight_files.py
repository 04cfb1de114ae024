"""The arrays in a file of weights or of a network, with what the file says of how they are kept.

A file is first read as identification reads it (:mod:`export.reading`: bounded, nothing unpickled, nothing run); values
come in when they are asked for, after their shapes were found right. What lies outside the file (ONNX' and HDF5's
external data) is taken only from the file's own folder, or not at all.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from backends import checkpoint
from backends.base import Array
from backends.external import location, metadata, require_beside
from export import hdf5, reading
from export.read_weights import torch_tensors
from export.tensors import Shape, Unreadable
from spec.departures import Found

MAX_BYTES = 2**32
"""Of a file, or of what a zip unpacks: VGG-16 in float64 has a quarter of it."""
FLOATS = ("float16", "float32", "float64")


@dataclass(frozen=True)
class Stored:
    """One array: its shape, and how to read it. float16 and bfloat16 are read as float32, which is exact."""

    shape: Shape
    read: Callable[[], Array]


@dataclass(frozen=True)
class Opened:
    """What a file holds."""

    kind: str
    arrays: Mapping[str, Stored]
    """By the file's names; of a graph, ``0.weight``, ``0.bias``, ``1.weight``: its layers with weights in their order,
    kernels (out, in, rows, columns) and dense (out, in)."""
    keras_axes: bool = False
    flatten: str = ""
    """``chw`` or ``hwc``; empty where the file cannot say or it makes no difference."""
    network: Found | None = None
    said: Mapping[str, str] = field(default_factory=dict)
    """What the file says of itself: ``spec``, ``spec_name``, ``classes`` (JSON), ``model``."""


def open_file(path: Path) -> Opened:
    """What the file at `path` holds. Raises Unreadable in one line, and ModuleNotFoundError."""
    found = reading.read(path)
    if path.stat().st_size > MAX_BYTES:
        raise Unreadable(f"a file must have at most {MAX_BYTES} bytes. Received: {path.stat().st_size}")
    if found.kind == "ONNX graph":
        assert isinstance(found, Found)
        return _onnx(path, found)
    if isinstance(found, Found):
        return _keras(path, found)
    return {
        "safetensors file": _safetensors,
        "PyTorch state dictionary": _torch,
        "HDF5 file of weights": _hdf5,
    }[found.kind](path)


def _floats(name: str, array: Array) -> Array:
    if array.dtype.name not in FLOATS:
        raise Unreadable(f"{name[:60]} must be floating point. Received: {array.dtype}")
    return np.ascontiguousarray(array, np.float32 if array.dtype.itemsize == 2 else array.dtype.newbyteorder("="))


def _safetensors(path: Path) -> Opened:
    from safetensors import SafetensorError, safe_open

    def values(name: str) -> Array:
        try:
            with safe_open(path, framework="numpy") as file:
                dtype = file.get_slice(name).get_dtype()
                if dtype == "BF16":  # which NumPy lacks: the upper half of a float32
                    from safetensors import deserialize

                    content = dict(deserialize(path.read_bytes()))[name]  # type: ignore[no-untyped-call]
                    halves = np.frombuffer(bytes(content["data"]), "<u2").reshape(content["shape"])
                    return (halves.astype(np.uint32) << 16).view(np.float32)
                if dtype not in ("F16", "F32", "F64"):
                    raise Unreadable(f"{name[:60]} must be floating point. Received: {dtype}")
                return _floats(name, file.get_tensor(name))
        except (SafetensorError, OSError) as error:
            raise Unreadable(f"must be a whole safetensors file. Received: {str(error)[:80]}") from None

    try:
        with safe_open(path, framework="numpy") as file:
            said = dict(file.metadata() or {})
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise Unreadable(f"must be a whole safetensors file. Received: {str(error)[:80]}") from None
    if said.get("format") == checkpoint.FORMAT:
        shapes = {name: shape for name, shape in shapes.items() if "/" not in name}  # velocities, statistics
    arrays = {name: Stored(shape, lambda name=name: values(name)) for name, shape in shapes.items()}  # type: ignore[misc]
    return Opened("safetensors file", arrays, said=said)


def _torch(path: Path) -> Opened:
    import torch

    def values(name: str, tensor: Any) -> Array:
        if tensor.dtype in (torch.bfloat16, torch.float16):
            tensor = tensor.float()
        if not tensor.dtype.is_floating_point:
            raise Unreadable(f"{name[:60]} must be floating point. Received: {tensor.dtype}")
        return _floats(name, tensor.detach().numpy())

    tensors = dict(torch_tensors(path, "cpu"))
    arrays = {
        name: Stored(tuple(tensor.shape), lambda name=name, tensor=tensor: values(name, tensor))  # type: ignore[misc]
        for name, tensor in tensors.items()
    }
    return Opened("PyTorch state dictionary", arrays)


# --- Keras ------------------------------------------------------------------------------------------------------------


def _keras(path: Path, network: Found) -> Opened:
    if not zipfile.is_zipfile(path):
        raise Unreadable("a whole Keras model must be a .keras file. Received: one in HDF5, as Keras 2 wrote it")
    arrays, _, said = _h5(path)
    return Opened("Keras model", arrays, True, network.flatten, network, said)


def _hdf5(path: Path) -> Opened:
    arrays, flatten, said = _h5(path)
    return Opened("HDF5 file of weights", arrays, True, flatten, said=said)


def _h5(path: Path) -> tuple[dict[str, Stored], str, dict[str, str]]:
    """(arrays, flatten order, what it says) of Keras 3's weights: ``layers/CLASS/vars/0`` is a kernel, 1 a bias.

    Arrays are called by the name that Keras keeps beside them; all are read when the first is asked for.
    """
    found = hdf5.listing(path)
    names: dict[str, hdf5.Dataset] = {}
    for one in found.datasets:
        parts = one.place.split("/")
        if one.outside:
            raise Unreadable("the arrays of an HDF5 file must lie in it. Received: one that lies elsewhere")
        if "seed_generator" in parts:
            continue
        if len(parts) != 4 or parts[0] != "layers" or parts[2] != "vars" or parts[3] not in ("0", "1"):
            raise Unreadable(f"weights must be kept as Keras 3 does, in layers/NAME/vars. Received: {one.place[:60]}")
        name = f"{one.layer or parts[1]}.{('weight', 'bias')[int(parts[3])]}"
        if name in names:
            raise Unreadable(f"layers must have names of their own. Received: {name[:60]} twice")
        names[name] = one
    read = cache(lambda: hdf5.values(path, [one.place for one in names.values()]))
    arrays = {
        name: Stored(one.shape, lambda place=one.place: _floats(place, read()[place]))  # type: ignore[misc]
        for name, one in names.items()
    }
    said = {"model": found.model} if found.model else {}
    if any(kind.startswith("flatten_channels") for kind in found.groups):
        return arrays, "chw", said
    return arrays, "hwc" if any(kind.startswith("flatten") for kind in found.groups) else "", said


# --- ONNX -------------------------------------------------------------------------------------------------------------


def _onnx(path: Path, network: Found) -> Opened:
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    try:
        said = metadata(model)
    except ValueError as error:
        raise Unreadable(str(error)) from None
    if "exporter" in said:  # a framework's own, which called and laid out parameters as it likes
        said.pop("spec.json", None)
    mapped = {"spec": said.get("spec.json"), "spec_name": said.get("spec.name"), "classes": said.get("classes")}
    known = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and len(node.attribute) == 1 and node.attribute[0].HasField("t"):
            known[node.output[0]] = node.attribute[0].t

    def stored(name: str, turned: bool = False) -> Stored:
        if name not in known:
            raise Unreadable(f"weights must be kept in the file. Received: {name[:60]}, which it computes")
        tensor = known[name]
        shape = tuple(tensor.dims)
        return Stored(shape[::-1] if turned else shape, lambda: _tensor(tensor, path.parent, turned))

    if mapped["spec"] is not None:  # of this project: parameters have their canonical names
        arrays = {name: stored(name) for name in known if name.endswith((".weight", ".bias")) and name.count(".") == 1}
    else:
        arrays = {}
        for number, (weight, bias, turned) in enumerate(_weighted(model.graph)):
            arrays[f"{number}.weight"] = stored(weight, turned)
            if bias:
                arrays[f"{number}.bias"] = stored(bias)
    return Opened("ONNX graph", arrays, flatten=network.flatten, network=network,
                  said={key: value for key, value in mapped.items() if value is not None})  # fmt: skip


def _weighted(graph: Any) -> list[tuple[str, str, bool]]:
    """(weight, bias or nothing, whether the weight is (in, out)) of each node with weights, in the graph's order."""
    found: list[tuple[str, str, bool]] = []
    for node in graph.node:
        at = {item.name: item for item in node.attribute}
        if node.op_type == "Conv":
            found.append((node.input[1], node.input[2] if len(node.input) > 2 else "", False))
        elif node.op_type == "Gemm":
            if any(name in at and at[name].f != 1 for name in ("alpha", "beta")) or ("transA" in at and at["transA"].i):
                raise Unreadable("Gemm must have alpha 1, beta 1 and transA 0. Received: others")
            turned = not ("transB" in at and at["transB"].i)
            found.append((node.input[1], node.input[2] if len(node.input) > 2 else "", turned))
        elif node.op_type == "MatMul":
            after = next(
                (other for other in graph.node if other.op_type == "Add" and node.output[0] in other.input), None
            )
            bias = next((name for name in after.input if name != node.output[0]), "") if after else ""
            found.append((node.input[1], bias, True))
    return found


def _tensor(tensor: Any, folder: Path, turned: bool) -> Array:
    import onnx
    from onnx import TensorProto, numpy_helper
    from onnx.checker import ValidationError

    try:
        if tensor.data_location == TensorProto.EXTERNAL:
            require_beside(location(tensor), folder)
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        array = np.asarray(numpy_helper.to_array(tensor))
        if array.dtype.name == "bfloat16":
            array = array.astype(np.float32)
        array = _floats(tensor.name, array)
    except (LookupError, ValueError, TypeError, RuntimeError, OSError, MemoryError, ValidationError) as error:
        if isinstance(error, Unreadable):
            raise
        received = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        if received.startswith("external data must"):
            raise Unreadable(received) from None
        raise Unreadable(f"{tensor.name[:60]} must have the values that its shape says. Received: {received}") from None
    return np.ascontiguousarray(array.T) if turned else array


def json_list(text: str) -> tuple[str, ...] | None:
    """The names in a JSON list, or None if it is none."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return tuple(values) if isinstance(values, list) and values and all(isinstance(v, str) for v in values) else None


__all__ = ["Opened", "Stored", "json_list", "open_file"]
