"""The gate: could every attribute and every term of a formula be wrong without a case noticing?

    python -m conformance.sensitivity --evidence FILE

Each attribute of every layer, distribution, schedule and optimizer of the language, and of what it says of images and
of evaluation, is changed: numbers by a hundredth, whole numbers by one, sides exchanged, the other word for a word.
Each term of a formula is left out. A correct backend of what was changed is asked the suite's small cases as if nothing
had been, until one is GATE bounds away.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.numpy import NumpyBackend
from conformance.changes import Move, Values, moves
from conformance.checks import CHECKS, examine, first_fault
from conformance.killing import Cases
from conformance.suite import cases
from spec import Spec

GATE = 10.0
"""How many bounds away from what is right a change must be."""


@dataclass(frozen=True)
class Moved:
    """The case that a change moves, and by how much."""

    move: str
    case: str | None
    """None: no case notices."""
    check: str | None = None
    tensor: str | None = None
    ratio: float = 0.0
    """In bounds; infinite if names or shapes change, or what is compared bit for bit."""
    error: float = 0.0
    bound: float = 0.0

    @property
    def passed(self) -> bool:
        return self.ratio >= GATE

    def record(self) -> Values:
        """For the evidence file."""
        numbers = {name: getattr(self, name) for name in ("ratio", "error", "bound")}
        finite = {name: value if math.isfinite(value) else str(value) for name, value in numbers.items()}
        return {"move": self.move, "case": self.case, "check": self.check, "tensor": self.tensor, **finite}


# --- the gate -------------------------------------------------------------------------------------------------------


class Gate:
    """The cases that are admitted: those on which the unchanged formulas, in float32, pass."""

    def __init__(self, given: Cases | None = None) -> None:
        self.given = given or Cases(cases())
        self._admitted: set[str] = set()

    def admit(self, name: str) -> Any:
        """The examination of a case, everything in it worked out before anything is changed. Raises ValueError."""
        e, only = self.given.examination(name), self.given.small[name].only
        if name not in self._admitted:
            fault = first_fault(examine(e, NumpyBackend(e.spec, dtype="float32"), trains=True, only=only))
            if fault is not None:
                raise ValueError(f"{name} is no case: what is right fails {fault.check}: {fault.tensor} {fault.fault}")
            self._admitted.add(name)
        return e

    def moved(self, move: Move) -> Moved:
        """The first case that `move` moves far enough, else the one that it moves furthest."""
        furthest = Moved(move.name, None)
        for name, small in self.given.small.items():
            for spec, patched in move.of(small.job.spec):
                e = self.admit(name)
                with patched:
                    found = _asked(e, spec, small.only)
                seen = Moved(move.name, name, *found)
                if seen.ratio > furthest.ratio:
                    furthest = seen
                if furthest.passed:
                    return furthest
        return furthest


def _asked(e: Any, spec: Spec, only: tuple[str, ...] | None) -> tuple[str, str, float, float, float]:
    """The finding that is furthest out, of the first check that finds one far enough."""
    backend = NumpyBackend(spec, dtype="float32")
    worst = ("", "", 0.0, 0.0, 0.0)
    for check in only or tuple(name for name, one in CHECKS.items() if not one.named):
        try:
            findings = examine(e, backend, trains=True, only=(check,))
        except ValueError as error:  # parameters have other shapes
            return check, str(error), math.inf, math.inf, 0.0
        for one in findings:
            if one.ratio > worst[2]:
                worst = (one.check, one.tensor, one.ratio, one.error, one.bound)
        if worst[2] >= GATE:
            break
    return worst


def table(chosen: Sequence[Move] | None = None, gate: Gate | None = None) -> Iterator[Moved]:
    """What every move moves."""
    made = gate or Gate()
    for move in moves() if chosen is None else chosen:
        yield made.moved(move)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    from conformance.runner import evidence

    parser = argparse.ArgumentParser(
        prog="python -m conformance.sensitivity", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--evidence", type=Path, metavar="FILE", help="write the table to this JSON file")
    chosen = parser.parse_args(argv)
    if chosen.evidence is not None and not chosen.evidence.absolute().parent.is_dir():
        print(f"--evidence must be a file in a folder that exists. Received: {chosen.evidence}", file=sys.stderr)
        return 2
    found = []
    for one in table():
        found.append(one)
        words = f"{one.ratio:.3g} bounds, {one.case}, {one.check}: {one.tensor}" if one.case else "by nothing"
        print(f"{'' if one.passed else 'NOT '}moved: {one.move}: {words}", flush=True)
    if chosen.evidence is not None:
        record: Mapping[str, Any] = evidence([], {}) | {"sensitivity": [one.record() for one in found]}
        chosen.evidence.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    passed = sum(one.passed for one in found)
    print(f"{passed} of {len(found)} attributes and terms moved by {GATE:g} bounds or more")
    return 0 if passed == len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
