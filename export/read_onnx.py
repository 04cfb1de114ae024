"""An ONNX file as a graph of neutral tensors: what each node computes, whatever it is called.

Only the graph is read: arrays of more than :data:`~export.onnx_nodes.MAX_READ` elements stay shapes, in the file or
beside it, and metadata, names and documentation are not looked at. Nothing is run but arithmetic on small constants.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, helper, numpy_helper

from backends.external import location, require_beside
from export.onnx_nodes import MAX_READ, NODES, OUTPUTS, Inputs, Reading
from export.tensors import Graph, Tensor, Unreadable

MAX_BYTES = 2**31
"""Protobuf's own bound of a file."""
MAX_NODES = 10_000


def read(path: Path) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """(input, output, remarks) of an ONNX file. Raises Unreadable in one line, whatever is wrong with it."""
    try:
        if path.stat().st_size >= MAX_BYTES:
            raise Unreadable(f"an ONNX file must have less than {MAX_BYTES} bytes. Received: {path.stat().st_size}")
        model = onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise Unreadable(f"must be a readable file. Received: {error.strerror or error}") from None
    except (DecodeError, ValueError, RuntimeError) as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable("must be an ONNX file. Received: bytes that are no ONNX model") from None
    if not model.graph.node:
        raise Unreadable("must be an ONNX file with a graph of nodes. Received: none")
    if model.functions:
        model = _inlined(model)
    opset = max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=1)
    start, output = _Reader(model, path.parent, opset).read()
    notes = ("its weights are one constant each, not those of a trained network",) if _filled(model.graph) else ()
    return start, output, notes


def _filled(graph: onnx.GraphProto) -> bool:
    """Whether the graph makes all its weights up, as the light models of the onnx package do."""
    makers = {name: node.op_type for node in graph.node for name in node.output}
    weights = [
        node.input[1] for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul") and len(node.input) > 1
    ]
    return bool(weights) and all(makers.get(name) == "ConstantOfShape" for name in weights)


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its own functions written out where they are called."""
    from onnx import inliner

    try:
        return inliner.inline_local_functions(model)
    except (RuntimeError, ValueError) as error:
        received = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise Unreadable(f"the functions of an ONNX file must be callable. Received: {received}") from None


class _Reader:
    """Walks the nodes of one file in their order."""

    def __init__(self, model: onnx.ModelProto, folder: Path, opset: int) -> None:
        self.model, self.folder = model, folder
        self.graph = Graph()
        self.reading = Reading(self.graph, opset, self.stored)
        self.known: dict[str, Tensor] = {}

    def read(self) -> tuple[Tensor, Tensor]:
        graph = self.model.graph
        for tensor in graph.initializer:
            self.known[tensor.name] = self.stored(tensor)
        if graph.sparse_initializer:
            raise Unreadable("constants must be dense. Received: a sparse one")
        start = self.input(graph)
        self.nodes(graph.node)
        ends = [self.known[value.name] for value in graph.output if value.name in self.known]
        ends = [tensor for tensor in ends if tensor.varies]
        if not ends:
            raise Unreadable("an output of the graph must depend on its input. Received: none that does")
        return start, max(ends, key=lambda tensor: tensor.number)

    def input(self, graph: onnx.GraphProto) -> Tensor:
        """The image input: of four axes, its batch one where it is open."""
        images = []
        for value in graph.input:
            if value.name in self.known:
                continue
            shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            if len(shape) == 4:
                images.append((value.name, shape))
            else:
                self.known[value.name] = self.graph.weight(tuple(max(side, 1) for side in shape))
        if len(images) != 1:
            raise Unreadable(f"a graph must have one input of four axes. Received: {len(images)}")
        name, shape = images[0]
        if any(side <= 0 for side in shape[1:]):
            raise Unreadable(f"the input's channels, height and width must be stated. Received: {tuple(shape)}")
        self.known[name] = self.graph.input((max(shape[0], 1), *shape[1:]))
        return self.known[name]

    def stored(self, tensor: onnx.TensorProto) -> Tensor:
        """A constant of the file, its values if they are few."""
        shape = tuple(tensor.dims)
        if any(side < 0 for side in shape):
            raise Unreadable(f"a constant's shape must not be negative. Received: {shape}")
        if math.prod(shape) > MAX_READ:
            return self.graph.weight(shape)
        try:
            if tensor.data_location == TensorProto.EXTERNAL:
                require_beside(location(tensor), self.folder)
                onnx.external_data_helper.load_external_data_for_tensor(tensor, str(self.folder))
            return self.graph.constant(np.array(numpy_helper.to_array(tensor)))
        except (ValueError, TypeError, KeyError, RuntimeError, OSError, onnx.checker.ValidationError) as error:
            if tensor.data_location == TensorProto.EXTERNAL:
                return self.graph.weight(shape)  # values beside the file that are not there: the shape is known
            received = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
            raise Unreadable(f"a constant must have the values that its shape says. Received: {received}") from None

    def nodes(self, nodes: Sequence[onnx.NodeProto]) -> None:
        if len(nodes) > MAX_NODES:
            raise Unreadable(f"a graph must have at most {MAX_NODES} nodes. Received: {len(nodes)}")
        for node in nodes:
            inputs: list[Tensor | None] = []
            for name in node.input:
                if name and name not in self.known:
                    raise Unreadable(
                        f"a node must read what is made before it. Received: {node.op_type} reads {name[:60]}"
                    )
                inputs.append(self.known[name] if name else None)
            made = self.node(node, inputs)
            for name, tensor in zip(node.output, made):
                if name:
                    self.known[name] = tensor
            for name in node.output[len(made) :]:  # masks of dropouts and indices of pools, which no network reads
                if name:
                    self.known[name] = self.graph.unknown(f"{node.op_type} (second output)", [t for t in inputs if t])

    def node(self, node: onnx.NodeProto, inputs: Inputs) -> Sequence[Tensor]:
        """The tensors that a node gives."""
        if node.op_type == "If" and node.domain in ("", "ai.onnx"):
            return self.branch(node, inputs)
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            raise Unreadable(f"a network must be of floating-point numbers. Received: one of integers ({node.op_type})")
        attributes = {item.name: _attribute(item) for item in node.attribute} | {OUTPUTS: len(node.output)}
        reader = NODES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        given = [tensor for tensor in inputs if tensor is not None]
        if reader is None:
            return [self.graph.unknown(node.op_type, given)]
        try:
            found = reader(self.reading, inputs, attributes)
        except (IndexError, KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, Unreadable):
                raise Unreadable(f"{node.op_type}: {error}") from None
            raise Unreadable(f"{node.op_type} must have the inputs and attributes that ONNX states for it") from None
        return found if isinstance(found, list) else [found]

    def branch(self, node: onnx.NodeProto, inputs: Inputs) -> Sequence[Tensor]:
        """An If whose condition is constant is the branch it takes."""
        condition = inputs[0].scalar if inputs and inputs[0] is not None else None
        branches = {item.name: item.g for item in node.attribute}
        if condition is None or not {"then_branch", "else_branch"} <= branches.keys():
            return [self.graph.unknown("If", [tensor for tensor in inputs if tensor is not None])]
        taken = branches["then_branch" if condition else "else_branch"]
        for tensor in taken.initializer:
            self.known[tensor.name] = self.stored(tensor)
        self.nodes(taken.node)
        return [self.known[value.name] for value in taken.output]


def _attribute(item: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(item)
    if value is None:
        raise Unreadable("an attribute must have a value. Received: none")
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, onnx.TensorProto):
        return value
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


__all__ = ["MAX_BYTES", "MAX_NODES", "read"]
