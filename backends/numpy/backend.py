"""The oracle behind the contract of every backend."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from backends.base import (
    Array,
    Arrays,
    Backend,
    Gradients,
    Masks,
    Metrics,
    Unsupported,
    check_arrays,
    check_masks,
    tally,
)
from backends.numpy import network
from backends.numpy.ops import cross_entropy, cross_entropy_backward
from backends.numpy.optimizer import update
from spec import Settings, Spec, geometry


class NumpyBackend(Backend):
    """Computes in the dtype it is asked for: float64 to be the oracle, float32 to see what rounding does."""

    name = "numpy"
    dtypes = ("float64", "float32")

    def __init__(self, spec: Spec, *, dtype: str = "float64", device: str = "auto") -> None:
        if device not in ("auto", "cpu"):
            raise Unsupported(f"the numpy backend runs on the cpu. Received: {device}")
        super().__init__(spec, dtype=dtype, device="cpu")
        self._geometry = geometry(spec)
        self._parameters = {name: np.zeros(shape, dtype) for name, shape in self._geometry.parameters.items()}
        self._velocities = {name: np.zeros_like(array) for name, array in self._parameters.items()}
        self._metrics = Metrics(0, 0.0, 0, 0)

    def load(self, parameters: Arrays, velocities: Arrays | None = None) -> None:
        check_arrays(parameters, self.spec, "parameters")
        if velocities is not None:
            check_arrays(velocities, self.spec, "velocities")
        for name in self._parameters:
            self._parameters[name] = np.array(parameters[name], self.dtype)
            self._velocities[name] = (
                np.zeros_like(self._parameters[name]) if velocities is None else np.array(velocities[name], self.dtype)
            )

    def parameters(self) -> dict[str, Array]:
        return {name: array.copy() for name, array in self._parameters.items()}

    def velocities(self) -> dict[str, Array]:
        return {name: array.copy() for name, array in self._velocities.items()}

    def outputs(self, images: Array, masks: Masks | None = None) -> dict[str, Array]:
        return {step.name: step.output for step in self._forward(images, masks)}

    def gradients(self, images: Array, cotangent: Array, masks: Masks | None = None) -> Gradients:
        steps = self._forward(images, masks)
        parameters, by_input = network.backward(steps, np.asarray(cotangent, self.dtype))
        return Gradients(steps[-1].output, parameters, by_input)

    def loss(self, images: Array, labels: Array, masks: Masks | None = None) -> float:
        return cross_entropy(self._forward(images, masks)[-1].output, labels)

    def step(self, images: Array, labels: Array, settings: Mapping[str, Settings], masks: Masks) -> None:
        steps = self._forward(images, masks)
        logits = steps[-1].output
        gradients, _ = network.backward(steps, cross_entropy_backward(logits, labels))
        self._metrics += tally(logits, labels)
        for name, gradient in gradients.items():
            w, v = self._parameters[name], self._velocities[name]
            self._parameters[name], self._velocities[name] = update(
                w, v, gradient, settings[name], self.spec.training.optimizer
            )

    def metrics(self) -> Metrics:
        metrics, self._metrics = self._metrics, Metrics(0, 0.0, 0, 0)
        return metrics

    def _forward(self, images: Array, masks: Masks | None) -> list[network.Step]:
        check_masks(masks, self.spec, len(images))
        return network.forward(self._geometry, self._parameters, np.asarray(images, self.dtype), masks)
