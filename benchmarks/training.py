"""The suite ``training``: images per second of whole steps, ours beside the ways in which it is usually written.

    python benchmarks/run.py --suite training                             paper-2012, batch 64: a quarter of an hour
    python benchmarks/run.py --suite training --spec fashion-mini --rounds 20
    python benchmarks/run.py --suite training --subjects torch,usual-torch --batches 64,128

Every subject has a process of its own. They take turns, a step each.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import spec as specifications
from backends.reporting import Reporter
from benchmarks.command import Parser, add_batches, among, specification, whole
from benchmarks.devices import used_precision
from benchmarks.engines import PACKAGES
from benchmarks.environment import environment
from benchmarks.figures import case
from benchmarks.process import EngineFailed, EngineProcess, Killed, limit_of, memory_of
from benchmarks.results import FORMAT, Case, Failure, Result, Roof, Settings
from benchmarks.subjects import SUBJECTS, UNASKED, Subject
from data.parallel import cores
from spec import Spec, geometry
from spec.language import Conv

SECTION = "training"
Kind = Literal["failed", "out of memory", "skipped", "absent"]


def parser() -> Parser:
    """The options."""
    made = Parser("run.py --suite training", "Measure training steps: ours beside the usual ways, in turns.")
    made.add_argument(
        "--spec",
        type=specification,
        default="paper-2012",
        metavar="NAME|FILE",
        help="what to train (default: paper-2012)",
    )
    add_batches(made, (64,), "images of a step")
    made.add_argument("--rounds", type=whole, default=5, metavar="N", help="steps of each subject (default: 5)")
    words = f"of {', '.join(SUBJECTS)} (default: all but {', '.join(UNASKED)})"
    by_default = tuple(name for name in SUBJECTS if name not in UNASKED)
    made.add_argument("--subjects", type=among(SUBJECTS), default=by_default, metavar="NAMES", help=words)
    made.add_argument("--threads", type=whole, default=cores(), metavar="N", help="default: one per core")
    return made


@dataclass
class Outcome:
    """What came of the subjects."""

    cases: list[Case] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


def operations(spec: Spec) -> float:
    """Floating-point operations that a step needs for one image: forward, and backward by both factors of every
    product, but for the images themselves, by which nobody differentiates."""
    network = geometry(spec)
    first = next((at.macs for at in network.layers if isinstance(at.layer, Conv)), 0)
    return 2.0 * (3 * network.macs - first)


def measure(
    reference: str,
    subjects: Mapping[str, Subject],
    batches: Sequence[int],
    *,
    device: str,
    rounds: int,
    steps: int,
    threads: int,
    say: Callable[[int, str], None] = lambda done, words: None,
    until: float | None = None,
    roof: Roof | None = None,
    start: Callable[[str], AbstractContextManager[EngineProcess]] | None = None,
) -> Outcome:
    """Train the specification `reference` in every way at every batch size, a turn of `steps` steps after the other.

    The first two steps of each do not count. until: a moment of ``time.monotonic`` after which nothing is begun. What
    fails, is too large or comes too late becomes a failure; the others go on. start: gives the process of a way, by its
    name, as a context; by default it is one of its own.
    """
    outcome, spec, done = Outcome(), specifications.load(reference), 0
    found: dict[tuple[str, int], list[float]] = {}
    about: dict[tuple[str, int], dict[str, Any]] = {}
    with ExitStack() as stack:
        own = start or (lambda name: EngineProcess(threads))
        late = until is not None and time.monotonic() > until
        processes = {} if late else {name: stack.enter_context(own(name)) for name in subjects}

        def ask(name: str, batch: int, do: str, request: dict[str, Any]) -> dict[str, Any] | None:
            nonlocal done
            say(done, f"{name}, batch {batch}")
            done += 1
            if until is not None and time.monotonic() > until:
                if (name, batch) not in found:
                    fail(name, batch, "time was up", "skipped")
                return None
            try:
                return processes[name].ask(do, limit=limit_of(until), **request)
            except EngineFailed as error:
                fail(name, batch, str(error), error.kind)
                found.pop((name, batch), None)
                if isinstance(error, Killed):
                    del processes[name]
                    for later in batches[batches.index(batch) + 1 :]:
                        fail(name, later, "its process was lost at a smaller batch", "skipped")
                return None

        def fail(name: str, batch: int, reason: str, kind: str) -> None:
            values = {"section": SECTION, "model": None, "engine": name, "batch": batch, "reason": reason}
            outcome.failures.append(Failure.model_validate({**values, "kind": kind}))

        for name in subjects if late else ():
            for batch in batches:
                fail(name, batch, "time was up", "skipped")
        for batch in batches:
            for name in list(processes):
                wanted = {"name": name, "spec": reference, "batch": batch, "device": device}
                answer = ask(name, batch, "subject", wanted)
                if answer is not None:
                    found[name, batch], about[name, batch] = [], answer
            for _ in range(rounds):
                for name in [name for name, size in found if size == batch]:
                    answer = ask(name, batch, "steps", {"count": steps})
                    if answer is not None:
                        found[name, batch].append(answer["seconds"])
            for name in [name for name, size in found if size == batch]:
                about[name, batch] |= memory_of(processes[name])
    for (name, batch), seconds in found.items():
        if not seconds:
            fail(name, batch, "time was up before a step was measured", "skipped")
            continue
        precision, told = used_precision(subjects[name].precision, device), about[name, batch]
        made = case(
            SECTION, spec.name, name, seconds, batch, what=subjects[name].what, batch=batch, device=device,
            precision=precision, baseline=subjects[name].baseline, first_seconds=told["seconds"],
            peak_memory_mib=told["peak_mib"], device_memory_mib=told["device_mib"],
        )  # fmt: skip
        gflops = 1e-9 * operations(spec) * made.images_per_second.median
        peak = roof.gflops.get(precision) if roof else None
        outcome.cases.append(made.model_copy(update={"gflops": gflops, "of_roof": gflops / peak if peak else None}))
    return outcome


def turns(subjects: Sequence[str], batches: Sequence[int], rounds: int) -> int:
    """How many requests :func:`measure` makes at most."""
    return len(subjects) * len(batches) * (1 + rounds)


def run(arguments: argparse.Namespace, reporter: Reporter, created: str) -> Result:
    """Measure what `arguments` ask for."""
    where = environment(arguments.threads, PACKAGES)
    specifications.load(arguments.spec)
    chosen = {name: SUBJECTS[name] for name in arguments.subjects}
    with reporter.work("measuring", turns(arguments.subjects, arguments.batches, arguments.rounds)) as say:
        outcome = measure(
            arguments.spec, chosen, arguments.batches, device="cpu", rounds=arguments.rounds, steps=1,
            threads=arguments.threads, say=say,
        )  # fmt: skip
    settings = Settings(suite="training", batches=arguments.batches, rounds=arguments.rounds, seconds=0.0)
    return Result(format=FORMAT, created=created, environment=where, settings=settings, cases=tuple(outcome.cases),
                  failures=tuple(outcome.failures))  # fmt: skip
