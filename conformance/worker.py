"""The process in which a backend is asked: ``python -m conformance.worker NAME FOLDER``.

Requests come as lines of JSON on standard input, answers leave as lines of JSON on a private copy of standard output.
Standard output itself goes to standard error from before anything else is imported, so that nothing a framework prints,
in whatever language, can be taken for an answer.

The process leads a group of its own. If who asked is gone, it ends with all that it forked, whatever it is doing, and
removes the folder of the exchange: nobody else would.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import sys
import threading
import time

_LOOK = 0.5
"""Seconds between looks at who asked."""
_PATIENCE = 2.0
"""Seconds for the news that who asked is gone, once its pipe is closed."""


def _gone(asker: int, seconds: float) -> bool:
    """Wait for up to `seconds` until the process `asker` is gone. Returns whether it is."""
    deadline = time.monotonic() + seconds
    while os.getppid() == asker and time.monotonic() < deadline:
        time.sleep(_LOOK)
    return os.getppid() != asker


def _watch(asker: int, folder: str) -> None:
    if _gone(asker, math.inf):
        shutil.rmtree(folder, ignore_errors=True)
        os.killpg(os.getpid(), signal.SIGKILL)


def main(arguments: list[str]) -> int:
    """Serve until standard input ends. arguments: the backend's name, and the folder in which arrays are exchanged."""
    if len(arguments) != 2:
        print(f"usage: python -m conformance.worker BACKEND FOLDER. Received: {arguments}", file=sys.stderr)
        return 2
    name, folder = arguments
    asker = os.getppid()
    if os.name == "posix" and os.getpgrp() == os.getpid():
        threading.Thread(target=_watch, args=(asker, folder), daemon=True).start()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    from conformance.servant import serve

    dismissed = False
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        dismissed = serve(name, sys.stdin, answers)
    if not dismissed and _gone(asker, _PATIENCE):
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
