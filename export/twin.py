"""The float32 network that a file of another precision rounds: what it means, without what it loses.

Verified beside the file itself, because its bounds are a thousand times narrower: a wrong window, order or constant
shows here that would hide in the roundings of 8 or 16 bits.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from backends.base import Arrays
from backends.onnx.graph import PIXELS

HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def twin(model: onnx.ModelProto, parameters: Arrays) -> onnx.ModelProto:
    """`model` in float32, with `parameters`, which are those that it computes with (:func:`parameters_of`).

    Half precision becomes float32 and casts between them nothing. Integers become what they stand for: what is stored
    and read again passes unchanged, or multiplied where it is read in other steps than it was stored in (dropout).
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    scales: dict[str, str] = {}
    """Of a tensor of integers, in which steps it was stored."""
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.output[0] in parameters:
            continue
        if node.op_type == "QuantizeLinear":
            scales[node.output[0]] = node.input[1]
            node = helper.make_node("Identity", node.input[:1], node.output, node.name)
        elif node.op_type == "DequantizeLinear":
            stored, read = (numpy_helper.to_array(constants[name]) for name in (scales[node.input[0]], node.input[1]))
            factor = numpy_helper.from_array(np.float32(read) / np.float32(stored), f"{node.name}.factor")
            graph.initializer.append(factor)
            node = helper.make_node("Mul", [node.input[0], factor.name], node.output, node.name)
        elif node.op_type == "Cast" and not node.name.startswith(f"{PIXELS}."):
            node = helper.make_node("Identity", node.input, node.output, node.name)
        elif node.input and node.input[0] in scales:
            scales[node.output[0]] = scales[node.input[0]]
        nodes.append(node)
    initializers = [_wide(tensor) for tensor in graph.initializer if tensor.name not in parameters]
    initializers += [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in parameters.items()]
    for field, values in (("node", nodes), ("initializer", initializers)):
        graph.ClearField(field)
        getattr(graph, field).extend(values)
    for value in graph.value_info:
        if value.type.tensor_type.elem_type in HALVES:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    return made


def _wide(tensor: onnx.TensorProto) -> onnx.TensorProto:
    if tensor.data_type not in HALVES:
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
