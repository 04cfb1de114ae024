"""From a graph of neutral tensors to the steps of a network, in the words of :mod:`spec.structure`.

All paths from the input to the output run through some tensors: between two of them in a row lies either one operation,
or a place where paths part and meet again. Such a place is a response normalisation (recognised by what it computes),
or slices or towers of channels that are joined again (one layer with groups). What is neither, and operations that have
no word in the language, become steps of their own with the file's word.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from export import normalisation
from export.tensors import Shape, Tensor, Unreadable
from spec.structure import Step, effective_padding

MAPS = (0, 1, 2, 3)
"""The axes of (N, C, H, W) in their order."""
MAX_STEPS = 400


@dataclass
class Chain:
    """The steps read so far, and what the tensor at their end is.

    layout: which of the canonical axes (N, C, H, W) each axis of the tensor is while it is maps; None for vectors.
    """

    steps: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    layout: tuple[int, ...] | None = MAPS
    shape: Shape = ()
    """Canonical and without the batch: (C, H, W) or (F,)."""
    flatten: str = ""
    """The order in which maps became a vector: ``chw``, ``hwc``, or another; empty where it makes no difference."""
    padding: tuple[tuple[int, ...], tuple[int, ...], float] | None = None
    """(top and left, bottom and right, value) of a pad that waits for its window."""
    counts: dict[str, int] = field(default_factory=dict)
    slice: tuple[int, int] | None = None
    """The channels that a tower starts with, if not all."""

    def add(self, op: str, facts: Mapping[str, Any], output: Shape) -> None:
        if len(self.steps) >= MAX_STEPS:
            raise Unreadable(f"a network must have at most {MAX_STEPS} steps. Received: more")
        self.steps.append(Step(self.name(op), op, dict(facts), self.shape, output))
        self.shape = output

    def name(self, op: str) -> str:
        """conv1, relu1, norm1, pool1, conv2, ..., fc6, relu6: counted by the layers that have weights."""
        if op in _WEIGHTED:
            self.counts["weighted"] = self.counts.get("weighted", 0) + 1
        wish = f"{_NAMES.get(op, op.lower().replace(' ', '_'))}{self.counts.get('weighted', 0)}"
        self.counts[wish] = self.counts.get(wish, 0) + 1
        return wish if self.counts[wish] == 1 else f"{wish}_{self.counts[wish]}"


_WEIGHTED = ("conv", "local", "dense")
_NAMES = {
    "dense": "fc",
    "lrn": "norm",
    "spatial_norm": "cnorm",
    "max_pool": "pool",
    "avg_pool": "pool",
    "dropout": "drop",
}


def chain(source: Tensor, output: Tensor) -> Chain:
    """The steps between a network's input and output. Raises Unreadable if there are none."""
    if not output.varies or len(source.shape) != 4:
        raise Unreadable("a network's output must depend on its input of four axes. Received: another graph")
    start = Chain(layout=_first_layout(source, output))
    axes = start.layout
    assert axes is not None
    start.shape = tuple(source.shape[axes.index(axis)] for axis in (1, 2, 3))
    read = _read(source, output, start)
    read.steps = [_dropped(step) if step.op == "scale" else step for step in read.steps]
    return read


def _dropped(step: Step) -> Step:
    """A factor below one is what a dropout of the paper's kind leaves in evaluation."""
    factor = step.facts["factor"]
    if not 0 < factor < 1:
        return replace(step, op=f"multiplication by {factor:g}", facts={})
    return replace(step, op="dropout", facts={"rate": float(f"{1 - factor:.{normalisation.DIGITS}g}"), "scale": "test"})


def _first_layout(source: Tensor, output: Tensor) -> tuple[int, ...]:
    """Where N, C, H, W stand in the input, so that the first layer over maps finds them in its order."""
    layout = list(range(4))
    for tensor in milestones(source, output)[1:]:
        if tensor.op == "transpose" and len(tensor.shape) == 4:
            layout = [layout[axis] for axis in tensor.attributes["perm"]]
        elif tensor.op in ("conv", "max_pool", "avg_pool", "lrn") or tensor.op == "slice":
            break
    return tuple(int(axis) for axis in np.argsort(layout)) if layout != list(range(4)) else MAPS


def milestones(source: Tensor, output: Tensor) -> list[Tensor]:
    """The tensors that all paths from `source` to `output` run through, both of them included.

    In the order in which tensors were made, a tensor is one if no operation behind it reads a tensor before it.
    """
    between = _between(source, output)
    last_reader = {tensor.number: tensor.number for tensor in between}
    for tensor in between:
        for origin in tensor.inputs:
            if origin.number in last_reader and tensor is not source:
                last_reader[origin.number] = max(last_reader[origin.number], tensor.number)
    found, reach = [], 0
    for tensor in between:
        if reach <= tensor.number:
            found.append(tensor)
        reach = max(reach, last_reader[tensor.number])
    return found


def _between(source: Tensor, output: Tensor) -> list[Tensor]:
    """The tensors on the paths from `source` to `output`, in the order in which they were made."""
    above: dict[int, Tensor] = {}
    pending = [output]
    while pending:
        tensor = pending.pop()
        if tensor.number not in above and tensor.number >= source.number:
            above[tensor.number] = tensor
            pending += tensor.data if tensor is not source else []
    ordered = [above[number] for number in sorted(above)]
    below = {source.number}
    for tensor in ordered:
        if tensor is not source and any(origin.number in below for origin in tensor.inputs):
            below.add(tensor.number)
    return [tensor for tensor in ordered if tensor.number in below]


def _read(source: Tensor, output: Tensor, read: Chain) -> Chain:
    """`read` continued from `source` to `output`."""
    stones = milestones(source, output)
    if len(stones) < 2 or stones[0] is not source or stones[-1] is not output:
        raise Unreadable("all paths must lead from the input to the output. Received: another graph")
    position = 0
    while position < len(stones) - 1:
        for pattern in _PATTERNS:
            taken = pattern(read, stones[position:])
            if taken:
                position += taken
                break
        else:
            before, tensor = stones[position], stones[position + 1]
            _flush(read, tensor)
            if set(tensor.data) == {before}:
                _OPERATIONS.get(tensor.op, _other)(read, before, tensor)
            else:
                _region(read, before, tensor)
            position += 1
    return read


# --- single operations: (chain, tensor before, tensor) ----------------------------------------------------------------


def _canonical(read: Chain, tensor: Tensor) -> bool:
    return read.layout == MAPS and len(tensor.shape) == 4


def _maps(tensor: Tensor) -> Shape:
    return tensor.shape[1:]


def _window(read: Chain, before: Tensor, tensor: Tensor, value: float) -> dict[str, Any] | None:
    """Kernel, stride and effective padding, with a pad that waited for this window; None if it cannot be said."""
    at = tensor.attributes
    kernel = tuple(tensor.inputs[1].shape[2:]) if tensor.op == "conv" else tuple(at["kernel"])
    if len(kernel) != 2 or any(dilation != 1 for dilation in at.get("dilations", ())):
        return None
    top, left = at["pads"][0]
    sizes = read.shape[1:]
    if read.padding is not None:
        (above, beside), _, filled = read.padding
        rectified = bool(read.steps) and read.steps[-1].op == "relu" and filled == 0 and tensor.op == "max_pool"
        if filled != value and not rectified:
            return None
        top, left = top + above, left + beside
        read.padding = None
    padding = effective_padding(sizes, _maps(tensor)[1:], kernel, tuple(at["strides"]), (top, left))  # type: ignore[arg-type]
    return {"kernel": kernel, "stride": tuple(at["strides"]), "padding": padding}


def _conv(read: Chain, before: Tensor, tensor: Tensor) -> None:
    window = _window(read, before, tensor, 0.0) if _canonical(read, before) and not tensor.inputs[1].varies else None
    if window is None:
        dilated = any(dilation != 1 for dilation in tensor.attributes.get("dilations", ()))
        _unknown(read, tensor, "dilated convolution" if dilated else "convolution")
        return
    facts = {"out_channels": tensor.shape[1], "groups": tensor.attributes["groups"], "bias": len(tensor.inputs) > 2}
    read.add("conv", {**window, **facts}, _maps(tensor))


def _pool(read: Chain, before: Tensor, tensor: Tensor) -> None:
    average = tensor.op == "avg_pool"
    waited = read.padding is not None
    window = _window(read, before, tensor, 0.0 if average else -math.inf) if _canonical(read, before) else None
    if window is None:
        _unknown(read, tensor, "pooling")
        return
    if average:
        whole = tensor.attributes["include_pad"] or waited
        window["divisor"] = "window" if whole else "inside"
    read.add(tensor.op, window, _maps(tensor))


def _lrn(read: Chain, before: Tensor, tensor: Tensor) -> None:
    at = tensor.attributes
    if not _canonical(read, before):
        _unknown(read, tensor, "lrn")
        return
    near = (at["size"] - 1) // 2  # ONNX: an even window reaches further ahead
    numbers = {"coefficient": at["alpha"] / at["size"], "beta": at["beta"], "k": at["bias"]}
    rounded = {key: float(f"{value:.{normalisation.DIGITS}g}") for key, value in numbers.items()}
    read.add("lrn", {"before": near, "after": at["size"] - 1 - near, **rounded, "groups": 1}, read.shape)


def _relu(read: Chain, before: Tensor, tensor: Tensor) -> None:
    read.add("relu", {}, read.shape)


def _tanh(read: Chain, before: Tensor, tensor: Tensor) -> None:
    slope = 1.0
    if read.steps and read.steps[-1].op == "scale":
        slope = read.steps.pop().facts["factor"]
    read.add("tanh", {"amplitude": 1.0, "slope": slope}, read.shape)


def _dropout(read: Chain, before: Tensor, tensor: Tensor) -> None:
    read.add(
        "dropout", {"rate": tensor.attributes["rate"], "scale": tensor.attributes.get("scale", "train")}, read.shape
    )


def _transpose(read: Chain, before: Tensor, tensor: Tensor) -> None:
    if read.layout is None or len(tensor.shape) != 4:
        _unknown(read, tensor, "transpose")
        return
    read.layout = tuple(read.layout[axis] for axis in tensor.attributes["perm"])


def _reshape(read: Chain, before: Tensor, tensor: Tensor) -> None:
    """Maps become vectors, or vectors become maps of one place; anything else has no word."""
    batch, features = before.shape[0], math.prod(before.shape[1:])
    if read.layout is not None and tensor.shape == (batch, features):
        order = "".join("nchw"[axis] for axis in read.layout)[1:]
        if read.layout[0] != 0:
            _unknown(read, tensor, "reshape")
            return
        if len([size for size in read.shape if size > 1]) > 1:
            read.flatten = order
        read.layout, read.shape = None, (features,)
    elif read.layout is None and tensor.shape == (batch, features, 1, 1):
        read.layout, read.shape = MAPS, (features, 1, 1)
    else:
        _unknown(read, tensor, "reshape")


def _constant_of(tensor: Tensor) -> Tensor:
    return next(item for item in tensor.inputs if not item.varies)


def _add(read: Chain, before: Tensor, tensor: Tensor) -> None:
    """A bias, if a layer without one stands before it and the constant has its shape."""
    constant = _constant_of(tensor)
    last = read.steps[-1] if read.steps else None
    channels = read.shape[0] if read.shape else 0
    axis = read.layout.index(1) if read.layout is not None else 1
    wide = (1,) * (len(before.shape) - len(constant.shape)) + constant.shape
    one_each = all(size == (channels if i == axis else 1) for i, size in enumerate(wide))
    everywhere = last is not None and last.op == "local" and wide[1:] == before.shape[1:]
    if last is not None and last.op in _WEIGHTED and not last.facts["bias"] and (one_each or everywhere):
        read.steps[-1] = Step(last.name, last.op, {**last.facts, "bias": True}, last.input, last.output)
    elif constant.scalar == 0:
        return
    elif not read.steps:
        read.notes.append("the graph begins with preparation of its own: it adds constants to the input")
    else:
        _unknown(read, tensor, "addition of constants")


def _mul(read: Chain, before: Tensor, tensor: Tensor) -> None:
    if all(item.varies for item in tensor.inputs):
        _unknown(read, tensor, "square")
        return
    factor = _constant_of(tensor).scalar
    last = read.steps[-1] if read.steps else None
    if factor == 1:
        return
    if last is None:
        read.notes.append("the graph begins with preparation of its own: it multiplies the input by constants")
    elif factor is None:
        _unknown(read, tensor, "multiplication by constants")
    elif last.op == "tanh" and last.facts["amplitude"] == 1:
        read.steps[-1] = Step(last.name, "tanh", {**last.facts, "amplitude": factor}, last.input, last.output)
    else:
        read.add("scale", {"factor": factor}, read.shape)


def _softmax(read: Chain, before: Tensor, tensor: Tensor) -> None:
    read.notes.append("its output is probabilities: a softmax stands behind the last layer")


def _pad(read: Chain, before: Tensor, tensor: Tensor) -> None:
    """Zeros or minus infinity around the maps wait for the window that follows."""
    first, last = tensor.attributes["pads"]
    if read.layout is None or len(tensor.shape) != 4:
        _unknown(read, tensor, "padding")
        return
    where = {axis: place for place, axis in enumerate(read.layout)}
    if first[where[0]] or first[where[1]] or last[where[0]] or last[where[1]]:
        _unknown(read, tensor, "padding of channels")
        return
    before_ = (first[where[2]], first[where[3]])
    read.padding = (before_, (last[where[2]], last[where[3]]), tensor.attributes["value"])


def _flush(read: Chain, tensor: Tensor) -> None:
    """A pad that the next operation does not take up is a step of its own."""
    if read.padding is None or tensor.op in ("conv", "max_pool", "avg_pool", "transpose"):
        return
    (top, left), (bottom, right), value = read.padding
    channels, rows, columns = read.shape
    facts = {"padding": (top, bottom, left, right), "value": value}
    read.add("padding", facts, (channels, rows + top + bottom, columns + left + right))
    read.padding = None


def _matmul(read: Chain, before: Tensor, tensor: Tensor) -> None:
    weight = tensor.inputs[1]
    if weight.varies or len(weight.shape) != 2 or len(before.shape) != 2:
        _unknown(read, tensor, "product of matrices")
        return
    facts = {"out_features": weight.shape[1], "groups": 1, "bias": False}
    read.add("dense", facts, (weight.shape[1],))


def _slice(read: Chain, before: Tensor, tensor: Tensor) -> None:
    """The channels, or features, that a tower starts with."""
    axis = read.layout.index(1) if read.layout is not None else 1
    spans = tensor.attributes["spans"]
    others = [span for i, span in enumerate(spans) if i != axis]
    whole = all(span == (0, size, 1) for span, size in zip(others, before.shape[:axis] + before.shape[axis + 1 :]))
    if read.steps or read.slice is not None or not whole or spans[axis][2] != 1:
        _unknown(read, tensor, "slice")
        return
    read.slice = (spans[axis][0], spans[axis][1])
    read.shape = (spans[axis][1] - spans[axis][0], *read.shape[1:])


def _other(read: Chain, before: Tensor, tensor: Tensor) -> None:
    _unknown(read, tensor, tensor.op.removeprefix("?"))


def _unknown(read: Chain, tensor: Tensor, word: str) -> None:
    """A step that the language has no word for; what it gives is taken to be maps in canonical order, or vectors."""
    shape = tensor.shape[1:]
    if len(shape) == 3 and read.layout is not None:
        shape = tuple(tensor.shape[read.layout.index(axis)] for axis in (1, 2, 3))
    elif len(shape) == 3:
        read.layout = MAPS
    else:
        read.layout = None
    read.padding = None
    read.add(word, {}, shape)


_OPERATIONS: Mapping[str, Callable[[Chain, Tensor, Tensor], None]] = {
    "conv": _conv,
    "max_pool": _pool,
    "avg_pool": _pool,
    "lrn": _lrn,
    "relu": _relu,
    "tanh": _tanh,
    "dropout": _dropout,
    "transpose": _transpose,
    "reshape": _reshape,
    "add": _add,
    "mul": _mul,
    "softmax": _softmax,
    "pad": _pad,
    "matmul": _matmul,
    "slice": _slice,
}


# --- several operations in a row --------------------------------------------------------------------------------------


def _grouped_dense(read: Chain, stones: Sequence[Tensor]) -> int:
    """Vectors cut into groups, each multiplied by a matrix of its own."""
    ops = [tensor.op for tensor in stones[1:6]]
    if ops != ["reshape", "transpose", "matmul", "transpose", "reshape"] or read.layout is not None:
        return 0
    x, cut, turned, product, back, joined = stones[:6]
    weight = product.inputs[1]
    if len(cut.shape) != 3 or weight.varies or len(weight.shape) != 3 or product.inputs[0] is not turned:
        return 0
    groups, features, outputs = weight.shape
    expected = cut.shape == (x.shape[0], groups, features) and joined.shape == (x.shape[0], groups * outputs)
    if not expected or turned.attributes["perm"] != (1, 0, 2) or back.attributes["perm"] != (1, 0, 2):
        return 0
    read.add("dense", {"out_features": groups * outputs, "groups": groups, "bias": False}, (groups * outputs,))
    return 5


def _local(read: Chain, stones: Sequence[Tensor]) -> int:
    """Windows gathered by their places in the flat map, each multiplied by a matrix of its own.

    [pad,] reshape to (N, C, H * W), gather, reshape to (N, G, C/G * kernel, places), transpose, matmul, transpose,
    reshape.
    """
    padded = stones[1].op == "pad" if len(stones) > 1 else False
    rest = stones[1 + padded :]
    ops = [tensor.op for tensor in rest[:7]]
    if ops != ["reshape", "gather", "reshape", "transpose", "matmul", "transpose", "reshape"] or read.layout != MAPS:
        return 0
    _flat, taken, cut, _rows, product, _back, joined = rest[:7]
    index, weight = taken.inputs[1].array, product.inputs[1]
    map_shape = (stones[1] if padded else stones[0]).shape
    if index is None or index.ndim != 2 or weight.varies or len(weight.shape) != 4 or len(joined.shape) != 4:
        return 0
    groups, places, per_group, outputs = weight.shape
    window = _window_of(index, map_shape[3], joined.shape[2:])
    if window is None or cut.shape != (map_shape[0], groups, per_group, places) or joined.shape[1] != groups * outputs:
        return 0
    kernel, stride = window
    top, left = (stones[1].attributes["pads"][0][2:]) if padded else (0, 0)
    sizes, counts = (read.shape[1], read.shape[2]), (joined.shape[2], joined.shape[3])
    facts: dict[str, Any] = {"kernel": kernel, "stride": stride}
    facts["padding"] = effective_padding(sizes, counts, kernel, stride, (top, left))
    read.add("local", {**facts, "out_channels": groups * outputs, "groups": groups, "bias": False}, _maps(joined))
    return 7 + padded


def _window_of(index: Any, width: int, counts: Shape) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """(kernel, stride) if index[element of the window, place] is what windows that slide over a map of `width` take."""
    rows, columns = counts
    if index.shape[1] != rows * columns or index.size == 0 or index[0, 0] != 0:
        return None
    width_of_kernel = int(np.argmax(np.diff(index[:, 0], append=-1) != 1)) + 1
    height = index.shape[0] // width_of_kernel
    right = int(index[0, 1]) if columns > 1 else 1
    down = int(index[0, columns]) // width if rows > 1 else 1
    corner = np.arange(rows)[:, None] * down * width + np.arange(columns) * right
    offset = np.arange(height)[:, None] * width + np.arange(width_of_kernel)
    expected = offset.reshape(-1, 1) + corner.reshape(1, -1)
    if expected.shape != index.shape or not np.array_equal(expected, index):
        return None
    return (height, width_of_kernel), (down, right)


def _grouped_lrn(read: Chain, stones: Sequence[Tensor]) -> int:
    """An lrn on slices of the channels that are images of their own: reshape, lrn, reshape back."""
    if [tensor.op for tensor in stones[1:4]] != ["reshape", "lrn", "reshape"] or read.layout != MAPS:
        return 0
    x, apart, inside, back = stones[:4]
    groups = apart.shape[0] // x.shape[0]
    if len(apart.shape) != 4 or apart.shape != (groups, x.shape[1] // groups, *x.shape[2:]) or back.shape != x.shape:
        return 0
    _lrn(read, x, inside)
    last = read.steps[-1]
    read.steps[-1] = replace(last, facts={**last.facts, "groups": groups})
    return 3


_PATTERNS: Sequence[Callable[[Chain, Sequence[Tensor]], int]] = (_grouped_dense, _grouped_lrn, _local)
"""Each takes the milestones from the current one on, and gives how many of them it has read."""


# --- where paths part and meet ----------------------------------------------------------------------------------------


def _region(read: Chain, before: Tensor, tensor: Tensor) -> None:
    """What lies between a tensor where paths part and the one where they meet again."""
    if tensor.op == "concat" and _towers(read, before, tensor):
        return
    if read.layout is not None and len(before.shape) == 4:
        axes = (read.layout.index(1), read.layout.index(2), read.layout.index(3))
        found = normalisation.recognise(before, tensor, axes)
        if found is not None:
            read.add(found.op, found.facts, read.shape)
            return
    _unknown(read, tensor, f"paths that meet in {tensor.op.removeprefix('?')}")


def _towers(read: Chain, before: Tensor, joined: Tensor) -> bool:
    """Slices or copies of the channels that run side by side through like layers, as layers with groups."""
    axis = read.layout.index(1) if read.layout is not None else 1
    if joined.attributes["axis"] != axis or len(joined.inputs) < 2:
        return False
    towers = []
    for end in joined.inputs:
        tower = Chain(layout=read.layout, shape=read.shape)
        try:
            towers.append(_read(before, end, tower) if end is not before else tower)
        except Unreadable:
            return False
    first, count = towers[0], len(towers)
    slices = [tower.slice for tower in towers]
    width = read.shape[0] // count
    apart = slices == [(i * width, (i + 1) * width) for i in range(count)]
    if not apart and any(found is not None for found in slices):
        return False
    if any(tower.layout != first.layout or tower.flatten != first.flatten or tower.padding for tower in towers):
        return False
    if not first.steps or len({len(tower.steps) for tower in towers}) != 1:
        return False
    for row in zip(*(tower.steps for tower in towers)):
        merged = _side_by_side(row, count, apart)
        if merged is None:
            return False
        facts, apart = merged
        output = row[0].output
        read.add(row[0].op, facts, (output[0] * count, *output[1:]) if apart else output)
    if not apart:
        return False
    read.layout, read.flatten = first.layout, first.flatten or read.flatten
    if first.flatten not in ("", "chw"):
        read.notes.append("each tower is flattened on its own, which no single layer does")
    return True


def _side_by_side(row: Sequence[Step], count: int, apart: bool) -> tuple[dict[str, Any], bool] | None:
    """The facts of like steps as one step, and whether the towers see different channels from there on."""
    step, facts = row[0], dict(row[0].facts)
    if any(replace(other, name=step.name) != step for other in row):
        return None
    if step.op in _WEIGHTED:
        width = "out_features" if step.op == "dense" else "out_channels"
        if not apart and facts["groups"] != 1:
            return None
        facts |= {width: facts[width] * count, "groups": facts["groups"] * count if apart else 1}
        return facts, True
    if step.op == "lrn" and apart:
        facts["groups"] *= count
    return facts, apart


__all__ = ["Chain", "chain", "milestones"]
