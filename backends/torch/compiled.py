"""Loops that a compiler makes for one kind of device; where it is not installed, PyTorch's operations do the same."""

from __future__ import annotations

import warnings
from functools import cache
from importlib import import_module
from types import ModuleType

COMPILERS = {"channel_norm": "Numba", "channel_norm_gpu": "Triton", "dropout_gpu": "Triton"}
"""The modules beside this one that need one to be imported."""


@cache
def compiled(module: str) -> ModuleType | None:
    """``backends.torch.<module>``, or None and a warning where its compiler cannot be imported."""
    try:
        return import_module(f"backends.torch.{module}")
    except ImportError as error:
        slower = f"what {module} does is several times slower without {COMPILERS[module]}"
        warnings.warn(f"{slower}: {error}", stacklevel=1)
        return None
