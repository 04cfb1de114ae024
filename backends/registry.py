"""Backends by name. A backend's framework is imported when it is created, and one process creates one kind."""

from __future__ import annotations

import importlib
import os

from backends.base import Inference, Unsupported
from backends.group import ALONE, Group
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


def create(
    name: str, spec: Spec, *, dtype: str = "float32", device: str = "auto", devices: int = 1, group: Group = ALONE
) -> Inference:
    """The backend called `name` for `spec`. Raises ValueError for an unknown name, Unsupported for a dtype it lacks.

    devices: how many of its devices this process shares its batches among. group: as :func:`join` returns it.
    """
    sharing = ({"devices": devices} if devices > 1 else {}) | ({"group": group} if group is not ALONE else {})
    return backend_class(name)(spec, dtype=dtype, device=device, **sharing)


_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What ``torchrun`` puts into the environment of every process."""


def speaks() -> bool:
    """Whether this process is alone or the first of its group, as far as the environment says."""
    return os.environ.get("RANK", "0") == "0" or not all(variable in os.environ for variable in _LAUNCHED)


def join(name: str) -> Group:
    """The group of processes in which the environment says that this one is to train with the backend called `name`.

    For torch, the environment of ``torchrun``; without it, this process is alone. Waits until all are there. To be
    called before anything else that the framework does. Raises Unsupported if the backend knows no such group, Lost if
    others do not come.
    """
    if not all(variable in os.environ for variable in _LAUNCHED):
        return ALONE
    if name == "torch":
        from backends.torch.group import TorchGroup

        return TorchGroup()
    if int(os.environ["WORLD_SIZE"]) > 1:
        raise Unsupported(f"torchrun must start the torch backend. Received: {name}")
    return ALONE
