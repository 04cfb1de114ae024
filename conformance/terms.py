"""Every term of every formula of the oracle, each with a patch that leaves it out. For the sensitivity gate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from backends.numpy.ops import Call, pool_divisors, response, windows_backward
from conformance.mutants.mutant import Live, Patch

Rule = Callable[..., Any]
TERMS: dict[str, tuple[frozenset[str], Patch]] = {}
"""By name: the ops without which nothing changes (none: any network does), and what leaves the term out."""


def _forward(name: str, op: str) -> Callable[[Rule], Rule]:
    """The term `name` of `op` forward; the rule is called with what is right, and the call."""

    def register(rule: Rule) -> Rule:
        def patch(live: Live) -> None:
            right = live.ops.FORWARD[op]
            live.put(live.ops.FORWARD, op, lambda call: rule(right, call))

        TERMS[f"{op}, forward: {name}"] = frozenset({op}), patch
        return rule

    return register


def _backward(name: str, *ops: str) -> Callable[[Rule], Rule]:
    """The same backward; the rule is called with what is right, the call, y and dy."""

    def register(rule: Rule) -> Rule:
        for op in ops:

            def patch(live: Live, op: str = op) -> None:
                right = live.ops.BACKWARD[op]
                live.put(live.ops.BACKWARD, op, lambda call, y, dy: rule(right, call, y, dy))

            TERMS[f"{op}, backward: {name}"] = frozenset({op}), patch
        return rule

    return register


def _named(name: str, function: str) -> Callable[[Rule], Rule]:
    """A term of a function that the oracle's backend calls by name."""

    def register(rule: Rule) -> Rule:
        def patch(live: Live) -> None:
            right = getattr(live.backend, function)
            live.set(live.backend, function, lambda *given: rule(right, *given))

        TERMS[f"{function}: {name}"] = frozenset(), patch
        return rule

    return register


# --- layers with weights ----------------------------------------------------------------------------------------------


def _without_bias(right: Rule, call: Call) -> Any:
    return right(replace(call, parameters={"weight": call.parameters["weight"]}))


def _first_tap(right: Rule, call: Call) -> Any:
    """The first of the terms that are added."""
    weight = call.parameters["weight"].copy()
    weight[:, :1] = 0
    return right(replace(call, parameters={**call.parameters, "weight": weight}))


def _no_gradient(short: str) -> Rule:
    def rule(right: Rule, call: Call, y: Any, dy: Any) -> Any:
        dx, gradients = right(call, y, dy)
        return dx, {name: value * (name != short) for name, value in gradients.items()}

    return rule


def _one_image(short: str) -> Rule:
    """A gradient without the share of the last image."""

    def rule(right: Rule, call: Call, y: Any, dy: Any) -> Any:
        dx, gradients = right(call, y, dy)
        some = dy.copy()
        some[-1] = 0
        return dx, gradients | {short: right(call, y, some)[1][short]} if short in gradients else gradients

    return rule


for _op in ("conv", "local", "dense"):
    _forward("bias", _op)(_without_bias)
    _forward("the first input", _op)(_first_tap)
    for _short in ("weight", "bias"):
        _backward(f"d{_short}", _op)(_no_gradient(_short))
        _backward(f"d{_short}, the last image", _op)(_one_image(_short))


@_backward("dx", "conv", "local", "dense", "avg_pool", "max_pool", "lrn", "spatial_norm", "relu", "tanh", "dropout")
def _no_dx(right: Rule, call: Call, y: Any, dy: Any) -> Any:
    dx, gradients = right(call, y, dy)
    return dx * 0, gradients


def _overwritten(live: Live) -> None:
    """Where windows overlap the last of them."""
    ops = live.ops

    def last_only(du: Any, geometry: Any) -> Any:
        p, kernel, stride = ops._window_of(geometry)
        rows, columns = du.shape[2:4]
        _, height, width = geometry.input_shape
        padded = np.zeros((*du.shape[:2], p.top + height + p.bottom + 9, p.left + width + p.right + 9), du.dtype)
        for i in range(kernel.height):
            for j in range(kernel.width):
                down = slice(i, i + stride.height * (rows - 1) + 1, stride.height)
                across = slice(j, j + stride.width * (columns - 1) + 1, stride.width)
                padded[:, :, down, across] = du[..., i, j]
        return padded[:, :, p.top : p.top + height, p.left : p.left + width]

    live.set(ops, "windows_backward", last_only)


for _op in ("conv", "local", "avg_pool"):
    TERMS[f"{_op}, backward: the sum over overlapping windows"] = frozenset({_op}), _overwritten


# --- pooling ----------------------------------------------------------------------------------------------------------


@_forward("the divisor", "avg_pool")
def _summed(right: Rule, call: Call) -> Any:
    return right(call) * pool_divisors(call.geometry, call.x.dtype)


@_backward("the divisor", "avg_pool")
def _undivided(right: Rule, call: Call, y: Any, dy: Any) -> Any:
    return right(call, y, dy * pool_divisors(call.geometry, call.x.dtype))


@_forward("padding loses to any number", "max_pool")
def _padded_by_zeros(right: Rule, call: Call) -> Any:
    p = call.geometry.padding
    return np.maximum(right(call), 0) if p is not None and any(p.model_dump().values()) else right(call)


@_backward("the winner", "max_pool")
def _first_place(right: Rule, call: Call, y: Any, dy: Any) -> Any:
    kernel = call.layer.kernel
    du = np.zeros((*dy.shape, kernel.height, kernel.width), dy.dtype)
    du[..., 0, 0] = dy
    return windows_backward(du, call.geometry), {}


@_backward("of equal numbers the first", "max_pool")
def _last_winner(right: Rule, call: Call, y: Any, dy: Any) -> Any:
    from backends.numpy.ops import flat_windows

    kernel = call.layer.kernel
    u = flat_windows(call, -np.inf)
    winner = u.shape[-1] - 1 - u[..., ::-1].argmax(axis=-1)
    du = (winner[..., None] == np.arange(u.shape[-1])) * dy[..., None]
    return windows_backward(du.reshape(*dy.shape, kernel.height, kernel.width), call.geometry), {}


# --- normalisation ----------------------------------------------------------------------------------------------------


def _alone(right: Rule, call: Call) -> Any:
    """The sum has its own square alone."""
    layer = call.layer
    return call.x * (layer.k + layer.coefficient * call.x**2) ** -layer.beta


def _without_k(right: Rule, call: Call) -> Any:
    return call.x * np.maximum(response(call) - call.layer.k, 1e-30) ** -call.layer.beta


for _op in ("lrn", "spatial_norm"):
    _forward("the neighbours", _op)(_alone)
    _forward("k", _op)(_without_k)


@_backward("y's own factor", "lrn", "spatial_norm")
def _through_neighbours(right: Rule, call: Call, y: Any, dy: Any) -> Any:
    return right(call, y, dy)[0] - dy * response(call) ** -call.layer.beta, {}


@_backward("through the sums", "lrn", "spatial_norm")
def _own_factor(right: Rule, call: Call, y: Any, dy: Any) -> Any:
    return dy * response(call) ** -call.layer.beta, {}


def _not_mirrored(live: Live) -> None:
    right = live.ops.NEIGHBOURS["lrn"]
    live.put(live.ops.NEIGHBOURS, "lrn", lambda x, layer, mirrored=False: right(x, layer))


TERMS["lrn, backward: the mirrored window"] = frozenset({"lrn"}), _not_mirrored


# --- the rest ---------------------------------------------------------------------------------------------------------


@_forward("0 below 0", "relu")
def _identity(right: Rule, call: Call) -> Any:
    return call.x


@_backward("0 below 0", "relu")
def _straight_through(right: Rule, call: Call, y: Any, dy: Any) -> Any:
    return dy, {}


@_backward("0 at 0", "relu")
def _open_at_zero(right: Rule, call: Call, y: Any, dy: Any) -> Any:
    return np.where(call.x >= 0, dy, 0), {}


@_forward("the bend", "tanh")
def _straight(right: Rule, call: Call) -> Any:
    return call.layer.amplitude * call.layer.slope * call.x


@_backward("1 - tanh^2", "tanh")
def _unbent(right: Rule, call: Call, y: Any, dy: Any) -> Any:
    return dy * (call.layer.amplitude * call.layer.slope), {}


@_backward("amplitude and slope", "tanh")
def _unscaled(right: Rule, call: Call, y: Any, dy: Any) -> Any:
    return right(call, y, dy / (call.layer.amplitude * call.layer.slope))


@_forward("the mask", "dropout")
def _kept_all(right: Rule, call: Call) -> Any:
    return right(call if call.mask is None else replace(call, mask=np.ones_like(call.mask)))


@_backward("the mask", "dropout")
def _kept_all_back(right: Rule, call: Call, y: Any, dy: Any) -> Any:
    return right(call if call.mask is None else replace(call, mask=np.ones_like(call.mask)), y, dy)


@_forward("the factor", "dropout")
def _unscaled_dropout(right: Rule, call: Call) -> Any:
    return call.x if call.mask is None else call.x * call.mask


@_backward("the factor", "dropout")
def _unscaled_dropout_back(right: Rule, call: Call, y: Any, dy: Any) -> Any:
    return dy if call.mask is None else dy * call.mask, {}


@_forward("the order of elements", "flatten")
def _channels_last(right: Rule, call: Call) -> Any:
    return call.x.transpose(0, 2, 3, 1).reshape(len(call.x), -1)


@_backward("the order of elements", "flatten")
def _channels_last_back(right: Rule, call: Call, y: Any, dy: Any) -> Any:
    images, channels, *extent = call.x.shape
    return np.moveaxis(dy.reshape(images, *extent, channels), -1, 1), {}


# --- loss, optimizer, metrics -----------------------------------------------------------------------------------------


@_named("the mean over images", "cross_entropy")
def _summed_loss(right: Rule, logits: Any, labels: Any) -> Any:
    return right(logits, labels) * len(labels)


@_named("log sum exp", "cross_entropy")
def _largest_logit(right: Rule, logits: Any, labels: Any) -> Any:
    return float((logits.max(axis=1) - logits[np.arange(len(labels)), labels]).mean())


@_named("the label's logit", "cross_entropy")
def _without_label(right: Rule, logits: Any, labels: Any) -> Any:
    return right(logits, labels) + float(logits[np.arange(len(labels)), labels].mean())


@_named("the softmax", "cross_entropy_backward")
def _label_only(right: Rule, logits: Any, labels: Any) -> Any:
    dz = np.zeros_like(logits)
    dz[np.arange(len(labels)), labels] = -1 / len(labels)
    return dz


@_named("the label", "cross_entropy_backward")
def _softmax_only(right: Rule, logits: Any, labels: Any) -> Any:
    return right(logits, labels) - _label_only(right, logits, labels)


@_named("the mean over images", "cross_entropy_backward")
def _summed_gradient(right: Rule, logits: Any, labels: Any) -> Any:
    return right(logits, labels) * len(labels)


@_named("the momentum", "update")
def _no_momentum(right: Rule, w: Any, v: Any, g: Any, settings: Any, optimizer: Any) -> Any:
    return right(w, v * settings.frozen, g, settings, optimizer)


@_named("the gradient", "update")
def _no_gradient_step(right: Rule, w: Any, v: Any, g: Any, settings: Any, optimizer: Any) -> Any:
    return right(w, v, g * 0, settings, optimizer)


@_named("the decay", "update")
def _no_decay(right: Rule, w: Any, v: Any, g: Any, settings: Any, optimizer: Any) -> Any:
    return right(w, v, g, replace(settings, weight_decay=0.0), optimizer)


@_named("the velocity in the parameter", "update")
def _not_moved(right: Rule, w: Any, v: Any, g: Any, settings: Any, optimizer: Any) -> Any:
    return w, right(w, v, g, settings, optimizer)[1]


@_named("frozen", "update")
def _coasts(right: Rule, w: Any, v: Any, g: Any, settings: Any, optimizer: Any) -> Any:
    return (w, v * optimizer.momentum) if settings.frozen else right(w, v, g, settings, optimizer)


for _field in ("images", "loss", "correct1", "correct5"):

    def _uncounted(right: Rule, logits: Any, labels: Any, field: str = _field) -> Any:
        found = right(logits, labels)
        changed: Any = {field: getattr(found, field) + 1}
        return replace(found, **changed)

    _named(_field, "tally")(_uncounted)
