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
    """``backends.torch.<module>``, or None and a warning where its compiler is not there, or does not work.

    Triton can be imported where it cannot compile: at the first launch it wants a compiler for C, and Python's headers.
    """
    try:
        made = import_module(f"backends.torch.{module}")
        if hasattr(made, "launch"):
            made.launch()
    except Exception as error:  # a compiler at work raises what it likes
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        slower = f"what {module} does is several times slower without {COMPILERS[module]}"
        warnings.warn(f"{slower}: {said}", stacklevel=1)
        return None
    return made
