"""Nodes and initializers of a graph under construction, and the types of number that it may compute in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from backends.base import Array, Arrays, Unsupported

LrnLowering = Literal["ops", "node"]
Precision = Literal["float32", "float16", "bfloat16", "int8"]


@dataclass(frozen=True)
class Number:
    """A type of number."""

    numpy: Any
    onnx: int
    largest: float


NUMBERS: dict[str, Number] = {
    "float32": Number(np.float32, TensorProto.FLOAT, float(np.finfo(np.float32).max)),
    "float16": Number(np.float16, TensorProto.FLOAT16, float(np.finfo(np.float16).max)),
    "bfloat16": Number(ml_dtypes.bfloat16, TensorProto.BFLOAT16, 2.0**128 - 2.0**120),
}


class Graph:
    """Nodes and initializers under construction.

    precision: what everything but normalisation computes in. channels_last: whether normalisation does it on maps whose
    channels are the last dimension, as integer convolutions leave them.
    """

    def __init__(
        self, parameters: Arrays, lrn: LrnLowering, precision: str = "float32", channels_last: bool = False
    ) -> None:
        self.parameters, self.lrn, self.precision, self.channels_last = parameters, lrn, precision, channels_last
        self.number = NUMBERS[precision]
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def node(self, op: str, inputs: list[str], output: str, name: str = "", **attributes: Any) -> str:
        """Append a node; its name is its output's unless stated. Returns the name of its output."""
        self.nodes.append(helper.make_node(op, inputs, [output], name or output, **attributes))
        return output

    def constant(self, name: str, value: Array | float) -> str:
        """An initializer: a number as float32, an array as it is."""
        array = np.asarray(value) if isinstance(value, np.ndarray) else np.array(value, np.float32)
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def times(self, x: str, value: float, what: str, output: str, name: str = "") -> str:
        """`x` times a number, the constant `what`; in float32 where the graph's precision does not have that number."""
        exact = np.array(value, np.float32)
        rounded = np.array(exact, self.number.numpy)
        if np.array(rounded, np.float32) == exact:
            return self.node("Mul", [x, self.constant(what, rounded)], output, name)
        wide = self.cast(x, "float32", f"{output}.wide")
        product = self.node("Mul", [wide, self.constant(what, exact)], f"{output}.product", name)
        return self.cast(product, self.precision, output, f"{output}.narrow")

    def reshape(self, x: str, shape: tuple[int, ...], output: str, name: str = "") -> str:
        return self.node("Reshape", [x, self.constant(f"{output}.shape", np.array(shape, np.int64))], output, name)

    def cast(self, x: str, number: str, output: str, name: str = "") -> str:
        """`x` as numbers of another type."""
        return self.node("Cast", [x], output, name, to=NUMBERS[number].onnx)

    def layer_parameters(self, name: str) -> list[str]:
        """The initializers of a layer: its weight, and its bias if it has one. Raises Unsupported where a number is
        larger than the largest of the precision."""
        found = [f"{name}.{what}" for what in ("weight", "bias") if f"{name}.{what}" in self.parameters]
        return [self.constant(parameter, self._rounded(parameter)) for parameter in found]

    def _rounded(self, parameter: str) -> Array:
        value = np.asarray(self.parameters[parameter], np.float32)
        largest = float(np.abs(value).max(initial=0))
        if self.precision != "float32" and largest > self.number.largest:
            raise Unsupported(
                f"{parameter} must be within {self.number.largest:g}, the largest {self.precision}. "
                f"Received: {largest:g}"
            )
        return value.astype(self.number.numpy)
