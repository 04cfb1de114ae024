"""Running the checks: workers by name, one job for all of them at once, results that can be written down."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from backends.base import Unsupported
from conformance.checks import Examination, Job, examine, verdict
from conformance.client import NotInstalled, Remote, Worker, WorkerFailed
from conformance.comparison import Finding

FORMAT = 1
"""Of evidence files."""


@dataclass
class Result:
    """What one backend made of one job. Exactly one of `findings`, `unsupported`, `failure` and `missing` says it."""

    backend: str
    job: Job
    findings: list[Finding] = field(default_factory=list)
    unsupported: str | None = None
    """What the backend says it cannot do."""
    failure: str | None = None
    """What happened to its process, or which error it raised."""
    missing: str | None = None
    """The library that is not installed."""
    seconds: float = 0.0

    @property
    def fault(self) -> str | None:
        """Why this is not a pass, in a sentence; None if it is one, or if nothing could be asked."""
        if self.failure is not None:
            return self.failure
        return verdict(self.backend, self.job.spec, self.job.dtype, self.findings)

    @property
    def passed(self) -> bool:
        return bool(self.findings) and self.fault is None

    def record(self) -> dict[str, Any]:
        """For the evidence file."""
        job = self.job
        return {
            "backend": self.backend,
            "spec": job.spec.name,
            "spec_hash": job.spec.hash,
            "dtype": job.dtype,
            "seed": job.seed,
            "images": job.images,
            "full": job.full,
            "seconds": round(self.seconds, 2),
            "passed": self.passed,
            "fault": self.fault,
            "unsupported": self.unsupported,
            "missing": self.missing,
            "findings": [_finding(finding) for finding in self.findings],
        }


def _finding(finding: Finding) -> dict[str, Any]:
    numbers = {name: getattr(finding, name) for name in ("error", "bound", "ratio", "digits")}
    finite = {name: value if math.isfinite(value) else str(value) for name, value in numbers.items()}
    return {"check": finding.check, "tensor": finding.tensor, **finite, "fault": finding.fault}


class Pool:
    """Workers by backend name, started when first asked and again when dead. Close it, or use it as a context."""

    def __init__(self, limit: float | None = None, device: str = "auto") -> None:
        self._limit, self.device = limit, device
        self._workers: dict[str, Worker] = {}
        self._missing: dict[str, NotInstalled] = {}

    def worker(self, name: str) -> Worker:
        """The worker of backend `name`. Raises NotInstalled, or WorkerFailed if it does not start."""
        if name in self._missing:
            raise self._missing[name]
        known = self._workers.get(name)
        if known is not None and known.alive:
            return known
        if known is not None:
            known.close()
        try:
            made = Worker(name) if self._limit is None else Worker(name, limit=self._limit)
        except NotInstalled as error:
            self._missing[name] = error
            raise
        self._workers[name] = made
        return made

    def ask(self, name: str, e: Examination, only: tuple[str, ...] | None = None) -> Result:
        """Examine one backend. Raises nothing that a backend can cause."""
        started = time.monotonic()
        job = e.job
        result = Result(name, job)
        try:
            worker = self.worker(name)
            backend = Remote(worker, job.spec, dtype=job.dtype, device=self.device)
            result.findings = examine(e, backend, trains=worker.trains, only=only)
            backend.release()
        except Unsupported as error:
            result.unsupported = str(error)
        except NotInstalled as error:
            result.missing = error.library
        except WorkerFailed as error:
            result.failure = str(error)
        result.seconds = time.monotonic() - started
        return result

    def run(self, names: Sequence[str], job: Job, only: tuple[str, ...] | None = None) -> list[Result]:
        """Examine several backends at once, as many as there are cores."""
        e = Examination(job)
        with ThreadPoolExecutor(max_workers=min(len(names), os.cpu_count() or 1)) as threads:
            return list(threads.map(lambda name: self.ask(name, e, only), names))

    def versions(self) -> dict[str, dict[str, str]]:
        """Of every backend that was started, the libraries it stands on."""
        return {name: worker.description["versions"] for name, worker in self._workers.items()}

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def evidence(results: Sequence[Result], pool: Pool) -> dict[str, Any]:
    """Everything a report needs, as plain values for JSON."""
    return {
        "format": FORMAT,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
        "versions": pool.versions(),
        "results": [result.record() for result in results],
    }
