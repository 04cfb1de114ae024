"""The kill table: every mutant in a worker, and the suite asked of it until the check that it names notices.

One process serves many mutants: each is undone before the next. That it was undone is shown at the end, when the
backend without a mutant passes everything by which one was killed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from conformance.checks import Examination, first_fault
from conformance.client import WorkerFailed
from conformance.mutants import Mutant
from conformance.recipes import every
from conformance.runner import Pool, Result
from conformance.suite import Small


@dataclass(frozen=True)
class Kill:
    """What came of one mutant on one backend."""

    mutant: Mutant
    backend: str
    case: str | None
    """By which it was killed; None: it survives."""
    tensor: str | None = None
    """Which diverged first; None if the backend broke down."""
    fault: str | None = None
    """What was said about it."""
    asked: int = 0
    """How many cases it took."""
    seconds: float = 0.0

    def record(self) -> dict[str, Any]:
        """For the evidence file."""
        one = self.mutant
        return {
            "mutant": one.name,
            "target": one.target,
            "kind": one.kind,
            "what": one.what,
            "link": one.link,
            "backend": self.backend,
            "check": one.expected_check,
            "killed": self.case is not None,
            "case": self.case,
            "tensor": self.tensor,
            "fault": self.fault,
            "asked": self.asked,
            "seconds": round(self.seconds, 2),
        }


class Cases:
    """The cases of the suite, each examined by the same expectations whoever is asked."""

    def __init__(self, small: Mapping[str, Small]) -> None:
        self.small = small
        self.examination: Callable[[str], Examination] = cache(lambda name: Examination(self.small[name].job))

    def fitting(self, mutant: Mutant) -> list[str]:
        """Those that ask the mutant's check: first those with an op that it concerns, cheapest first, then others.
        One that names its case has that alone."""
        if mutant.case is not None:
            return [mutant.case]
        ops = {value.partition(".")[0] for value in mutant.concerns}
        asking = [name for name, one in self.small.items() if one.only is None or mutant.expected_check in one.only]
        return sorted(asking, key=lambda name: not ops & {layer.op for layer in self.small[name].job.spec.layers})


def kills(pool: Pool, backend: str, mutants: Sequence[Mutant], given: Cases | None = None) -> Iterator[Kill]:
    """Try to kill each of `mutants` on `backend` by the check that it names. Raises WorkerFailed at the end, if the
    backend without any mutant does not pass what killed them."""
    known = given or Cases(every())
    used: dict[tuple[str, str], None] = {}
    for mutant in mutants:
        kill = _tried(pool, backend, mutant, known)
        if kill.case is not None:
            used[mutant.expected_check, kill.case] = None
        yield kill
    for check, case in used:
        result = pool.ask(backend, known.examination(case), (check,))
        if not result.passed:
            raise WorkerFailed(f"{backend} without a mutant does not pass {check} of {case}: {_said(result)}")


def _tried(pool: Pool, backend: str, mutant: Mutant, known: Cases) -> Kill:
    started, asked = time.monotonic(), 0
    case = result = None
    try:
        pool.worker(backend).ask("mutate", f"applying {mutant.name}", mutant=mutant.name)
        for name in known.fitting(mutant):
            asked += 1
            answered = pool.ask(backend, known.examination(name), (mutant.expected_check,))
            if answered.fault is not None:
                case, result = name, answered
                break
    finally:
        worker = pool.worker(backend)
        worker.ask("mutate", f"undoing {mutant.name}", mutant=None)
    seconds = time.monotonic() - started
    if case is None or result is None:
        return Kill(mutant, backend, None, asked=asked, seconds=seconds)
    wrong = first_fault(result.findings)
    return Kill(mutant, backend, case, None if wrong is None else wrong.tensor, _said(result), asked, seconds)


def _said(result: Result) -> str:
    return (result.fault or result.unsupported or f"{result.missing} is not installed").splitlines()[0]
