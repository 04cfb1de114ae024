"""A network as a graph of tensors in neutral words: what readers of files make, and :mod:`export.recognition` reads.

A reader states each operation of its format through :meth:`Graph.make`. What depends on constants alone is computed at
once, what is the same is made once, shapes are known everywhere (one image in the batch where the file leaves it open).
Large arrays are held as shapes without values.

Operations act as in ONNX: convolutions, pools and lrn on (N, C, spatial...), everything else on plain arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
MAX_TENSORS = 20_000
MAX_RANK = 8
MAX_ELEMENTS = 2**31
MAX_COMPUTED = 2**24
"""Elements of the largest array that is computed with."""
MAX_WORK = 2**29
"""Multiplications of one operation that is computed."""


class Unreadable(ValueError):
    """A file's graph cannot be followed. One line: what was required and received, names of the file in it."""

    def __init__(self, words: str) -> None:
        super().__init__(one_line(words))


def one_line(words: str) -> str:
    """`words` without line ends and other characters that are none: a file may have them in its names."""
    return "".join(character if character.isprintable() else "?" for character in words)


@dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor: the operation that gives it and what it reads.

    `op` is ``input``, ``constant``, ``weight`` (a constant whose values were not read), a name of :data:`OPERATIONS`,
    or ``?`` and the file's own word for an operation that has no neutral one.
    """

    op: str
    inputs: tuple[Tensor, ...]
    shape: Shape
    attributes: Mapping[str, Any] = field(default_factory=dict)
    array: Array | None = None
    varies: bool = False
    """Whether it depends on the network's input."""
    number: int = 0
    """Tensors are numbered as they are made: an operation's inputs have smaller numbers."""

    @property
    def data(self) -> tuple[Tensor, ...]:
        """The inputs that depend on the network's input."""
        return tuple(tensor for tensor in self.inputs if tensor.varies)

    @property
    def scalar(self) -> float | None:
        """The value of a constant that has one element, or the same everywhere."""
        if self.array is None or not self.array.size or self.array.dtype.kind not in "fiub":
            return None
        first = self.array.flat[0]
        return float(first) if self.array.size == 1 or bool(np.all(self.array == first)) else None


# --- shapes -----------------------------------------------------------------------------------------------------------


def _spatial(inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> Shape:
    shape, kernel = inputs[0].shape, attributes["kernel"]
    if len(shape) != len(kernel) + 2:
        raise Unreadable(f"a window of {len(kernel)} sides must slide over maps. Received: a tensor of shape {shape}")
    found = []
    for size, window, stride, before, after, dilation in zip(
        shape[2:], kernel, attributes["strides"], *attributes["pads"], attributes.get("dilations", (1,) * len(kernel))
    ):
        if min(window, stride, dilation) < 1:
            raise Unreadable(f"kernels, strides and dilations must be positive. Received: {dict(attributes)}")
        free = size + before + after - dilation * (window - 1) - 1
        if free < 0:
            raise Unreadable(
                f"a kernel must fit into its map. Received: {window} on {size} with padding {before}, {after}"
            )
        found.append(free // stride + 1)
    return tuple(found)


def _conv(inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> Shape:
    weight = inputs[1].shape
    attributes = {**attributes, "kernel": weight[2:]}
    if len(weight) != len(inputs[0].shape) or weight[1] * attributes["groups"] != inputs[0].shape[1]:
        raise Unreadable(
            f"a kernel must fit the maps {inputs[0].shape}. Received: {weight}, groups {attributes['groups']}"
        )
    return (inputs[0].shape[0], weight[0], *_spatial(inputs, attributes))


def _pool(inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> Shape:
    return (*inputs[0].shape[:2], *_spatial(inputs, attributes))


def _broadcast(inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> Shape:
    return np.broadcast_shapes(*(tensor.shape for tensor in inputs))


def _same(inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> Shape:
    return inputs[0].shape


def _matmul(inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> Shape:
    one, other = inputs[0].shape, inputs[1].shape
    if len(one) < 2 or len(other) < 2 or one[-1] != other[-2]:
        raise Unreadable(f"the factors of a product must fit. Received: {one} and {other}")
    return (*np.broadcast_shapes(one[:-2], other[:-2]), one[-2], other[-1])


def _reshape(inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> Shape:
    shape, size = list(attributes["shape"]), math.prod(inputs[0].shape)
    if shape.count(-1) > 1 or any(side < -1 for side in shape):
        raise Unreadable(f"a shape must have at most one open side. Received: {shape}")
    if -1 in shape:
        rest = -math.prod(shape)
        shape[shape.index(-1)] = size // rest if rest else 0
    if math.prod(shape) != size:
        raise Unreadable(f"a shape must have the {size} elements of {inputs[0].shape}. Received: {shape}")
    return tuple(shape)


def _transpose(inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> Shape:
    perm = attributes["perm"]
    if sorted(perm) != list(range(len(inputs[0].shape))):
        raise Unreadable(f"a transposition must name each axis of {inputs[0].shape} once. Received: {perm}")
    return tuple(inputs[0].shape[axis] for axis in perm)


def _concat(inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> Shape:
    axis, first = attributes["axis"], inputs[0].shape
    others = {tensor.shape[:axis] + tensor.shape[axis + 1 :] for tensor in inputs}
    if len(others) != 1:
        raise Unreadable(f"what is joined must agree. Received: {', '.join(str(tensor.shape) for tensor in inputs)}")
    return (*first[:axis], sum(tensor.shape[axis] for tensor in inputs), *first[axis + 1 :])


def _slice(inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> Shape:
    spans = zip(inputs[0].shape, attributes["spans"])
    return tuple(len(range(*slice(*span).indices(size))) for size, span in spans)


def _pad(inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> Shape:
    before, after = attributes["pads"]
    return tuple(size + b + a for size, b, a in zip(inputs[0].shape, before, after))


def _gather(inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> Shape:
    shape, axis = inputs[0].shape, attributes["axis"]
    return (*shape[:axis], *inputs[1].shape, *shape[axis + 1 :])


def _local(inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> Shape:
    return (inputs[0].shape[0], attributes["out_channels"], *_spatial(inputs, attributes))


def _reduce(inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> Shape:
    axes, keep = attributes["axes"], attributes["keep"]
    return tuple(1 if i in axes else size for i, size in enumerate(inputs[0].shape) if keep or i not in axes)


# --- values -----------------------------------------------------------------------------------------------------------


def _windows(x: Array, attributes: Mapping[str, Any], value: float) -> Array:
    """(N, C, out..., kernel...): the windows of padded x."""
    before, after = attributes["pads"]
    rank = len(attributes["kernel"])
    padded = np.pad(x, ((0, 0), (0, 0), *zip(before, after)), constant_values=value)
    axes = tuple(range(2, 2 + rank))
    views = np.lib.stride_tricks.sliding_window_view(padded, tuple(attributes["kernel"]), axes)  # type: ignore[call-overload]
    steps = (slice(None), slice(None), *(slice(None, None, stride) for stride in attributes["strides"]))
    return np.asarray(views[steps])


def _conv_value(arrays: Sequence[Array], attributes: Mapping[str, Any]) -> Array:
    x, weight, groups = arrays[0], arrays[1], attributes["groups"]
    if any(dilation != 1 for dilation in attributes.get("dilations", ())):
        raise Unreadable("a dilated convolution is not computed here")
    rank = weight.ndim - 2
    windows = _windows(x, {**attributes, "kernel": weight.shape[2:]}, 0.0)
    parts = []
    axes = ([1, *range(2 + rank, 2 + 2 * rank)], list(range(1, 2 + rank)))
    for part, kernel in zip(np.split(windows, groups, 1), np.split(weight, groups, 0)):
        parts.append(np.moveaxis(np.tensordot(part, kernel, axes=axes), -1, 1))
    out = np.concatenate(parts, 1)
    return out + arrays[2].reshape(1, -1, *([1] * rank)) if len(arrays) > 2 else out


def _avg_pool_value(arrays: Sequence[Array], attributes: Mapping[str, Any]) -> Array:
    axes = tuple(range(-len(attributes["kernel"]), 0))
    total = _windows(arrays[0], attributes, 0.0).sum(axes)
    if attributes["include_pad"]:
        return np.asarray(total / math.prod(attributes["kernel"]))
    return np.asarray(total / _windows(np.ones_like(arrays[0]), attributes, 0.0).sum(axes))


def _lrn_value(arrays: Sequence[Array], attributes: Mapping[str, Any]) -> Array:
    x, size = arrays[0], attributes["size"]
    before = (size - 1) // 2
    padded = np.pad(x * x, ((0, 0), (before, size - 1 - before), *([(0, 0)] * (x.ndim - 2))))
    total = sum(padded[:, i : i + x.shape[1]] for i in range(size))
    return np.asarray(x / (attributes["bias"] + attributes["alpha"] / size * total) ** attributes["beta"])


def _softmax_value(arrays: Sequence[Array], attributes: Mapping[str, Any]) -> Array:
    power = np.exp(arrays[0] - arrays[0].max(attributes["axis"], keepdims=True))
    return np.asarray(power / power.sum(attributes["axis"], keepdims=True))


def _opaque(arrays: Sequence[Array], attributes: Mapping[str, Any]) -> Array:
    raise Unreadable("a layer that a file states whole is not computed here")


@dataclass(frozen=True)
class Operation:
    """The shape that an operation gives, and its value for arrays."""

    shape: Callable[[Sequence[Tensor], Mapping[str, Any]], Shape]
    value: Callable[[Sequence[Array], Mapping[str, Any]], Array]


def _elementwise(function: Callable[..., Any]) -> Operation:
    return Operation(_broadcast, lambda arrays, attributes: np.asarray(function(*arrays)))


def _quotient(one: Array, other: Array) -> Array:
    """Whole numbers divide to whole numbers, as in ONNX."""
    return np.asarray(one // other if one.dtype.kind == other.dtype.kind == "i" else one / other)


OPERATIONS: Mapping[str, Operation] = {
    "conv": Operation(_conv, _conv_value),
    "max_pool": Operation(_pool, lambda a, at: _windows(a[0], at, -np.inf).max(tuple(range(-len(at["kernel"]), 0)))),
    "avg_pool": Operation(_pool, _avg_pool_value),
    "lrn": Operation(_same, _lrn_value),
    "norm": Operation(_same, _opaque),
    "local": Operation(_local, _opaque),
    "softmax": Operation(_same, _softmax_value),
    "dropout": Operation(_same, lambda a, at: a[0]),
    "relu": _elementwise(lambda x: np.maximum(x, 0)),
    "tanh": _elementwise(np.tanh),
    "add": _elementwise(np.add),
    "mul": _elementwise(np.multiply),
    "div": _elementwise(_quotient),
    "pow": _elementwise(np.power),
    "max": _elementwise(np.maximum),
    "min": _elementwise(np.minimum),
    "sqrt": _elementwise(np.sqrt),
    "exp": _elementwise(np.exp),
    "log": _elementwise(np.log),
    "abs": _elementwise(np.abs),
    "floor": _elementwise(np.floor),
    "equal": _elementwise(np.equal),
    "where": _elementwise(np.where),
    "matmul": Operation(_matmul, lambda a, at: a[0] @ a[1]),
    "reshape": Operation(_reshape, lambda a, at: a[0].reshape(at["shape"])),
    "transpose": Operation(_transpose, lambda a, at: a[0].transpose(at["perm"])),
    "concat": Operation(_concat, lambda a, at: np.concatenate(a, at["axis"])),
    "slice": Operation(_slice, lambda a, at: a[0][tuple(slice(*span) for span in at["spans"])]),
    "pad": Operation(_pad, lambda a, at: np.pad(a[0], tuple(zip(*at["pads"])), constant_values=at["value"])),
    "gather": Operation(_gather, lambda a, at: np.take(a[0], a[1].astype(np.int64), at["axis"])),
    "expand": Operation(
        lambda i, at: np.broadcast_shapes(i[0].shape, tuple(at["shape"])),
        lambda a, at: np.broadcast_to(a[0], np.broadcast_shapes(a[0].shape, tuple(at["shape"]))),
    ),
    "sum": Operation(_reduce, lambda a, at: np.asarray(a[0].sum(at["axes"], keepdims=at["keep"]))),
    "mean": Operation(_reduce, lambda a, at: np.asarray(a[0].mean(at["axes"], keepdims=at["keep"]))),
    "product": Operation(_reduce, lambda a, at: np.asarray(a[0].prod(at["axes"], keepdims=at["keep"]))),
}


class Graph:
    """Makes tensors; the same operation on the same tensors is made once."""

    def __init__(self) -> None:
        self._made: dict[Any, Tensor] = {}
        self._count = 0

    def input(self, shape: Shape) -> Tensor:
        return self._new("input", (), shape, {}, None, True)

    def constant(self, array: Any) -> Tensor:
        found = np.asarray(array)
        if found.dtype.kind not in "fiub":
            raise Unreadable(f"constants must be numbers. Received: {found.dtype}")
        return self._new("constant", (), found.shape, {}, found, False)

    def weight(self, shape: Shape) -> Tensor:
        """A constant whose values are not read."""
        return self._new("weight", (), shape, {}, None, False)

    def unknown(self, word: str, inputs: Sequence[Tensor], shape: Shape | None = None) -> Tensor:
        """An operation that has no neutral word; its shape is that of its first input that varies unless stated."""
        first = next((tensor for tensor in inputs if tensor.varies), None)
        found = shape if shape is not None else first.shape if first is not None else ()
        return self._new(f"?{word}", tuple(inputs), found, {}, None, first is not None)

    def make(self, op: str, *inputs: Tensor, **attributes: Any) -> Tensor:
        """The tensor that `op` of :data:`OPERATIONS` gives. Raises Unreadable if shapes do not fit."""
        simpler = _SIMPLER.get(op)
        if simpler is not None and (found := simpler(self, inputs, attributes)) is not None:
            return found
        try:
            shape = OPERATIONS[op].shape(inputs, attributes)
        except (ValueError, TypeError, IndexError, KeyError) as error:
            if isinstance(error, Unreadable):
                raise
            given = ", ".join(str(tensor.shape) for tensor in inputs)
            raise Unreadable(f"the operands of {op} must fit. Received: {given}") from None
        arrays = [tensor.array for tensor in inputs]
        if all(array is not None for array in arrays) and _computable(op, inputs, shape, attributes):
            return self.constant(_value(op, [array for array in arrays if array is not None], attributes))
        varies = any(tensor.varies for tensor in inputs)
        if not varies:
            return self.weight(shape)
        key = (op, tuple(tensor.number for tensor in inputs), _frozen(attributes))
        if key not in self._made:
            self._made[key] = self._new(op, inputs, shape, attributes, None, True)
        return self._made[key]

    def _new(
        self,
        op: str,
        inputs: tuple[Tensor, ...],
        shape: Shape,
        attributes: Mapping[str, Any],
        array: Array | None,
        varies: bool,
    ) -> Tensor:
        self._count += 1
        if self._count > MAX_TENSORS:
            raise Unreadable(f"a graph must have at most {MAX_TENSORS} tensors. Received: more")
        if len(shape) > MAX_RANK or any(side < 0 for side in shape) or math.prod(shape) > MAX_ELEMENTS:
            raise Unreadable(
                f"a tensor must have at most {MAX_RANK} axes and {MAX_ELEMENTS} elements. Received: {shape}"
            )
        return Tensor(op, inputs, tuple(map(int, shape)), attributes, array, varies, self._count)


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return tuple((key, _frozen(item)) for key, item in sorted(value.items()))
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def _computable(op: str, inputs: Sequence[Tensor], shape: Shape, attributes: Mapping[str, Any]) -> bool:
    """Whether an operation is small enough to be carried out."""
    each = (
        inputs[1].shape[1:]
        if op == "conv"
        else inputs[0].shape[-1:]
        if op == "matmul"
        else attributes.get("kernel", ())
    )
    return math.prod(shape) <= MAX_COMPUTED and math.prod(shape) * math.prod(each) <= MAX_WORK


def _value(op: str, arrays: list[Array], attributes: Mapping[str, Any]) -> Array:
    try:
        with np.errstate(all="ignore"):
            return np.asarray(OPERATIONS[op].value(arrays, attributes))
    except (ValueError, TypeError, IndexError, KeyError, MemoryError) as error:
        raise Unreadable(f"{op} must be computable. Received: {str(error).splitlines()[0][:120]}") from None


# --- what is simpler said otherwise -----------------------------------------------------------------------------------

_Simpler = Callable[[Graph, Sequence[Tensor], Mapping[str, Any]], Tensor | None]


def _simpler_reshape(graph: Graph, inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> Tensor | None:
    (x,) = inputs
    shape = _reshape(inputs, attributes)
    if shape == x.shape:
        return x
    if x.op == "reshape" and shape == x.inputs[0].shape:
        return x.inputs[0]
    return None if tuple(attributes["shape"]) == shape else graph.make("reshape", x, shape=shape)


def _simpler_transpose(graph: Graph, inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> Tensor | None:
    (x,) = inputs
    perm = tuple(attributes["perm"])
    if perm == tuple(range(len(x.shape))):
        return x
    if x.op == "transpose" and len(perm) == len(x.shape):
        return graph.make("transpose", x.inputs[0], perm=tuple(x.attributes["perm"][axis] for axis in perm))
    return None


def _simpler_slice(graph: Graph, inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> Tensor | None:
    whole = all(
        span[2] == 1 and span[0] == 0 and span[1] == size for span, size in zip(attributes["spans"], inputs[0].shape)
    )
    return inputs[0] if whole else None


def _simpler_pow(graph: Graph, inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> Tensor | None:
    x, exponent = inputs
    return graph.make("mul", x, x) if exponent.scalar == 2 else None


def _simpler_div(graph: Graph, inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> Tensor | None:
    x, divisor = inputs
    if not x.varies or divisor.scalar in (None, 0):
        return None
    return graph.make("mul", x, graph.constant(1.0 / float(divisor.scalar or 1)))


def _simpler_max(graph: Graph, inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> Tensor | None:
    varying = [tensor for tensor in inputs if tensor.varies]
    zero = [tensor for tensor in inputs if tensor.scalar == 0]
    return graph.make("relu", varying[0]) if len(inputs) == 2 and varying and zero else None


_SIMPLER: Mapping[str, _Simpler] = {
    "reshape": _simpler_reshape,
    "transpose": _simpler_transpose,
    "slice": _simpler_slice,
    "pow": _simpler_pow,
    "div": _simpler_div,
    "max": _simpler_max,
}


def compute(tensor: Tensor, given: Mapping[Tensor, Array]) -> Array:
    """The value of `tensor` where those of `given` are known, in float64. Raises Unreadable if it depends on others."""
    known: dict[Tensor, Array] = dict(given)
    pending = [tensor]
    while pending:
        last = pending[-1]
        if last in known:
            pending.pop()
            continue
        if last.array is not None:
            known[last] = last.array.astype(np.float64) if last.array.dtype.kind == "f" else last.array
            continue
        if last.op not in OPERATIONS or not _computable(last.op, last.inputs, last.shape, last.attributes):
            raise Unreadable(f"{last.op} must be computable. Received: shape {last.shape}")
        missing = [source for source in last.inputs if source not in known]
        if missing:
            pending += missing
            continue
        known[last] = _value(last.op, [known[source] for source in last.inputs], last.attributes)
        pending.pop()
    return known[tensor]


__all__ = ["OPERATIONS", "Array", "Graph", "Operation", "Shape", "Tensor", "Unreadable", "compute", "one_line"]
