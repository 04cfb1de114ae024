"""Work done ahead by threads, handed over in order, within a budget of memory."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(function: Callable[[T], R], items: Iterable[T], *, workers: int, ahead: int) -> Iterator[R]:
    """``map(function, items)`` by `workers` threads that run at most `ahead` items ahead of the consumer.

    An exception of `function` is raised at its item's turn. When the consumer stops (or an exception is raised) nothing
    more is begun, and the threads have ended before the iterator is closed. Threads and not processes: Pillow and NumPy
    let others run while they work, and frameworks do not survive a fork.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="data")
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Budget:
    """`total` bytes that threads share; who does not get enough waits, and who came first goes first."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._used = 0
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()

    @contextmanager
    def spend(self, amount: int) -> Iterator[None]:
        """Wait until `amount` bytes are free, and hold them inside. Raises ValueError if there are never so many."""
        if amount > self.total:
            raise ValueError(f"at most {self.total} bytes can be had. Received: {amount}")
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            self._changed.wait_for(lambda: self._queue[0] is ticket and self._used + amount <= self.total)
            self._queue.popleft()
            self._used += amount
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._used -= amount
                self._changed.notify_all()
