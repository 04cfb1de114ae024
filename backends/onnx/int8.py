"""A float32 model as one of integers: what is multiplied is 8 bits wide, between QuantizeLinear and DequantizeLinear.

Activations are uint8, q = round(x / scale) + zero, one scale for a tensor, from the range that was seen. Weights are
int8, symmetric, one scale for each output, and of 7 bits, -63 to 63: without VNNI, ONNX Runtime's kernels (AVX2 and
AVX-512 alike) add two products of a uint8 and an int8 in 16 bits, which hold 2 * 255 * 63 = 32,130 and would saturate
at 2 * 255 * 127. So the file means the same on every machine. The alternatives that are exact too, uint8 weights or
int8 activations, take 1.25 and 2 times as long there. Biases are int32 in units of both scales.

Fused into integer kernels are convolutions and dense layers without groups, with the ReLU behind them, and max-pools.
Normalisation stays in float32, as do locally connected and grouped dense layers, and what the last layer gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import onnx
from onnx import helper, numpy_helper

from backends.base import Array
from backends.onnx.graph import INPUT, tensor_names
from spec import Spec, geometry

LEVELS = 255
"""Steps of a uint8 from end to end."""
WEIGHT = 63
"""The largest integer of a weight; see above."""
MOST_TERMS = 2**30 // (LEVELS * WEIGHT)
"""A sum of more products could leave 31 bits, half of which are the bias's."""
MOST_BIAS = 2**30

Range = tuple[float, float]


@dataclass(frozen=True)
class Step:
    """How a tensor is stored: x = scale * (q - zero), q from 0 to 255."""

    scale: np.float32
    zero: np.uint8

    @classmethod
    def of(cls, low: float, high: float) -> Step:
        """So that [low, high], widened to hold zero, is covered and zero is exact."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = np.float32((high - low) / LEVELS) if high > low else np.float32(1)
        return cls(scale, np.uint8(np.clip(np.rint(-low / scale), 0, LEVELS)))


@dataclass(frozen=True)
class Point:
    """A tensor that is stored as integers."""

    copied: str | None = None
    """The tensor from which its values are taken unchanged, and so are the steps; None if it has steps of its own."""
    keep: float | None = None
    """Of a dropout, what it multiplies with: the integers are those of `copied`, in smaller steps."""
    positive: bool = False
    """Whether what is below zero need not be stored, because a ReLU comes before anything else sees it."""


def points(spec: Spec, outputs: Iterable[str] = ()) -> dict[str, Point]:
    """The tensors of :func:`backends.onnx.build` that are stored as integers, in network order.

    What the last layer gives is not, nor what stands between a convolution and its ReLU. outputs: layers that the model
    also returns; they are stored, and nothing is left out of them.
    """
    names, returned = tensor_names(spec), set(outputs)
    found, x = {INPUT: Point()}, INPUT
    for i, layer in enumerate(spec.layers[:-1]):
        y, behind = names[layer.name], spec.layers[i + 1 :]
        stored = found.get(x, Point())
        if layer.op == "dropout":
            keep = 1 - layer.rate if layer.scale == "test" else 1.0
            found[y] = Point(x, keep, positive=stored.positive)
        elif layer.op in ("max_pool", "flatten") or (layer.op == "relu" and stored.positive):
            found[y] = Point(x, positive=stored.positive)
        elif layer.op not in _SUMS or behind[0].op != "relu" or layer.name in returned:
            passing = list(takewhile(lambda other: other.op in _COPIES, behind))
            rectified = [other.op for other in behind[len(passing) :][:1]] == ["relu"]
            seen = not returned.isdisjoint(other.name for other in (layer, *passing))
            found[y] = Point(positive=layer.op == "relu" or (rectified and not seen))
        x = y
    return found


_SEEN = f"{INPUT}.seen"
"""What the network sees of its input."""
_SUMS = ("conv", "local", "dense")
_COPIES = ("max_pool", "flatten", "dropout")


def quantise(
    model: onnx.ModelProto, spec: Spec, ranges: Mapping[str, Range], outputs: Iterable[str] = ()
) -> onnx.ModelProto:
    """`model`, which :func:`backends.onnx.build` made of `spec` in float32 with the same `outputs`, of integers.

    ranges: of every tensor in :func:`points` that copies no other, the least and the largest number to be stored; what
    lies beyond is stored as these. `model` is used up.
    """
    names, stored = tensor_names(spec), points(spec, outputs)
    layers = {names[layer.name]: layer for layer in spec.layers}
    before = dict(zip(layers, [INPUT, *layers], strict=False))
    made = _Integers(model)
    made.store(INPUT, Step.of(*ranges[INPUT]))
    for node in model.graph.node:
        y = node.output[0]
        node.input[:] = [_SEEN if name == INPUT else name for name in node.input]
        layer, point = layers.get(y), stored.get(y)
        if layer is not None and layer.op in ("conv", "dense") and before[y] in made.steps:
            made.weigh(node, made.steps[before[y]])
        if point is not None and point.copied is not None and point.keep is not None:
            made.shrink(point.copied, y, point.keep)
            continue
        if node.op_type == "Transpose" and node.input[0] in made.steps:
            made.turn(node)
            continue
        made.nodes.append(node)
        if point is not None:
            low, high = ranges[y] if point.copied is None else (0.0, 0.0)
            step = made.steps[point.copied] if point.copied else Step.of(0.0 if point.positive else low, high)
            made.store(y, step)
    return made.finish()


def roundings(model: onnx.ModelProto, spec: Spec) -> dict[str, Array]:
    """By parameter of `model`, how far storing it as integers may have moved its numbers: half a step of each output.

    Those that are stored as they are are left out. Raises ValueError if an integer of a weight is beyond WEIGHT.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        name = node.output[0]
        if node.op_type == "DequantizeLinear" and name in geometry(spec).parameters:
            whole, scale = (numpy_helper.to_array(constants[part]) for part in node.input[:2])
            if whole.dtype == np.int8 and np.abs(whole.astype(np.int16)).max(initial=0) > WEIGHT:
                raise ValueError(f"the integers of {name} must be from {-WEIGHT} to {WEIGHT}")
            found[name] = (scale / 2).reshape(-1, *[1] * (whole.ndim - 1))
    return found


def steps_of(model: onnx.ModelProto, spec: Spec) -> dict[str, float]:
    """By layer, and by :data:`INPUT`, the steps in which `model` stores what it rounds."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    layers = {INPUT: INPUT} | {tensor: layer for layer, tensor in tensor_names(spec).items()}
    stores = {node.name: node for node in model.graph.node if node.op_type == "QuantizeLinear"}
    returned = [layers[value.name] for value in model.graph.output if value.name in layers]
    return {
        layers[name]: float(numpy_helper.to_array(constants[stores[f"{name}.store"].input[1]]))
        for name, point in points(spec, returned[:-1]).items()
        if point.copied is None
    }


class _Integers:
    """A model under change."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.nodes = model, list[onnx.NodeProto]()
        self.steps: dict[str, Step] = {}
        self._stored: dict[str, str] = {}
        """The integers of each tensor."""
        self._parameters = {tensor.name: tensor for tensor in model.graph.initializer}

    def store(self, name: str, step: Step) -> None:
        """Behind the node that gives `name`: give it as integers, and from these again as `name`."""
        given, stored = INPUT, f"{name}.stored"
        turned = self.nodes.pop() if self.nodes and self.nodes[-1].op_type == "Transpose" else None
        if turned is not None:
            given = turned.input[0]
            turned.input[0], turned.output[0] = f"{given}.stored", stored
        elif self.nodes:
            given = self.nodes[-1].output[0] = f"{name}.exact"
        scale, zero = self._constant(f"{name}.scale", step.scale), self._constant(f"{name}.zero", step.zero)
        whole = stored if turned is None else turned.input[0]
        self.nodes.append(helper.make_node("QuantizeLinear", [given, scale, zero], [whole], f"{name}.store"))
        self.nodes += [turned] if turned else []
        self._read(name, stored, step, scale, zero)

    def turn(self, node: onnx.NodeProto) -> None:
        """Transpose integers, and not the numbers that they stand for: so it can cancel with what an integer
        convolution does around itself."""
        source, name = node.input[0], node.output[0]
        node.input[0], node.output[0] = self._stored[source], f"{name}.stored"
        self.nodes.append(node)
        self._read(name, f"{name}.stored", self.steps[source], f"{source}.scale", f"{source}.zero")

    def shrink(self, source: str, name: str, keep: float) -> None:
        """`name` is `source` times `keep`: the same integers in smaller steps."""
        step = Step(np.float32(self.steps[source].scale * np.float32(keep)), self.steps[source].zero)
        scale, zero = self._constant(f"{name}.scale", step.scale), self._constant(f"{name}.zero", step.zero)
        self._read(name, self._stored[source], step, scale, zero)

    def weigh(self, node: onnx.NodeProto, step: Step) -> None:
        """Make integers of the parameters of `node`, a Conv or a Gemm whose input has `step`; others are left."""
        if node.op_type not in ("Conv", "Gemm") or int(np.prod(self._parameters[node.input[1]].dims[1:])) > MOST_TERMS:
            return
        weight, *bias = (numpy_helper.to_array(self._parameters[name]) for name in node.input[1:])
        scale = np.abs(weight).reshape(len(weight), -1).max(axis=1) / WEIGHT
        if bias:
            scale = np.maximum(scale, np.abs(bias[0]) / (step.scale * np.float32(MOST_BIAS)))
        scale = np.where(scale > 0, scale, 1).astype(np.float32)
        along = (-1, *[1] * (weight.ndim - 1))
        whole = np.clip(np.rint(weight / scale.reshape(along)), -WEIGHT, WEIGHT).astype(np.int8)
        self._parameter(node.input[1], whole, scale)
        if bias:
            unit = scale * step.scale
            self._parameter(node.input[2], np.rint(bias[0].astype(np.float64) / unit).astype(np.int32), unit)

    def finish(self) -> onnx.ModelProto:
        """The model."""
        graph, nodes = self.model.graph, list[onnx.NodeProto]()
        kept = {value.name for value in graph.output}
        for node in reversed(self.nodes):  # what was stored may be read nowhere as a number
            if not kept.isdisjoint(node.output):
                nodes.append(node)
                kept.update(node.input)
        graph.ClearField("node")
        graph.node.extend(reversed(nodes))
        initializers = [tensor for tensor in graph.initializer if tensor.name in kept]
        graph.ClearField("initializer")
        graph.initializer.extend(initializers)
        for entry in self.model.metadata_props:
            if entry.key == "precision":
                entry.value = "int8"
        return self.model

    def _parameter(self, name: str, whole: Array, scale: Array) -> None:
        """In place of the initializer `name`, one that stands for it: integers with a scale for each output."""
        self._parameters.pop(name).name = f"{name}.replaced"
        parts = (f"{name}.stored", whole), (f"{name}.scale", scale), (f"{name}.zero", np.zeros(len(scale), whole.dtype))
        inputs = [self._constant(part, value) for part, value in parts]
        self.nodes.append(helper.make_node("DequantizeLinear", inputs, [name], f"{name}.read", axis=0))

    def _read(self, name: str, stored: str, step: Step, scale: str, zero: str) -> None:
        self.steps[name], self._stored[name] = step, stored
        seen = _SEEN if name == INPUT else name
        self.nodes.append(helper.make_node("DequantizeLinear", [stored, scale, zero], [seen], f"{name}.read"))

    def _constant(self, name: str, value: Array | np.generic) -> str:
        self.model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
        return name
