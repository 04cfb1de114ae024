"""The process of one engine: reads requests from standard input, one JSON object a line, and answers likewise.

Between requests it waits for input and does nothing, so that another engine can be measured. Run by
:mod:`benchmarks.process` as ``python -m benchmarks.worker THREADS``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()


def _confine(threads: int) -> None:
    """Leave this process only as many cores as it may have threads; some thread pools ask for nothing else."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


class Engine:
    """What the requests do."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.batches: dict[int, Any] = {}

    def load(self, engine: str, path: str) -> dict[str, Any]:
        """Load the file and answer the first images."""
        from benchmarks.engines import ENGINES, read
        from benchmarks.environment import versions
        from benchmarks.measure import CHECKED

        self.loaded = loaded = ENGINES[engine].load(*read(Path(path)), self.threads)
        self.run = loaded.run
        logits = self.run(self._images(CHECKED))
        self.batches.clear()
        return {
            "what": loaded.what,
            "precision": loaded.precision,
            "versions": versions(
                ["numpy", "onnx", "onnxruntime", "torch", "keras", "tensorflow", "tensorflow-cpu", "jax"]
            ),
            "seconds": time.perf_counter() - STARTED,
            "logits": logits.astype(float).tolist(),
        }

    def measure(self, batch: int, seconds: float) -> dict[str, Any]:
        """Call until the calls have taken `seconds`, at least once; one call before does not count."""
        images = self._images(batch)
        self.run(images)
        times: list[float] = []
        cpu, spent = time.process_time(), 0.0
        while not times or spent < seconds:
            start = time.perf_counter()
            self.run(images)
            times.append(time.perf_counter() - start)
            spent += times[-1]
        return {"times": times, "cpu": time.process_time() - cpu}

    def subject(self, name: str, spec: str, batch: int) -> dict[str, Any]:
        """Make a way to train, and do two steps: compilers and thread pools work in them."""
        import spec as specifications
        from benchmarks.subjects import SUBJECTS

        self.train = SUBJECTS[name].make(specifications.load(spec), batch)
        losses = [self.train() for _ in range(2)]
        return {"losses": losses, "seconds": time.perf_counter() - STARTED}

    def step(self) -> dict[str, Any]:
        """One training step."""
        start = time.perf_counter()
        loss = self.train()
        return {"loss": loss, "seconds": time.perf_counter() - start}

    def memory(self) -> dict[str, Any]:
        """The most memory this process has used, in MiB; null where the system does not say."""
        try:
            import resource
        except ImportError:
            return {"peak_mib": None}
        unit = 1 if sys.platform == "darwin" else 1024
        return {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20}

    def _images(self, batch: int) -> Any:
        """Kept, so that memory is touched before it is measured; only the last size, so that it stays small."""
        from benchmarks.measure import images

        if batch not in self.batches:
            self.batches = {batch: images(self.loaded.input_shape, batch, self.loaded.pixels)}
        return self.batches[batch]


def main(threads: int) -> None:
    """Serve until standard input ends. Whatever the engine prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _confine(threads)
    engine = Engine(threads)
    actions: dict[str, Callable[..., dict[str, Any]]] = {
        "load": engine.load,
        "measure": engine.measure,
        "subject": engine.subject,
        "step": engine.step,
        "memory": engine.memory,
    }
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = actions[request.pop("do")](**request)
        except Exception as error:  # whatever an engine raises becomes a line in the report
            said = (str(error).strip().splitlines() or [""])[0]
            answer = {"error": f"{type(error).__name__}: {said}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
