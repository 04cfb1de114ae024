"""Every term of every formula of the oracle, each with a patch that leaves it out. For the sensitivity gate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from backends.numpy.ops import Call, pool_divisors, response, windows_backward
from conformance.mutants.mutant import Live, Patch
from conformance.mutants.numpy import function, last_of_equals, last_window_only

Rule = Callable[..., Any]


class Formulas(dict[str, tuple[frozenset[str], Patch]]):
    """By name: the ops without which nothing changes (none: any network does), and the patch to the oracle."""

    def forward(self, name: str, *ops: str) -> Callable[[Rule], Rule]:
        """`name` of each of `ops` forward; the rule is called with what is right, and the call."""

        def register(rule: Rule) -> Rule:
            for op in ops:

                def patch(live: Live, op: str = op) -> None:
                    right = live.ops.FORWARD[op]
                    live.put(live.ops.FORWARD, op, lambda call: rule(right, call))

                self[f"{op}, forward: {name}"] = frozenset({op}), patch
            return rule

        return register

    def backward(self, name: str, *ops: str) -> Callable[[Rule], Rule]:
        """The same backward; the rule is called with what is right, the call, y and dy."""

        def register(rule: Rule) -> Rule:
            for op in ops:

                def patch(live: Live, op: str = op) -> None:
                    right = live.ops.BACKWARD[op]
                    live.put(live.ops.BACKWARD, op, lambda call, y, dy: rule(right, call, y, dy))

                self[f"{op}, backward: {name}"] = frozenset({op}), patch
            return rule

        return register

    def named(self, name: str, function: str) -> Callable[[Rule], Rule]:
        """`name` of a function that the oracle's backend calls by its own name."""

        def register(rule: Rule) -> Rule:
            def patch(live: Live) -> None:
                right = getattr(live.backend, function)
                live.set(live.backend, function, lambda *given: rule(right, *given))

            self[f"{function}: {name}"] = frozenset(), patch
            return rule

        return register


TERMS = Formulas()
"""Every term, and what leaves it out."""


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
    TERMS.forward("bias", _op)(_without_bias)
    TERMS.forward("the first input", _op)(_first_tap)
    for _short in ("weight", "bias"):
        TERMS.backward(f"d{_short}", _op)(_no_gradient(_short))
        TERMS.backward(f"d{_short}, the last image", _op)(_one_image(_short))


@TERMS.backward(
    "dx", "conv", "local", "dense", "avg_pool", "max_pool", "lrn", "spatial_norm", "relu", "tanh", "dropout"
)
def _no_dx(right: Rule, call: Call, y: Any, dy: Any) -> Any:
    dx, gradients = right(call, y, dy)
    return dx * 0, gradients


for _op in ("conv", "local", "avg_pool"):
    TERMS[f"{_op}, backward: the sum over overlapping windows"] = (
        frozenset({_op}),
        function("windows_backward", last_window_only),
    )


# --- pooling ----------------------------------------------------------------------------------------------------------


@TERMS.forward("the divisor", "avg_pool")
def _summed(right: Rule, call: Call) -> Any:
    return right(call) * pool_divisors(call.geometry, call.x.dtype)


@TERMS.backward("the divisor", "avg_pool")
def _undivided(right: Rule, call: Call, y: Any, dy: Any) -> Any:
    return right(call, y, dy * pool_divisors(call.geometry, call.x.dtype))


@TERMS.forward("padding loses to any number", "max_pool")
def _padded_by_zeros(right: Rule, call: Call) -> Any:
    p = call.geometry.padding
    return np.maximum(right(call), 0) if p is not None and any(p.model_dump().values()) else right(call)


@TERMS.backward("the winner", "max_pool")
def _first_place(right: Rule, call: Call, y: Any, dy: Any) -> Any:
    kernel = call.layer.kernel
    du = np.zeros((*dy.shape, kernel.height, kernel.width), dy.dtype)
    du[..., 0, 0] = dy
    return windows_backward(du, call.geometry), {}


TERMS["max_pool, backward: of equal numbers the first"] = (
    frozenset({"max_pool"}),
    function("max_pool_backward", last_of_equals),
)


# --- normalisation ----------------------------------------------------------------------------------------------------


def _alone(right: Rule, call: Call) -> Any:
    """The sum has its own square alone."""
    layer = call.layer
    return call.x * (layer.k + layer.coefficient * call.x**2) ** -layer.beta


def _without_k(right: Rule, call: Call) -> Any:
    return call.x * np.maximum(response(call) - call.layer.k, 1e-30) ** -call.layer.beta


for _op in ("lrn", "spatial_norm"):
    TERMS.forward("the neighbours", _op)(_alone)
    TERMS.forward("k", _op)(_without_k)


@TERMS.backward("y's own factor", "lrn", "spatial_norm")
def _through_neighbours(right: Rule, call: Call, y: Any, dy: Any) -> Any:
    return right(call, y, dy)[0] - dy * response(call) ** -call.layer.beta, {}


@TERMS.backward("through the sums", "lrn", "spatial_norm")
def _own_factor(right: Rule, call: Call, y: Any, dy: Any) -> Any:
    return dy * response(call) ** -call.layer.beta, {}


def _not_mirrored(live: Live) -> None:
    right = live.ops.NEIGHBOURS["lrn"]
    live.put(live.ops.NEIGHBOURS, "lrn", lambda x, layer, mirrored=False: right(x, layer))


TERMS["lrn, backward: the mirrored window"] = frozenset({"lrn"}), _not_mirrored


# --- the rest ---------------------------------------------------------------------------------------------------------


@TERMS.forward("0 below 0", "relu")
def _identity(right: Rule, call: Call) -> Any:
    return call.x


@TERMS.backward("0 below 0", "relu")
def _straight_through(right: Rule, call: Call, y: Any, dy: Any) -> Any:
    return dy, {}


@TERMS.backward("0 at 0", "relu")
def _open_at_zero(right: Rule, call: Call, y: Any, dy: Any) -> Any:
    return np.where(call.x >= 0, dy, 0), {}


@TERMS.forward("the bend", "tanh")
def _straight(right: Rule, call: Call) -> Any:
    return call.layer.amplitude * call.layer.slope * call.x


@TERMS.backward("1 - tanh^2", "tanh")
def _unbent(right: Rule, call: Call, y: Any, dy: Any) -> Any:
    return dy * (call.layer.amplitude * call.layer.slope), {}


@TERMS.backward("amplitude and slope", "tanh")
def _unscaled(right: Rule, call: Call, y: Any, dy: Any) -> Any:
    return right(call, y, dy / (call.layer.amplitude * call.layer.slope))


@TERMS.forward("the mask", "dropout")
def _kept_all(right: Rule, call: Call) -> Any:
    return right(call if call.mask is None else replace(call, mask=np.ones_like(call.mask)))


@TERMS.backward("the mask", "dropout")
def _kept_all_back(right: Rule, call: Call, y: Any, dy: Any) -> Any:
    return right(call if call.mask is None else replace(call, mask=np.ones_like(call.mask)), y, dy)


@TERMS.forward("the factor", "dropout")
def _unscaled_dropout(right: Rule, call: Call) -> Any:
    return call.x if call.mask is None else call.x * call.mask


@TERMS.backward("the factor", "dropout")
def _unscaled_dropout_back(right: Rule, call: Call, y: Any, dy: Any) -> Any:
    return dy if call.mask is None else dy * call.mask, {}


@TERMS.forward("the order of elements", "flatten")
def _channels_last(right: Rule, call: Call) -> Any:
    return call.x.transpose(0, 2, 3, 1).reshape(len(call.x), -1)


@TERMS.backward("the order of elements", "flatten")
def _channels_last_back(right: Rule, call: Call, y: Any, dy: Any) -> Any:
    images, channels, *extent = call.x.shape
    return np.moveaxis(dy.reshape(images, *extent, channels), -1, 1), {}


# --- loss, optimizer, metrics -----------------------------------------------------------------------------------------


@TERMS.named("the mean over images", "cross_entropy")
def _summed_loss(right: Rule, logits: Any, labels: Any) -> Any:
    return right(logits, labels) * len(labels)


@TERMS.named("log sum exp", "cross_entropy")
def _largest_logit(right: Rule, logits: Any, labels: Any) -> Any:
    return float((logits.max(axis=1) - logits[np.arange(len(labels)), labels]).mean())


@TERMS.named("the label's logit", "cross_entropy")
def _without_label(right: Rule, logits: Any, labels: Any) -> Any:
    return right(logits, labels) + float(logits[np.arange(len(labels)), labels].mean())


@TERMS.named("the softmax", "cross_entropy_backward")
def _label_only(right: Rule, logits: Any, labels: Any) -> Any:
    dz = np.zeros_like(logits)
    dz[np.arange(len(labels)), labels] = -1 / len(labels)
    return dz


@TERMS.named("the label", "cross_entropy_backward")
def _softmax_only(right: Rule, logits: Any, labels: Any) -> Any:
    return right(logits, labels) - _label_only(right, logits, labels)


@TERMS.named("the mean over images", "cross_entropy_backward")
def _summed_gradient(right: Rule, logits: Any, labels: Any) -> Any:
    return right(logits, labels) * len(labels)


@TERMS.named("the momentum", "update")
def _no_momentum(right: Rule, w: Any, v: Any, g: Any, settings: Any, optimizer: Any) -> Any:
    return right(w, v * settings.frozen, g, settings, optimizer)


@TERMS.named("the gradient", "update")
def _no_gradient_step(right: Rule, w: Any, v: Any, g: Any, settings: Any, optimizer: Any) -> Any:
    return right(w, v, g * 0, settings, optimizer)


@TERMS.named("the decay", "update")
def _no_decay(right: Rule, w: Any, v: Any, g: Any, settings: Any, optimizer: Any) -> Any:
    return right(w, v, g, replace(settings, weight_decay=0.0), optimizer)


@TERMS.named("the velocity in the parameter", "update")
def _not_moved(right: Rule, w: Any, v: Any, g: Any, settings: Any, optimizer: Any) -> Any:
    return w, right(w, v, g, settings, optimizer)[1]


@TERMS.named("frozen", "update")
def _coasts(right: Rule, w: Any, v: Any, g: Any, settings: Any, optimizer: Any) -> Any:
    return (w, v * optimizer.momentum) if settings.frozen else right(w, v, g, settings, optimizer)


for _field in ("images", "loss", "correct1", "correct5"):

    def _uncounted(right: Rule, logits: Any, labels: Any, field: str = _field) -> Any:
        found = right(logits, labels)
        changed: Any = {field: getattr(found, field) + 1}
        return replace(found, **changed)

    TERMS.named(_field, "tally")(_uncounted)
