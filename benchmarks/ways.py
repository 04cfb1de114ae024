"""Ways to do one piece of work in PyTorch or ONNX Runtime, measured by turns in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.devices import out_of_memory, release, timed
from benchmarks.figures import case
from benchmarks.results import Case, Failure

CALLS = {"cpu": 1, "cuda": 10}
"""Of a way in one turn: a GPU's are short."""
WARM = 2
"""Turns that do not count: compilers, kernels that are chosen, memory that is taken."""


@dataclass(frozen=True)
class Way:
    """A way to do it."""

    name: str
    what: str
    detail: str
    precision: str
    make: Callable[[], Callable[[], Any]]
    """Takes the memory that it needs, and returns the call that is measured."""
    baseline: str | None = None
    operations: float | None = None
    """Of one call."""
    bytes: float | None = None
    """That no way can avoid to move in one call."""
    events: bool = True
    """Whether a GPU's time is taken between PyTorch's events; else the call itself must wait."""


def measured(
    section: str,
    where: str,
    batch: int,
    device: str,
    ways: Sequence[Way],
    rounds: int,
    until: float | None = None,
) -> tuple[list[Case], list[Failure]]:
    """Every way `rounds` times, by turns. until: a moment of ``time.monotonic`` after which nothing is begun."""
    failures: list[Failure] = []
    calls: dict[int, Callable[[], Any]] = {}
    seconds: dict[int, list[float]] = {}

    def late() -> bool:
        return until is not None and time.monotonic() > until

    def failed(way: Way, reason: str, kind: Literal["failed", "out of memory", "skipped"]) -> None:
        named = f"{way.name}, {way.detail}, {way.precision}"
        failures.append(
            Failure(section=f"{section}, {where}", model=None, engine=named, batch=batch, reason=reason, kind=kind)
        )

    for i, way in enumerate(ways):
        if late():
            failed(way, "time was up", "skipped")
            continue
        said = ""
        try:
            calls[i] = way.make()
            for _ in range(WARM):
                calls[i]()
        except Exception as error:  # compilers and devices raise what they like; a way that cannot is a line
            said = (str(error).strip().splitlines() or [""])[0]
            failed(way, f"{type(error).__name__}: {said}", "out of memory" if out_of_memory(error) else "failed")
        if said or i not in calls:
            calls.pop(i, None)
            release()
    for turn in range(rounds):
        for i, call in calls.items():
            if turn and late():
                break
            clock = device if ways[i].events else "cpu"
            seconds.setdefault(i, []).extend(timed(call, clock, CALLS[device]))
    found = []
    for i, took in seconds.items():
        way = ways[i]
        made = case(
            section, where, way.name, took, batch, what=way.what, detail=way.detail, batch=batch, device=device,
            precision=way.precision, baseline=way.baseline,
        )  # fmt: skip
        rate = made.images_per_second.median / batch
        found.append(
            made.model_copy(
                update={
                    "gflops": None if way.operations is None else 1e-9 * way.operations * rate,
                    "gbytes_per_second": None if way.bytes is None else 1e-9 * way.bytes * rate,
                }
            )
        )
    return found, failures
