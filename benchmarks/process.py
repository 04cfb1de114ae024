"""The other end of :mod:`benchmarks.worker`: one engine's process, started, asked and ended."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from alexnet_rooms import ROOT

LIMIT = 600.0
"""Seconds for one answer: a compiler at work on a busy core. Beyond it the process is taken for stuck."""

GRACE = 20.0
"""Seconds beyond a budget that an answer may come late: a compiler is not interrupted."""

PATIENCE = 5.0
"""Seconds that a process has to leave, closing what it has opened (compilers keep processes of their own)."""


_SHARED_GPU = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
"""By default JAX and TensorFlow each take most of a GPU's memory when they start, which the other engines need too."""


def limit_of(until: float | None) -> float:
    """Seconds that an answer may take where nothing may begin after `until`, a moment of ``time.monotonic``."""
    return LIMIT if until is None else min(LIMIT, max(0.0, until - time.monotonic()) + GRACE)


class EngineFailed(RuntimeError):
    """The engine raised, died or fell silent; one line."""

    kind = "failed"
    """``out of memory`` where that is what it said."""


class Killed(EngineFailed):
    """Its process cannot be asked any more."""


class EngineProcess:
    """A process that runs one engine with `threads` threads. Close it, or use it as a context."""

    def __init__(self, threads: int) -> None:
        # What decides the number of threads before a framework can be asked: OpenMP's, MKL's, TensorFlow's.
        number = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"), str(threads))
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115, closed in close
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", str(threads)],
            cwd=ROOT,
            env={**environment, **number, **_SHARED_GPU, "TF_CPP_MIN_LOG_LEVEL": "2"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
        )
        self._answers: queue.Queue[str] = queue.Queue()
        self._unheard = 0
        """Answers to come that nobody waits for."""
        self.killed = False
        """Whether it cannot be asked any more."""
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def prepare(self, modules: Sequence[str]) -> None:
        """Let the process import `modules`, and do not wait for it: what goes wrong will go wrong again when asked."""
        with contextlib.suppress(OSError):
            self._send({"do": "prepare", "modules": list(modules)})
            self._unheard += 1

    def _send(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def ask(self, do: str, *, limit: float = LIMIT, **request: Any) -> dict[str, Any]:
        """The answer to a request. Raises EngineFailed."""
        until = time.monotonic() + limit
        if self.killed:  # its late answer would be taken for the answer to this
            raise Killed("its process was given up before")
        try:
            self._send({"do": do, **request})
            line = self._answers.get(timeout=limit)
            while line and self._unheard:
                self._unheard -= 1
                line = self._answers.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            silent = Killed(f"gave no answer to {do!r} within {limit:.0f} s")
            silent.kind = "skipped" if limit < LIMIT else "failed"  # a budget ran out, or something is stuck
            self.killed = True
            raise silent from None
        except OSError:
            line = ""
        if not line:
            self.killed = True
            raise Killed(f"its process died: {self._last_words()}")
        try:
            answer: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            self.killed = True
            raise Killed(f"its process died while it answered: {self._last_words()}") from None
        if "error" in answer:
            failed = EngineFailed(answer["error"])
            failed.kind = answer["kind"]
            raise failed
        return answer

    def _last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        self._errors.seek(0)
        said = [line.strip() for line in self._errors if line.strip()]
        return said[-1] if said else f"exit code {self._process.returncode}"

    def close(self) -> None:
        """End the process: by telling it that nothing more will come, and if that does not help, by force."""
        for stream in (self._process.stdin, self._errors):
            with contextlib.suppress(OSError):  # what was never sent cannot be flushed into a dead process
                stream.close()  # type: ignore[union-attr]
        try:
            self._process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join()
        self._process.stdout.close()  # type: ignore[union-attr]

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def memory_of(process: EngineProcess) -> dict[str, Any]:
    """What it says of its memory, MiB: ``peak_mib`` and ``device_mib``; nothing if it cannot be asked any more."""
    try:
        return process.ask("memory")
    except EngineFailed:
        return {"peak_mib": None, "device_mib": None}
