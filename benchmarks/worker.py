"""The process of one engine: reads requests from standard input, one JSON object a line, and answers likewise.

Between requests it waits for input and does nothing, so that another engine can be measured. Run by
:mod:`benchmarks.process` as ``python -m benchmarks.worker THREADS``.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.devices import out_of_memory, release

STARTED = time.perf_counter()
KINDS = ("failed", "absent")
"""Of errors that say so themselves."""
WARM = 0.5
"""Seconds: a call that takes longer has warmed what there is to warm in the turn before."""


def _confine(threads: int) -> None:
    """Leave this process only as many cores as it may have threads; some thread pools ask for nothing else."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def _peak() -> float | None:
    """MiB in memory at most, of this program alone; on Linux, getrusage begins with what its parent had before exec."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _forget_peak() -> None:
    """Let the most memory be counted from now on, where the system can: what came before was another way's."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


class Engine:
    """What the requests do."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.batches: dict[int, Any] = {}
        self.loaded: Any = None
        self.train: Any = None
        self.last = 0.0
        """Seconds of the last call."""
        self.imported: float | None = None
        """Seconds from the start of this process until all was imported, if that was asked for."""
        self.begun = False

    def prepare(self, modules: list[str]) -> dict[str, Any]:
        """Import what the next request needs."""
        for name in modules:
            importlib.import_module(name)
        self.imported = time.perf_counter() - STARTED
        return {}

    def _begin(self) -> float:
        """When what is asked began: with this process, if it is the first; it may have waited after it had imported."""
        first, self.begun = not self.begun, True
        if not first:
            return time.perf_counter()
        return STARTED if self.imported is None else time.perf_counter() - self.imported

    def load(self, engine: str, path: str, batch: int) -> dict[str, Any]:
        """Load the file and answer `batch` images."""
        began = self._begin()
        from benchmarks.engines import ENGINES, PACKAGES, read
        from benchmarks.environment import versions

        self.loaded = loaded = ENGINES[engine].make()(*read(Path(path)), self.threads)
        loaded.fetch(loaded.run(self._images(batch)))
        return {
            "what": loaded.what,
            "device": loaded.device,
            "precision": loaded.precision,
            "versions": versions(PACKAGES),
            "seconds": time.perf_counter() - began,
        }

    def answer(self, images: str, batch: int, output: str) -> dict[str, Any]:
        """Write the logits of the images in a file to another, `batch` images at a time; the last ones are repeated.

        A file of another program may answer something else than a row for each image: then nothing is written.
        """
        import numpy as np

        from benchmarks.accuracy import cast

        given, found = np.load(images, mmap_mode="r"), []
        for start in range(0, len(given), batch):
            part = given[start : start + batch]
            if self.loaded.dtype != part.dtype.name:
                part = cast(part, self.loaded.dtype)
            whole = np.ascontiguousarray(np.resize(part, (batch, *part.shape[1:])))
            answer = self.loaded.fetch(self.loaded.run(self.loaded.place(whole)))
            if answer.shape[:1] != (batch,):
                return {"rows": False}
            found.append(answer.reshape(batch, -1)[: len(part)])
        np.save(output, np.concatenate(found).astype(np.float32))
        return {"rows": True}

    def measure(self, batch: int, seconds: float, calls: int, warm: bool) -> dict[str, Any]:
        """Call until the calls have taken `seconds` and are `calls`.

        warm: whether one call before, which does not count, is made however long it takes; else only if it is short.
        """
        images, run = self._images(batch), self.loaded.run
        if warm or self.last < WARM:
            run(images)
        times: list[float] = []
        cpu, spent = time.process_time(), 0.0
        while len(times) < calls or spent < seconds:
            start = time.perf_counter()
            run(images)
            times.append(time.perf_counter() - start)
            spent += times[-1]
        self.last = times[-1]
        return {"times": times, "cpu": time.process_time() - cpu}

    def roof(self, device: str, precisions: list[str], seconds: float) -> dict[str, Any]:
        """What `device` can do; see :mod:`benchmarks.roof`."""
        from benchmarks.roof import measure

        return measure(device, precisions, self.threads, seconds).model_dump(mode="json")

    def subject(self, name: str, spec: str, batch: int, device: str) -> dict[str, Any]:
        """Make a way to train, and do two steps: compilers and thread pools work in them."""
        began = self._begin()
        import spec as specifications
        from benchmarks.subjects import ALL_SUBJECTS

        self.train = None  # the one before gives its memory back first
        release()
        _forget_peak()
        self.train = train = ALL_SUBJECTS[name].make(specifications.load(spec), batch, device)
        losses = []
        for _ in range(2):
            train.step()
            losses.append(train.loss())
        return {"losses": losses, "seconds": time.perf_counter() - began}

    def steps(self, count: int) -> dict[str, Any]:
        """`count` training steps, of which the loss of the last is read; the seconds of one, on the average."""
        assert self.train is not None
        start = time.perf_counter()
        for _ in range(count):
            self.train.step()
        loss = self.train.loss()
        return {"loss": loss, "seconds": (time.perf_counter() - start) / count}

    def cases(self, section: str, spec: str, left: float | None, **options: Any) -> dict[str, Any]:
        """Cases of ``lrn`` or ``grouped`` and what failed. left: seconds until nothing more is begun."""
        self.begun = True
        import spec as specifications

        module = importlib.import_module({"lrn": "benchmarks.lrn_forms", "grouped": "benchmarks.grouped"}[section])
        until = None if left is None else time.monotonic() + left
        found, failures = module.measure(specifications.load(spec), threads=self.threads, until=until, **options)
        parts = {"cases": found, "failures": failures}
        return {name: [part.model_dump(mode="json") for part in several] for name, several in parts.items()}

    def release(self) -> dict[str, Any]:
        """Give back what the last way to train holds, that of a GPU above all: another process needs it now."""
        self.train = None
        release()
        return {}

    def memory(self) -> dict[str, Any]:
        """The most memory this process has used, in MiB, and of a GPU's; null where that is not known."""
        of = self.loaded if self.loaded is not None else self.train
        device = of.device_memory() if of is not None else None
        return {"peak_mib": _peak(), "device_mib": device}

    def _images(self, batch: int) -> Any:
        """Kept, so that memory is touched before it is measured; only the last size, so that it stays small."""
        from benchmarks.accuracy import noise

        if batch not in self.batches:
            self.batches.clear()
            images = noise(self.loaded.input_shape, batch, self.loaded.dtype)
            self.batches = {batch: self.loaded.place(images)}
        return self.batches[batch]


def main(threads: int) -> None:
    """Serve until standard input ends. Whatever the engine prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _confine(threads)
    engine = Engine(threads)
    actions: dict[str, Callable[..., dict[str, Any]]] = {
        "prepare": engine.prepare,
        "load": engine.load,
        "answer": engine.answer,
        "measure": engine.measure,
        "roof": engine.roof,
        "subject": engine.subject,
        "steps": engine.steps,
        "cases": engine.cases,
        "release": engine.release,
        "memory": engine.memory,
    }
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = actions[request.pop("do")](**request)
        except Exception as error:  # whatever an engine raises becomes a line in the report
            said = (str(error).strip().splitlines() or [""])[0]
            kind = "out of memory" if out_of_memory(error) else getattr(error, "kind", "failed")
            kind = kind if kind in KINDS else "failed"  # others' errors may have something of that name
            answer = {"error": f"{type(error).__name__}: {said}", "kind": kind}
        if "error" in answer:  # outside of the handler, where no traceback holds the arrays any more
            release()
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
