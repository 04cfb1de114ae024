"""Engines in processes of their own take turns, so that what else the machine does falls on all alike."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from backends.base import Array
from benchmarks.accuracy import Checked, accuracy
from benchmarks.figures import measurement
from benchmarks.process import EngineFailed, EngineProcess, Killed, limit_of, memory_of
from benchmarks.results import Engine, Failure, Measurement, Model, Roof, Settings
from benchmarks.roof import attainable

SETTLE = 0.03
"""Seconds between turns: thread pools spin for a few milliseconds after a call before they block."""
ANSWERED = 64
"""Images at most that an engine answers at once for its accuracy."""
LOADING = 0.6
"""The share of a budget after which no further engine is loaded, so that those that are can be measured."""


@dataclass(frozen=True)
class Entry:
    """One engine on one model."""

    place: int
    """Of the model in a result."""
    engine: str
    path: Path
    model: Model
    checked: Checked


@dataclass
class Outcome:
    """What came of the entries."""

    engines: list[Engine] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    rounds: list[tuple[int, tuple[int, list[tuple[list[float], float]]]]] = field(default_factory=list)
    """Of an engine by its place: a batch size, and the rounds of :func:`benchmarks.figures.measurement`."""
    roofs: Mapping[str, Roof] = field(default_factory=dict)
    """By device."""

    def add(self, other: Outcome) -> None:
        """Take in what came of further entries of the same models."""
        moved = [one.model_copy(update={"engine": one.engine + len(self.engines)}) for one in other.measurements]
        self.measurements += moved
        self.engines += other.engines
        self.failures += other.failures


@dataclass
class _Running:
    entry: Entry
    process: EngineProcess
    about: dict[str, Any]
    rounds: dict[int, list[tuple[list[float], float]]] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)
    """Batch sizes that are given up."""
    dead: bool = False


def measure(
    entries: Sequence[Entry],
    settings: Settings,
    threads: int,
    say: Callable[[int, str], None] = lambda done, words: None,
    roofs: Callable[[Mapping[str, set[str]]], Mapping[str, Roof]] = lambda wanted: {},
    until: float | None = None,
    start: Callable[[str], AbstractContextManager[EngineProcess]] | None = None,
) -> Outcome:
    """Measure every entry at every batch size of `settings`, round by round, engine after engine within a round.

    say: told how many turns are done (of ``turns(entries, settings)``), and whose is next. roofs: by device, asked for
    when all is measured, with the precisions that engines computed in on each. until: a moment of ``time.monotonic``
    after which nothing more is begun. What fails, is too large or comes too late becomes a failure of the outcome; the
    others go on. start: gives the process of an engine, by its name, as a context; by default it is one of its own.
    """
    outcome, running, done, began = Outcome(), [], 0, time.monotonic()
    batches = settings.batches
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="alexnet-answers-") as folder:
        for entry in entries:
            say(done, f"loading {entry.engine}")
            done += 1
            if until is not None and time.monotonic() > began + LOADING * (until - began):
                outcome.failures.append(_failure(entry, None, "time was up before it was loaded", "skipped"))
                continue
            process = stack.enter_context(start(entry.engine) if start else EngineProcess(threads))
            try:
                limit = limit_of(until)
                about = process.ask("load", limit=limit, engine=entry.engine, path=str(entry.path), batch=batches[0])
                about["logits"] = _answers(process, entry, batches, Path(folder))
                running.append(_Running(entry, process, about))
            except EngineFailed as error:
                outcome.failures.append(_failure(entry, None, str(error), error.kind))
                process.close()
        for batch in batches:
            for turn in range(settings.rounds):
                for one in running:
                    say(done, f"{one.entry.engine}, batch {batch}")
                    done += 1
                    if one.dead or batch in one.failed:
                        continue
                    if until is not None and time.monotonic() > until:
                        if not turn:
                            outcome.failures.append(_failure(one.entry, batch, "time was up", "skipped"))
                            one.failed.add(batch)
                        continue
                    _turn(one, batch, turn, settings, outcome, limit_of(until))
        for one in running:
            _conclude(one, outcome)
    wanted: dict[str, set[str]] = {}
    for engine in outcome.engines:
        wanted.setdefault(engine.device, set()).add(engine.precision)
    found = outcome.roofs = roofs(wanted)
    for place, (batch, rounds) in outcome.rounds:
        engine = outcome.engines[place]
        model = next(entry.model for entry in entries if entry.place == engine.model)
        roof = found.get(engine.device)
        under = attainable(roof, model, engine.precision, batch) if roof else None
        outcome.measurements.append(measurement(place, batch, rounds, model.macs, under))
    return outcome


def turns(entries: Sequence[Entry], settings: Settings) -> int:
    """How many turns :func:`measure` takes, loading included."""
    return len(entries) * (1 + len(settings.batches) * settings.rounds)


def _failure(entry: Entry, batch: int | None, reason: str, kind: Any = "failed") -> Failure:
    return Failure(model=entry.place, engine=entry.engine, batch=batch, reason=reason, kind=kind)


def _answers(process: EngineProcess, entry: Entry, batches: Sequence[int], folder: Path) -> Array | None:
    """The logits of the images of `entry`, in batches of a size that is measured anyway; None if it has no such."""
    batch = max((size for size in batches if size <= ANSWERED), default=min(batches))
    given, answer = folder / f"{entry.place}.npy", folder / "answer.npy"
    if not given.exists():
        images = entry.checked.images
        np.save(given, images if images.dtype.name != "bfloat16" else images.astype(np.float32))
    if not process.ask("answer", images=str(given), batch=batch, output=str(answer))["rows"]:
        return None
    logits: Array = np.load(answer)
    return logits


def _turn(one: _Running, batch: int, turn: int, settings: Settings, outcome: Outcome, limit: float) -> None:
    time.sleep(SETTLE)
    calls = -(-settings.queries // settings.rounds) if batch == 1 else 1
    try:
        seconds = settings.seconds / settings.rounds
        answer = one.process.ask("measure", limit=limit, batch=batch, seconds=seconds, calls=calls, warm=turn == 0)
    except EngineFailed as error:
        outcome.failures.append(_failure(one.entry, batch, str(error), error.kind))
        one.dead = isinstance(error, Killed)
        one.failed.add(batch)
        one.rounds.pop(batch, None)
        return
    one.rounds.setdefault(batch, []).append((answer["times"], answer["cpu"]))


def _conclude(one: _Running, outcome: Outcome) -> None:
    memory = memory_of(one.process)
    about = one.about
    outcome.engines.append(
        Engine(
            model=one.entry.place,
            name=one.entry.engine,
            what=about["what"],
            device=about["device"],
            precision=about["precision"],
            versions=about["versions"],
            load_seconds=about["seconds"],
            peak_memory_mib=memory["peak_mib"],
            device_memory_mib=memory["device_mib"],
            accuracy=None if about["logits"] is None else accuracy(about["logits"], one.entry.checked),
        )
    )
    place = len(outcome.engines) - 1
    outcome.rounds += [(place, one_batch) for one_batch in one.rounds.items()]
