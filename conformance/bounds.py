"""How far a correct backend may be from the oracle: the one place from which every tolerance of the suite comes.

A correct backend differs from the exact result by rounding alone. How much that is follows in three steps, none of
which has a number that was chosen by looking at a backend:

1. **What one operation loses** (:func:`forward_rounding`, :func:`backward_rounding`). With unit roundoff u of the
   dtype, one rounding moves a result r by a random amount of standard deviation about 0.4 u abs(r): uniform in a half
   unit of the last place, the mantissa anywhere. A sum of K terms taken one after another rounds every partial sum. If
   the terms have random signs the partial sums grow like sqrt(k), if they have one sign like k, and in either case

       std of the sum's error = ROUND u sqrt(K) sqrt(sum of squares of the terms + square of the sum),  ROUND = 0.3

   (0.4 / sqrt 2 and 0.4 / sqrt 3 respectively). This is the statistical form of the bound gamma_K = K u that always
   holds; see N. J. Higham and T. Mary, "A new approach to probabilistic rounding error analysis", SISC 41 (2019).
   Blocked, pairwise and fused sums lose less. Equal terms in a row, which a large average pool sends back to the biases
   in front of it, are rounded alike: the errors of a run of length l add up, and K grows by the mean l
   (:func:`_alike`). Powers and hyperbolic tangents are taken to lose TRANSCENDENTAL u.
2. **What the network makes of it.** The oracle runs again, `replicas` times, in float64 but with random errors of just
   that size after every operation, forward and backward. How far these runs end from the clean one is the conditioning
   of every tensor, measured: cancellation, normalisation, the chain of layers, the momentum of the optimizer are all in
   it.
3. **A margin** (:func:`bound`). The bound of an element is SAFETY times the largest deviation seen in its channel over
   all runs, images and places, but never less than FLOOR of the tensor's own largest, so that a channel in which few
   numbers were seen cannot have a bound that is small by luck. Where the whole tensor is a few numbers, a loss or the
   biases of a small layer, the largest seen is small by luck itself: there the root mean square over the runs stands
   for it (:func:`_likely_largest`). What the last operation alone loses is added where it was not drawn.

A rule whose result jumps (the sign in a ReLU, the winner of a max-pool) has no conditioning. Cases are therefore built
so that no such decision is within reach of the bounds (``cases.py``); on them the bounds hold with no exception.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backends.base import Array
from backends.numpy.ops import BACKWARD, FORWARD, NEIGHBOURS, Call, pool_divisors, response
from spec import Settings
from spec.language import Optimizer

MIXED = "mixed_bfloat16"
"""Products are computed in bfloat16, of parameters that are kept in float32; normalisation and loss in float32."""
MIXED_HALF = "mixed_float16"
"""The same in float16, and what a layer gives is rounded to it too."""
UNIT_ROUNDOFF = {
    "float64": 2.0**-53,
    "float32": 2.0**-24,
    "bfloat16": 2.0**-8,
    MIXED: 2.0**-8,
    "float16": 2.0**-11,
    MIXED_HALF: 2.0**-11,
}
TINY = {
    "float64": 2.0**-1022,
    "float32": 2.0**-126,
    "bfloat16": 2.0**-126,
    MIXED: 2.0**-126,
    "float16": 2.0**-14,
    MIXED_HALF: 2.0**-14,
}
"""The smallest normal number: below it a backend may flush to zero."""

ROUND = 0.3
"""Standard deviation of a sum's error in units of u sqrt(K) sqrt(sum of squares + square of the sum); see above."""
TRANSCENDENTAL = 2.0
"""Standard deviation, in u, of the relative error of a power or a tanh: libraries promise 1 to 4 units."""
EXTREME = 4.5
"""The largest of some 10^5 normal numbers, in standard deviations: what "the largest seen" is without a draw."""
SAFETY = 3.0
"""A backend may be this much further away than the furthest of the oracle's perturbed runs."""
BLOCK = 1 << 20
FEW = 64
"""The largest of fewer numbers than this may be small by luck."""
MIXED_TERMS = 4
"""Of a sum of products in mixed precision, as many roundings as this in the formula of :data:`ROUND`: a factor of each
product is rounded, and the result twice, at the bias and at the end, but no partial sum:
0.4 u sqrt(sum of squares + 2 square of the sum) < 0.3 u sqrt(4) sqrt(sum of squares + square of the sum)."""
ROUNDED = 0.4
"""Standard deviation of one rounding, in u of the number rounded."""
UNIFORM = 12**-0.5
"""Standard deviation of one rounding to whole steps, in steps."""
LEAST = {MIXED_HALF: 2.0**-24}
"""The step of the smallest numbers, where activations come near them: a rounding never loses less than half of it."""
FLOOR = 0.25
"""No channel's bound is smaller than this share of its tensor's."""


@dataclass(frozen=True)
class Arithmetic:
    """How a backend computes, as far as it matters for rounding."""

    dtype: str = "float32"
    running_sum_lrn: bool = False
    """The window of LRN moves by adding its head and subtracting its tail (Caffe, the LRN kernel of ONNX Runtime's
    CPU)."""
    steps: Mapping[str, float] = field(default_factory=dict, hash=False)
    """By layer, the steps in which its output is stored as integers."""
    input_step: float = 0.0
    """Those of the images."""

    @property
    def u(self) -> float:
        """Unit roundoff: half the distance from 1 to the next number."""
        return UNIT_ROUNDOFF[self.dtype]

    @property
    def mixed(self) -> bool:
        return self.dtype in (MIXED, MIXED_HALF)

    @property
    def kept(self) -> float:
        """The unit roundoff of what is kept, and of normalisation, loss and update, where that is another."""
        return UNIT_ROUNDOFF["float32"] if self.mixed else self.u

    def roundings(self, terms: float) -> float:
        """How many roundings a sum of so many products counts as."""
        return MIXED_TERMS if self.mixed else terms


def representable(array: Array, dtype: str) -> Array:
    """`array` rounded to what `dtype` keeps, in its :func:`carrier`."""
    return bfloat16(array) if dtype == "bfloat16" else np.asarray(array, carrier(dtype))


def bfloat16(array: Array) -> Array:
    """float32 numbers, each rounded to the nearest that bfloat16 has, to even where two are as near."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    to_even = (bits >> np.uint32(16)) & np.uint32(1)
    return ((bits + np.uint32(0x7FFF) + to_even) & np.uint32(0xFFFF0000)).view(np.float32).reshape(np.shape(array))


def carrier(dtype: str) -> str:
    """The dtype of NumPy in which arrays of `dtype` cross the contract: float32 for either bfloat16."""
    return "float32" if dtype in ("bfloat16", MIXED, MIXED_HALF) else dtype


# --- what one operation loses, in units of u, as a standard deviation -----------------------------------------------


def _sum_error(terms: float, squares: Array, total: Array) -> Array:
    error: Array = ROUND * math.sqrt(terms) * np.sqrt(squares + np.square(total, dtype=squares.dtype))
    return error


def _largest_sum_error(terms: float, squares: Array, total: Array) -> Array:
    """By channel the largest of :func:`_sum_error`."""
    error = _sum_error(terms, squares, total)
    return by_channel(error.max(axis=tuple(range(1, error.ndim)), keepdims=True), 0, error.shape)


def _alike(terms: Array) -> float:
    """By how many times more than by as many random numbers the square of a sum's error grows, summed place by place.

    terms: (N, C, ...), each channel summed by itself. While the sum stays between two powers of two, adding one number
    again and again rounds by the same amount each time: a run of l equal terms errs like one of l times the size, with
    l^2 in place of l. The mean over the terms; adding zeros rounds nothing.
    """
    rows = terms.reshape(len(terms), terms.shape[1], -1)
    if rows.shape[2] < 2:
        return 1.0
    again = np.concatenate([np.zeros_like(rows[:, :, :1], bool), rows[:, :, 1:] == rows[:, :, :-1]], axis=2)
    again &= rows != 0
    starts = np.flatnonzero(~again.ravel())
    lengths = np.diff(starts, append=again.size)
    return float(np.square(lengths, dtype=np.float64).sum() / lengths.sum())


def _squared(call: Call) -> Call:
    """`call` with every number squared, in float32: sums of squares of the terms need no more digits."""
    squares = {name: np.square(value, dtype=np.float32) for name, value in call.parameters.items()}
    return Call(call.geometry, np.square(call.x, dtype=np.float32), squares, call.mask)


def _overlap(call: Call) -> int:
    """How many windows see one place, at most."""
    kernel, stride = call.layer.kernel, call.layer.stride
    windows: int = math.ceil(kernel.height / stride.height) * math.ceil(kernel.width / stride.width)
    return windows


def _exact(call: Call, y: Array, arithmetic: Arithmetic) -> Array:
    return np.zeros((1,) * y.ndim)


def _row_blocks(weight: Array) -> list[slice]:
    """The rows of a matrix in blocks that stay in cache: a full network's largest has 38 million elements."""
    rows = max(1, BLOCK // weight.shape[1])
    return [slice(first, first + rows) for first in range(0, len(weight), rows)]


def _dense(call: Call, y: Array, arithmetic: Arithmetic) -> Array:
    weight = call.parameters["weight"]
    if call.layer.groups > 1:
        return _weighted(call, y, arithmetic)
    x = np.square(call.x, dtype=np.float32)
    squares = [x @ np.square(weight[rows], dtype=np.float32).T for rows in _row_blocks(weight)]
    total = np.concatenate(squares, axis=1)
    if "bias" in call.parameters:
        total += np.square(call.parameters["bias"], dtype=np.float32)
    return _sum_error(arithmetic.roundings(weight.shape[1] + 1), total, y)


def _weighted(call: Call, y: Array, arithmetic: Arithmetic) -> Array:
    terms = math.prod(call.parameters["weight"].shape[1:4]) + 1
    return _sum_error(arithmetic.roundings(terms), FORWARD[call.layer.op](_squared(call)), y)


def _avg_pool(call: Call, y: Array, arithmetic: Arithmetic) -> Array:
    squares = FORWARD["avg_pool"](_squared(call)) / pool_divisors(call.geometry, np.float32)
    return _sum_error(call.layer.kernel.height * call.layer.kernel.width, squares, y)


def _normalise(call: Call, y: Array, arithmetic: Arithmetic) -> Array:
    """The power, the sum under it (exponent beta), and what a running sum has gathered on its way through the channels.

    Moving the window from channel to channel rounds twice, each time by 0.4 u s; nothing ever takes these errors out
    again, so that channel c has gathered the errors of all channels before it. Where a large channel has left the
    window, they are large beside s itself.
    """
    layer = call.layer
    terms = layer.size if layer.op == "lrn" else layer.size**2
    error: Array = (TRANSCENDENTAL + layer.beta * ROUND * math.sqrt(terms)) * np.abs(y)
    if arithmetic.running_sum_lrn and layer.op == "lrn":
        s = response(call)
        gathered = 0.4 * np.sqrt(2 * np.cumsum(s**2, axis=1)) / s
        error = error + layer.beta * gathered * np.abs(y)
    return _in_float32(error, y, arithmetic)


def _in_float32(error: Array, result: Array, arithmetic: Arithmetic) -> Array:
    """The error of what mixed precision computes in float32, and rounds when it is done; in units of u."""
    return error * (arithmetic.kept / arithmetic.u) + ROUNDED * np.abs(result) if arithmetic.mixed else error


def _tanh(call: Call, y: Array, arithmetic: Arithmetic) -> Array:
    error: Array = TRANSCENDENTAL * np.abs(y)
    return error


def _dropout(call: Call, y: Array, arithmetic: Arithmetic) -> Array:
    """The factor and the product."""
    error: Array = 0.6 * np.abs(y)
    return error


_FORWARD = {
    "conv": _weighted,
    "local": _weighted,
    "dense": _dense,
    "max_pool": _exact,
    "avg_pool": _avg_pool,
    "lrn": _normalise,
    "spatial_norm": _normalise,
    "relu": _exact,
    "tanh": _tanh,
    "dropout": _dropout,
    "flatten": _exact,
}


def forward_rounding(call: Call, y: Array, arithmetic: Arithmetic) -> Array:
    """Standard deviation of what computing y from x loses, elementwise (broadcastable to y), already times u."""
    error: Array = arithmetic.u * _FORWARD[call.layer.op](call, y, arithmetic)
    if arithmetic.dtype in LEAST and _FORWARD[call.layer.op] is not _exact:
        error = error + UNIFORM * LEAST[arithmetic.dtype]
    if call.geometry.name in arithmetic.steps:
        error = error + UNIFORM * arithmetic.steps[call.geometry.name]
    return error


Errors = tuple[Array, dict[str, Array]]


def _weighted_backward(call: Call, dy: Array, dx: Array, gradients: dict[str, Array], arithmetic: Arithmetic) -> Errors:
    squared = _squared(call)
    dx_squares, squares = BACKWARD[call.layer.op](squared, dy, np.square(dy, dtype=np.float32))
    weight = call.parameters["weight"]
    places = 1 if call.layer.op == "local" else math.prod(dy.shape[2:])
    seen = 1 if call.layer.op == "dense" else _overlap(call)
    alike = 1.0 if call.layer.op == "local" else _alike(dy)  # whose biases have no sum over places
    terms = {"weight": arithmetic.roundings(len(dy) * places), "bias": len(dy) * places * alike}
    errors = {name: _largest_sum_error(terms[name], squares[name], gradients[name]) for name in gradients}
    back = arithmetic.roundings(weight.shape[0] // call.layer.groups)
    # Locally connected layers add up the windows that see a place by themselves, whatever their product is computed in.
    alone = arithmetic.mixed and call.layer.op != "local"
    return _sum_error(back if alone else back * seen, dx_squares, dx), errors


def _dense_backward(call: Call, dy: Array, dx: Array, gradients: dict[str, Array], arithmetic: Arithmetic) -> Errors:
    """As :func:`_weighted_backward`, without a matrix of squares."""
    if call.layer.groups > 1:
        return _weighted_backward(call, dy, dx, gradients, arithmetic)
    weight, total = call.parameters["weight"], gradients["weight"]
    x, slope = np.square(call.x, dtype=np.float32), np.square(dy, dtype=np.float32)
    dx_squares, largest = np.zeros_like(x), 0.0
    for rows in _row_blocks(weight):
        dx_squares += slope[:, rows] @ np.square(weight[rows], dtype=np.float32)
        block = slope[:, rows].T @ x
        block += np.square(total[rows], dtype=np.float32)
        largest = max(largest, float(block.max()))
    scale = ROUND * math.sqrt(arithmetic.roundings(len(dy)))
    errors = {"weight": np.full((1, 1), scale * math.sqrt(largest))}
    if "bias" in gradients:
        errors["bias"] = _largest_sum_error(len(dy), slope.sum(axis=0), gradients["bias"])
    return _sum_error(arithmetic.roundings(len(weight)), dx_squares, dx), errors


def _pool_backward(call: Call, dy: Array, dx: Array, gradients: dict[str, Array], arithmetic: Arithmetic) -> Errors:
    """Overlapping windows add up in dx; an average divides before."""
    gathered, _ = BACKWARD[call.layer.op](call, dy, np.abs(dy))
    return 0.4 * math.sqrt(_overlap(call)) * gathered, {}


def _normalise_backward(
    call: Call, dy: Array, dx: Array, gradients: dict[str, Array], arithmetic: Arithmetic
) -> Errors:
    """As forward, of the sizes of both terms: they may cancel."""
    layer, x, s = call.layer, call.x, response(call)
    terms = layer.size if layer.op == "lrn" else layer.size**2
    spread = NEIGHBOURS[layer.op](np.abs(dy * x) * s ** (-layer.beta - 1), layer, mirrored=True)
    size = np.abs(dy) * s**-layer.beta + (2 * layer.coefficient * layer.beta) * np.abs(x) * spread
    error = (TRANSCENDENTAL + (1 + layer.beta) * ROUND * math.sqrt(terms)) * size
    return _in_float32(error, dx, arithmetic), {}


def _tanh_backward(call: Call, dy: Array, dx: Array, gradients: dict[str, Array], arithmetic: Arithmetic) -> Errors:
    """1 - t^2 loses digits of 1, not of itself."""
    size: Array = np.abs(dy) * (call.layer.amplitude * call.layer.slope)
    return TRANSCENDENTAL * size, {}


def _dropout_backward(call: Call, dy: Array, dx: Array, gradients: dict[str, Array], arithmetic: Arithmetic) -> Errors:
    return 0.6 * np.abs(dx), {}


def _exact_backward(call: Call, dy: Array, dx: Array, gradients: dict[str, Array], arithmetic: Arithmetic) -> Errors:
    return np.zeros((1,) * dx.ndim), {}


_BACKWARD = {
    "conv": _weighted_backward,
    "local": _weighted_backward,
    "dense": _dense_backward,
    "max_pool": _pool_backward,
    "avg_pool": _pool_backward,
    "lrn": _normalise_backward,
    "spatial_norm": _normalise_backward,
    "relu": _exact_backward,
    "tanh": _tanh_backward,
    "dropout": _dropout_backward,
    "flatten": _exact_backward,
}


def backward_rounding(
    call: Call, dy: Array, dx: Array, gradients: dict[str, Array], arithmetic: Arithmetic
) -> tuple[Array, dict[str, Array]]:
    """Standard deviation of what computing dx and the gradients (short names) from x and dy loses, already times u.

    Of the gradients, the largest by channel: nothing is computed from them any more.
    """
    at_dx, errors = _BACKWARD[call.layer.op](call, dy, dx, gradients, arithmetic)
    return arithmetic.u * at_dx, {name: arithmetic.u * error for name, error in errors.items()}


def update_rounding(
    w: Array, v: Array, g: Array, settings: Settings, optimizer: Optimizer, arithmetic: Arithmetic
) -> tuple[Array, Array]:
    """Standard deviation of what one update from w and v by g loses, in the parameter and in its velocity.

    Every term of the rule, and the constants in it, are rounded a few times: one u of the terms' sizes.
    """
    lr, inside = settings.learning_rate, optimizer.learning_rate_in_velocity
    at_v = optimizer.momentum * np.abs(v) + (lr if inside else 1.0) * (np.abs(g) + settings.weight_decay * np.abs(w))
    at_w = np.abs(w) + (1.0 if inside else lr) * at_v
    return arithmetic.kept * at_w, arithmetic.kept * at_v


def loss_rounding(logits: Array, loss: float, arithmetic: Arithmetic) -> Array:
    """Standard deviation of what the cross-entropy of given logits (N, classes) loses: a difference of logits, a
    logarithm of a sum of exponentials, a mean."""
    size = float(np.abs(logits).max()) + loss + math.sqrt(logits.shape[1])
    return np.asarray(arithmetic.kept * size)


# --- the bound ------------------------------------------------------------------------------------------------------


def channel_largest(array: Any, axis: int) -> Array:
    """The largest magnitude in every channel of maps (axis 1) or kernels (axis 0), every other dimension kept as 1.

    Channels of fewer than FEW elements, vectors, matrices and numbers have one value for the whole tensor.
    """
    other = tuple(i for i in range(np.ndim(array)) if i != axis)
    largest = np.maximum(np.max(array, axis=other, keepdims=True), -np.min(array, axis=other, keepdims=True))
    return by_channel(largest, axis, np.shape(array))


def by_channel(largest: Array, axis: int, shape: tuple[int, ...]) -> Array:
    """The largest values along `axis` of a tensor of `shape`, or where that says too little, of the whole tensor."""
    alone = len(shape) >= 4 and math.prod(shape) >= FEW * shape[axis]
    return np.asarray(largest if alone else largest.max(keepdims=True), np.float64)


def _likely_largest(deviations: Array, numbers: int) -> Array:
    """What the largest deviation is if chance had nothing to do with it. deviations: (runs, ...), each the largest of
    `numbers`.

    The largest of n normal numbers of standard deviation s has a root mean square of about s sqrt(1 + 2 log n) (for
    n = 1 exactly, for more a little less), which a few runs show far more reliably than their own largest does.
    """
    spread = np.sqrt(np.mean(np.square(deviations), axis=0) / (1 + 2 * math.log(numbers)))
    return EXTREME * np.asarray(spread)


def bound(deviations: Iterable[Array], rounding: Array | None, dtype: str, numbers: int) -> Array:
    """How far a tensor may be from the oracle's, by channel: an array that broadcasts to the tensor.

    deviations: of every perturbed run, the largest distance from the clean run in each channel
    (:func:`channel_largest`). rounding: standard deviation, by channel, of what the last operation loses if the
    perturbed runs did not draw it, else None. dtype: what the backend computes in. numbers: how many the tensor has.
    """
    runs = np.stack([np.asarray(one, np.float64) for one in deviations])
    largest: Array = runs.max(axis=0)
    if numbers < FEW:
        largest = np.maximum(largest, _likely_largest(runs, numbers))
    if rounding is not None:
        largest = largest + EXTREME * rounding
    largest = np.maximum(largest, FLOOR * largest.max())
    return np.where(largest > 0, SAFETY * largest + TINY[dtype], 0.0)
