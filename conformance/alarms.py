"""How often does the suite accuse what is right? Every check, seed after seed, on backends that are known to be right.

    python -m conformance.alarms --seeds 20 --evidence FILE

A backend is made once for all seeds of a network: compiling costs more than asking.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from backends import NAMES, Unsupported
from conformance.checks import Examination
from conformance.client import WorkerFailed
from conformance.runner import Pool, Result, evidence
from conformance.suite import Small, cases
from spec import names


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

    def record(self) -> dict[str, Any]:
        """For the evidence file."""
        return {**vars(self), "faults": list(self.faults)}


def asked() -> dict[str, Small]:
    """The suite's small cases, with every variant made slim."""
    return cases(names())


def tallies(pool: Pool, backends: Sequence[str], seeds: Sequence[int], chosen: Mapping[str, Small]) -> Iterator[Tally]:
    """Examine `backends` on `chosen`, as many at once as there are cores."""
    for case, small in chosen.items():
        examination = cache(lambda seed, small=small: Examination(replace(small.job, seed=seed)))
        with ThreadPoolExecutor(max_workers=min(len(backends), os.cpu_count() or 1)) as threads:
            tried = list(threads.map(lambda name: _tried(pool, name, seeds, small, examination), backends))  # noqa: B023
        for name, results in zip(backends, tried, strict=True):
            findings = [finding for result in results for finding in result.findings]
            faults = tuple(result.fault for result in results if result.fault is not None)
            ratios = [finding.ratio for finding in findings if finding.check != "free-run"]
            yield Tally(case, name, len(results), len(findings), faults, max(ratios, default=0.0))


def _tried(
    pool: Pool, name: str, seeds: Sequence[int], small: Small, examination: Callable[[int], Examination]
) -> list[Result]:
    try:
        made = pool.backend(name, small.job)
    except Unsupported:
        return []
    except WorkerFailed as error:
        return [Result(name, small.job, failures={"building": str(error)})]
    found = [pool.ask(name, examination(seed), small.only, made) for seed in seeds]
    if pool.worker(name).alive:
        made.release()
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m conformance.alarms", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=20, help="how many, from 0 on (default: 20)")
    parser.add_argument("--backend", action="append", choices=NAMES, help="repeatable (default: all)")
    parser.add_argument("--case", action="append", choices=tuple(asked()), metavar="CASE", help="repeatable")
    parser.add_argument("--evidence", type=Path, metavar="FILE", help="write the tallies to this JSON file")
    chosen = parser.parse_args(argv)
    if chosen.seeds < 1 or (chosen.evidence is not None and not chosen.evidence.absolute().parent.is_dir()):
        print("--seeds must be 1 or more, and --evidence a file in a folder that exists", file=sys.stderr)
        return 2
    started, found = time.monotonic(), []
    wanted = {name: one for name, one in asked().items() if not chosen.case or name in chosen.case}
    with Pool() as pool:
        for tally in tallies(pool, chosen.backend or NAMES, range(chosen.seeds), wanted):
            found.append(tally)
            words = f"{tally.comparisons} comparisons, {len(tally.faults)} alarms, nearest {tally.nearest:.2f}"
            print(f"{tally.case}, {tally.backend}: {tally.seeds} seeds, {words}", flush=True)
            for fault in tally.faults:
                print(f"    {fault}", flush=True)
        record = evidence([], pool.versions()) | {"alarms": [tally.record() for tally in found]}
    if chosen.evidence is not None:
        chosen.evidence.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    faults, compared = sum(len(one.faults) for one in found), sum(one.comparisons for one in found)
    minutes = (time.monotonic() - started) / 60
    print(f"{faults} false alarms in {compared} comparisons with {chosen.seeds} seeds, {minutes:.1f} minutes")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
