"""The process in which a backend is asked: ``python -m conformance.worker NAME``.

Requests come as lines of JSON on standard input, answers leave as lines of JSON on a private copy of standard output.
Standard output itself goes to standard error from before anything else is imported, so that nothing a framework prints,
in whatever language, can be taken for an answer.
"""

from __future__ import annotations

import contextlib
import os
import sys


def main(arguments: list[str]) -> int:
    """Serve until standard input ends. arguments: the backend's name."""
    if len(arguments) != 1:
        print(f"usage: python -m conformance.worker BACKEND. Received: {arguments}", file=sys.stderr)
        return 2
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    from conformance.servant import serve

    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        serve(arguments[0], sys.stdin, answers)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
