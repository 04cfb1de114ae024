"""What people write instead of a formula: each as another formula of the oracle, in words that follow "as if".

Attributes that are taken for others and terms that are left out are in ``changes.py`` and ``terms.py``; here is what is
put in the place of something. By these a fault is named; none of them is needed to notice it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from backends.numpy.ops import NEIGHBOURS, Call, flat_windows, response, windows, windows_backward
from conformance.terms import Formulas, Rule
from spec.language import Padding, Size

HABITS = Formulas()
"""Of the layers."""


# --- layers with weights ----------------------------------------------------------------------------------------------


def _weight(change: Callable[[Any], Any]) -> Rule:
    """A layer whose weight is taken for another of its shape; else as it is."""

    def rule(right: Rule, call: Call) -> Any:
        weight = change(call.parameters["weight"])
        if weight.shape != call.parameters["weight"].shape:
            return right(call)
        return right(replace(call, parameters={**call.parameters, "weight": weight}))

    return rule


def _parts(change: Callable[[list[Any]], list[Any]], what: str) -> Rule:
    """A grouped layer whose groups are taken in another order: of its input, of its output, or of its bias."""

    def rule(right: Rule, call: Call) -> Any:
        groups = call.layer.groups
        if groups == 1:
            return right(call)
        if what == "bias":
            bias = np.concatenate(change(np.split(call.parameters["bias"], groups)))
            return right(replace(call, parameters={**call.parameters, "bias": bias}))
        if what == "input":
            return right(replace(call, x=np.concatenate(change(np.split(call.x, groups, axis=1)), axis=1)))
        return np.concatenate(change(np.split(right(call), groups, axis=1)), axis=1)

    return rule


def _biasless_groups(right: Rule, call: Call) -> Any:
    without = {name: value for name, value in call.parameters.items() if name != "bias" or call.layer.groups == 1}
    return right(replace(call, parameters=without))


def _interleaved(right: Rule, call: Call) -> Any:
    """Channel c belongs to group c modulo their number."""
    groups, channels = call.layer.groups, call.x.shape[1]
    order = np.arange(channels).reshape(-1, groups).T.reshape(-1)
    return right(replace(call, x=call.x[:, order]))


for _op in ("conv", "local"):
    HABITS.forward("kernels were turned by 180 degrees", _op)(_weight(lambda w: w[:, :, ::-1, ::-1]))
    HABITS.forward("rows and columns of kernels were exchanged", _op)(_weight(lambda w: w.swapaxes(2, 3)))
for _op in ("conv", "local", "dense"):
    HABITS.forward("inputs and outputs of weights were exchanged", _op)(_weight(lambda w: w.swapaxes(0, 1)))
    HABITS.forward("the groups of the input came in the opposite order", _op)(_parts(lambda x: x[::-1], "input"))
    HABITS.forward("the groups of the output came in the opposite order", _op)(_parts(lambda x: x[::-1], "output"))
    HABITS.forward("the groups of the bias came in the opposite order", _op)(_parts(lambda x: x[::-1], "bias"))
    HABITS.forward("every group saw the first group's input", _op)(_parts(lambda x: [x[0]] * len(x), "input"))
    HABITS.forward("every group had the first group's bias", _op)(_parts(lambda x: [x[0]] * len(x), "bias"))
    HABITS.forward("the bias of grouped layers were left out", _op)(_biasless_groups)
    HABITS.forward("channels belonged to the groups in turn", _op)(_interleaved)


@HABITS.forward("all places had the first place's weights", "local")
def _shared(right: Rule, call: Call) -> Any:
    weight = np.broadcast_to(call.parameters["weight"][..., :1, :1], call.parameters["weight"].shape)
    return right(replace(call, parameters={**call.parameters, "weight": weight}))


def _padding(change: Callable[[Padding], Padding]) -> Rule:
    def rule(right: Rule, call: Call) -> Any:
        assert call.geometry.padding is not None
        return right(replace(call, geometry=replace(call.geometry, padding=change(call.geometry.padding))))

    return rule


for _op in ("conv", "local", "max_pool", "avg_pool"):
    HABITS.forward("padding were on the opposite sides", _op)(
        _padding(lambda p: Padding(top=p.bottom, bottom=p.top, left=p.right, right=p.left))
    )


@HABITS.forward("kernels of stride 1 were spread by 2 (dilation), and padded to match", "conv")
def _spread(right: Rule, call: Call) -> Any:
    """Where an odd kernel keeps the size of the map."""
    weight, p, layer = call.parameters["weight"], call.geometry.padding, call.layer
    assert p is not None
    height, width = weight.shape[2:]
    if height == 1 or (layer.stride.height, layer.stride.width) != (1, 1) or height % 2 == 0 or width % 2 == 0:
        return right(call)
    spread = np.zeros((*weight.shape[:2], 2 * height - 1, 2 * width - 1), weight.dtype)
    spread[:, :, ::2, ::2] = weight
    down, right_ = (height - 1) // 2, (width - 1) // 2
    padding = Padding(top=p.top + down, bottom=p.bottom + down, left=p.left + right_, right=p.right + right_)
    other = layer.model_copy(update={"kernel": Size(height=2 * height - 1, width=2 * width - 1)})
    at = replace(call.geometry, layer=other, padding=padding)
    return right(replace(call, geometry=at, parameters={**call.parameters, "weight": spread}))


@HABITS.forward("padding repeated the border", "conv", "local", "avg_pool")
def _edge(right: Rule, call: Call) -> Any:
    p = call.geometry.padding
    assert p is not None
    padded = np.pad(call.x, ((0, 0), (0, 0), (p.top, p.bottom), (p.left, p.right)), mode="edge")
    none = replace(call.geometry, input_shape=padded.shape[1:], padding=Padding(top=0, bottom=0, left=0, right=0))
    return right(replace(call, x=padded, geometry=none))


# --- pooling ----------------------------------------------------------------------------------------------------------


@HABITS.forward("it averaged", "max_pool")
def _averaged(right: Rule, call: Call) -> Any:
    return windows(call.x, call.geometry).mean(axis=(4, 5))


@HABITS.forward("it took the largest", "avg_pool")
def _largest(right: Rule, call: Call) -> Any:
    return flat_windows(call, -np.inf).max(axis=-1)


@HABITS.forward("the divisor counted the padding but not what rounding adds", "avg_pool")
def _declared(right: Rule, call: Call) -> Any:
    layer, p = call.layer, call.geometry.padding
    assert p is not None
    stated = layer.padding
    inside = np.ones((1, 1, *call.geometry.input_shape[1:]), call.x.dtype)
    sides = ((stated.top, stated.bottom), (stated.left, stated.right))
    more = ((p.top - stated.top, p.bottom - stated.bottom), (p.left - stated.left, p.right - stated.right))
    counted = np.pad(np.pad(inside, ((0, 0), (0, 0), *sides), constant_values=1), ((0, 0), (0, 0), *more))
    bare = replace(call.geometry, input_shape=counted.shape[1:], padding=Padding(top=0, bottom=0, left=0, right=0))
    return windows(call.x, call.geometry).sum(axis=(4, 5)) / windows(counted, bare).sum(axis=(0, 1, 4, 5))


def _winners(share: Callable[[Any], Any]) -> Rule:
    def rule(right: Rule, call: Call, y: Any, dy: Any) -> Any:
        kernel = call.layer.kernel
        won = flat_windows(call, -np.inf) == y[..., None]
        du = share(won).astype(dy.dtype) * dy[..., None]
        return windows_backward(du.reshape(*dy.shape, kernel.height, kernel.width), call.geometry), {}

    return rule


HABITS.backward("every one of equal numbers got the gradient", "max_pool")(_winners(lambda won: won))
HABITS.backward("equal numbers shared the gradient", "max_pool")(
    _winners(lambda won: won / won.sum(axis=-1, keepdims=True))
)


# --- normalisation ----------------------------------------------------------------------------------------------------


def _normalised(coefficient: Callable[[Call], Any], squares: Callable[[Any], Any] = np.square) -> Rule:
    """With another factor of the sum, or a sum of something else."""

    def rule(right: Rule, call: Call) -> Any:
        layer = call.layer
        total = NEIGHBOURS[layer.op](squares(call.x), layer)
        return call.x * np.maximum(layer.k + coefficient(call) * total, 1e-30) ** -layer.beta

    return rule


def _there(call: Call) -> Any:
    """alpha over the number of places of the window that there are."""
    return call.layer.alpha / NEIGHBOURS[call.layer.op](np.ones_like(call.x), call.layer)


for _op in ("lrn", "spatial_norm"):
    HABITS.forward("alpha were divided by how much of the window there is", _op)(_normalised(_there))
    HABITS.forward("alpha were divided twice", _op)(
        _normalised(lambda call: call.layer.coefficient**2 / call.layer.alpha)
    )
    HABITS.forward("absolute values were added, not squares", _op)(
        _normalised(lambda call: call.layer.coefficient, np.abs)
    )


def _power(exponent: Callable[[float], float]) -> Rule:
    def rule(right: Rule, call: Call) -> Any:
        return call.x * response(call) ** exponent(call.layer.beta)

    return rule


@HABITS.forward("k were inside the sum", "lrn", "spatial_norm")
def _k_inside(right: Rule, call: Call) -> Any:
    layer = call.layer
    return call.x * (layer.coefficient * (layer.k + NEIGHBOURS[layer.op](call.x**2, layer))) ** -layer.beta


@HABITS.forward("the window went over images", "lrn")
def _over_images(right: Rule, call: Call) -> Any:
    layer = call.layer
    turned = (call.x**2).swapaxes(0, 1)
    if layer.groups > 1:
        return right(call)
    total = NEIGHBOURS["lrn"](turned, layer).swapaxes(0, 1)
    return call.x * (layer.k + layer.coefficient * total) ** -layer.beta


@HABITS.forward("the window went round from the last channel to the first", "lrn")
def _round(right: Rule, call: Call) -> Any:
    layer = call.layer
    before, after = layer.window
    towers = (call.x**2).reshape(len(call.x), layer.groups, -1, *call.x.shape[2:])
    total = sum(np.roll(towers, -shift, axis=2) for shift in range(-before, after + 1))
    return call.x * (layer.k + layer.coefficient * np.reshape(total, call.x.shape)) ** -layer.beta


for _op in ("lrn", "spatial_norm"):
    HABITS.forward("it multiplied by the power", _op)(_power(lambda beta: beta))


# --- activations ------------------------------------------------------------------------------------------------------


def _leaking(right: Rule, call: Call) -> Any:
    return np.where(call.x > 0, call.x, 0.01 * call.x)


HABITS.forward("a hundredth leaked through below 0", "relu")(_leaking)
HABITS.forward("it ended at 6", "relu")(lambda right, call: np.clip(call.x, 0, 6))
HABITS.forward("it were a sigmoid", "tanh")(lambda right, call: 1 / (1 + np.exp(-call.x)))


# --- dropout ----------------------------------------------------------------------------------------------------------


def _masked(change: Callable[[Any], Any]) -> Rule:
    def rule(right: Rule, call: Call) -> Any:
        return right(call if call.mask is None else replace(call, mask=change(call.mask)))

    return rule


HABITS.forward("the mask said what is dropped", "dropout")(_masked(lambda mask: ~mask))
HABITS.forward("every image had the first one's mask", "dropout")(
    _masked(lambda mask: np.broadcast_to(mask[:1], mask.shape))
)


@HABITS.forward("the factor were that of the rate, not of what is kept", "dropout")
def _by_rate(right: Rule, call: Call) -> Any:
    rate, scale = call.layer.rate, call.layer.scale
    if call.mask is None:
        return call.x * (rate if scale == "test" else 1.0)
    return call.x * call.mask / (rate if scale == "train" else 1.0)


@HABITS.forward("both training and evaluation scaled", "dropout")
def _twice(right: Rule, call: Call) -> Any:
    keep = 1 - call.layer.rate
    return call.x * keep if call.mask is None else call.x * call.mask / keep


@HABITS.forward("the rows of a map came last", "flatten")
def _columns_first(right: Rule, call: Call) -> Any:
    return call.x.swapaxes(2, 3).reshape(len(call.x), -1)
