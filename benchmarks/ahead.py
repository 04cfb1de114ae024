"""What is done before its turn, where turns are short: compiling, on all cores at once, and starting processes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.process import EngineFailed, EngineProcess

CACHES = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
"""Where compilers keep what they have made, so that another process finds it."""
SETTINGS = {"TORCHINDUCTOR_COMPILE_THREADS": "4"}
"""In each of many processes; its own choice is one for every core."""
CHOICES = "*.best_config"
"""What PyTorch's compiler has chosen by the clock."""
Requests = Sequence[tuple[str, dict[str, Any]]]
"""What :meth:`EngineProcess.ask` is given, one after another."""


@contextmanager
def caches(folder: Path) -> Iterator[None]:
    """Within it, processes that are started share what their compilers make, in `folder`; users' own settings stay."""
    wanted = SETTINGS | {name: str(folder / own) for name, own in CACHES.items()}
    ours = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]


def forget_choices(folder: Path) -> None:
    """Take from the caches in `folder` what was chosen by the clock: it was, while others used the device as well."""
    for file in folder.rglob(CHOICES):
        file.unlink(missing_ok=True)


class Compiling:
    """Requests of several processes side by side, for what their compilers leave in the caches.

    An answer is of no interest, nor is an error, which comes again when it is that request's turn. Leaving the context
    waits for all; `seconds` after it was made nothing is begun, and what is not done is ended.
    """

    def __init__(self, threads: int, seconds: float) -> None:
        self.threads, self.until = threads, time.monotonic() + seconds
        self._pool = ThreadPoolExecutor(threads)
        self._done: list[Future[None]] = []

    def submit(self, requests: Requests) -> None:
        """Ask these of a process of their own."""
        self._done.append(self._pool.submit(self._do, requests))

    def _do(self, requests: Requests) -> None:
        if time.monotonic() > self.until:
            return
        with EngineProcess(self.threads) as process, suppress(EngineFailed):
            for do, options in requests:
                process.ask(do, limit=max(0.0, self.until - time.monotonic()), **options)

    def __enter__(self) -> Compiling:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.until = 0.0
        self._pool.shutdown()
        if error is None:
            for one in self._done:
                one.result()


class Processes:
    """A process for everything that is measured, one after another; what is of one kind shares one.

    To start a process, import a framework and take hold of a GPU takes longer than to measure. So while one is
    measured the process of the next kind is started already, and imports.

    kinds: of everything by name, in the order of their turns. modules: what each kind imports.
    """

    def __init__(self, kinds: Mapping[str, str], modules: Mapping[str, Sequence[str]], threads: int) -> None:
        self.kinds, self.modules, self.threads = kinds, modules, threads
        order = list(kinds.values())
        self._last = {kind: len(order) - 1 - order[::-1].index(kind) for kind in order}
        self._place = {name: place for place, name in enumerate(kinds)}
        self._running: dict[str, EngineProcess] = {}

    @contextmanager
    def turn(self, name: str) -> Iterator[EngineProcess]:
        """The process of `name`, for as long as the context lasts."""
        place, kind, order = self._place[name], self.kinds[name], list(self.kinds.values())
        process = self._start(kind)
        following = next((other for other in order[place:] if other != kind), None)
        if following is not None:
            self._start(following)
        try:
            yield process
        finally:
            if process.killed or place >= self._last[kind]:
                self._running.pop(kind).close()
            elif order[place + 1] != kind:
                with suppress(EngineFailed):  # what is wrong with it shows at its next turn
                    process.ask("release")

    def _start(self, kind: str) -> EngineProcess:
        if kind not in self._running:
            self._running[kind] = EngineProcess(self.threads)
            self._running[kind].prepare(self.modules[kind])
        return self._running[kind]

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._running.values():
            process.close()
