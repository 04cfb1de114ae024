"""Response normalisation, across channels and within a map, in closed form both ways.

Written with ``keras.ops`` alone, so that it runs on TensorFlow, JAX and PyTorch; ``spec/README.md`` has the formulas.
"""

# mypy: disallow-subclassing-any=False, disallow-untyped-decorators=False

from __future__ import annotations

import functools
import operator
from typing import Any

import keras
from keras import ops

from backends.keras.engine import ENGINE
from backends.keras.layers import register


def _shifted_sum(x: Any, axis: int, before: int, after: int) -> Any:
    """The sum of each element, the `before` elements before it along `axis` and the `after` after it; zeros outside."""
    sides, index = [(0, 0)] * len(x.shape), [slice(None)] * len(x.shape)
    sides[axis] = (before, after)
    padded = ops.pad(x, sides)
    parts = []
    for shift in range(before + 1 + after):
        index[axis] = slice(shift, shift + x.shape[axis])
        parts.append(padded[tuple(index)])
    return functools.reduce(operator.add, parts)


def _inverse_powers(d: Any, beta: float) -> tuple[Any, Any]:
    """d ** -beta and 1 / d, by square roots where they suffice: a general power costs ten times as much."""
    if beta in (0.5, 0.75):
        root = ops.rsqrt(d)
        return (root if beta == 0.5 else root * ops.sqrt(root)), root * root
    inverse = 1.0 / d
    return (inverse if beta == 1.0 else ops.exp(-beta * ops.log(d))), inverse


class _ResponseNormalization(keras.layers.Layer):
    """y = x / d ** beta with d = k + coefficient * S(x^2), S a sum over some window, and its gradient in closed form:

    dx = dy d^-beta - 2 coefficient beta x S'(dy x d^(-beta - 1)), S' the transpose of S.

    d is computed again for the gradient: that is faster than keeping it. Half-precision inputs are computed in float32,
    in which their squares do not overflow.
    """

    def __init__(self, coefficient: float, beta: float, k: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.coefficient, self.beta, self.k = coefficient, beta, k
        self._forward, self._backward = ENGINE.fused(self._response), ENGINE.fused(self._gradient)

    def window_sum(self, x: Any, transposed: bool = False) -> Any:
        """S(x) for x (N, H, W, C), or S'(x)."""
        raise NotImplementedError

    def _response(self, x: Any) -> Any:
        power, _ = _inverse_powers(self.k + self.coefficient * self.window_sum(x * x), self.beta)
        return x * power

    def _gradient(self, x: Any, upstream: Any) -> Any:
        power, inverse = _inverse_powers(self.k + self.coefficient * self.window_sum(x * x), self.beta)
        direct = upstream * power
        spread = self.window_sum(direct * x * inverse, transposed=True)
        return direct - (2.0 * self.coefficient * self.beta) * x * spread

    def call(self, inputs: Any) -> Any:
        @ops.custom_gradient
        def response(x: Any) -> Any:
            def gradient(*arguments: Any, upstream: Any = None) -> Any:
                # PyTorch passes the cotangent by name, behind the inputs; the others pass it alone.
                return self._backward(x, arguments[0] if upstream is None else upstream)

            return self._forward(x), gradient

        narrow = keras.backend.standardize_dtype(inputs.dtype) in ("float16", "bfloat16")
        return ops.cast(response(ops.cast(inputs, "float32")), inputs.dtype) if narrow else response(inputs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "coefficient": self.coefficient, "beta": self.beta, "k": self.k}


@register
class LocalResponseNormalization(_ResponseNormalization):
    """Response normalisation over `before` to `after` channels around each channel.

    The window does not reach across the borders of `groups` equal slices of the channels.
    """

    def __init__(
        self, coefficient: float, beta: float, k: float, before: int, after: int, groups: int = 1, **kwargs: Any
    ) -> None:
        super().__init__(coefficient, beta, k, **kwargs)
        self.before, self.after, self.groups = before, after, groups

    def window_sum(self, x: Any, transposed: bool = False) -> Any:
        before, after = (self.after, self.before) if transposed else (self.before, self.after)
        slices = ops.reshape(x, (-1, x.shape[-1] // self.groups))
        return ops.reshape(_shifted_sum(slices, 1, before, after), (-1, *x.shape[1:]))

    def get_config(self) -> dict[str, Any]:
        own = ("before", "after", "groups")
        return {**super().get_config(), **{key: getattr(self, key) for key in own}}


@register
class SpatialNormalization(_ResponseNormalization):
    """Response normalisation over a centred `size` x `size` window of the same map, clipped at its border."""

    def __init__(self, coefficient: float, beta: float, k: float, size: int, **kwargs: Any) -> None:
        super().__init__(coefficient, beta, k, **kwargs)
        self.size = size

    def window_sum(self, x: Any, transposed: bool = False) -> Any:
        reach = self.size // 2  # a centred window is its own transpose
        return _shifted_sum(_shifted_sum(x, 1, reach, reach), 2, reach, reach)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": self.size}
