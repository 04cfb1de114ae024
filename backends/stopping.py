"""How training is asked to stop: by a signal, after the step at hand."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Stopped(Exception):
    """Leaves the loops when a signal has asked for it (its number, else 0), or `max_steps` is reached."""

    def __init__(self, number: int = 0) -> None:
        self.signal = number or None


class Signals:
    """Within it, SIGINT and SIGTERM are remembered; a second one has its ordinary effect at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def ignore(self) -> None:
        """From now on and after it, signals have no effect: the process is ending and has only to say why."""
        for number in self._before or ():
            signal.signal(number, signal.SIG_IGN)
        self._before = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            self._before = {number: signal.signal(number, self._remember) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._restore()
