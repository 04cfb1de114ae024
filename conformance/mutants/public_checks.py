"""What the checks that the field trusts would notice: the baseline that this suite is held against.

ONNX's own backend tests are translated into specifications as far as the language can say them: the node tests of its
operators with their inputs, and the model test ``bvlc_alexnet``. The same backend with the same mutant in it then
answers them, and is judged as ONNX judges (rtol 1e-3, atol 1e-7). A third check looks at shapes alone.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from backends.base import Array
from backends.registry import backend_class
from conformance.mutants.mutant import Mutant
from conformance.mutants.witnesses import WITNESSES, Layers, specification
from spec import Spec, geometry

CASES = ("averagepool", "conv", "dropout", "flatten", "gemm", "lrn", "maxpool", "relu", "tanh")
"""Modules of onnx.backend.test.case.node with the operators of the language."""
RTOL, ATOL = 1e-3, 1e-7
Attributes = dict[str, Any]


@dataclass(frozen=True)
class Vector:
    """One public test: a specification, what goes in, and what must come out of one of its layers."""

    name: str
    spec: Spec
    parameters: dict[str, Array]
    images: Array
    layer: str
    expected: Array
    softmax: bool = False
    """What is expected is the softmax of the layer's output."""

    def passed_by(self, backend: str) -> bool:
        """Whether `backend` passes, in float32, in this process as it is."""
        try:
            made: Any = backend_class(backend)(self.spec, dtype="float32")
            made.load(self.parameters)
            found = np.asarray(made.outputs(self.images)[self.layer])
        except (ValueError, RuntimeError):  # a backend that breaks down does not pass
            return False
        if self.softmax:
            shifted = np.exp(found - found.max(axis=1, keepdims=True))
            found = shifted / shifted.sum(axis=1, keepdims=True)
        if found.size != self.expected.size:
            return False
        return bool(np.allclose(found.reshape(self.expected.shape), self.expected, rtol=RTOL, atol=ATOL))


class NotSaid(ValueError):
    """The language cannot say what a test asks."""


# --- node tests -------------------------------------------------------------------------------------------------------


def _attributes(node: onnx.NodeProto) -> Attributes:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _pads(given: Attributes, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int]) -> list[int]:
    """(top, left, bottom, right): stated, or what ``auto_pad`` means on maps of `sizes`."""
    auto = given.get("auto_pad", b"NOTSET").decode()
    if auto in ("NOTSET", "VALID"):
        return list(given.get("pads", [0, 0, 0, 0]))
    totals = [max(0, (-(-size // s) - 1) * s + k - size) for size, k, s in zip(sizes, kernel, strides)]
    less = [total // 2 for total in totals]
    more = [total - half for total, half in zip(totals, less)]
    return [*less, *more] if auto == "SAME_UPPER" else [*more, *less]


def _window(given: Attributes, kernel: Sequence[int], shape: Sequence[int]) -> dict[str, Any]:
    if len(shape) != 4:
        raise NotSaid(f"maps of shape {tuple(shape)}")
    if any(d != 1 for d in given.get("dilations", [])) or given.get("storage_order"):
        raise NotSaid("dilations or a storage order")
    strides = given.get("strides", [1, 1])
    top, left, bottom, right = _pads(given, shape[2:], kernel, strides)
    return {
        "kernel": {"height": kernel[0], "width": kernel[1]},
        "stride": {"height": strides[0], "width": strides[1]},
        "padding": {"top": top, "bottom": bottom, "left": left, "right": right},
        "rounding": "ceil" if given.get("ceil_mode") else "floor",
    }


Said = tuple[dict[str, Any], dict[str, Array]]
"""A layer and its parameters by their short names."""


def _conv(given: Attributes, x: Array, *parameters: Array) -> Said:
    weight = parameters[0]
    window = _window(given, weight.shape[2:], x.shape)
    layer = {"op": "conv", "out_channels": len(weight), "groups": given.get("group", 1), **window}
    return layer | {"bias": len(parameters) > 1}, dict(zip(("weight", "bias"), parameters))


def _max_pool(given: Attributes, x: Array) -> Said:
    return {"op": "max_pool", **_window(given, given["kernel_shape"], x.shape)}, {}


def _avg_pool(given: Attributes, x: Array) -> Said:
    window = _window(given, given["kernel_shape"], x.shape)
    padded = bool(given.get("count_include_pad"))
    if padded and window["rounding"] == "ceil":
        raise NotSaid("a divisor that counts padding and not what rounding adds")
    return {"op": "avg_pool", "divisor": "window" if padded else "inside", **window}, {}


def _lrn(given: Attributes, x: Array) -> Said:
    size = given["size"]
    numbers = {"alpha": given.get("alpha", 1e-4), "beta": given.get("beta", 0.75), "k": given.get("bias", 1.0)}
    return {"op": "lrn", "size": size, "before": (size - 1) // 2, "alpha_over": "size", **numbers}, {}


def _gemm(given: Attributes, a: Array, b: Array, c: Array | None = None) -> Said:
    weight = b if given.get("transB") else b.T
    if given.get("transA") or given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0:
        raise NotSaid("a product that is transposed or scaled")
    if c is not None and c.ndim > 1 and len(c) > 1:
        raise NotSaid("a bias that differs between images")
    layer = {"op": "dense", "out_features": len(weight), "bias": c is not None}
    bias = {} if c is None else {"bias": np.array(np.broadcast_to(c.reshape(-1), (len(weight),)))}
    return layer, {"weight": weight, **bias}


def _dropout(given: Attributes, x: Array, *rest: Array) -> Said:
    if len(rest) > 1 and bool(rest[1]):
        raise NotSaid("a mask that the test does not give")
    return {"op": "dropout", "rate": 0.5, "scale": "train"}, {}


def _flatten(given: Attributes, x: Array) -> Said:
    if given.get("axis", 1) % x.ndim != 1 or x.ndim != 4:
        raise NotSaid("another axis")
    return {"op": "flatten"}, {}


_ELEMENTWISE = ("Relu", "Tanh", "Dropout")
_SAY: dict[str, Callable[..., Said]] = {
    "Conv": _conv,
    "MaxPool": _max_pool,
    "AveragePool": _avg_pool,
    "LRN": _lrn,
    "Gemm": _gemm,
    "Relu": lambda given, x: ({"op": "relu"}, {}),
    "Tanh": lambda given, x: ({"op": "tanh"}, {}),
    "Dropout": _dropout,
    "Flatten": _flatten,
}


def _said(name: str, node: onnx.NodeProto, inputs: Sequence[Array], expected: Array) -> Vector:
    """The node test as a vector: the layer, and behind it what makes a network of it. Raises NotSaid."""
    x = np.asarray(inputs[0])
    if x.dtype != np.float32:
        raise NotSaid(f"numbers of type {x.dtype}")
    layer, parameters = _SAY[node.op_type](_attributes(node), *inputs)
    if node.op_type in _ELEMENTWISE:
        x = x.reshape(-1, 1, 1, 1)
    elif layer["op"] == "dense":
        x = x.reshape(*x.shape, 1, 1)
    last: Layers = {"end": {"op": "dense", "out_features": 1, "bias": False}}
    before: Layers = {"flat": {"op": "flatten"}} if layer["op"] == "dense" else {}
    flat: Layers = {} if layer["op"] in ("dense", "flatten") else {"flat": {"op": "flatten"}}
    spec = _oblong(specification((x.shape[1], max(x.shape[2:])), {**before, "layer": layer, **flat, **last}), x)
    given = {f"layer.{what}": np.asarray(value, np.float32) for what, value in parameters.items()}
    shapes = {name: shape for place in geometry(spec).layers for name, shape in place.parameters.items()}
    zeros = {name: np.zeros(shape, np.float32) for name, shape in shapes.items() if name not in given}
    return Vector(name, spec, given | zeros, x, "layer", np.asarray(expected))


def _oblong(spec: Spec, images: Array) -> Spec:
    """`spec` for images of this size. A file may not say so, since its data are square; backends do not mind."""
    _, channels, height, width = images.shape
    size = {"channels": channels, "height": height, "width": width}
    return spec.model_copy(update={"input": spec.input.model_copy(update=size)})


def _node_cases() -> Iterator[Any]:
    """Tests of one node. What onnx collects is a list that importing the modules of cases fills."""
    node = importlib.import_module("onnx.backend.test.case.node")
    for case in CASES:
        importlib.import_module(f"onnx.backend.test.case.node.{case}")
    for test in node._NodeTestCases:
        if len(test.model.graph.node) == 1 and test.model.graph.node[0].op_type in _SAY:
            yield test


@cache
def node_vectors() -> tuple[tuple[Vector, ...], dict[str, str]]:
    """(the node tests that the language can say, why it cannot say the others by their names)."""
    vectors, others = [], {}
    for test in _node_cases():
        inputs, outputs = test.data_sets[0]
        try:
            if len(outputs) > 1:
                raise NotSaid("a second output")
            vectors.append(_said(test.name, test.model.graph.node[0], inputs, outputs[0]))
        except NotSaid as error:
            others[test.name] = str(error)
    return tuple(vectors), others


# --- the model test ---------------------------------------------------------------------------------------------------


def model_vector() -> Vector:
    """``bvlc_alexnet`` of onnx's model tests, in the light form in which it ships: every parameter is 0.02."""
    folder = Path(onnx.__file__).parent / "backend/test/data/light"
    graph = onnx.load(folder / "light_bvlc_alexnet.onnx").graph
    sizes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    constants = {
        node.output[0]: np.full(sizes[node.input[0]], numpy_helper.to_array(_attributes(node)["value"])[0], np.float32)
        for node in graph.node
        if node.op_type == "ConstantOfShape"
    }
    _, channels, side, _ = _dimensions(graph)
    layers: Layers = {}
    parameters: dict[str, Array] = {}
    shape: tuple[int, ...] = (1, channels, side, side)
    for node in graph.node:
        if node.op_type in ("ConstantOfShape", "Softmax"):
            continue
        name = f"layer{len(layers)}"
        own = [constants[i] for i in node.input[1:] if i in constants]
        say = _flatten if node.op_type == "Reshape" else _SAY[node.op_type]
        layer, given = say(_attributes(node), np.broadcast_to(np.float32(0), shape), *own)
        layers[name] = layer
        parameters |= {f"{name}.{what}": value for what, value in given.items()}
        shape = (1, *geometry(specification((channels, side), _ended(layers))).layers[len(layers) - 1].output_shape)
    proto = onnx.TensorProto.FromString((folder / "light_bvlc_alexnet_output_0.pb").read_bytes())
    count = channels * side * side
    images = (np.arange(count) / count).astype(np.float32).reshape(1, channels, side, side)
    expected = numpy_helper.to_array(proto)
    return Vector("bvlc_alexnet", specification((channels, side), layers), parameters, images, name, expected, True)


def _ended(layers: Layers) -> Layers:
    ends_flat = any(layer["op"] == "flatten" for layer in layers.values())
    return layers if ends_flat else {**layers, "end": {"op": "flatten"}}


def _dimensions(graph: onnx.GraphProto) -> tuple[int, ...]:
    return tuple(d.dim_value for d in graph.input[0].type.tensor_type.shape.dim)


# --- who survives -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Survival:
    """Which public tests a mutant fails (none: it survives), and whether it keeps every shape on its witness."""

    mutant: Mutant
    node_tests_failed: tuple[str, ...]
    model_passed: bool | None
    """None: not run."""
    shapes_kept: bool


def survival(mutant: Mutant, backend: str, *, model: Vector | None = None) -> Survival:
    """Put `mutant` into this process and ask `backend` the public tests."""
    vectors, _ = node_vectors()
    _shapes(mutant.witness)
    with mutant.apply():
        failed = tuple(vector.name for vector in vectors if not vector.passed_by(backend))
        passed = model.passed_by(backend) if model else None
        kept = _keeps_shapes(mutant, backend)
    return Survival(mutant, failed, passed, kept)


def _keeps_shapes(mutant: Mutant, backend: str) -> bool:
    """Whether every output has its shape: what a check of shapes alone sees."""
    given = WITNESSES[mutant.witness].inputs()
    try:
        made: Any = backend_class(backend)(given.spec, dtype="float32")
        made.load(given.parameters)
        found = {name: array.shape[1:] for name, array in made.outputs(given.images).items()}
    except (ValueError, RuntimeError):
        return False
    return found == _shapes(mutant.witness)


@cache
def _shapes(witness: str) -> dict[str, tuple[int, ...]]:
    """What the specification says; asked for before a mutant is in this process."""
    return {place.name: place.output_shape for place in geometry(WITNESSES[witness].spec).layers}


@dataclass(frozen=True)
class Survivals:
    """What public checks notice of the mutants of one backend."""

    backend: str
    vectors: int
    """Node tests that the language can say."""
    unsaid: int
    """Node tests that it cannot."""
    model: bool
    """Whether the model test could be asked: a right backend must pass it."""
    found: tuple[Survival, ...]
    """Of the mutants of the outputs in evaluation."""
    beyond: int
    """Mutants of anything else, where no public check looks."""

    def record(self) -> dict[str, Any]:
        """For the evidence file."""
        return {
            "backend": self.backend,
            "node_tests": self.vectors,
            "node_tests_unsaid": self.unsaid,
            "model_test": self.model,
            "mutants_of_other_things": self.beyond,
            "mutants": [
                {
                    "mutant": one.mutant.name,
                    "node_tests_failed": list(one.node_tests_failed),
                    "model_passed": one.model_passed,
                    "shapes_kept": one.shapes_kept,
                }
                for one in self.found
            ],
        }


def survivals(mutants: Sequence[Mutant], backend: str, *, model: bool = True) -> Survivals:
    """Ask `backend` with each mutant in it. model False: without the model test, which takes minutes.

    Raises ValueError if the backend without a mutant fails a node test.
    """
    vectors, others = node_vectors()
    network = model_vector() if model else None
    wrong = [vector.name for vector in vectors if not vector.passed_by(backend)]
    if wrong:
        raise ValueError(
            f"{backend} without a mutant must pass ONNX's node tests. Received failures: {', '.join(wrong)}"
        )
    if network and not network.passed_by(backend):
        network = None  # its scores tie in exact arithmetic alone
    asked = [mutant for mutant in mutants if mutant.expected_check == "evaluation-outputs"]
    found = tuple(survival(mutant, backend, model=network) for mutant in asked)
    return Survivals(backend, len(vectors), len(others), network is not None, found, len(mutants) - len(asked))


def report(all_: Survivals) -> str:
    """Who survives what, in lines and in numbers."""
    lines = [f"{all_.backend}: {all_.vectors} node tests of ONNX can be said in the language, {all_.unsaid} cannot."]
    if not all_.model:
        lines.append("The model test is left out: not asked for, or failed without a mutant, since its scores tie.")
    counted = Counter[str]()
    for one in all_.found:
        failed = ", ".join(one.node_tests_failed) or "none"
        fate = {None: "not run", True: "passed", False: "failed"}[one.model_passed]
        shapes = "kept" if one.shapes_kept else "changed"
        lines.append(f"{one.mutant.name}: node tests failed: {failed}; model {fate}; shapes {shapes}")
        counted["node tests"] += not one.node_tests_failed
        counted["model test"] += one.model_passed is True
        counted["shapes"] += one.shapes_kept
    lines.append(f"of {len(all_.found)} mutants of the outputs in evaluation survive:")
    lines += [f"    {what}: {counted[what]}" for what in ("node tests", *["model test"] * all_.model, "shapes")]
    lines.append(f"{all_.beyond} mutants of anything else all survive: no public check looks there")
    return "\n".join(lines)
