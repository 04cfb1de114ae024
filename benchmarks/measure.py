"""Engines in processes of their own take turns, so that what else the machine does falls on all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from backends.base import Array
from benchmarks.process import EngineFailed, EngineProcess
from benchmarks.results import Engine, Failure, Measurement, Settings, measurement

CHECKED = 2
"""Images whose logits are compared with the oracle's."""
SETTLE = 0.03
"""Seconds between turns: thread pools spin for a few milliseconds after a call before they block."""


def images(shape: tuple[int, ...], batch: int, pixels: bool = False) -> Array:
    """Normal numbers, float32 (batch, *shape), or bytes: 16 different images, again and again."""
    random, size = np.random.default_rng(0), (min(batch, 16), *shape)
    different = random.integers(0, 256, size, np.uint8) if pixels else random.standard_normal(size).astype(np.float32)
    return np.ascontiguousarray(np.resize(different, (batch, *shape)))


@dataclass(frozen=True)
class Entry:
    """One engine on one model."""

    model: int
    engine: str
    path: Path
    macs: int | None
    expected: Array | None
    """The oracle's logits of the images that an engine answers when it is loaded."""


@dataclass
class Outcome:
    """What came of the entries."""

    engines: list[Engine] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


@dataclass
class _Running:
    entry: Entry
    process: EngineProcess
    about: dict[str, Any]
    rounds: dict[int, list[tuple[list[float], float]]] = field(default_factory=dict)
    failed: bool = False


def measure(
    entries: Sequence[Entry],
    settings: Settings,
    threads: int,
    say: Callable[[int, str], None] = lambda done, words: None,
) -> Outcome:
    """Measure every entry at every batch size of `settings`, round by round, engine after engine within a round.

    say: told how many turns are done (of ``turns(entries, settings)``), and whose is next. What fails becomes a failure
    of the outcome; the others go on.
    """
    outcome, running, done = Outcome(), [], 0
    with ExitStack() as stack:
        for entry in entries:
            say(done, f"loading {entry.engine}")
            process = stack.enter_context(EngineProcess(threads))
            try:
                running.append(_Running(entry, process, process.ask("load", engine=entry.engine, path=str(entry.path))))
            except EngineFailed as error:
                outcome.failures.append(Failure(model=entry.model, engine=entry.engine, batch=None, reason=str(error)))
            done += 1
        for batch in settings.batches:
            for _ in range(settings.rounds):
                for one in running:
                    say(done, f"{one.entry.engine}, batch {batch}")
                    done += 1
                    _turn(one, batch, settings.seconds / settings.rounds, outcome)
        for one in running:
            _conclude(one, settings, outcome)
    return outcome


def turns(entries: Sequence[Entry], settings: Settings) -> int:
    """How many turns :func:`measure` takes, loading included."""
    return len(entries) * (1 + len(settings.batches) * settings.rounds)


def _turn(one: _Running, batch: int, seconds: float, outcome: Outcome) -> None:
    if one.failed:
        return
    time.sleep(SETTLE)
    try:
        answer = one.process.ask("measure", batch=batch, seconds=seconds)
    except EngineFailed as error:
        failure = Failure(model=one.entry.model, engine=one.entry.engine, batch=batch, reason=str(error))
        outcome.failures.append(failure)
        one.failed = True
        one.rounds.pop(batch, None)
        return
    one.rounds.setdefault(batch, []).append((answer["times"], answer["cpu"]))


def _conclude(one: _Running, settings: Settings, outcome: Outcome) -> None:
    memory = None if one.failed else one.process.ask("memory")["peak_mib"]
    about = one.about
    outcome.engines.append(
        Engine(
            model=one.entry.model,
            name=one.entry.engine,
            what=about["what"],
            precision=about["precision"],
            versions=about["versions"],
            load_seconds=about["seconds"],
            peak_memory_mib=memory,
            error=_error(np.asarray(about["logits"]), one.entry.expected),
        )
    )
    place = len(outcome.engines) - 1
    for batch, rounds in one.rounds.items():
        outcome.measurements.append(measurement(place, batch, rounds, one.entry.macs))


def _error(logits: Array, expected: Array | None) -> float | None:
    return None if expected is None else float(np.abs(logits - expected).max() / np.abs(expected).max())
