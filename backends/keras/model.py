"""AlexNet [1, 2] as a functional ``keras.Model``: a specification read layer by layer.

Images come in as (N, H, W, C), logits go out; every layer bears its name in the specification, so that
``model.get_layer("fc7").output`` is the specification's fc7. Weights have Keras' layouts; :func:`to_keras` and
:func:`to_canonical` convert.

[1] A. Krizhevsky, I. Sutskever, G. Hinton, "ImageNet classification with deep convolutional neural networks", NIPS
    2012.
[2] The source code of 2012, released by the Computer History Museum (computerhistory/AlexNet-Source-Code).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from backends.base import Array
from backends.keras import layers
from backends.keras.normalization import LocalResponseNormalization, SpatialNormalization
from spec import LayerGeometry, Spec, draws, geometry, initial_parameters
from spec.initialisation import fans
from spec.language import (
    AvgPool,
    Constant,
    Conv,
    Dense,
    Distribution,
    Dropout,
    Flatten,
    Local,
    Lrn,
    MaxPool,
    Normal,
    Relu,
    SpatialNorm,
    Tanh,
    TruncatedNormal,
    Uniform,
    VarianceScaling,
)

IMAGES = "Images"
"""Name of the input. No layer of a specification can be called so: theirs are in lower case."""
Initialize = Callable[[str], Any]
"""From a parameter's canonical name to the initializer of its variable."""


def build(spec: Spec, dtype: str = "float32", seed: int = 0) -> keras.Model:
    """The network of `spec` with the initial weights of `seed`, ready for ``compile`` and ``fit``.

    In: images (N, H, W, C), prepared as the specification's `data` says. Out: logits (N, classes), so that a loss must
    be told ``from_logits=True``. dtype: a Keras dtype policy, such as float32, float64 or mixed_bfloat16.

        >>> model = build(spec.load("fashion-mini"))
        >>> model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), ["accuracy"])
    """
    model = network(spec, dtype, lambda name: initializer(spec, name), seed)
    variables = parameters(model)
    for name, value in initial_parameters(spec, seed).items():
        variables[name].assign(to_keras(value))
    return model


def network(spec: Spec, dtype: str, initialize: Initialize, seed: int | None = None) -> keras.Model:
    """The network of `spec` with weights from `initialize`."""
    steps = geometry(spec).layers
    images = image_input(spec, dtype)
    outputs = chain([layer_of(step, dtype, initialize, seed) for step in steps], images)
    return keras.Model(images, outputs[-1], name=_identifier(spec.name))


def image_input(spec: Spec, dtype: str) -> Any:
    """The network's input (N, H, W, C)."""
    size = spec.input
    compute = keras.dtype_policies.get(dtype).variable_dtype
    return keras.Input((size.height, size.width, size.channels), name=IMAGES, dtype=compute)


def chain(layers_: list[keras.Layer], images: Any, masks: Mapping[str, Any] | None = None) -> list[Any]:
    """Every layer's output, each applied to that of the one before it. masks: of dropout layers, by name."""
    outputs, x = [], images
    for layer in layers_:
        given = {"keep": masks[layer.name]} if masks and layer.name in masks else {}
        x = layer(x, **given)
        outputs.append(x)
    return outputs


def layer_of(step: LayerGeometry, dtype: str, initialize: Initialize, seed: int | None) -> keras.Layer:
    """The Keras layer that realises one layer of a specification."""
    common: dict[str, Any] = {"name": step.name, "dtype": dtype}
    match step.layer:
        case Conv(out_channels=filters, groups=groups):
            window = _window(step, "kernel_size")
            return layers.Conv2D(filters, groups=groups, **window, **_weights(step, initialize), **common)
        case Local(out_channels=filters, groups=groups):
            window = _window(step, "kernel_size")
            return layers.LocallyConnected2D(filters, groups=groups, **window, **_weights(step, initialize), **common)
        case Dense(out_features=units, groups=groups):
            return layers.Dense(units, groups, **_weights(step, initialize), **common)
        case MaxPool():
            return layers.MaxPooling2D(**_window(step, "pool_size"), **common)
        case AvgPool(divisor=divisor):
            return layers.AveragePooling2D(inside=divisor == "inside", **_window(step, "pool_size"), **common)
        case Lrn(coefficient=a, beta=beta, k=k, window=(before, after), groups=groups):
            return LocalResponseNormalization(a, beta, k, before, after, groups, **common)
        case SpatialNorm(coefficient=a, beta=beta, k=k, size=size):
            return SpatialNormalization(a, beta, k, size, **common)
        case Relu():
            return keras.layers.ReLU(**common)
        case Tanh(amplitude=amplitude, slope=slope):
            return layers.ScaledTanh(amplitude, slope, **common)
        case Dropout(name=name, rate=rate, scale=scale):
            own = None if seed is None else (seed ^ draws.tag(name)) & 0x7FFFFFFF  # PyTorch keeps it in 32 bits, signed
            return layers.Dropout(rate, scale, own, **common)
        case Flatten():
            return layers.FlattenChannels(**common)
    raise TypeError(f"no Keras layer for {step.layer!r}")


def _weights(step: LayerGeometry, initialize: Initialize) -> dict[str, Any]:
    """Arguments of a layer with weights."""
    kernel, bias = f"{step.name}.weight", f"{step.name}.bias"
    if bias not in step.parameters:
        return {"kernel_initializer": initialize(kernel), "use_bias": False}
    return {"kernel_initializer": initialize(kernel), "bias_initializer": initialize(bias)}


def _window(step: LayerGeometry, kernel: str) -> dict[str, Any]:
    """Arguments of a windowed layer; `kernel` is what Keras calls the kernel's size."""
    layer: Any = step.layer
    p = step.padding
    assert p is not None
    return {
        kernel: (layer.kernel.height, layer.kernel.width),
        "strides": (layer.stride.height, layer.stride.width),
        "sides": ((p.top, p.bottom), (p.left, p.right)),
    }


def _identifier(name: str) -> str:
    return name.replace(".", "_")


# --- parameters -------------------------------------------------------------------------------------------------------

_AXES = {1: (0,), 2: (1, 0), 3: (1, 2, 0), 4: (2, 3, 1, 0), 6: (4, 5, 2, 3, 1, 0)}
"""By rank, the canonical axes in Keras' order: bias, (out, in), bias (O, H', W') of local, OIHW, OIHW and (H', W')."""


def to_keras(array: Array) -> Array:
    """A canonical parameter, or its velocity or gradient, in the layout of its Keras variable. A view."""
    return array.transpose(_AXES[array.ndim])


def to_canonical(array: Array) -> Array:
    """The opposite of :func:`to_keras`. A view."""
    return array.transpose(np.argsort(_AXES[array.ndim]))


def parameters(model: keras.Model) -> dict[str, Any]:
    """The model's variables by canonical name (``conv1.weight``), in network order."""
    return {canonical_name(variable): variable for variable in model.trainable_variables}


def canonical_name(variable: Any) -> str:
    """``conv1.weight`` for the variable at ``conv1/kernel``."""
    layer, _, kind = variable.path.rpartition("/")
    return f"{layer}.{'weight' if kind == 'kernel' else kind}"


def initializer(spec: Spec, parameter: str) -> keras.initializers.Initializer:
    """Keras' initializer of the distribution that `parameter` is drawn from (its own draws, not the specification's).

    :func:`build` overwrites what it gives with the draws; it serves what Keras makes anew, such as a cloned model.
    """
    distribution: Distribution = spec.init.of(parameter)
    match distribution:
        case Constant(value=value):
            return keras.initializers.Constant(value)
        case Normal(std=std):
            return keras.initializers.RandomNormal(0.0, std)
        case TruncatedNormal(std=std):
            return keras.initializers.TruncatedNormal(0.0, std)
        case Uniform(low=low, high=high):
            return keras.initializers.RandomUniform(low, high)
        case VarianceScaling():
            shape = geometry(spec).parameters[parameter.rpartition(".")[0] + ".weight"]
            fan_in, fan_out = fans(shape)
            fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[distribution.fan]
            std = (distribution.scale / fan) ** 0.5
            if distribution.distribution == "normal":
                return keras.initializers.RandomNormal(0.0, std)
            return keras.initializers.RandomUniform(-(3**0.5) * std, 3**0.5 * std)
    raise TypeError(f"no Keras initializer for {distribution!r}")
