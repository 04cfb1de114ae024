"""Systematic mistakes in attributes, as a table of what a backend takes them for: ignored, exchanged, off by one."""

from __future__ import annotations

from typing import Any

from conformance.mutants.mutant import Mutant, Target
from conformance.mutants.restating import Change, padding, restated, values
from spec.language import Padding, Size


def _taken(target: Target, op: str, attribute: str, as_: str, what: str, witness: str, change: Change) -> Mutant:
    """`attribute` of `op` is taken in the way that `as_` names and `what` describes."""
    return Mutant(
        f"{target}-{op}-{attribute}-{as_}".replace("_", "-"),
        target,
        f"{attribute} of {op} is {what}",
        (f"{op}.{attribute}",),
        "training-outputs" if witness == "dropout-train" else "evaluation-outputs",
        witness,
        restated(op, change),
    )


def _one_row_up(p: Padding) -> dict[str, int]:
    return {"top": p.top + 1, "bottom": p.bottom - 1} if p.bottom else {}


def _narrower(x: Any) -> dict[str, Any]:
    """Two channels less, one on each side, each weighed as before."""
    before, after = x.window
    before, after = max(before - 1, 0), max(after - 1, 0)
    size = before + 1 + after
    return {"size": size, "before": before, "alpha": x.coefficient, "alpha_over": "one"}


def _transposed(p: Padding) -> dict[str, int]:
    return {"top": p.left, "bottom": p.right, "left": p.top, "right": p.bottom}


def _for_radius(x: Any) -> dict[str, Any]:
    """The window reaches its size to both sides."""
    return {"size": 2 * x.size + 1, "before": x.size, "alpha": x.coefficient, "alpha_over": "one"}


def _turned(size: Size) -> Size:
    return Size(height=size.width, width=size.height)


_TURNED = "exchanged between rows and columns"
_TOWERS = "ignored, so that windows reach across towers"
_ONE_UP = "moved by a row from the bottom to the top"
_OTHER = {"test": "train", "train": "test"}

SYSTEMATIC: tuple[Mutant, ...] = (
    _taken(
        "torch", "lrn", "size", "too-small", "taken for two less", "lrn", lambda at: values(**_narrower(at.layer))(at)
    ),
    _taken(
        "keras",
        "lrn",
        "size",
        "for-radius",
        "taken for its reach to either side",
        "lrn",
        lambda at: values(**_for_radius(at.layer))(at),
    ),
    _taken(
        "keras",
        "lrn",
        "before",
        "too-large",
        "one more",
        "lrn",
        values(before=lambda x: min(x.window[0] + 1, x.size - 1)),
    ),
    _taken(
        "onnx", "lrn", "before", "too-small", "one less", "lrn-even", values(before=lambda x: max(x.window[0] - 1, 0))
    ),
    _taken("torch", "lrn", "alpha", "squared", "squared", "lrn", values(alpha=lambda x: x.alpha**2)),
    _taken("onnx", "lrn", "beta", "one-half", "taken for 0.5", "lrn", values(beta=0.5)),
    _taken("keras", "lrn", "k", "one", "taken for 1", "lrn", values(k=1.0)),
    _taken("torch", "lrn", "groups", "ignored", _TOWERS, "lrn-towers", values(groups=1)),
    _taken("onnx", "lrn", "groups", "ignored", _TOWERS, "lrn-towers", values(groups=1)),
    _taken("keras", "spatial_norm", "size", "too-large", "two more", "spatial-norm", values(size=lambda x: x.size + 2)),
    _taken("onnx", "spatial_norm", "alpha", "doubled", "doubled", "spatial-norm", values(alpha=lambda x: 2 * x.alpha)),
    _taken(
        "torch",
        "spatial_norm",
        "alpha_over",
        "side",
        "taken for the side of the window",
        "spatial-norm",
        values(alpha=lambda x: x.alpha * x.size),
    ),
    _taken(
        "keras",
        "spatial_norm",
        "alpha_over",
        "ignored",
        "always taken for the area",
        "spatial-norm-undivided",
        values(alpha_over="area"),
    ),
    _taken("onnx", "spatial_norm", "beta", "ignored", "taken for 0.75", "spatial-norm-undivided", values(beta=0.75)),
    _taken("torch", "spatial_norm", "k", "one", "taken for 1", "spatial-norm", values(k=1.0)),
    _taken(
        "torch", "conv", "padding", "transposed", "taken along the other side", "conv-lopsided", padding(_transposed)
    ),
    _taken("onnx", "conv", "padding", "one-row-up", _ONE_UP, "conv-strided", padding(_one_row_up)),
    _taken("torch", "max_pool", "padding", "one-row-up", _ONE_UP, "max-pool-lopsided", padding(_one_row_up)),
    _taken("keras", "avg_pool", "padding", "one-row-up", _ONE_UP, "avg-pool-inside", padding(_one_row_up)),
    _taken("torch", "local", "padding", "one-row-up", _ONE_UP, "local-square", padding(_one_row_up)),
    _taken("torch", "local", "stride", "turned", _TURNED, "local-oblong", values(stride=lambda x: _turned(x.stride))),
    _taken(
        "keras", "max_pool", "stride", "turned", _TURNED, "max-pool-oblong", values(stride=lambda x: _turned(x.stride))
    ),
    _taken(
        "onnx", "avg_pool", "stride", "turned", _TURNED, "avg-pool-strided", values(stride=lambda x: _turned(x.stride))
    ),
    _taken(
        "torch", "avg_pool", "kernel", "turned", _TURNED, "avg-pool-oblong", values(kernel=lambda x: _turned(x.kernel))
    ),
    _taken(
        "onnx",
        "avg_pool",
        "divisor",
        "inside",
        "always taken for the part inside",
        "avg-pool-window",
        values(divisor="inside"),
    ),
    _taken(
        "keras",
        "avg_pool",
        "divisor",
        "window",
        "always taken for the whole window",
        "avg-pool-inside",
        values(divisor="window"),
    ),
    _taken("torch", "tanh", "slope", "ignored", "taken for 1", "tanh", values(slope=1.0)),
    _taken("keras", "tanh", "amplitude", "ignored", "taken for 1", "tanh", values(amplitude=1.0)),
    _taken(
        "onnx",
        "tanh",
        "amplitude",
        "exchanged",
        "exchanged with the slope",
        "tanh",
        values(amplitude=lambda x: x.slope, slope=lambda x: x.amplitude),
    ),
    _taken("keras", "dropout", "scale", "test", "always taken for `test`", "dropout-train", values(scale="test")),
    _taken("onnx", "dropout", "scale", "train", "always taken for `train`", "dropout-test", values(scale="train")),
    _taken(
        "torch",
        "dropout",
        "scale",
        "exchanged",
        "taken for the other one",
        "dropout-train",
        values(scale=lambda x: _OTHER[x.scale]),
    ),
)
