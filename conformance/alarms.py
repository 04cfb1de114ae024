"""How often does the suite accuse what is right? Every check, seed after seed, on backends that are known to be right.

    python -m conformance.alarms --seeds 20 --evidence FILE

A backend is made once for all seeds of a network: compiling costs more than asking. Networks are examined side by side,
each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import multiprocessing.util
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from backends import NAMES, Unsupported
from conformance.checks import CHECKS, Examination, Held
from conformance.client import WorkerFailed
from conformance.recipes import every
from conformance.runner import Pool, Result, evidence
from conformance.suite import Small
from spec import names

SEEDLESS = ("schedule",)
"""Checks whose questions are the same for every seed: asked with the first."""


@dataclass(frozen=True)
class Tally:
    """What came of one case on one backend."""

    case: str
    backend: str
    seeds: int
    """With how many it was examined; 0: it is not for this backend."""
    comparisons: int
    faults: tuple[str, ...]
    nearest: float
    """The largest error of any comparison, in bounds."""
    versions: Mapping[str, str]
    """Of the libraries that the backend stands on."""

    def record(self) -> dict[str, Any]:
        """For the evidence file."""
        values = {name: value for name, value in vars(self).items() if name != "versions"}
        return {**values, "faults": list(self.faults)}


@cache
def asked() -> dict[str, Small]:
    """The suite's small cases, and every variant made slim."""
    return every(names())


def tallies(backends: Sequence[str], seeds: Sequence[int], chosen: Sequence[str], cores: int) -> Iterator[Tally]:
    """Examine `backends` on the `chosen` cases, as many at once as there are `cores`, each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    workers = max(1, min(cores, len(chosen)))
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_asker) as processes:
        # The dearest come last in the suite, and should not be waited for in the end.
        found = [processes.submit(_tried, case, tuple(backends), tuple(seeds)) for case in reversed(chosen)]
        for one in as_completed(found):
            yield from one.result()


def _end_with_asker() -> None:
    """See to it that this process of the pool outlives the one that made it by no more than an instant.

    One that is ended by a signal dismisses nobody, and those of its pool would wait for work for ever. Their own
    workers end with them.
    """
    asker = multiprocessing.parent_process()
    assert asker is not None

    def watch() -> None:
        asker.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@cache
def _pool() -> Pool:
    """The workers of this process. They end with it."""
    pool = Pool()
    multiprocessing.util.Finalize(None, pool.close, exitpriority=1)
    return pool


def _tried(case: str, backends: Sequence[str], seeds: Sequence[int]) -> list[Tally]:
    """Of one case, seed after seed: what is expected is worked out once for all backends."""
    small, pool = asked()[case], _pool()
    made, found = dict[str, Held](), {name: list[Result]() for name in backends}
    for name in backends:
        try:
            made[name] = pool.backend(name, small.job)
        except Unsupported:
            continue
        except WorkerFailed as error:
            found[name].append(Result(name, small.job, failures={"building": str(error)}))
    for number, seed in enumerate(seeds):
        only = small.only or tuple(check for check, one in CHECKS.items() if not one.named)
        if number:  # these have been asked
            only = tuple(check for check in only if check not in SEEDLESS)
        examination = Examination(replace(small.job, seed=seed))
        for name, held in made.items():
            found[name].append(pool.ask(name, examination, only, held))
    for held in made.values():
        with suppress(WorkerFailed):  # its process may be gone, which has been said
            held.release()
    return [_tally(case, name, results, pool) for name, results in found.items()]


def _tally(case: str, name: str, results: Sequence[Result], pool: Pool) -> Tally:
    findings = [finding for result in results for finding in result.findings]
    faults = tuple(result.fault for result in results if result.fault is not None)
    ratios = [finding.ratio for finding in findings if finding.check != "free-run"]
    versions = pool.versions().get(name, {})
    return Tally(case, name, len(results), len(findings), faults, max(ratios, default=0.0), versions)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m conformance.alarms", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=20, help="how many, from 0 on (default: 20)")
    parser.add_argument("--backend", action="append", choices=NAMES, help="repeatable (default: all)")
    some = "repeatable; also VARIANT-slim of any variant (default: the small cases, by which mutants are killed)"
    parser.add_argument("--case", action="append", choices=tuple(asked()), metavar="CASE", help=some)
    parser.add_argument("--evidence", type=Path, metavar="FILE", help="write the tallies to this JSON file")
    chosen = parser.parse_args(argv)
    if chosen.seeds < 1 or (chosen.evidence is not None and not chosen.evidence.absolute().parent.is_dir()):
        print("--seeds must be 1 or more, and --evidence a file in a folder that exists", file=sys.stderr)
        return 2
    # There is a process for every core, and threads of one would wait for those of another.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    started, found = time.monotonic(), []
    wanted = chosen.case or list(every())
    for tally in tallies(chosen.backend or NAMES, range(chosen.seeds), wanted, os.cpu_count() or 1):
        found.append(tally)
        words = f"{tally.comparisons} comparisons, {len(tally.faults)} alarms, nearest {tally.nearest:.2f}"
        print(f"{tally.case}, {tally.backend}: {tally.seeds} seeds, {words}", flush=True)
        for fault in tally.faults:
            print(f"    {fault}", flush=True)
    versions = {tally.backend: tally.versions for tally in found}
    minutes = (time.monotonic() - started) / 60
    record = evidence([], versions) | {
        "alarms": [tally.record() for tally in found],
        "alarms_took_minutes": round(minutes, 1),
    }
    if chosen.evidence is not None:
        chosen.evidence.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    faults, compared = sum(len(one.faults) for one in found), sum(one.comparisons for one in found)
    print(f"{faults} false alarms in {compared} comparisons with {chosen.seeds} seeds, {minutes:.1f} minutes")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
