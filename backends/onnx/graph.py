"""The specification as an ONNX graph, made node by node: what one reads in a viewer is what the specification says.

The input is ``input`` (batch, C, H, W), the output ``logits`` (batch, classes), the batch is free. Every layer is the
node of its name, whose output is the tensor of its name; what else a layer needs is named ``layer.what``. Parameters
are initializers under their canonical names and in their canonical shapes, so that they can be read back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from backends.base import Array, Arrays, Unsupported, check_arrays
from backends.onnx.layers import LOWERINGS
from backends.onnx.nodes import Graph, LrnLowering, Precision
from spec import Spec, geometry

OPSET = 18
"""The newest operator set whose files carry IR version 8; ONNX Runtime reads both since 1.14 (early 2023)."""
IR_VERSION = 8
"""Stated, because onnx writes its newest by default, which runtimes of the same month refuse."""
INPUT, LOGITS, BATCH = "input", "logits", "batch"
PIXELS, PROBABILITIES = "pixels", "probabilities"
"""What export may put before and behind the network; no layer's tensor is called so."""
MAX_BYTES = 2**31 - 2**20
"""Protobuf refuses a message of 2 GiB; the rest of the graph has a megabyte."""
BFLOAT16_OPSET, BFLOAT16_IR_VERSION = 22, 10
"""The first operator set with a convolution of bfloat16, and its IR version; ONNX Runtime reads both since 1.20."""

FloatPrecision = Literal["float32", "float16", "bfloat16"]


def tensor_names(spec: Spec) -> dict[str, str]:
    """The tensor that holds each layer's output: the layer's name; ``logits`` for the last."""
    names = {layer.name: layer.name for layer in spec.layers}
    for reserved in {INPUT, LOGITS, PIXELS, PROBABILITIES} & names.keys():
        names[reserved] = f"{reserved}.output"
    names[spec.layers[-1].name] = LOGITS
    return names


def build(
    spec: Spec,
    parameters: Arrays,
    *,
    lrn: LrnLowering = "ops",
    outputs: Iterable[str] = (),
    metadata: Mapping[str, str] | None = None,
    precision: FloatPrecision = "float32",
    channels_last: bool = False,
) -> onnx.ModelProto:
    """The network of `spec` in evaluation with `parameters` (canonical names and layout).

    lrn: ``node`` uses ONNX's LRN node where it can say what the layer means, ``ops`` elementary operators everywhere.
    outputs: names of layers whose outputs the model also returns, in network order, before ``logits``.
    metadata: entries of the file's own beside those that are always there: ``spec.name``, ``spec.hash``, ``spec.json``
    (the full text), ``lrn`` and ``precision``. precision: what parameters and layers are rounded to; normalisation,
    inputs and outputs are float32 in any. (:func:`backends.onnx.int8.quantise` makes integers of a float32 model.)
    channels_last: see :class:`backends.onnx.nodes.Graph`.

    Raises ValueError for wrong parameters or an unknown layer, Unsupported if the file would exceed what ONNX can hold
    or a parameter what the precision can.
    """
    check_arrays(parameters, spec, "the parameters of an ONNX model")
    network = geometry(spec)
    if 4 * network.parameter_count > MAX_BYTES:
        raise Unsupported(
            f"an ONNX file holds at most 2 GiB. Received: {network.parameter_count} parameters of 4 bytes"
        )
    wanted = set(outputs)
    unknown = wanted - {layer.name for layer in spec.layers}
    if unknown:
        raise ValueError(f"outputs must be layers of {spec.name}. Received: {', '.join(sorted(unknown))}")

    names, last = tensor_names(spec), spec.layers[-1].name
    returned = [layer.name for layer in spec.layers if layer.name in wanted or layer.name == last]
    g, x = Graph(parameters, lrn, precision, channels_last), INPUT
    tensors = {name: y if precision == "float32" or name not in returned else f"{y}.{precision}"
               for name, y in names.items()}  # fmt: skip
    if precision != "float32":
        x = g.cast(INPUT, precision, f"{INPUT}.{precision}")
    for layer in network.layers:
        y = tensors[layer.name]
        LOWERINGS[type(layer.layer)](g, layer, x, y)
        x = y
    if precision != "float32":
        for name in returned:
            g.cast(tensors[name], "float32", names[name], f"{names[name]}.float32")

    shapes = {layer.name: layer.output_shape for layer in network.layers}

    def value(tensor: str, shape: tuple[int, ...], number: int = TensorProto.FLOAT, doc: str = "") -> Any:
        return helper.make_tensor_value_info(tensor, number, [BATCH, *shape], doc)

    graph = helper.make_graph(
        g.nodes,
        spec.name,
        [value(INPUT, network.input_shape, doc=input_doc(spec))],
        [value(names[name], shapes[name], doc=_output_doc(spec, name)) for name in returned],
        g.initializers,
        doc_string=spec.title,
        value_info=[
            value(tensor, shapes[name], g.number.onnx)
            for name, tensor in tensors.items()
            if precision != "float32" or name not in returned
        ],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET if precision != "bfloat16" else BFLOAT16_OPSET)],
        ir_version=IR_VERSION if precision != "bfloat16" else BFLOAT16_IR_VERSION,
        producer_name="executable-alexnet",
        doc_string=f"{spec.title}. Input: float32, NCHW ({BATCH}, {', '.join(map(str, network.input_shape))}).",
    )
    describe(model, spec, {"lrn": lrn, "precision": precision, **(metadata or {})})
    return model


def describe(model: onnx.ModelProto, spec: Spec, metadata: Mapping[str, str]) -> None:
    """Let `model` state its specification's name, hash and full text, and `metadata`."""
    stated = {
        "spec.name": spec.name,
        "spec.hash": spec.hash,
        "spec.json": json.dumps(spec.statement(), separators=(",", ":")),
        "precision": "float32",
    }
    helper.set_model_props(model, {**stated, **metadata})


def input_doc(spec: Spec) -> str:
    """What ``input`` holds, for people."""
    channels, data = spec.input.channels, spec.data
    order = "grey" if channels == 1 else data.channel_order
    mean = {"none": "", "image": " - the mean training image", "channel": " - the channel's mean"}.get(
        data.mean.kind, " - the stated mean"
    )
    std = " / the channel's deviation" if data.std is not None else ""
    return f"Images (batch, C, H, W), channels {order}, float32: {data.scale:g} * pixel (0 to 255){mean}{std}"


def _output_doc(spec: Spec, name: str) -> str:
    if name == spec.layers[-1].name:
        return "Scores (batch, classes) before the softmax, float32, in the order of the metadata's `classes`"
    return f"What layer {name} gives, float32"


def parameters_of(model: onnx.ModelProto, spec: Spec) -> dict[str, Array]:
    """The parameters that `model` computes with, float32, by canonical name in network order: of half precision the
    rounded numbers, of integers what they stand for. Raises KeyError if one is missing."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    scaled = {node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}

    def read(name: str) -> Array:
        if name not in scaled:
            return np.asarray(numpy_helper.to_array(found[name]), np.float32)
        whole, scale, zero = (numpy_helper.to_array(found[part]) for part in scaled[name].input)
        along = (-1, *[1] * (whole.ndim - 1))
        numbers: Array = (whole.astype(np.int64) - zero.reshape(along)).astype(np.float32) * scale.reshape(along)
        return numbers

    return {name: read(name) for name in geometry(spec).parameters}


def network_only(model: onnx.ModelProto) -> onnx.ModelProto:
    """The network in `model` from ``input`` to ``logits``, without what export put before and behind it."""
    return onnx.utils.Extractor(model).extract_model([INPUT], [LOGITS])


__all__ = [
    "BATCH",
    "BFLOAT16_OPSET",
    "INPUT",
    "IR_VERSION",
    "LOGITS",
    "OPSET",
    "LrnLowering",
    "Precision",
    "build",
    "input_doc",
    "network_only",
    "parameters_of",
    "tensor_names",
]
