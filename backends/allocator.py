"""Freed memory is kept for the next step instead of being given back to the system.

A training step of a full network frees and asks anew for a gigabyte. By default glibc gives large blocks back at once,
and every page of the next ones is faulted in and zeroed again: a third of the time of a step on a CPU
(``benchmarks/run.py --suite training`` measures it).
"""

from __future__ import annotations

from data.allocator import MMAP_MAX, TRIM_THRESHOLD, tell


def keep_freed_memory() -> bool:
    """Tell this process's allocator so. Returns whether it is one that can be told (glibc's, on Linux).

    The process then holds as much memory as its largest moment needed, until it ends.
    """
    never = -1  # as a size, the largest there is
    return tell({MMAP_MAX: 0, TRIM_THRESHOLD: never})
