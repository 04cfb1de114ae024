"""Loops that Numba compiles, for arithmetic that NumPy would do in many passes over memory.

Numba is not needed: whoever imports a module of such loops does the same in another way where ImportError says that it
is not there, with the same bits.
"""

# mypy: disallow-untyped-decorators=False

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numba

Loop = TypeVar("Loop", bound=Callable[..., object])


def compiled(loop: Loop) -> Loop:
    """`loop`, compiled when it is first called, with a rounding after every operation, beside other threads.

    The machine code is kept beside the source or in the user's cache, and is not where neither can be written.
    """
    options = {"nogil": True, "error_model": "numpy"}
    try:
        made: Loop = numba.njit(cache=True, **options)(loop)
    except RuntimeError:  # no place for the cache
        made = numba.njit(**options)(loop)
    return made
