"""The layers that Keras lacks, or has in a slightly different meaning: one class per op, on maps (N, H, W, C).

The normalisations are in ``normalization.py``. All are written with ``keras.ops`` alone, so that they run on
TensorFlow, JAX and PyTorch. Importing this registers the classes, which ``keras.saving.load_model`` needs.
"""

# mypy: disallow-subclassing-any=False

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from backends.keras.engine import ENGINE

Sides = tuple[tuple[int, int], tuple[int, int]]
"""Padding ((top, bottom), (left, right))."""
Pair = tuple[int, int]

register = keras.saving.register_keras_serializable(package="alexnet")


def pair(values: Any) -> Pair:
    """Two whole numbers, from a configuration that may hold them as a list."""
    first, second = values
    return int(first), int(second)


def pairs(values: Any) -> Sides:
    """Two such pairs."""
    first, second = values
    return pair(first), pair(second)


def _frame(x: Any, kernel: Pair, strides: Pair, padding: Sides, value: float) -> tuple[Any, str]:
    """`x` (N, H, W, C) as far as it is padded here, with `value`, and the name of the padding that is left to Keras.

    Frameworks pad inside their kernels, without a copy, but only as ``same`` pads: other padding is added here.
    """
    if padding == ((0, 0), (0, 0)):
        return x, "valid"
    same = []
    for size, window, stride in zip(x.shape[1:3], kernel, strides):
        total = max(0, (-(-size // stride) - 1) * stride + window - size)
        same.append((total // 2, total - total // 2))
    if padding == tuple(same):
        return x, "same"
    return ops.pad(x, ((0, 0), *padding, (0, 0)), constant_values=value), "valid"


def _map_shape(shape: Any, kernel: Pair, strides: Pair, padding: Sides, channels: int) -> tuple[Any, ...]:
    """(N, H', W', channels) for windows that slide over a padded map of `shape`, rounding down."""
    extents = [
        (size + sum(sides) - window) // stride + 1
        for size, sides, window, stride in zip(shape[1:3], padding, kernel, strides)
    ]
    return (shape[0], *extents, channels)


def _slices(x: Any, groups: int) -> list[Any]:
    """`x` in `groups` equal parts of its last axis."""
    return [x] if groups == 1 else ops.split(x, groups, axis=-1)


def _joined(parts: list[Any]) -> Any:
    return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-1)


# --- layers with weights ----------------------------------------------------------------------------------------------
#
# Products are written with operators: ``ops.matmul`` and ``ops.einsum`` round float64 to float32 on JAX or PyTorch, as
# Keras promotes no pair of types to 64 bits there.


@register
class Conv2D(keras.layers.Conv2D):
    """Convolution with stated padding ((top, bottom), (left, right)); kernel (kh, kw, in/groups, out).

    Groups run as is fastest on the framework at hand, with the same kernel.
    """

    def __init__(self, filters: int, kernel_size: Pair, sides: Any = ((0, 0), (0, 0)), **kwargs: Any) -> None:
        super().__init__(filters, kernel_size, **{**kwargs, "padding": "valid", "data_format": "channels_last"})
        self.sides = pairs(sides)

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        inputs, padding = _frame(inputs, self.kernel_size, self.strides, self.sides, 0.0)
        return ENGINE.convolution(inputs, kernel, self.strides, padding, self.groups)

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        return _map_shape(input_shape, self.kernel_size, self.strides, self.sides, self.filters)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "sides": self.sides}


@register
class Dense(keras.layers.Dense):
    """Fully connected, in groups: each slice of the inputs to its slice of the outputs; kernel (in/groups, out)."""

    def __init__(self, units: int, groups: int = 1, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        self.groups = groups

    def build(self, input_shape: Any) -> None:
        super().build((*input_shape[:-1], input_shape[-1] // self.groups))
        self.input_spec = keras.InputSpec(min_ndim=2, axes={-1: input_shape[-1]})

    def call(self, inputs: Any) -> Any:
        kernel = ops.convert_to_tensor(self.kernel)
        outputs = _joined([x @ w for x, w in zip(_slices(inputs, self.groups), _slices(kernel, self.groups))])
        outputs = outputs if self.bias is None else outputs + ops.convert_to_tensor(self.bias)
        return outputs if self.activation is None else self.activation(outputs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "groups": self.groups}


@register
class LocallyConnected2D(keras.layers.Layer):
    """A convolution whose kernel (H', W', kh, kw, in/groups, out) and bias (H', W', out) differ from place to place."""

    def __init__(
        self,
        filters: int,
        kernel_size: Pair,
        strides: Pair = (1, 1),
        sides: Any = ((0, 0), (0, 0)),
        groups: int = 1,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filters, self.groups, self.use_bias = filters, groups, use_bias
        self.kernel_size, self.strides, self.sides = pair(kernel_size), pair(strides), pairs(sides)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)

    def build(self, input_shape: Any) -> None:
        place = self.compute_output_shape(input_shape)[1:3]
        shape = (*place, *self.kernel_size, input_shape[-1] // self.groups, self.filters)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=self.kernel_initializer)
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(*place, self.filters), initializer=self.bias_initializer)

    def call(self, inputs: Any) -> Any:
        rows, columns, height, width, channels, filters = self.kernel.shape
        down, right = self.strides
        x = ops.pad(inputs, ((0, 0), *self.sides, (0, 0)))
        windows = [
            x[:, i : i + down * (rows - 1) + 1 : down, j : j + right * (columns - 1) + 1 : right]
            for i in range(height)
            for j in range(width)
        ]
        # One product for each place and group: (N, window * channels) @ (window * channels, filters).
        x = ops.reshape(ops.stack(windows, axis=3), (-1, rows, columns, height * width, self.groups, channels))
        x = ops.transpose(x, (1, 2, 4, 0, 3, 5))
        x = ops.reshape(x, (rows, columns, self.groups, -1, height * width * channels))
        kernel = ops.reshape(self.kernel, (rows, columns, -1, self.groups, filters // self.groups))
        outputs = ops.transpose(x @ ops.transpose(kernel, (0, 1, 3, 2, 4)), (3, 0, 1, 2, 4))
        outputs = ops.reshape(outputs, (-1, rows, columns, filters))
        return outputs if self.bias is None else outputs + ops.convert_to_tensor(self.bias)

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        return _map_shape(input_shape, self.kernel_size, self.strides, self.sides, self.filters)

    def get_config(self) -> dict[str, Any]:
        own = ("filters", "kernel_size", "strides", "sides", "groups", "use_bias")
        return {
            **super().get_config(),
            **{key: getattr(self, key) for key in own},
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
        }


# --- pooling ----------------------------------------------------------------------------------------------------------


class _Pooling2D(keras.layers.Layer):
    def __init__(self, pool_size: Pair, strides: Pair, sides: Any = ((0, 0), (0, 0)), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pool_size, self.strides, self.sides = pair(pool_size), pair(strides), pairs(sides)

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        return _map_shape(input_shape, self.pool_size, self.strides, self.sides, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        own = ("pool_size", "strides", "sides")
        return {**super().get_config(), **{key: getattr(self, key) for key in own}}


@register
class MaxPooling2D(_Pooling2D):
    """The largest value of each window, with stated padding by minus infinity."""

    def call(self, inputs: Any) -> Any:
        x, padding = _frame(inputs, self.pool_size, self.strides, self.sides, -np.inf)
        return ENGINE.max_pool(x, self.pool_size, self.strides, padding)


def _inside(size: int, window: int, stride: int, sides: Pair) -> list[int]:
    """Of every window along one side of a map: how many of its places are inside the map."""
    first, beyond = sides[0], sides[0] + size
    starts = range(0, beyond + sides[1] - window + 1, stride)
    return [min(start + window, beyond) - max(start, first) for start in starts]


@register
class AveragePooling2D(_Pooling2D):
    """The sum of each window over its area, or over its part inside the map (`inside`); stated padding by zeros."""

    def __init__(self, *args: Any, inside: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.inside = inside

    def call(self, inputs: Any) -> Any:
        x = ops.pad(inputs, ((0, 0), *self.sides, (0, 0)))
        means = ops.average_pool(x, self.pool_size, self.strides, "valid", data_format="channels_last")
        if not self.inside:
            return means
        rows, columns = (_inside(*side) for side in zip(inputs.shape[1:3], self.pool_size, self.strides, self.sides))
        area = math.prod(self.pool_size)
        return means * ops.convert_to_tensor((area / np.outer(rows, columns))[None, :, :, None], means.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "inside": self.inside}


# --- elementwise and shape --------------------------------------------------------------------------------------------


@register
class ScaledTanh(keras.layers.Layer):
    """amplitude * tanh(slope * x)."""

    def __init__(self, amplitude: float = 1.0, slope: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.amplitude, self.slope = amplitude, slope

    def call(self, inputs: Any) -> Any:
        return self.amplitude * ENGINE.tanh(self.slope * inputs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "amplitude": self.amplitude, "slope": self.slope}


@register
class Dropout(keras.layers.Layer):
    """Zeroes units in training with probability `rate`.

    scale: ``train`` multiplies the survivors by 1 / (1 - rate); ``test`` multiplies all units by 1 - rate in
    evaluation instead, as the 2012 paper does. Called with `keep` (bool, the inputs' shape) it keeps those units;
    without, it draws its own from `seed`.
    """

    def __init__(self, rate: float, scale: str, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate, self.scale, self.seed = rate, scale, seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: Any, keep: Any = None, training: bool = False) -> Any:
        if self.rate == 0:
            return inputs
        if not training:
            return inputs * (1.0 - self.rate) if self.scale == "test" else inputs
        if keep is None:
            keep = keras.random.uniform(ops.shape(inputs), dtype="float32", seed=self.seed_generator) >= self.rate
        survivors = inputs * ops.cast(keep, inputs.dtype)
        return survivors / (1.0 - self.rate) if self.scale == "train" else survivors

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        own = ("rate", "scale", "seed")
        return {**super().get_config(), **{key: getattr(self, key) for key in own}}


@register
class FlattenChannels(keras.layers.Layer):
    """Maps (N, H, W, C) to vectors (N, C * H * W), channel by channel and row by row."""

    def call(self, inputs: Any) -> Any:
        return ops.reshape(ops.transpose(inputs, (0, 3, 1, 2)), (-1, math.prod(inputs.shape[1:])))

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        return (input_shape[0], math.prod(input_shape[1:]))
