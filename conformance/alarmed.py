"""False alarms as they stand in evidence: how often the suite accused what is right."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict


class Tallied(BaseModel):
    """What came of one case on one backend; see :class:`conformance.alarms.Tally`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    case: str
    backend: str
    seeds: int
    comparisons: int
    faults: tuple[str, ...]
    nearest: float


ACCUSED = (
    "Every check of the small cases, seed after seed, asked of backends that are right: what it reports is an alarm."
)
ALARMS = ("backend", "cases", "seeds", "comparisons", "alarms", "nearest to a bound")


def alarms(tallies: Sequence[Tallied]) -> list[tuple[str, ...]]:
    """A row for each backend, of the cases that are for it."""
    rows = []
    for backend in dict.fromkeys(one.backend for one in tallies):
        own = [one for one in tallies if one.backend == backend and one.comparisons]
        if own:
            numbers = (len(own), max(one.seeds for one in own), sum(one.comparisons for one in own))
            faults, nearest = sum(len(one.faults) for one in own), max(one.nearest for one in own)
            rows.append((backend, *(f"{number:,}" for number in (*numbers, faults)), f"{nearest:.2f}"))
    return rows


def accused(tallies: Sequence[Tallied]) -> str:
    """In a sentence."""
    faults, compared = sum(len(one.faults) for one in tallies), sum(one.comparisons for one in tallies)
    return f"{faults} false alarms in {compared:,} comparisons with backends that are right."
