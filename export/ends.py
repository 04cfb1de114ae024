"""What may be put before and behind the network in a file: the preparation of stored bytes, and the softmax."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from backends.base import Array
from backends.onnx.graph import BATCH, INPUT, LOGITS, PIXELS, PROBABILITIES
from data import Statistics, evaluation_batch, evaluation_views
from spec import Spec


def add_softmax(model: onnx.ModelProto) -> None:
    """Let `model` also return ``probabilities`` (batch, classes), the softmax of ``logits``."""
    model.graph.node.append(helper.make_node("Softmax", [LOGITS], [PROBABILITIES], PROBABILITIES, axis=1))
    output = onnx.ValueInfoProto()
    output.CopyFrom(next(value for value in model.graph.output if value.name == LOGITS))
    output.name, output.doc_string = PROBABILITIES, "The softmax of the scores (batch, classes), float32"
    model.graph.output.append(output)


def add_pixels(model: onnx.ModelProto, stated: Spec, statistics: Statistics | None) -> None:
    """Let `model` take ``pixels``, uint8 (batch, S, S, C) as images are stored, red first, instead of ``input``.

    The central crop, the order of channels, scale, mean and deviation are those of the specification, in float32 and in
    the order of ``data/augment.py``, so that the network sees the same bits as in evaluation. Raises DataError if the
    mean is one of the training images and `statistics` is None.
    """
    data, size, channels = stated.data, stated.data.storage.size, stated.input.channels
    ((row, col, _),) = evaluation_views(data, stated.input, "center")
    nodes: list[onnx.NodeProto] = []

    def constant(name: str, value: Array) -> str:
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), f"{PIXELS}.{name}"))
        return f"{PIXELS}.{name}"

    def node(op: str, inputs: list[str], what: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [f"{PIXELS}.{what}"], f"{PIXELS}.{what}", **attributes))
        return f"{PIXELS}.{what}"

    def cut(x: str, what: str, **slices: list[int]) -> str:
        return node("Slice", [x, *(constant(f"{what}.{k}", np.array(v, np.int64)) for k, v in slices.items())], what)

    x = PIXELS
    if (stated.input.height, stated.input.width) != (size, size):
        ends = [row + stated.input.height, col + stated.input.width]
        x = cut(x, "crop", starts=[row, col], ends=ends, axes=[1, 2])
    x = node("Transpose", [x], "maps", perm=[0, 3, 1, 2])
    if data.channel_order == "bgr":
        x = cut(x, "reversed", starts=[channels - 1], ends=[-channels - 1], axes=[1], steps=[-1])
    x = node("Cast", [x], "numbers", to=TensorProto.FLOAT)
    if data.scale != 1:
        x = node("Mul", [x, constant("scale", np.array(data.scale, np.float32))], "scaled")
    if data.mean.kind != "none":
        x = node("Sub", [x, constant("mean", _mean(stated, statistics))], "centred")
    if data.std is not None:
        x = node("Mul", [x, constant("factor", _factor(stated))], "divided")
    nodes[-1].output[0] = INPUT

    maps, pixels = (
        model.graph.input[0],
        helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, [BATCH, size, size, channels], _doc(stated)),
    )
    inside = onnx.ValueInfoProto()
    inside.CopyFrom(maps)
    model.graph.value_info.append(inside)
    model.graph.ClearField("input")
    model.graph.input.append(pixels)
    behind = list(model.graph.node)
    model.graph.ClearField("node")
    model.graph.node.extend([*nodes, *behind])


def _doc(stated: Spec) -> str:
    """What ``pixels`` holds, for people."""
    order = "grey" if stated.input.channels == 1 else "red, green, blue"
    return f"Images as they are stored (batch, S, S, C), uint8, {order}; what is done to them is done inside"


def _seen(stated: Spec, value: int, statistics: Statistics | None, **changed: Any) -> Array:
    """What an image of nothing but `value` becomes, float32 (C, H, W), with parts of the preparation changed."""
    size = stated.data.storage.size
    image = np.full((1, size, size, stated.input.channels), value, np.uint8)
    data = stated.data.model_copy(update=changed)
    seen: Array = evaluation_batch(image, data=data, input=stated.input, statistics=statistics)[0, 0]
    return seen


def _mean(stated: Spec, statistics: Statistics | None) -> Array:
    """What is subtracted, float32 (C, H, W), in the order of the result."""
    return 0 - _seen(stated, 0, statistics, std=None)


def _factor(stated: Spec) -> Array:
    """What the difference is multiplied by, float32 (C, 1, 1), in the order of the result."""
    nothing = stated.data.mean.model_copy(update={"kind": "none", "values": None})
    return _seen(stated, 1, None, mean=nothing, scale=1.0)[:, :1, :1]
