"""Running the checks: workers by name, one job for all of them at once, results that can be written down."""

from __future__ import annotations

import math
import os
import platform
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from backends.base import Unsupported
from conformance.cases import NoSafeCase
from conformance.checks import CHECKS, Examination, Held, Job, verdict
from conformance.client import LIMIT, NotInstalled, Remote, Worker, WorkerFailed
from conformance.comparison import Finding
from conformance.explain import Answers, Heard, explanation
from conformance.ranks import Ranks, in_processes
from conformance.xfails import Asked, Entry

FORMAT = 1
"""Of evidence files."""


BUILDING = "building"
"""What stands for a check while the backend is started and built."""
ONLY_INFERS = "it only infers: this check needs a backend that trains"
LOSSES = 3
"""How often a backend's process may be lost at one check before that is not asked any more: each loss may cost its time
limit."""


@dataclass
class Result:
    """What one backend made of one job: for every check findings, a reason why it cannot be asked, or a failure."""

    backend: str
    job: Job
    findings: list[Finding] = field(default_factory=list)
    inapplicable: dict[str, str] = field(default_factory=dict)
    """Checks that cannot be asked of this backend, each with the reason."""
    failures: dict[str, str] = field(default_factory=dict)
    """What happened to the process, or which error was raised, by the check in which it did; BUILDING before any."""
    unsupported: str | None = None
    """What the backend says it cannot do at all."""
    missing: str | None = None
    """The library that is not installed."""
    seconds: float = 0.0
    expected: dict[str, Entry] = field(default_factory=dict)
    """Faults that were expected, by their keys: see :func:`key_of`."""
    explanations: dict[str, str] = field(default_factory=dict)
    """What is wrong where a check failed, as far as that can be said; only of the first."""

    @property
    def unexpected(self) -> list[Finding]:
        """The findings, without the faults that were expected."""
        return [f for f in self.findings if f.passed or key_of(f.check, f.tensor) not in self.expected]

    @property
    def fault(self) -> str | None:
        """Why this is not a pass, in a sentence; None if it is one, or if nothing could be asked."""
        wrong = verdict(self.backend, self.job.spec, self.job.dtype, self.unexpected)
        if wrong is not None:
            first = next(finding.check for finding in self.unexpected if not finding.passed)
            return " ".join(filter(None, (wrong, self.explanations.get(first))))
        return next((said for check, said in self.failures.items() if key_of(check) not in self.expected), None)

    def explain(self, e: Examination, check: str, answers: Answers, findings: Sequence[Finding]) -> None:
        """Say what is wrong if this check is the first to fail, and the network small enough to try it out."""
        if self.job.full or self.explanations or all(finding.passed for finding in findings):
            return
        found = explanation(e, check, answers, findings)
        if found is not None:
            self.explanations[check] = found

    @property
    def failure(self) -> str | None:
        """The first of the failures, expected or not."""
        return next(iter(self.failures.values()), None)

    @property
    def passed(self) -> bool:
        """Whether something was asked and nothing failed that was not expected to."""
        return bool(self.findings or self.failures) and self.fault is None

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
            "inapplicable": self.inapplicable,
            "failures": self.failures,
            "expected": {key: {"reason": one.reason, "link": one.link} for key, one in self.expected.items()},
            "findings": [_finding(finding) for finding in self.findings],
        }


def excuse(results: Sequence[Result], entries: Sequence[Entry]) -> list[Asked]:
    """Mark the faults of `results` that `entries` expect. Returns what was asked and what of it failed."""
    asked = []
    for result in results:
        failed: dict[str, set[str | None]] = {finding.check: set() for finding in result.findings}
        for finding in result.findings:
            if not finding.passed:
                failed[finding.check].add(finding.tensor)
        for check in result.failures:
            failed.setdefault(check, set()).add(None)
        head = (result.backend, result.job.spec.name, result.job.dtype)
        for check, tensors in failed.items():
            about = [entry for entry in entries if entry.concerns(*head, check)]
            for tensor in tensors:
                entry = next((entry for entry in about if entry.covers(tensor)), None)
                if entry is not None:
                    result.expected[key_of(check, tensor)] = entry
            asked.append(Asked(*head, check, frozenset(tensors)))
    return asked


def is_asked(check: str, job: Job, only: tuple[str, ...] | None) -> bool:
    """Whether a check is asked of networks of this size, and was asked for."""
    return CHECKS[check].asked(job.full, check, only)


def key_of(check: str, tensor: str | None = None) -> str:
    """What a fault is called: its check, and its tensor if it is of one."""
    return check if tensor is None else f"{check}: {tensor}"


def _finding(finding: Finding) -> dict[str, Any]:
    numbers = {name: getattr(finding, name) for name in ("error", "bound", "ratio", "digits")}
    finite = {name: value if math.isfinite(value) else str(value) for name, value in numbers.items()}
    return {"check": finding.check, "tensor": finding.tensor, **finite, "fault": finding.fault}


class Pool:
    """Workers by backend name, started when first asked and again when dead. Close it, or use it as a context."""

    def __init__(self, limit: float = LIMIT, device: str = "auto", memory: float | None = None) -> None:
        self._limit, self._memory = limit, memory
        self.device = device
        self._workers: dict[str, Worker] = {}
        self._refused: dict[str, WorkerFailed] = {}
        self._lost: Counter[tuple[str, str]] = Counter()
        self._given_up: dict[tuple[str, str], WorkerFailed] = {}

    def worker(self, name: str) -> Worker:
        """The worker of backend `name`. Raises NotInstalled, NotThere, or WorkerFailed if it does not start.

        What did not start once is not tried again.
        """
        if name in self._refused:
            raise self._refused[name]
        known = self._workers.get(name)
        if known is not None and known.alive:
            return known
        if known is not None:
            known.close()
        try:
            kind = Ranks if in_processes(name) > 1 else Worker
            self._workers[name] = kind(name, limit=self._limit, memory=self._memory)
        except WorkerFailed as error:
            self._refused[name] = error
            raise
        return self._workers[name]

    def _note_loss(self, name: str, check: str, error: WorkerFailed) -> None:
        """Count a process that is gone, and give the check up after LOSSES of them."""
        if name in self._workers and not self._workers[name].alive:
            self._lost[name, check] += 1
            if self._lost[name, check] == LOSSES:
                words = f"{name} was lost {LOSSES} times at {check}, which is not asked again; the last time: {error}"
                self._given_up[name, check] = WorkerFailed(words)

    def _require_hope(self, name: str, check: str) -> None:
        """Raise WorkerFailed if a check was given up."""
        if (name, check) in self._given_up:
            raise self._given_up[name, check]

    def backend(self, name: str, job: Job) -> Held:
        """Backend `name` made for a job. Raises Unsupported or WorkerFailed."""
        return Held(Remote(self.worker(name), job.spec, dtype=job.dtype, device=self.device))

    def ask(
        self,
        name: str,
        e: Examination,
        only: tuple[str, ...] | None = None,
        made: Held | None = None,
        explain: bool = False,
    ) -> Result:
        """Examine one backend: the one that was made for another seed of this job, which is kept, or one of its own.

        explain: try out what is wrong with one that fails, which takes seconds.

        Raises nothing that a backend can cause.
        """
        started = time.monotonic()
        result = Result(name, e.job)
        doing = BUILDING
        try:
            self._require_hope(name, BUILDING)
            backend = made or self.backend(name, e.job)
            e = e.running if self._workers[name].running_sum_lrn else e
            asked = [check for check in CHECKS if is_asked(check, e.job, only)]
            for doing in asked:
                if CHECKS[doing].trains and not self._workers[name].trains:
                    result.inapplicable[doing] = ONLY_INFERS
                    continue
                try:
                    self._require_hope(name, doing)
                    if not self._workers[name].alive:
                        backend = self.backend(name, e.job)
                    heard = Heard(backend) if explain and not e.job.full else backend
                    findings = list(CHECKS[doing].run(e, heard))
                    if isinstance(heard, Heard):
                        result.explain(e, doing, heard.answers, findings)
                    result.findings += findings
                except Unsupported as error:
                    result.inapplicable[doing] = str(error)
                except NoSafeCase as error:
                    result.inapplicable[doing] = f"in {e.dtype} there is no case: {error}"
                except WorkerFailed as error:
                    result.failures[doing] = str(error)
                    self._note_loss(name, doing, error)
            if made is None and self._workers[name].alive:
                backend.release()
        except Unsupported as error:
            result.unsupported = str(error)
        except NotInstalled as error:
            result.missing = error.library
        except WorkerFailed as error:
            result.failures.setdefault(doing, str(error))
            self._note_loss(name, doing, error)
        result.seconds = time.monotonic() - started
        return result

    def run(self, names: Sequence[str], job: Job, only: tuple[str, ...] | None = None) -> list[Result]:
        """Examine several backends at once, as many as there are cores."""
        e = Examination(job)
        with ThreadPoolExecutor(max_workers=min(len(names), os.cpu_count() or 1)) as threads:
            try:
                return list(threads.map(lambda name: self.ask(name, e, only, explain=True), names))
            except BaseException:  # the keyboard's interrupt: what is under way would be waited for
                threads.shutdown(wait=False, cancel_futures=True)
                for worker in list(self._workers.values()):
                    worker.kill()
                raise

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


def evidence(results: Sequence[Result], versions: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Everything a report needs, as plain values for JSON. versions: of every backend, its libraries'."""
    return {
        "format": FORMAT,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
        "versions": versions,
        "results": [result.record() for result in results],
    }
