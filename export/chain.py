"""A network's steps as they are read, one operation after another, each with the tensor before it.

An operation becomes a step, a fact of the step before it (a bias, a factor), or a change of what the tensor is (its
layout). What has no word in the language becomes a step with the file's word.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

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
    input: Shape = ()
    """Canonical, of the whole network."""
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
        if op in WEIGHTED:
            self.counts["weighted"] = self.counts.get("weighted", 0) + 1
        word = _NAMES.get(op) or re.sub(r"[^a-z]+", "_", op.partition(" (")[0].lower())[:20].strip("_")
        wish = f"{word}{self.counts.get('weighted', 0)}"
        self.counts[wish] = self.counts.get(wish, 0) + 1
        return wish if self.counts[wish] == 1 else f"{wish}_{self.counts[wish]}"


WEIGHTED = ("conv", "local", "dense")
_NAMES = {
    "dense": "fc",
    "lrn": "norm",
    "spatial_norm": "cnorm",
    "max_pool": "pool",
    "avg_pool": "pool",
    "dropout": "drop",
}


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
        unknown(read, tensor, "dilated convolution" if dilated else "convolution")
        return
    facts = {"out_channels": tensor.shape[1], "groups": tensor.attributes["groups"], "bias": len(tensor.inputs) > 2}
    read.add("conv", {**window, **facts}, _maps(tensor))


def _pool(read: Chain, before: Tensor, tensor: Tensor) -> None:
    average = tensor.op == "avg_pool"
    waited = read.padding is not None
    window = _window(read, before, tensor, 0.0 if average else -math.inf) if _canonical(read, before) else None
    if window is None:
        unknown(read, tensor, "pooling")
        return
    if average:
        whole = tensor.attributes["include_pad"] or waited
        window["divisor"] = "window" if whole else "inside"
    read.add(tensor.op, window, _maps(tensor))


def lrn(read: Chain, before: Tensor, tensor: Tensor) -> None:
    at = tensor.attributes
    if not _canonical(read, before):
        unknown(read, tensor, "lrn")
        return
    near = (at["size"] - 1) // 2  # ONNX: an even window reaches further ahead
    numbers = {"coefficient": at["alpha"] / at["size"], "beta": at["beta"], "k": at["bias"]}
    rounded = {key: float(f"{value:.{normalisation.DIGITS}g}") for key, value in numbers.items()}
    read.add("lrn", {"before": near, "after": at["size"] - 1 - near, **rounded, "groups": 1}, read.shape)


def _norm(read: Chain, before: Tensor, tensor: Tensor) -> None:
    """A normalisation that the file states whole: its op in the language, and the facts of a step."""
    if not _canonical(read, before):
        unknown(read, tensor, "normalisation")
        return
    facts = dict(tensor.attributes)
    read.add(facts.pop("kind"), facts, read.shape)


def _stated_local(read: Chain, before: Tensor, tensor: Tensor) -> None:
    """A locally connected layer that the file states whole."""
    window = _window(read, before, tensor, 0.0) if _canonical(read, before) else None
    if window is None:
        unknown(read, tensor, "locally connected layer")
        return
    read.add(
        "local",
        {**window, **{key: tensor.attributes[key] for key in ("out_channels", "groups", "bias")}},
        _maps(tensor),
    )


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
        unknown(read, tensor, "transpose")
        return
    read.layout = tuple(read.layout[axis] for axis in tensor.attributes["perm"])


def _reshape(read: Chain, before: Tensor, tensor: Tensor) -> None:
    """Maps become vectors, or vectors become maps of one place; anything else has no word."""
    batch, features = before.shape[0], math.prod(before.shape[1:])
    if read.layout is not None and tensor.shape == (batch, features):
        order = "".join("nchw"[axis] for axis in read.layout)[1:]
        if read.layout[0] != 0:
            unknown(read, tensor, "reshape")
            return
        if len([size for size in read.shape if size > 1]) > 1:
            read.flatten = order
        read.layout, read.shape = None, (features,)
    elif read.layout is None and tensor.shape == (batch, features, 1, 1):
        read.layout, read.shape = MAPS, (features, 1, 1)
    else:
        unknown(read, tensor, "reshape")


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
    if last is not None and last.op in WEIGHTED and not last.facts["bias"] and (one_each or everywhere):
        read.steps[-1] = Step(last.name, last.op, {**last.facts, "bias": True}, last.input, last.output)
    elif constant.scalar == 0:
        return
    elif not read.steps:
        read.notes.append("the graph begins with preparation of its own: it adds constants to the input")
    else:
        unknown(read, tensor, "addition of constants")


def _mul(read: Chain, before: Tensor, tensor: Tensor) -> None:
    if all(item.varies for item in tensor.inputs):
        unknown(read, tensor, "square")
        return
    factor = _constant_of(tensor).scalar
    last = read.steps[-1] if read.steps else None
    if factor == 1:
        return
    if last is None:
        read.notes.append("the graph begins with preparation of its own: it multiplies the input by constants")
    elif factor is None:
        unknown(read, tensor, "multiplication by constants")
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
        unknown(read, tensor, "padding")
        return
    where = {axis: place for place, axis in enumerate(read.layout)}
    if first[where[0]] or first[where[1]] or last[where[0]] or last[where[1]]:
        unknown(read, tensor, "padding of channels")
        return
    before_ = (first[where[2]], first[where[3]])
    read.padding = (before_, (last[where[2]], last[where[3]]), tensor.attributes["value"])


def flush(read: Chain, tensor: Tensor) -> None:
    """A pad that the next operation does not take up is a step of its own."""
    if read.padding is None or tensor.op in ("conv", "local", "max_pool", "avg_pool", "transpose"):
        return
    (top, left), (bottom, right), value = read.padding
    channels, rows, columns = read.shape
    facts = {"padding": (top, bottom, left, right), "value": value}
    read.add("padding", facts, (channels, rows + top + bottom, columns + left + right))
    read.padding = None


def _matmul(read: Chain, before: Tensor, tensor: Tensor) -> None:
    weight = tensor.inputs[1]
    if weight.varies or len(weight.shape) != 2 or len(before.shape) != 2:
        unknown(read, tensor, "product of matrices")
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
        unknown(read, tensor, "slice")
        return
    read.slice = (spans[axis][0], spans[axis][1])
    read.shape = (spans[axis][1] - spans[axis][0], *read.shape[1:])


def other(read: Chain, before: Tensor, tensor: Tensor) -> None:
    unknown(read, tensor, tensor.op.removeprefix("?"))


def unknown(read: Chain, tensor: Tensor, word: str) -> None:
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


OPERATIONS: Mapping[str, Callable[[Chain, Tensor, Tensor], None]] = {
    "conv": _conv,
    "max_pool": _pool,
    "avg_pool": _pool,
    "lrn": lrn,
    "norm": _norm,
    "local": _stated_local,
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


def dropped(step: Step) -> Step:
    """A factor below one is what a dropout of the paper's kind leaves in evaluation."""
    factor = step.facts["factor"]
    if not 0 < factor < 1:
        return replace(step, op=f"multiplication by {factor:g}", facts={})
    facts = {"rate": float(f"{1 - factor:.{normalisation.DIGITS}g}"), "scale": "test"}
    return replace(step, name=step.name.replace("scale", "drop"), op="dropout", facts=facts)


__all__ = ["MAPS", "OPERATIONS", "WEIGHTED", "Chain", "dropped", "flush", "lrn", "other", "unknown"]
