"""What glibc's allocator does with freed memory.

By default it gives large blocks back to the system at once, and every page of the next ones is faulted in and zeroed
again. An image takes a few such blocks; keeping them saves a tenth of its time.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Mapping

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""Options of mallopt(3), from glibc's malloc.h."""
_BLOCK, _KEPT = 8 << 20, 32 << 20


def tell(options: Mapping[int, int]) -> bool:
    """Set `options` for this process. Returns whether its allocator is one that has them (glibc's, on Linux)."""
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return all(libc.mallopt(option, value) for option, value in options.items())


def keep_freed_blocks() -> bool:
    """Keep freed blocks of at most 8 MiB for the next image, at most 32 MiB a thread. Returns as :func:`tell`."""
    return tell({MMAP_THRESHOLD: _BLOCK, TRIM_THRESHOLD: _KEPT})
