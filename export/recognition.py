"""From a graph of neutral tensors to the steps of a network, in the words of :mod:`spec.structure`.

All paths from the input to the output run through some tensors: between two of them in a row lies either one operation,
or a place where paths part and meet again. Such a place is a response normalisation (recognised by what it computes),
or slices or towers of channels that are joined again (one layer with groups). What is neither, and operations that have
no word in the language, become steps of their own with the file's word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from export import normalisation
from export.chain import MAPS, OPERATIONS, WEIGHTED, Chain, dropped, flush, lrn, other, unknown
from export.tensors import Shape, Tensor, Unreadable
from spec.structure import Step, effective_padding


def chain(source: Tensor, output: Tensor) -> Chain:
    """The steps between a network's input and output. Raises Unreadable if there are none."""
    if not output.varies or len(source.shape) != 4:
        raise Unreadable("a network's output must depend on its input of four axes. Received: another graph")
    start = Chain(layout=_first_layout(source, output))
    axes = start.layout
    assert axes is not None
    start.input = start.shape = tuple(source.shape[axes.index(axis)] for axis in (1, 2, 3))
    read = _read(source, output, start)
    read.steps = [dropped(step) if step.op == "scale" else step for step in read.steps]
    return read


def _first_layout(source: Tensor, output: Tensor) -> tuple[int, ...]:
    """Where N, C, H, W stand in the input, so that the first layer over maps finds them in its order."""
    layout = list(range(4))
    for tensor in milestones(source, output)[1:]:
        if tensor.op == "transpose" and len(tensor.shape) == 4:
            layout = [layout[axis] for axis in tensor.attributes["perm"]]
        elif tensor.op in ("conv", "local", "max_pool", "avg_pool", "lrn", "norm", "slice"):
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
            flush(read, tensor)
            if set(tensor.data) == {before}:
                OPERATIONS.get(tensor.op, other)(read, before, tensor)
            else:
                _region(read, before, tensor)
            position += 1
    return read


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
    read.add("local", {**facts, "out_channels": groups * outputs, "groups": groups, "bias": False}, joined.shape[1:])
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
    lrn(read, x, inside)
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
    unknown(read, tensor, f"paths that meet in {tensor.op.removeprefix('?')}")


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
    if any(replace(beside, name=step.name) != step for beside in row):
        return None
    if step.op in WEIGHTED:
        width = "out_features" if step.op == "dense" else "out_channels"
        if not apart and facts["groups"] != 1:
            return None
        facts |= {width: facts[width] * count, "groups": facts["groups"] * count if apart else 1}
        return facts, True
    if step.op == "lrn" and apart:
        facts["groups"] *= count
    return facts, apart


__all__ = ["Chain", "chain", "milestones"]
