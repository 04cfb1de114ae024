"""Loops that Numba compiles, for work that NumPy would do in many passes over memory.

Numba is not needed: whoever uses such loops does the same in another way where it is not installed, with the same bits.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import TypeVar

Loop = TypeVar("Loop", bound=Callable[..., object])


def compiled(loop: Loop) -> Loop:
    """`loop`, compiled when it is first called, with a rounding after every operation, beside other threads.

    The machine code is kept beside the source or in the user's cache, and is not where neither can be written. Raises
    ImportError where Numba is not installed.
    """
    import numba

    options = {"nogil": True, "error_model": "numpy"}
    try:
        made: Loop = numba.njit(cache=True, **options)(loop)
    except RuntimeError:  # no place for the cache
        made = numba.njit(**options)(loop)
    return made


@cache
def compiled_loops() -> ModuleType | None:
    """:mod:`data.loops`, for what takes less time there; None where it cannot be had.

    It needs Numba, and an x86-64: elsewhere the compilers of Pillow may multiply and add with one rounding.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return None
    try:
        from data import loops
    except ImportError:
        return None
    return loops
