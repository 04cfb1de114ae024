"""One layer or a few on a bench, with or without a mutant, so that a symptom can be shown in a few lines."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

from backends.base import Array, Gradients
from backends.registry import backend_class
from conformance.mutants import find
from conformance.mutants.witnesses import Layers, specification
from spec import Settings, Spec, geometry

END: Layers = {"flatten": {"op": "flatten"}, "fc": {"op": "dense", "out_features": 2}}


def layers(*stated: dict[str, Any]) -> Layers:
    """`stated` under the names a, b, c ... and what makes a network of them."""
    return {**{chr(97 + i): layer for i, layer in enumerate(stated)}, **END}


class Bench:
    """A network, images (N, C, S, S), and parameters: zero unless they are given."""

    def __init__(
        self,
        network: Layers,
        images: Any,
        parameters: dict[str, Any] | None = None,
        training: dict[str, Any] | None = None,
        backend: str = "torch",
    ) -> None:
        self.images = np.asarray(images, np.float32)
        self.spec: Spec = specification((self.images.shape[1], self.images.shape[2]), network, training)
        self.kind: Any = backend_class(backend)
        shapes = geometry(self.spec).parameters
        self.parameters = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        for name, value in (parameters or {}).items():
            self.parameters[name] = np.broadcast_to(np.asarray(value, np.float32), shapes[name]).copy()

    @contextlib.contextmanager
    def backend(self, mutant: str | None) -> Any:
        """The backend with the mutant in it, in float64 if it can."""
        with find(mutant).apply() if mutant else contextlib.nullcontext():
            made = self.kind(self.spec, dtype="float64" if "float64" in self.kind.dtypes else "float32")
            made.load(self.parameters)
            yield made

    def outputs(self, mutant: str | None, masks: dict[str, Array] | None = None) -> dict[str, Array]:
        with self.backend(mutant) as made:
            found: dict[str, Array] = made.outputs(self.images, masks) if masks else made.outputs(self.images)
            return found

    def first(self, mutant: str | None, masks: dict[str, Array] | None = None) -> Array:
        """What leaves the first layer."""
        return next(iter(self.outputs(mutant, masks).values()))

    def gradients(self, mutant: str | None, cotangent: Any, masks: dict[str, Array] | None = None) -> Gradients:
        with self.backend(mutant) as made:
            found: Gradients = made.gradients(self.images, np.asarray(cotangent, np.float32), masks)
            return found

    def loss(self, mutant: str | None, labels: Any) -> float:
        with self.backend(mutant) as made:
            return float(made.loss(self.images, np.asarray(labels)))

    def trained(
        self, mutant: str | None, settings: list[dict[str, Settings]], labels: Any, velocities: Any = None
    ) -> list[dict[str, Array]]:
        """The parameters after each step, one for each of `settings`."""
        with self.backend(mutant) as made:
            if velocities is not None:
                made.load(self.parameters, {name: np.full_like(w, velocities) for name, w in self.parameters.items()})
            states = []
            for chosen in settings:
                made.step(self.images, np.asarray(labels), chosen, {})
                states.append(made.parameters())
            return states


def impulse(size: int, row: int = 0, column: int = 0) -> Array:
    """One image (1, 1, S, S) that is 1 at one place and 0 elsewhere."""
    image = np.zeros((1, 1, size, size), np.float32)
    image[0, 0, row, column] = 1
    return image


def settings(rate: float, decay: float, names: Any, **other: Settings) -> dict[str, Settings]:
    """The same rate and decay for every parameter."""
    return {name: Settings(rate, decay) for name in names}


def numbered(*shape: int) -> Array:
    """0, 1, 2 ... in this shape."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
