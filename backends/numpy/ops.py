"""Every op of the language as a formula and its derivative. Nothing here is fast; everything here is meant to be read.

Arrays are NCHW maps or (N, F) vectors of one floating dtype, and results have the dtype of their inputs. Indices in the
formulas: n image, c input channel, o output channel, y x place, i j place in the window. ``dL/dy`` is written dy.

A forward takes a :class:`Call` and returns y. A backward takes the call, its y and dy, and returns dx and the gradients
of the parameters by their short names (``weight``, ``bias``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from backends.base import Array
from spec.arithmetic import LayerGeometry
from spec.language import Padding, Size


@dataclass(frozen=True)
class Call:
    """One layer applied to one input: what its forward reads and its backward reads again."""

    geometry: LayerGeometry
    x: Array
    parameters: Mapping[str, Array] = field(default_factory=dict)
    """Short names, ``weight`` and ``bias``, as far as the layer has them."""
    mask: Array | None = None
    """Of dropout in training: which units are kept, bool, the shape of x."""

    @property
    def layer(self) -> Any:
        return self.geometry.layer


Gradient = tuple[Array, dict[str, Array]]
"""dx and the gradients of the parameters."""


# --- windows --------------------------------------------------------------------------------------------------------


def _window_of(geometry: LayerGeometry) -> tuple[Padding, Size, Size]:
    assert geometry.padding is not None
    layer: Any = geometry.layer
    return geometry.padding, layer.kernel, layer.stride


def windows(x: Array, geometry: LayerGeometry, fill: float = 0.0) -> Array:
    """The windows of x (N, C, H, W), a view (N, C, Y, X, kh, kw).

    u[n, c, y, x, i, j] = p[n, c, sh y + i, sw x + j], p being x inside its padding of `fill` and s the stride.
    """
    p, kernel, stride = _window_of(geometry)
    padded = np.pad(x, ((0, 0), (0, 0), (p.top, p.bottom), (p.left, p.right)), constant_values=fill)
    every = sliding_window_view(padded, (kernel.height, kernel.width), axis=(2, 3))
    return every[:, :, :: stride.height, :: stride.width]


def windows_backward(du: Array, geometry: LayerGeometry) -> Array:
    """The transpose of :func:`windows`: every place gathers the du of all windows that saw it; padding is cut off."""
    p, kernel, stride = _window_of(geometry)
    images, channels, rows, columns = du.shape[:4]
    _, height, width = geometry.input_shape
    padded = np.zeros((images, channels, p.top + height + p.bottom, p.left + width + p.right), du.dtype)
    for i in range(kernel.height):
        for j in range(kernel.width):
            seen_rows = slice(i, i + stride.height * (rows - 1) + 1, stride.height)
            seen_columns = slice(j, j + stride.width * (columns - 1) + 1, stride.width)
            padded[:, :, seen_rows, seen_columns] += du[..., i, j]
    return padded[:, :, p.top : p.top + height, p.left : p.left + width]


def _by_group(x: Array, groups: int, axis: int) -> list[Array]:
    return np.split(x, groups, axis=axis)


def _joined(parts: list[Array], axis: int) -> Array:
    return np.concatenate(parts, axis=axis) if len(parts) > 1 else parts[0]


# --- layers with weights --------------------------------------------------------------------------------------------


def conv(call: Call) -> Array:
    """y[n, o, y, x] = b[o] + sum over c, i, j of w[o, c, i, j] u[n, c, y, x, i, j]; o's group sees its group of c."""
    groups = call.layer.groups
    parts = zip(_by_group(windows(call.x, call.geometry), groups, 1), _by_group(call.parameters["weight"], groups, 0))
    y = _joined([np.tensordot(u, w, axes=((1, 4, 5), (1, 2, 3))) for u, w in parts], axis=3)
    if "bias" in call.parameters:
        y += call.parameters["bias"]
    return np.ascontiguousarray(y.transpose(0, 3, 1, 2))


def conv_backward(call: Call, y: Array, dy: Array) -> Gradient:
    """dw[o, c, i, j] = sum of dy u and db[o] = sum of dy, over n, y, x; du = sum over o of dy w, gathered into dx."""
    groups = call.layer.groups
    inputs = _by_group(windows(call.x, call.geometry), groups, 1)
    outputs, weights = _by_group(dy, groups, 1), _by_group(call.parameters["weight"], groups, 0)
    dw = [np.tensordot(d, u, axes=((0, 2, 3), (0, 2, 3))) for d, u in zip(outputs, inputs)]
    du = [np.tensordot(d, w, axes=(1, 0)).transpose(0, 3, 1, 2, 4, 5) for d, w in zip(outputs, weights)]
    gradients = {"weight": _joined(dw, axis=0)}
    if "bias" in call.parameters:
        gradients["bias"] = dy.sum(axis=(0, 2, 3))
    return _joined([windows_backward(d, call.geometry) for d in du], axis=1), gradients


def local(call: Call) -> Array:
    """As :func:`conv` with a kernel for every place: w[o, c, i, j, y, x] and b[o, y, x]."""
    groups = call.layer.groups
    parts = zip(_by_group(windows(call.x, call.geometry), groups, 1), _by_group(call.parameters["weight"], groups, 0))
    y = _joined([np.einsum("ncyxij,ocijyx->noyx", u, w) for u, w in parts], axis=1)
    return y + call.parameters["bias"] if "bias" in call.parameters else y


def local_backward(call: Call, y: Array, dy: Array) -> Gradient:
    """dw[o, c, i, j, y, x] = sum over n of dy u; du = sum over o of dy w, gathered into dx; db = sum over n of dy."""
    groups = call.layer.groups
    inputs = _by_group(windows(call.x, call.geometry), groups, 1)
    outputs, weights = _by_group(dy, groups, 1), _by_group(call.parameters["weight"], groups, 0)
    dw = [np.einsum("noyx,ncyxij->ocijyx", d, u) for d, u in zip(outputs, inputs)]
    du = [np.einsum("noyx,ocijyx->ncyxij", d, w) for d, w in zip(outputs, weights)]
    gradients = {"weight": _joined(dw, axis=0)}
    if "bias" in call.parameters:
        gradients["bias"] = dy.sum(axis=0)
    return _joined([windows_backward(d, call.geometry) for d in du], axis=1), gradients


def dense(call: Call) -> Array:
    """y[n, o] = b[o] + sum over i of w[o, i] x[n, i]; o's group sees its group of i."""
    groups = call.layer.groups
    parts = zip(_by_group(call.x, groups, 1), _by_group(call.parameters["weight"], groups, 0))
    y = _joined([x @ w.T for x, w in parts], axis=1)
    return y + call.parameters["bias"] if "bias" in call.parameters else y


def dense_backward(call: Call, y: Array, dy: Array) -> Gradient:
    """dw[o, i] = sum of dy[n, o] x[n, i], db[o] = sum of dy[n, o], over n; dx[n, i] = sum of dy[n, o] w[o, i], by o."""
    groups = call.layer.groups
    inputs, outputs = _by_group(call.x, groups, 1), _by_group(dy, groups, 1)
    weights = _by_group(call.parameters["weight"], groups, 0)
    gradients = {"weight": _joined([d.T @ x for d, x in zip(outputs, inputs)], axis=0)}
    if "bias" in call.parameters:
        gradients["bias"] = dy.sum(axis=0)
    return _joined([d @ w for d, w in zip(outputs, weights)], axis=1), gradients


# --- pooling --------------------------------------------------------------------------------------------------------


def flat_windows(call: Call, fill: float) -> Array:
    """The windows of x with their last two dimensions as one, in raster order: (N, C, Y, X, kh * kw)."""
    u = windows(call.x, call.geometry, fill)
    return u.reshape(*u.shape[:4], -1)


def max_pool(call: Call) -> Array:
    """y[n, c, y, x] = max over i, j of u[n, c, y, x, i, j], padding -infinity."""
    y: Array = flat_windows(call, -np.inf).max(axis=-1)
    return y


def max_pool_backward(call: Call, y: Array, dy: Array) -> Gradient:
    """du is dy at the largest element of the window, the first in raster order of several equals, and 0 elsewhere."""
    kernel = call.layer.kernel
    winner = flat_windows(call, -np.inf).argmax(axis=-1)
    du = (winner[..., None] == np.arange(kernel.height * kernel.width)) * dy[..., None]
    return windows_backward(du.reshape(*dy.shape, kernel.height, kernel.width), call.geometry), {}


def pool_divisors(geometry: LayerGeometry, dtype: Any) -> Array:
    """What each average is divided by, (Y, X): the window's area, or (``divisor: inside``) its part inside the map."""
    layer: Any = geometry.layer
    if layer.divisor == "window":
        return np.full(geometry.output_shape[1:], layer.kernel.height * layer.kernel.width, dtype)
    inside = np.ones((1, 1, *geometry.input_shape[1:]), dtype)
    count: Array = windows(inside, geometry).sum(axis=(0, 1, 4, 5))
    return count


def avg_pool(call: Call) -> Array:
    """y[n, c, y, x] = sum over i, j of u[n, c, y, x, i, j] / d[y, x], padding 0."""
    total: Array = windows(call.x, call.geometry).sum(axis=(4, 5))
    return total / pool_divisors(call.geometry, call.x.dtype)


def avg_pool_backward(call: Call, y: Array, dy: Array) -> Gradient:
    """du[n, c, y, x, i, j] = dy[n, c, y, x] / d[y, x], gathered into dx."""
    kernel = call.layer.kernel
    du = (dy / pool_divisors(call.geometry, dy.dtype))[..., None, None]
    return windows_backward(np.broadcast_to(du, (*dy.shape, kernel.height, kernel.width)), call.geometry), {}


# --- response normalisation -----------------------------------------------------------------------------------------


def box_sum(x: Array, axis: int, before: int, after: int) -> Array:
    """r[i] = sum of x[j] for i - before <= j <= i + after along `axis`, zeros outside; term by term, no running sum."""
    pad = [(0, 0)] * x.ndim
    pad[axis] = (before, after)
    padded = np.pad(x, pad)
    length = x.shape[axis]
    total = np.zeros_like(x)
    for shift in range(before + 1 + after):
        total += padded[(slice(None),) * axis + (slice(shift, shift + length),)]
    return total


def channel_sum(x: Array, layer: Any, mirrored: bool = False) -> Array:
    """Sum over the channels of each window of ``lrn``, towers apart; `mirrored`: the transpose, ends swapped."""
    before, after = layer.window[::-1] if mirrored else layer.window
    towers = x.reshape(x.shape[0], layer.groups, -1, *x.shape[2:])
    return box_sum(towers, 2, before, after).reshape(x.shape)


def area_sum(x: Array, layer: Any, mirrored: bool = False) -> Array:
    """Sum over the places of each centred window of ``spatial_norm``, clipped at the border; its own transpose."""
    reach = layer.size // 2
    return box_sum(box_sum(x, 2, reach, reach), 3, reach, reach)


NEIGHBOURS: dict[str, Callable[..., Array]] = {"lrn": channel_sum, "spatial_norm": area_sum}


def response(call: Call) -> Array:
    """s_i = k + a * sum over j in W(i) of x_j^2, what the power is taken of."""
    layer = call.layer
    s: Array = layer.k + layer.coefficient * NEIGHBOURS[layer.op](call.x**2, layer)
    return s


def normalise(call: Call) -> Array:
    """y_i = x_i s_i^-beta, s the :func:`response`."""
    y: Array = call.x * response(call) ** -call.layer.beta
    return y


def normalise_backward(call: Call, y: Array, dy: Array) -> Gradient:
    """dx_i = dy_i s_i^-beta - 2 a beta x_i * sum over those j with i in W(j) of dy_j x_j s_j^(-beta - 1).

    The first term is y_i's own factor; the second is ds_j/dx_i = 2 a x_i in every y_j whose window holds i. For
    channels, i in W(j) = [j - before, j + after] means j in [i - after, i + before]: the mirrored window.
    """
    layer, x, s = call.layer, call.x, response(call)
    spread = NEIGHBOURS[layer.op](dy * x * s ** (-layer.beta - 1), layer, mirrored=True)
    return dy * s**-layer.beta - (2 * layer.coefficient * layer.beta) * x * spread, {}


# --- the rest -------------------------------------------------------------------------------------------------------


def relu(call: Call) -> Array:
    """y = max(x, 0)."""
    return np.maximum(call.x, 0)


def relu_backward(call: Call, y: Array, dy: Array) -> Gradient:
    """dx = dy where x > 0, else 0, at 0 too."""
    return np.where(call.x > 0, dy, 0), {}


def tanh(call: Call) -> Array:
    """y = A tanh(s x), A the amplitude and s the slope."""
    y: Array = call.layer.amplitude * np.tanh(call.layer.slope * call.x)
    return y


def tanh_backward(call: Call, y: Array, dy: Array) -> Gradient:
    """dx = dy A s (1 - tanh(s x)^2)."""
    slope: Array = 1 - np.tanh(call.layer.slope * call.x) ** 2
    return dy * (call.layer.amplitude * call.layer.slope) * slope, {}


def _dropout_factor(call: Call) -> Any:
    """Training: m / (1 - rate) (``scale: train``) or m (``scale: test``), m the mask. Evaluation: 1 or 1 - rate."""
    keep = 1.0 - call.layer.rate
    if call.mask is None:
        return keep if call.layer.scale == "test" else 1.0
    return call.mask / call.x.dtype.type(keep if call.layer.scale == "train" else 1.0)


def dropout(call: Call) -> Array:
    """y = f x, f the factor of training or evaluation."""
    y: Array = call.x * _dropout_factor(call)
    return y


def dropout_backward(call: Call, y: Array, dy: Array) -> Gradient:
    """dx = f dy."""
    return dy * _dropout_factor(call), {}


def flatten(call: Call) -> Array:
    """y[n, (c H + y) W + x] = x[n, c, y, x]."""
    return call.x.reshape(call.x.shape[0], -1)


def flatten_backward(call: Call, y: Array, dy: Array) -> Gradient:
    """The same elements in the shape of x."""
    return dy.reshape(call.x.shape), {}


FORWARD: dict[str, Callable[[Call], Array]] = {
    "conv": conv,
    "local": local,
    "max_pool": max_pool,
    "avg_pool": avg_pool,
    "lrn": normalise,
    "spatial_norm": normalise,
    "relu": relu,
    "tanh": tanh,
    "dropout": dropout,
    "flatten": flatten,
    "dense": dense,
}
BACKWARD: dict[str, Callable[[Call, Array, Array], Gradient]] = {
    "conv": conv_backward,
    "local": local_backward,
    "max_pool": max_pool_backward,
    "avg_pool": avg_pool_backward,
    "lrn": normalise_backward,
    "spatial_norm": normalise_backward,
    "relu": relu_backward,
    "tanh": tanh_backward,
    "dropout": dropout_backward,
    "flatten": flatten_backward,
    "dense": dense_backward,
}


# --- the loss -------------------------------------------------------------------------------------------------------


def cross_entropy(logits: Array, labels: Array) -> float:
    """L = mean over n of (log sum over o of exp z[n, o]) - z[n, label n], the largest z taken out of the exponents."""
    z = logits - logits.max(axis=1, keepdims=True)
    return float((np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(labels)), labels]).mean())


def cross_entropy_backward(logits: Array, labels: Array) -> Array:
    """dz[n, o] = (softmax(z[n])[o] - (1 if o is label n else 0)) / N."""
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    dz: Array = e / e.sum(axis=1, keepdims=True)
    dz[np.arange(len(labels)), labels] -= 1
    dz /= len(labels)
    return dz
