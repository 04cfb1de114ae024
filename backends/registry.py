"""Backends by name. A backend's framework is imported when it is created, and one process creates one kind."""

from __future__ import annotations

import importlib
import os

from backends.base import Inference
from spec import Spec

_CLASSES = {
    "numpy": ("backends.numpy.backend", "NumpyBackend", None),
    "torch": ("backends.torch.backend", "TorchBackend", None),
    "keras-tensorflow": ("backends.keras.backend", "KerasBackend", "tensorflow"),
    "keras-jax": ("backends.keras.backend", "KerasBackend", "jax"),
    "keras-torch": ("backends.keras.backend", "KerasBackend", "torch"),
    "onnx": ("backends.onnx.backend", "OnnxBackend", None),
}
NAMES = tuple(_CLASSES)


def backend_class(name: str) -> type[Inference]:
    """The class of the backend called `name`, its framework imported. Raises ValueError for an unknown name."""
    if name not in _CLASSES:
        raise ValueError(f"a backend must be one of {', '.join(NAMES)}. Received: {name!r}")
    module, class_name, keras_backend = _CLASSES[name]
    if keras_backend is not None:
        os.environ["KERAS_BACKEND"] = keras_backend
    backend: type[Inference] = getattr(importlib.import_module(module), class_name)
    return backend


def create(name: str, spec: Spec, *, dtype: str = "float32", device: str = "auto") -> Inference:
    """The backend called `name` for `spec`. Raises ValueError for an unknown name, Unsupported for a dtype it lacks."""
    return backend_class(name)(spec, dtype=dtype, device=device)
