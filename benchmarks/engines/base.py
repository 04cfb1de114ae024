"""What an engine is: it takes a file, and then images as NumPy arrays, and answers logits as NumPy arrays."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import spec
from backends.base import Array
from backends.external import metadata
from backends.onnx import parameters_of
from spec import Spec

FLOATS = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.BFLOAT16: "bfloat16",
}
"""Types of an image that is no bytes."""
PRODUCTS = ("Conv", "Gemm", "MatMul", "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "QGemm")
"""Operators in which networks spend their multiplications."""


class EngineError(RuntimeError):
    """The engine cannot run this file; one line."""

    kind = "failed"


class Absent(EngineError):
    """Something that the engine needs is not installed, which could not be told before it was tried."""

    kind = "absent"


@dataclass(frozen=True)
class Subject:
    """The file that is measured, and what it says of itself."""

    path: Path
    input_name: str
    input_shape: tuple[int, ...]
    """Without the batch."""
    dtype: str
    """Of its input: ``float32``, ``float16``, ``bfloat16``, or ``uint8`` where it prepares images itself."""
    metadata: dict[str, str]
    precision: str
    """Of its products, as the file states them."""

    @property
    def pixels(self) -> bool:
        """Whether it takes bytes and prepares them itself."""
        return self.dtype == "uint8"

    @property
    def spec(self) -> Spec | None:
        """The specification in the file, None in a file of another program. Raises SpecError."""
        text = self.metadata.get("spec.json")
        return None if text is None else spec.from_values(json.loads(text), self.path.name)


@dataclass(frozen=True)
class Loaded:
    """An engine ready to run."""

    run: Callable[[Any], Any]
    """From what `place` returns to what `fetch` takes, waiting until it has been computed: what is measured."""
    what: str
    input_shape: tuple[int, ...]
    """Of one image."""
    precision: str
    """In which products are really computed."""
    dtype: str = "float32"
    """Of images."""
    device: str = "cpu"
    place: Callable[[Array], Any] = lambda images: images
    """Once for each batch, before it is measured: where images stay on the device, this brings them there."""
    fetch: Callable[[Any], Array] = lambda logits: np.asarray(logits)
    """The logits as float32 (N, classes)."""
    device_memory: Callable[[], float | None] = lambda: None
    """The most memory of the accelerator that was used, MiB."""


def read(path: Path) -> tuple[Subject, onnx.ModelProto]:
    """The file at `path`. Raises EngineError if it is not an ONNX model with one image input of known size."""
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf and onnx have no error in common
        raise EngineError(f"{path}: a model must be a readable ONNX file. Received: {error}") from error
    known = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in known]
    shapes = [[d.dim_value for d in value.type.tensor_type.shape.dim] for value in inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or not all(size > 0 for size in shapes[0][1:]):
        raise EngineError(f"{path}: a model must have one input of four dimensions of known size. Received: {shapes}")
    kind = inputs[0].type.tensor_type.elem_type
    dtypes = FLOATS | {onnx.TensorProto.UINT8: "uint8"}
    if kind not in dtypes:
        received = onnx.TensorProto.DataType.Name(kind)
        raise EngineError(f"{path}: the input of a model must be a float or UINT8. Received: {received}")
    try:
        said = metadata(model)
    except ValueError as error:
        raise EngineError(f"{path}: {error}") from None
    shape = tuple(shapes[0][1:])
    return Subject(path, inputs[0].name, shape, dtypes[kind], said, _precision(model)), model


def _precision(model: onnx.ModelProto) -> str:
    """In which the file states its products: int8 where their weights pass through integers, else the weights' type."""
    weights = {tensor.name: FLOATS.get(tensor.data_type, "int8") for tensor in model.graph.initializer}
    quantised = {o for node in model.graph.node if node.op_type == "DequantizeLinear" for o in node.output}
    found: list[str] = []
    for node in model.graph.node:
        if node.op_type in PRODUCTS and len(node.input) > 1:
            integers = node.op_type.startswith(("QL", "QG")) or "Integer" in node.op_type
            inside = "int8" if integers or node.input[1] in quantised else weights.get(node.input[1])
            found += [inside] if inside else []
    return max(found, key=found.count) if found else "float32"


def specified(subject: Subject, model: onnx.ModelProto) -> tuple[Spec, dict[str, Array]]:
    """Specification and float32 parameters of the file. Raises EngineError where it has them not."""
    stated = subject.spec
    if stated is None:
        raise EngineError(f"{subject.path.name} does not carry its specification: only runtimes of ONNX can run it")
    try:
        found = parameters_of(model, stated)
    except KeyError as error:
        raise EngineError(
            f"{subject.path.name} does not carry the parameter {error} as a float: only runtimes of ONNX can run it"
        ) from error
    return stated, {name: np.asarray(value, np.float32) for name, value in found.items()}
