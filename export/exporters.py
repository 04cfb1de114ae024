"""Frameworks' own exporters to ONNX: what each needs, and what it is known to get wrong. Imports none of them."""

from __future__ import annotations

import importlib.util
from importlib import metadata

PACKAGES = {
    "torch": ("torch", "onnxscript"),
    "keras-tensorflow": ("keras", "tensorflow", "tf2onnx"),
    "keras-jax": ("keras", "jax", "jax2onnx"),
    "keras-torch": ("keras", "torch", "onnxscript"),
}
"""Backends with an exporter of their own, and what it needs to be installed."""
PROGRAMS = {
    "torch": "torch.onnx.export",
    "keras-tensorflow": "Keras' export by tf2onnx",
    "keras-jax": "Keras' export by jax2onnx",
    "keras-torch": "torch.onnx.export of the Keras model",
}
KNOWN = {
    "torch": {
        "spatial_norm": (
            "the exporter ignores divisor_override, so that the mean of a window stands for its sum",
            "https://github.com/pytorch/pytorch/issues/105349",
        ),
    },
    "keras-jax": {
        "max_pool": (
            "pools of maps with channels last are written as pools of four spatial sides, which no runtime has",
            "https://github.com/keras-team/keras/pull/22443",
        ),
    },
}
"""By backend and op, what its exporter is known to get wrong, and where that is discussed or was brought in."""


def missing(backend: str) -> list[str]:
    """The packages that the exporter of `backend` needs and this Python lacks."""
    return [package for package in PACKAGES[backend] if importlib.util.find_spec(package) is None]


def described(backend: str) -> str:
    """The exporter of `backend` and the versions of what it stands on, for people."""
    return f"{PROGRAMS[backend]} ({', '.join(f'{name} {_version(name)}' for name in PACKAGES[backend])})"


def _version(package: str) -> str:
    """Of an importable package, which may be distributed under another name (tensorflow-cpu)."""
    for name in metadata.packages_distributions().get(package, ()):
        return metadata.version(name)
    return "of unknown version"
