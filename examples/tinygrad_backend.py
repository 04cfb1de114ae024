"""A backend from outside: every op of the language on tinygrad, checked by the suite like those of this repository.

    pip install -r examples/requirements.txt
    cd examples && python -m conformance run --backend tinygrad_backend:TinygradBackend --spec source-2012

tinygrad compiles for the CPU by its own assembler on x86-64, so that no compiler is needed; elsewhere it calls clang.
DEV, tinygrad's own variable, chooses another device: ``DEV=CUDA``, ``DEV=METAL``.

References
    [1] conformance/CONTRACT.md: what a backend must do.
    [2] spec/README.md: every operation as a formula.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

if platform.machine().lower() in ("x86_64", "amd64"):
    os.environ.setdefault("DEV", "CPU:X86")

from tinygrad import Device, Tensor, dtypes

from backends import Backend, Unsupported
from backends.base import Array, Arrays, Gradients, Masks, Metrics, check_arrays, check_masks, tally
from spec import LayerGeometry, Settings, Spec, geometry

DTYPES = {"float32": dtypes.float32, "float64": dtypes.float64}


def windows(x: Tensor, at: LayerGeometry, fill: float = 0.0) -> Tensor:
    """x (N, C, H, W) to (N, C, rows, columns, window), the places of a window in raster order; padding is `fill`."""
    layer: Any = at.layer
    assert at.padding is not None
    rows, columns = at.output_shape[1:]
    down, right = layer.stride.height, layer.stride.width
    x = x.pad((at.padding.left, at.padding.right, at.padding.top, at.padding.bottom), value=fill)
    return Tensor.stack(
        *(
            x[:, :, i : i + (rows - 1) * down + 1 : down, j : j + (columns - 1) * right + 1 : right]
            for i in range(layer.kernel.height)
            for j in range(layer.kernel.width)
        ),
        dim=-1,
    )


# --- the ops: (layer, input, its parameters, mask or None) -> output ------------------------------------------------

Parameters = Mapping[str, Tensor]


def conv(at: LayerGeometry, x: Tensor, own: Parameters, mask: Tensor | None) -> Tensor:
    layer: Any = at.layer
    assert at.padding is not None
    x = x.pad((at.padding.left, at.padding.right, at.padding.top, at.padding.bottom))
    stride = (layer.stride.height, layer.stride.width)
    return x.conv2d(own["weight"], own.get("bias"), groups=layer.groups, stride=stride)


def local(at: LayerGeometry, x: Tensor, own: Parameters, mask: Tensor | None) -> Tensor:
    groups, (images, channels) = at.layer.groups, x.shape[:2]  # type: ignore[union-attr]
    out, rows, columns = at.output_shape
    seen = windows(x, at).reshape(images, groups, 1, channels // groups, rows, columns, -1)
    weight = own["weight"].reshape(1, groups, out // groups, channels // groups, -1, rows, columns)
    y = (seen * weight.permute(0, 1, 2, 3, 5, 6, 4)).sum((3, 6)).reshape(images, out, rows, columns)
    return y + own["bias"] if "bias" in own else y


def dense(at: LayerGeometry, x: Tensor, own: Parameters, mask: Tensor | None) -> Tensor:
    groups = at.layer.groups  # type: ignore[union-attr]
    x = x.reshape(len(x), groups, -1, 1)
    y = own["weight"].reshape(1, groups, -1, x.shape[2]).matmul(x).reshape(len(x), -1)
    return y + own["bias"] if "bias" in own else y


def max_pool(at: LayerGeometry, x: Tensor, own: Parameters, mask: Tensor | None) -> Tensor:
    """The gradient of tinygrad's own max is shared among equals; here it goes to the first of them."""
    seen = windows(x, at, -math.inf)
    first = seen.detach().argmax(-1, keepdim=True) == Tensor.arange(seen.shape[-1])
    return first.where(seen, 0.0).sum(-1)


def avg_pool(at: LayerGeometry, x: Tensor, own: Parameters, mask: Tensor | None) -> Tensor:
    layer: Any = at.layer
    total = windows(x, at).sum(-1)
    if layer.divisor == "inside":
        return total / windows(Tensor.ones_like(x), at).sum(-1)
    return total / (layer.kernel.height * layer.kernel.width)


def lrn(at: LayerGeometry, x: Tensor, own: Parameters, mask: Tensor | None) -> Tensor:
    layer: Any = at.layer
    images, channels, height, width = x.shape
    towers = x.reshape(images, layer.groups, channels // layer.groups, height, width)
    squares = (towers * towers).pad((0, 0, 0, 0, *layer.window))
    total = sum(
        (squares[:, :, i : i + towers.shape[2]] for i in range(1, layer.size)), squares[:, :, : towers.shape[2]]
    )
    return (towers * (layer.k + layer.coefficient * total) ** -layer.beta).reshape(x.shape)


def spatial_norm(at: LayerGeometry, x: Tensor, own: Parameters, mask: Tensor | None) -> Tensor:
    layer: Any = at.layer
    side, (height, width) = layer.size // 2, x.shape[2:]
    squares = (x * x).pad((side,) * 4)
    places = [(i, j) for i in range(layer.size) for j in range(layer.size)]
    total = Tensor.stack(*(squares[:, :, i : i + height, j : j + width] for i, j in places)).sum(0)
    return x * (layer.k + layer.coefficient * total) ** -layer.beta


def relu(at: LayerGeometry, x: Tensor, own: Parameters, mask: Tensor | None) -> Tensor:
    return x.relu()


def tanh(at: LayerGeometry, x: Tensor, own: Parameters, mask: Tensor | None) -> Tensor:
    layer: Any = at.layer
    return layer.amplitude * (layer.slope * x).tanh()


def flatten(at: LayerGeometry, x: Tensor, own: Parameters, mask: Tensor | None) -> Tensor:
    return x.flatten(1)


def dropout(at: LayerGeometry, x: Tensor, own: Parameters, mask: Tensor | None) -> Tensor:
    layer: Any = at.layer
    if mask is None:
        return x if layer.scale == "train" else x * (1.0 - layer.rate)
    return x * mask / (1.0 - layer.rate) if layer.scale == "train" else x * mask


OPS: dict[str, Callable[..., Tensor]] = {
    op.__name__: op for op in (conv, local, dense, max_pool, avg_pool, lrn, spatial_norm, relu, tanh, flatten, dropout)
}


# --- the backend ----------------------------------------------------------------------------------------------------


class TinygradBackend(Backend):
    """Everything that the contract asks: outputs, gradients, the loss, and training by the optimizer of the spec."""

    name = "tinygrad"
    dtypes = tuple(DTYPES)
    libraries = ("tinygrad",)

    def __init__(self, spec: Spec, *, dtype: str = "float32", device: str = "auto") -> None:
        super().__init__(spec, dtype=dtype, device=device)
        if device not in ("auto", Device.DEFAULT.lower()):
            raise Unsupported(f"the device must be auto or {Device.DEFAULT.lower()}, by DEV. Received: {device}")
        self.device = Device.DEFAULT.lower()
        self._layers = geometry(spec).layers
        zero = {name: np.zeros(shape, dtype) for name, shape in geometry(spec).parameters.items()}
        self._metrics = Metrics(0, 0.0, 0, 0)
        self.load(zero)

    def _tensor(self, array: Array) -> Tensor:
        return Tensor(np.array(array, self.dtype), dtype=DTYPES[self.dtype])  # a copy: tinygrad may read it later

    def load(self, parameters: Arrays, velocities: Arrays | None = None) -> None:
        check_arrays(parameters, self.spec, "parameters")
        still = {name: np.zeros_like(array) for name, array in parameters.items()}
        check_arrays(still if velocities is None else velocities, self.spec, "velocities")
        names = geometry(self.spec).parameters
        self._parameters = {name: self._tensor(parameters[name]) for name in names}
        self._velocities = {name: self._tensor((velocities or still)[name]) for name in names}

    def parameters(self) -> dict[str, Array]:
        return {name: _array(tensor) for name, tensor in self._parameters.items()}

    def velocities(self) -> dict[str, Array]:
        return {name: _array(tensor) for name, tensor in self._velocities.items()}

    def _forward(self, x: Tensor, masks: Masks | None) -> dict[str, Tensor]:
        """Every layer's output by name; nothing is computed yet."""
        check_masks(masks, self.spec, len(x))
        found = {}
        for at in self._layers:
            own = {name.rpartition(".")[2]: self._parameters[name] for name in at.parameters}
            mask = self._tensor(masks[at.name]) if masks is not None and at.name in masks else None
            x = found[at.name] = OPS[at.layer.op](at, x, own, mask).contiguous()  # fused, they would be compiled anew
        return found

    def _logits(self, x: Tensor, masks: Masks | None) -> Tensor:
        return list(self._forward(x, masks).values())[-1]

    def outputs(self, images: Array, masks: Masks | None = None) -> dict[str, Array]:
        found = self._forward(self._tensor(images), masks)
        Tensor.realize(*found.values())
        return {name: _array(output) for name, output in found.items()}

    def predict(self, images: Array) -> Array:
        return _array(self._logits(self._tensor(images), None))

    def gradients(self, images: Array, cotangent: Array, masks: Masks | None = None) -> Gradients:
        x = self._tensor(images)
        logits = self._logits(x, masks)
        by_input, *rest = (logits * self._tensor(cotangent)).sum().gradient(x, *self._parameters.values())
        Tensor.realize(logits, by_input, *rest)
        by_parameter = {name: _array(one) for name, one in zip(self._parameters, rest, strict=True)}
        return Gradients(_array(logits), by_parameter, _array(by_input))

    def _loss(self, logits: Tensor, labels: Array) -> Tensor:
        chosen = np.eye(logits.shape[1])[labels]
        return -(logits.log_softmax() * self._tensor(chosen)).sum() / len(labels)

    def loss(self, images: Array, labels: Array, masks: Masks | None = None) -> float:
        return float(self._loss(self._logits(self._tensor(images), masks), labels).item())

    def step(self, images: Array, labels: Array, settings: Mapping[str, Settings], masks: Masks) -> None:
        logits = self._logits(self._tensor(images), masks)
        gradients = self._loss(logits, labels).gradient(*self._parameters.values())
        changed: list[Tensor] = []
        for (name, w), g in zip(list(self._parameters.items()), gradients, strict=True):
            if settings[name].frozen:
                continue
            self._parameters[name], self._velocities[name] = self._updated(w, self._velocities[name], g, settings[name])
            changed += (self._parameters[name], self._velocities[name])
        Tensor.realize(logits, *changed)
        self._metrics += tally(_array(logits), labels)

    def _updated(self, w: Tensor, v: Tensor, g: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
        """The table of spec/README.md, "Optimizer". Rates are tensors, so that a new one is no new program."""
        optimizer = self.spec.training.optimizer
        rate, decay = self._tensor(np.array(settings.learning_rate)), self._tensor(np.array(settings.weight_decay))
        coupled = optimizer.decay == "coupled"
        direction = g + decay * w if coupled else g
        after = w if coupled else w - rate * decay * w
        if optimizer.learning_rate_in_velocity:
            v = optimizer.momentum * v - rate * direction
            return after + v, v
        v = optimizer.momentum * v + direction
        return after - rate * v, v

    def metrics(self) -> Metrics:
        found, self._metrics = self._metrics, Metrics(0, 0.0, 0, 0)
        return found


def _array(tensor: Tensor) -> Array:
    """A copy: tinygrad may use its memory again."""
    return np.array(tensor.numpy())
