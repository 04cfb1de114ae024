"""What an experiment works with: images, trainings, and the record of both that its result carries."""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from backends import Backend, Unsupported, create
from backends.base import Array
from backends.checkpoint import Progress
from backends.planning import duration, seconds_a_step
from backends.reporting import METRICS, Reporter
from backends.starting import fingerprint_of
from backends.trainer import Diverged, Plan, train
from data import Dataset, Splits, Statistics, dataset_statistics, open_source, steps_per_epoch
from data.parallel import cores
from experiments.experiment import Size
from experiments.variants import shortened
from spec import Spec, initial_parameters, with_classes

SPOKEN_S = 60.0
"""Trainings that are expected to take longer than this say a line an epoch, as ``train.py`` does."""


@dataclass(frozen=True, eq=False)
class Images:
    """The images of a source as one specification wants them stored."""

    splits: Splits
    statistics: Statistics
    fingerprint: str

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names, in the order of the labels."""
        return self.splits.train.classes


def never(trained: Trained) -> bool:
    """No training ends before its end."""
    return False


@dataclass(frozen=True)
class Job:
    """A training to be done."""

    label: str
    spec: Spec
    seed: int
    until: Callable[[Trained], bool] = never
    """Asked after every epoch: whether it need not go on."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A training that was done."""

    job: Job
    epochs: tuple[dict[str, Any], ...]
    """The lines ``epoch`` of ``metrics.jsonl``: `top1_error`, `validation_top1_error`, `loss` ..., as fractions."""
    losses: tuple[float, ...]
    """Of every step."""
    parameters: dict[str, Array]
    """At the end; none if it diverged."""
    diverged: str | None = None
    """Why it ended before its end, if its loss ceased to be a number."""

    @property
    def validation_error(self) -> float:
        """Top-1, after the last epoch; 1 if it diverged."""
        return 1.0 if self.diverged else float(self.epochs[-1]["validation_top1_error"])


@dataclass(eq=False)
class Work:
    """What was asked for, and what an experiment does it with."""

    command: str
    """As it was typed."""
    spec: Spec
    source: str
    """What ``--data`` said."""
    seeds: tuple[int, ...]
    size: Size
    backend: str
    device: str
    options: argparse.Namespace
    """What this experiment alone can be told."""
    folder: Path
    """Where the result will be, and where an experiment may keep files of its own."""
    reporter: Reporter
    ran_on: str = ""
    """The device of the networks, once there was one."""
    specs: dict[str, Spec] = field(default_factory=dict)
    """What was used, by hash."""
    data: dict[str, str] = field(default_factory=dict)
    """What images were used, in words, by fingerprint."""
    _images: dict[str, Images] = field(default_factory=dict)

    def provenance(self, spec: Spec) -> str:
        """One line for a picture: command, specification, seeds, data."""
        seeds = ", ".join(map(str, self.seeds))
        return f"{self.command}  |  {spec.name} {spec.hash[:12]}  |  seeds {seeds}  |  {self.source}, {self.backend}"

    # --- images -------------------------------------------------------------------------------------------------------

    def open(self, spec: Spec) -> Images:
        """The images of ``--data`` as `spec` stores them, no more than `size` allows. Raises DataError."""
        key = json.dumps([spec.data.storage.model_dump(), spec.input.channels])
        if key not in self._images:
            with self.reporter.work("preparing images") as advance:
                splits = open_source(
                    self.source,
                    storage=spec.data.storage,
                    channels=spec.input.channels,
                    seed=0,
                    progress=lambda done, n: advance(done, total=n),
                )
            train = balanced(splits.train, self.size.images)
            splits = Splits(train, balanced(splits.validation, self.size.validation), splits.description)
            self._images[key] = Images(splits, dataset_statistics(splits.train), fingerprint_of(splits))
            used = f"; used here: {len(splits.train):,} and {len(splits.validation):,}"
            whole = self.size.images is None and self.size.validation is None
            self.data[self._images[key].fingerprint] = splits.description + ("" if whole else used)
        return self._images[key]

    def fitting(self, spec: Spec) -> Spec:
        """`spec` with as many classes as the images have, in `size.epochs` epochs."""
        return shortened(with_classes(spec, len(self.open(spec).classes)), self.size.epochs)

    # --- networks -----------------------------------------------------------------------------------------------------

    def network(self, spec: Spec, parameters: dict[str, Array]) -> Backend:
        """`spec` with `parameters`, on the backend that was asked for. Raises Unsupported."""
        made = create(self.backend, spec, device=self.device)
        if not isinstance(made, Backend):
            raise Unsupported(f"--backend must be one that trains. Received: {self.backend}")
        self.specs[spec.hash], self.ran_on = spec, made.device
        made.load(parameters)
        return made

    def train(self, jobs: Sequence[Job]) -> list[Trained]:
        """Train every one of `jobs`, one after another, on the images of ``--data``; first say how long it will take.

        Raises Unsupported, DataError, OutOfMemory, OSError; KeyboardInterrupt or SystemExit if a signal asks for it.
        """
        seconds = self._announce(jobs)
        done: list[Trained] = []
        with self.reporter.work("trainings", len(jobs)) as advance:
            for number, job in enumerate(jobs, 1):
                with ExitStack() as stack:
                    reporter = self.reporter
                    if seconds / len(jobs) < SPOKEN_S:
                        reporter = Reporter(stack.enter_context(Path(os.devnull).open("w", encoding="utf-8")))
                    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="experiment-"))
                    done.append(self._train(job, Path(folder), reporter))
                self.reporter.line(f"{number}/{len(jobs)}  {_told(done[-1])}")
                advance(number)
        return done

    def _announce(self, jobs: Sequence[Job]) -> float:
        steps = 0
        for job in jobs:
            count = len(self.open(job.spec).splits.train)
            steps += job.spec.training.epochs * steps_per_epoch(count, job.spec.training.batch_size)
        first = jobs[0].spec
        return self.foretell(first, steps, f"{len(jobs)} trainings of {first.training.epochs} epochs")

    def foretell(self, spec: Spec, steps: int, what: str) -> float:
        """Say how long `steps` steps will take, all told, as a few of `spec` foretell. Returns the seconds."""
        seconds = steps * seconds_a_step(self.network(spec, initial_parameters(spec, 0)), at_least=1.0)
        takes = f"about {duration(seconds)}" if seconds > 5 else "seconds"
        self.reporter.line(f"{what}, {steps:,} steps in all: {takes}")
        return seconds

    def _train(self, job: Job, folder: Path, reporter: Reporter) -> Trained:
        images = self.open(job.spec)
        backend = self.network(job.spec, initial_parameters(job.spec, job.seed))
        plan = Plan(job.spec, images.splits, images.statistics, folder, workers=max(1, cores() // 2))
        progress = Progress(seed=job.seed, source=self.source, fingerprint=images.fingerprint)
        steps = steps_per_epoch(len(images.splits.train), job.spec.training.batch_size)
        while True:
            diverged: str | None = None
            try:
                wanted = None if job.until is never else progress.step + steps
                outcome = train(backend, replace(plan, max_steps=wanted), progress, reporter)
                progress = outcome.progress
                if outcome.signal is not None:
                    raise KeyboardInterrupt if outcome.signal == signal.SIGINT else SystemExit(128 + outcome.signal)
            except Diverged as error:
                diverged = str(error).partition(". Kept: ")[0]  # what the loop keeps goes with the folder
            done = _trained(job, folder, {} if diverged else backend.parameters(), diverged)
            if diverged or outcome.finished or job.until(done):
                return done


def _trained(job: Job, folder: Path, parameters: dict[str, Array], diverged: str | None) -> Trained:
    events = [json.loads(line) for line in (folder / METRICS).read_text(encoding="utf-8").splitlines()]
    return Trained(
        job,
        tuple(event for event in events if event["event"] == "epoch"),
        tuple(event["loss"] for event in events if event["event"] == "step"),
        parameters,
        diverged,
    )


def balanced(dataset: Dataset, images: int | None) -> Dataset:
    """The first `images` of `dataset`, as many of each class as of every other; all if there are no more, or None."""
    if images is None or images >= len(dataset):
        return dataset
    each, chosen = max(1, images // len(dataset.classes)), []
    for label in range(len(dataset.classes)):
        chosen.append(np.flatnonzero(dataset.labels == label)[:each])
    indices = np.sort(np.concatenate(chosen))
    return Dataset(np.asarray(dataset.images[indices]), dataset.labels[indices], dataset.classes)


def _told(trained: Trained) -> str:
    said = f"{trained.job.label}, seed {trained.job.seed}: "
    if trained.diverged:
        return f"{said}diverged: {trained.diverged}"
    last = trained.epochs[-1]
    took = duration(sum(epoch["seconds"] for epoch in trained.epochs))
    errors = f"{_percent(last['top1_error'])} in training, {_percent(last['validation_top1_error'])} in validation"
    return f"{said}error {errors}, in {took}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"
