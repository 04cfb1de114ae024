"""Systematic mistakes in the oracle itself, ``backends/numpy``: they come on top of the mutants of the other backends.

The suite judges by the oracle in the process that judges; here it is a backend like any other, with a mistake.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from conformance.mutants.mutant import Live, Mutant, Patch

Rule = Callable[..., Any]


def function(name: str, rule: Rule) -> Patch:
    """``backends.numpy.ops.name`` is ``rule(ops, right, ...)``, also where the tables of ops name it."""

    def patch(live: Live) -> None:
        ops = live.ops
        right = getattr(ops, name)

        def wrong(*given: Any, **named: Any) -> Any:
            return rule(ops, right, *given, **named)

        live.set(ops, name, wrong)
        for table in (ops.FORWARD, ops.BACKWARD, ops.NEIGHBOURS):
            for op, made in list(table.items()):
                if made is right:
                    live.put(table, op, wrong)

    return patch


def last_of_equals(ops: Any, right: Any, call: Any, y: Any, dy: Any) -> Any:
    """The gradient of a max-pool goes to the last of equal numbers."""
    kernel = call.layer.kernel
    u = ops.flat_windows(call, -ops.np.inf)
    winner = u.shape[-1] - 1 - u[..., ::-1].argmax(axis=-1)
    du = (winner[..., None] == ops.np.arange(u.shape[-1])) * dy[..., None]
    return ops.windows_backward(du.reshape(*dy.shape, kernel.height, kernel.width), call.geometry), {}


def last_window_only(ops: Any, right: Any, du: Any, geometry: Any) -> Any:
    """Every place keeps the du of the last window that saw it, in the order of the kernel's places."""
    p, kernel, stride = ops._window_of(geometry)
    rows, columns = du.shape[2:4]
    _, height, width = geometry.input_shape
    padded = ops.np.zeros((*du.shape[:2], p.top + height + p.bottom, p.left + width + p.right), du.dtype)
    for i in range(kernel.height):
        for j in range(kernel.width):
            down = slice(i, i + stride.height * (rows - 1) + 1, stride.height)
            across = slice(j, j + stride.width * (columns - 1) + 1, stride.width)
            padded[:, :, down, across] = du[..., i, j]
    return padded[:, :, p.top : p.top + height, p.left : p.left + width]


def _update(rule: Rule) -> Patch:
    def patch(live: Live) -> None:
        right = live.backend.update
        live.set(live.backend, "update", lambda *given: rule(right, *given))

    return patch


def _loss_gradient(rule: Rule) -> Patch:
    def patch(live: Live) -> None:
        right = live.backend.cross_entropy_backward
        live.set(live.backend, "cross_entropy_backward", lambda logits, labels: rule(right, logits, labels))

    return patch


def _late_decay(right: Any, w: Any, v: Any, g: Any, settings: Any, optimizer: Any) -> Any:
    """Decay of the weight as it is after the step."""
    plain = replace(settings, weight_decay=0.0)
    w, v = right(w, v, g, plain, optimizer)
    return w * (1 - settings.learning_rate * settings.weight_decay), v


SYSTEMATIC: tuple[Mutant, ...] = (
    Mutant(
        "numpy-lrn-gradient-not-mirrored",
        "numpy",
        "the gradient of a lopsided window sums over the window instead of over its mirror image",
        ("lrn.before",),
        "training-gradients",
        "lrn-even",
        function("channel_sum", lambda ops, right, x, layer, mirrored=False: right(x, layer)),
    ),
    Mutant(
        "numpy-max-pool-last-tie-wins",
        "numpy",
        "of several equal elements the last gets the gradient",
        ("max_pool.kernel",),
        "training-gradients",
        "max-pool-ties",
        function("max_pool_backward", last_of_equals),
    ),
    Mutant(
        "numpy-windows-overwrite",
        "numpy",
        "where windows overlap the gradient is that of the last instead of the sum",
        ("conv.stride",),
        "training-gradients",
        "conv",
        function("windows_backward", last_window_only),
    ),
    Mutant(
        "numpy-tanh-gradient-without-slope",
        "numpy",
        "the slope is missing from the derivative of tanh",
        ("tanh.slope",),
        "training-gradients",
        "tanh",
        function("tanh_backward", lambda ops, right, call, y, dy: (right(call, y, dy)[0] / call.layer.slope, {})),
    ),
    Mutant(
        "numpy-dropout-gradient-unscaled",
        "numpy",
        "the gradient of dropout lacks the scale of the survivors",
        ("dropout.scale",),
        "training-gradients",
        "dropout-train",
        function("dropout_backward", lambda ops, right, call, y, dy: (dy if call.mask is None else dy * call.mask, {})),
    ),
    Mutant(
        "numpy-decay-after-the-step",
        "numpy",
        "decoupled decay takes its share of the weight as it is after the step",
        ("optimizer.decay",),
        "training-steps",
        "training-decoupled",
        _update(_late_decay),
    ),
    Mutant(
        "numpy-loss-gradient-not-averaged",
        "numpy",
        "the loss is a mean over the batch, its gradient a sum",
        ("loss", "batch_size"),
        "training-steps",
        "training",
        _loss_gradient(lambda right, logits, labels: right(logits, labels) * len(labels)),
    ),
)
