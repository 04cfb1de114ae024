"""Initial parameters: a pure function of (specification, seed), the same bits on every machine and in every backend."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from spec import draws
from spec.arithmetic import Shape, geometry
from spec.draws import Purpose
from spec.language import Constant, Distribution, Normal, Spec, TruncatedNormal, Uniform, VarianceScaling

F32 = npt.NDArray[np.float32]

_PHI_MINUS_2 = 0.022750131948179209
"""The standard normal distribution function at -2, where truncated normals are cut."""
_CHUNK = 1 << 16


def fans(weight_shape: Shape) -> tuple[int, int]:
    """(fan_in, fan_out) of a canonical weight: inputs per output, and outputs per input over the whole kernel.

    Convolution (O, I/g, kh, kw): I/g * kh * kw and O * kh * kw, g not divided out of fan_out, as PyTorch counts it;
    dense (out, in/g): in/g and out. Locally connected weights count as convolutions, their places left aside.
    """
    outputs, inputs, *window = weight_shape[:4]
    area = math.prod(window)
    return inputs * area, outputs * area


def _sample(distribution: Distribution, shape: Shape, weight_shape: Shape, words: draws.U32) -> npt.NDArray[np.float64]:
    match distribution:
        case Normal(std=std):
            return std * draws.normal(words)
        case TruncatedNormal(std=std):
            inside = _PHI_MINUS_2 + draws.uniform(words) * (1.0 - 2.0 * _PHI_MINUS_2)
            return std * draws.normal_quantile(inside)
        case Uniform(low=low, high=high):
            return low + (high - low) * draws.uniform(words)
        case VarianceScaling():
            fan_in, fan_out = fans(weight_shape)
            fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[distribution.fan]
            std = math.sqrt(distribution.scale / fan)
            if distribution.distribution == "normal":
                return std * draws.normal(words)
            return std * math.sqrt(3.0) * (2.0 * draws.uniform(words) - 1.0)
        case _:
            raise TypeError(f"no sampler for {distribution!r}")


def initial_parameter(spec: Spec, name: str, seed: int) -> F32:
    """The initial value of one parameter, float32 in canonical layout. Raises KeyError for an unknown name."""
    shapes = geometry(spec).parameters
    shape = shapes[name]
    distribution = spec.init.of(name)
    if isinstance(distribution, Constant):
        return np.full(shape, distribution.value, np.float32)
    weight_shape = shapes.get(name.rpartition(".")[0] + ".weight", shape)
    words = draws.words(seed, Purpose.INIT, math.prod(shape), tag=draws.tag(name))
    out = np.empty(words.size, np.float32)
    for start in range(0, words.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        out[part] = _sample(distribution, shape, weight_shape, words[part])
    return out.reshape(shape)


def initial_parameters(spec: Spec, seed: int = 0) -> dict[str, F32]:
    """Every initial parameter by canonical name, float32 in canonical layout."""
    return {name: initial_parameter(spec, name, seed) for name in geometry(spec).parameters}
