"""A file that one process holds at a time; whatever ends the process lets it go."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_RETRY_S = 0.2


class Busy(Exception):
    """Another process holds the file."""


@contextmanager
def held(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold the existing file `path` inside. If another process does: wait for it, or raise Busy. Raises OSError."""
    with path.open("r+b") as file:
        while not _try(file.fileno()):
            if not wait:
                raise Busy
            time.sleep(_RETRY_S)
        yield


if sys.platform == "win32":
    import msvcrt

    def _try(descriptor: int) -> bool:
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # behind the end, since nobody else could read what is locked
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
