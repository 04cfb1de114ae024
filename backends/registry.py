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
_KERAS_PROCESSES = "KERAS_DISTRIBUTION_NUM_PROCESSES"
"""What ``keras.distribution.initialize`` reads from there, with _JOB_ADDRESSES and _PROCESS_ID."""
_KERAS_PROCESS = "KERAS_DISTRIBUTION_PROCESS_ID"
_SEVERAL_HOSTS = (
    "several processes must train with torch, started by torchrun, or with Keras on JAX (TensorFlow's "
    "MultiWorkerMirroredStrategy does not work with Keras 3: keras-team/keras#20585)"
)


def speaks() -> bool:
    """Whether this process is alone or the first of its group, as far as the environment says."""
    ranks = (os.environ.get("RANK", "0") if _by_torchrun() else "0", os.environ.get(_KERAS_PROCESS, "0"))
    return ranks == ("0", "0")


def join(name: str) -> Group:
    """The group of processes in which the environment says that this one is to train with the backend called `name`.

    For torch, the environment of ``torchrun``; for keras-jax, that of ``keras.distribution.initialize``; without them,
    this process is alone. Waits until all are there. To be
    called before anything else that the framework does. Raises Unsupported if the backend knows no such group, Lost if
    others do not come.
    """
    if int(os.environ.get(_KERAS_PROCESSES, "1")) > 1:
        if name != "keras-jax":
            raise Unsupported(f"{_SEVERAL_HOSTS}. Received: {_KERAS_PROCESSES} for {name}")
        from backends.keras.group import JaxGroup

        return JaxGroup()
    if not _by_torchrun():
        return ALONE
    if name == "torch":
        from backends.torch.group import TorchGroup

        return TorchGroup()
    if int(os.environ["WORLD_SIZE"]) > 1:
        raise Unsupported(f"torchrun must start the torch backend. Received: {name}")
    return ALONE


def _by_torchrun() -> bool:
    return all(variable in os.environ for variable in _LAUNCHED)
