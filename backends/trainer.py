"""The training loop of every backend: epochs, settings, masks, metrics, validation, checkpoints, and stopping in order.

What happens at a step is a function of the specification, the data, the seed and the place of the step in the run, and
of nothing that a process remembers. Therefore a run that is stopped and continued is the run that was not stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backends import memory
from backends.base import Backend, Masks, Metrics, tally
from backends.checkpoint import (
    BEST,
    KEPT,
    LAST,
    PLAIN,
    PREVIOUS,
    Checkpoint,
    CheckpointError,
    Execution,
    Progress,
    header,
    load,
    save,
    versions,
)
from backends.divergence import State, layer_not_finite, layer_where_it_began
from backends.group import Lost
from backends.reporting import Advance, MetricsLog, Reporter
from backends.stopping import Signals, Stopped
from data import Batch, Splits, Statistics, evaluation_batches, steps_per_epoch, training_batches
from spec import Place, Settings, Spec, settings

CHECKPOINT_EVERY_MINUTES = 10.0
"""How much work a kill may cost unless something else is said."""
READ_EVERY_S = 0.5
"""How often the metrics are read from the device. Reading waits for it; steps between readings do not."""


class Diverged(RuntimeError):
    """The loss, or a parameter, is not a finite number any more."""


@dataclass(frozen=True)
class Plan:
    """What is trained, on what, and where it is written."""

    spec: Spec
    splits: Splits
    statistics: Statistics
    folder: Path
    workers: int = 1
    """Threads that make batches."""
    max_steps: int | None = None
    """Stop, before the run is finished, when it has done this many steps in all."""
    checkpoint_every: float = 60 * CHECKPOINT_EVERY_MINUTES
    """Seconds between the checkpoints within an epoch."""
    keep_every: int | None = None
    """Keep the checkpoint of every so many epochs for good."""
    tensorboard: bool = False
    """Write the metrics for TensorBoard too."""
    execution: Execution = PLAIN
    """How the backend was made: for the records."""


@dataclass(frozen=True)
class Outcome:
    """Where a run stands and why it went no further."""

    progress: Progress
    finished: bool
    signal: int | None = None
    """The signal that asked for the stop, if one did."""


def train(backend: Backend, plan: Plan, progress: Progress, reporter: Reporter) -> Outcome:
    """Train from `progress` on; `backend` has the parameters and velocities of that place.

    Writes ``metrics.jsonl`` and ``last.safetensors`` into the plan's folder, at the beginning, at the end of every
    epoch and every `checkpoint_every` seconds, and ``best.safetensors`` at the end of the epochs that deserve it.
    SIGINT and SIGTERM stop after the step at hand, with the checkpoint written; so does `max_steps`.
    Raises Diverged, OutOfMemory, DataError and OSError, all with the checkpoints as they were.
    """
    return _Run(backend, plan, progress, reporter).train()


class _Run:
    def __init__(self, backend: Backend, plan: Plan, progress: Progress, reporter: Reporter) -> None:
        self.backend, self.plan, self.progress, self.reporter = backend, plan, progress, reporter
        self.spec = plan.spec
        self.batch_size, self.epochs = self.spec.training.batch_size, self.spec.training.epochs
        self.group = backend.group
        self.steps = steps_per_epoch(len(plan.splits.train), self.batch_size)
        self.step_images = min(self.batch_size, len(plan.splits.train))
        backend.whole_batch = self.step_images
        self.signals = Signals()
        self.log = MetricsLog(plan.folder, unwritten=not self.group.first)
        self.unread: list[tuple[int, float]] = []
        """Number and learning rate of every step whose metrics have not been read yet."""
        self.began, self.images_before = time.perf_counter(), progress.images
        self.saved = self.read_at = time.monotonic()
        self.last_is_whole = False
        """Whether `last`, if it is there, may become `previous`."""

    def train(self) -> Outcome:
        with self.signals:  # from before there is anything to keep until it is said what was kept
            try:
                return self._train()
            except Lost as error:
                self.signals.ignore()  # torchrun sends SIGTERM to all that are left
                raise Lost(f"{error}. {self._kept()}") from error
            except Exception as error:
                if not memory.is_exhausted(error):
                    raise
                where = f"at step {self.progress.step}, batch size {self.batch_size}, {self.backend.name} on "
                where += f"{self.backend.device}. {self._kept()}"
                how = self.plan.execution
                said = memory.advice(error, self.spec, where, how.precision, how.accumulation_steps)
                raise memory.OutOfMemory(said) from error

    def _train(self) -> Outcome:
        self._begin_folder()
        if self.plan.tensorboard:
            self.log.show_in_tensorboard(self.progress.step)
        self.log.rewind(self.progress.epoch, self.progress.step)
        self.log.add("run", **self._header())
        self.log.flush()
        try:
            while self.progress.epoch < self.epochs:
                self._epoch()
        except Stopped as stopped:
            self._read()
            self.log.flush()
            self._say_unfinished_epoch()
            self._save(LAST)
            return Outcome(self.progress, False, stopped.signal)
        except Diverged as error:
            self.log.flush()
            raise Diverged(f"{error}. {self._kept()}") from error
        return Outcome(self.progress, True)

    def _begin_folder(self) -> None:
        """See to it that there is a checkpoint from the first moment on: of this state, if not of this very place."""
        if not self.group.first:
            return
        path = self.plan.folder / LAST
        if path.exists():
            try:
                if header(path)["progress"] == self.progress.model_dump_json():
                    self.last_is_whole = True
                    return
                load(path)
                self.last_is_whole = True
            except CheckpointError:
                pass  # the run goes on from another one, and this one makes room; what is whole stays
        self._save(LAST)

    def _kept(self) -> str:
        if not self.group.first:
            return "The first process keeps the checkpoint"
        path = self.plan.folder / LAST
        return f"Kept: {path}, after step {load(path).progress.step}"

    def _header(self) -> dict[str, Any]:
        return {
            "spec": self.spec.name,
            "spec_hash": self.spec.hash,
            "backend": self.backend.name,
            "device": self.backend.device,
            **self.plan.execution.model_dump(),
            "processes": self.group.ranks,
            "devices": self.backend.devices,
            "seed": self.progress.seed,
            "data": self.progress.source,
            "fingerprint": self.progress.fingerprint,
            "resumed_at_step": self.progress.step,
            "batch_size": self.batch_size,
            "epochs": self.epochs,
            "steps_per_epoch": self.steps,
            "versions": versions(),
        }

    def _advance(self, **values: Any) -> None:
        self.progress = self.progress.model_copy(update=values)

    # --- one epoch ----------------------------------------------------------------------------------------------------

    def _epoch(self) -> None:
        self.began, self.images_before = time.perf_counter(), self.progress.images
        with self.reporter.work(f"epoch {self.progress.epoch + 1}/{self.epochs}", self.steps) as advance:
            self._train_epoch(advance)
        trained, images_per_second = time.perf_counter() - self.began, self._images_per_second()
        with self.reporter.work("validation", len(self.plan.splits.validation)) as advance:
            validation = self._validate(advance)
        self._finish_epoch(validation, images_per_second, trained)

    def _images_per_second(self) -> float:
        """Of training, since this process began with the epoch under way."""
        return (self.progress.images - self.images_before) / (time.perf_counter() - self.began)

    def _say_unfinished_epoch(self) -> None:
        progress = self.progress
        if 0 < progress.batch_in_epoch < self.steps:
            loss = progress.epoch_loss / progress.batch_in_epoch
            done = f"{progress.batch_in_epoch} of {self.steps} steps"
            speed = f"{self._images_per_second():.0f} img/s"
            self.reporter.line(f"epoch {progress.epoch + 1}/{self.epochs}, {done}  loss {loss:.4f}  {speed}")

    def _train_epoch(self, advance: Advance) -> None:
        """The rest of the epoch under way."""
        self.read_at, batches = time.monotonic(), self._batches(self.progress)
        try:
            self._stop_if_asked(self._due()[0])
            for batch in batches:
                self._step(batch)
                number, read, save = self._due()
                if read:
                    advance(self.progress.batch_in_epoch, f"loss {self._read():.4f}")
                    self.read_at = time.monotonic()
                self._stop_if_asked(number)
                if save:
                    self._read()
                    self.log.flush()
                    self._save(LAST)
        finally:
            batches.close()  # type: ignore[attr-defined]
        self._read()

    def _batches(self, progress: Progress) -> Iterator[Batch]:
        """Those of the epoch under way that `progress` has not seen."""
        return training_batches(
            self.plan.splits.train,
            self.spec,
            self.plan.statistics,
            seed=progress.seed,
            epoch=progress.epoch,
            batch_size=self.batch_size,
            start=progress.batch_in_epoch,
            workers=self.plan.workers,
            rank=self.group.rank,
            ranks=self.group.ranks,
            apply=self.backend.apply_training,
        )

    def _due(self) -> tuple[int, bool, bool]:
        """The number of a signal that asks for the end, or 0; whether to read the metrics; whether to save.

        What any process of a group has been asked, or its clock says, all do after the same step.
        """
        now = time.monotonic()
        read, save = now - self.read_at >= READ_EVERY_S, now - self.saved >= self.plan.checkpoint_every
        number, read_now, save_now = self.group.largest((self.signals.received or 0, read, save))
        return number, bool(read_now), bool(save_now)

    def _stop_if_asked(self, number: int) -> None:
        reached = self.plan.max_steps is not None and self.progress.step >= self.plan.max_steps
        if number or (reached and self.progress.batch_in_epoch < self.steps):
            raise Stopped(number)

    def _settings(self, step: int) -> dict[str, Settings]:
        """The settings of step `step`, which belongs to the epoch under way."""
        place = Place(self.progress.epoch, step, self.steps, self.epochs)
        return settings(self.spec, place, self.progress.validation_errors)

    def _step(self, batch: Batch) -> None:
        progress = self.progress
        chosen = self._settings(progress.step)
        self.backend.step(batch.images, batch.labels, chosen, self._masks(batch))
        self.unread.append((progress.step, shown_rate(chosen)))
        self._advance(
            batch_in_epoch=progress.batch_in_epoch + 1,
            step=progress.step + 1,
            images=progress.images + self.step_images,
        )

    def _masks(self, batch: Batch) -> Masks:
        return self.backend.dropout_masks(self.progress.seed, batch.indices, self.progress.epoch)

    def _read(self) -> float:
        """Take the metrics of the steps since the last reading into the log and the progress. Returns the last loss."""
        metrics = self.backend.metrics()
        if len(metrics.losses) != len(self.unread):
            required = f"metrics() must hold the loss of each of the {len(self.unread)} steps since its last call"
            raise RuntimeError(f"{self.backend.name}: {required}. Received: {len(metrics.losses)} losses")
        total = self.progress.epoch_loss  # added one by one, so that it does not depend on when this is called
        for (step, rate), loss in zip(self.unread, metrics.losses, strict=True):
            if not math.isfinite(loss):
                where = f"at step {step} (epoch {self.progress.epoch + 1})"
                began = self._where_it_began(step)
                raise Diverged(f"the loss must be finite. Received: {loss} {where}. {began}")
            self.log.add("step", epoch=self.progress.epoch, step=step, loss=loss, learning_rate=rate)
            total += loss
        self.unread.clear()
        self._advance(
            epoch_loss=total,
            epoch_correct1=self.progress.epoch_correct1 + metrics.correct1,
            epoch_correct5=self.progress.epoch_correct5 + metrics.correct5,
        )
        return metrics.losses[-1] if metrics.losses else math.nan

    def _where_it_began(self, step: int) -> str:
        """The layer in which the loss of `step` ceased to be a number, found by doing the steps since `last` again."""
        if self.group.ranks > 1:
            return "The layer where it began is looked for when one process alone goes on from the checkpoint"
        last = load(self.plan.folder / LAST)
        count = step - last.progress.step
        batches = self._batches(last.progress)
        self.backend.load(last.parameters, last.velocities)
        states: list[State] = []
        try:
            with self.reporter.work("looking for the layer where it began", count) as advance:
                for number in range(count + 1):
                    if self.signals.received is not None:
                        return "The search for the layer where it began was stopped"
                    batch, place = next(batches), last.progress.step + number
                    masks = self._masks(batch)
                    if number >= count - 1:
                        velocities = self.backend.velocities()
                        states.append(State(place, self.backend.parameters(), velocities, batch, masks))
                    if number < count:
                        self.backend.step(batch.images, batch.labels, self._settings(place), masks)
                        advance(number)
        finally:
            batches.close()  # type: ignore[attr-defined]
            self.backend.metrics()
        return layer_where_it_began(self.backend, states)

    # --- its end ------------------------------------------------------------------------------------------------------

    def _validate(self, advance: Advance) -> Metrics:
        """Metrics over the validation images: of each the central crop alone, whatever `evaluation` says."""
        total, began = Metrics(0, 0.0, 0, 0), ""
        batches = evaluation_batches(
            self.plan.splits.validation,
            self.spec,
            self.plan.statistics,
            batch_size=self.batch_size,
            crops="center",
            workers=self.plan.workers,
            rank=self.group.rank,
            ranks=self.group.ranks,
        )
        try:
            for batch in batches:
                found = tally(self.backend.predict(batch.images[:, 0]), batch.labels)
                total += found
                if not math.isfinite(found.loss):
                    began = layer_not_finite(self.backend.outputs(batch.images[:, 0]))
                    break
                advance(total.images * self.group.ranks)
                if self.signals.received is not None and self.group.ranks == 1:  # a group stops when all are here
                    raise Stopped(self.signals.received)
        finally:
            batches.close()  # type: ignore[attr-defined]
        own = np.array([total.images, total.loss, total.correct1, total.correct5], np.float64)
        images, loss, correct1, correct5 = self.group.total(own).tolist()
        if not math.isfinite(loss):
            where = f"after step {self.progress.step}. {began}".rstrip()
            raise Diverged(f"the validation loss must be finite. Received: {loss} {where}")
        return Metrics(int(images), loss, int(correct1), int(correct5))

    def _finish_epoch(self, validation: Metrics, images_per_second: float, seconds: float) -> None:
        rate = shown_rate(self._settings(self.progress.step - 1))
        progress, seen = self.progress, self.steps * min(self.batch_size, len(self.plan.splits.train))
        line = {
            "epoch": progress.epoch,
            "step": progress.step,
            "loss": progress.epoch_loss / self.steps,
            "top1_error": 1 - progress.epoch_correct1 / seen,
            "top5_error": 1 - progress.epoch_correct5 / seen,
            "validation_loss": validation.loss / validation.images,
            "validation_top1_error": 1 - validation.correct1 / validation.images,
            "validation_top5_error": 1 - validation.correct5 / validation.images,
            "images_per_second": images_per_second,
            "seconds": seconds,
            "learning_rate": rate,
        }
        self.log.add("epoch", **line)
        self.log.flush()
        self._advance(
            epoch=progress.epoch + 1,
            batch_in_epoch=0,
            validation_errors=(*progress.validation_errors, line["validation_top1_error"]),
            epoch_loss=0.0,
            epoch_correct1=0,
            epoch_correct5=0,
        )
        best = self.progress.best
        improved = best is not None and best[0] == progress.epoch
        kept = self.plan.keep_every is not None and self.progress.epoch % self.plan.keep_every == 0
        wanted = [(improved, BEST), (kept, KEPT.format(self.progress.epoch)), (True, LAST)]  # `last` comes last: a kill
        for name in (name for asked, name in wanted if asked):  # before it makes the epoch's end come again
            self._save(name)
        self.reporter.line(
            f"epoch {progress.epoch + 1}/{self.epochs}  loss {line['loss']:.4f}  "
            f"top-1 {100 - 100 * line['validation_top1_error']:.2f} %  "
            f"top-5 {100 - 100 * line['validation_top5_error']:.2f} %  "
            f"{images_per_second:.0f} img/s  lr {rate:g}" + ("  best" if improved else "")
        )

    def _save(self, name: str) -> None:
        if not self.group.first:
            self.saved = time.monotonic()
            return
        parameters, velocities = self.backend.parameters(), self.backend.velocities()
        for what, arrays in (("parameter", parameters), ("velocity", velocities)):
            for key, array in arrays.items():
                if not np.isfinite(array).all():
                    raise Diverged(
                        f"every parameter must be finite. Received: {what} {key} after step {self.progress.step}"
                    )
        save(
            self.plan.folder / name,
            Checkpoint(
                self.spec,
                parameters,
                velocities,
                self.plan.statistics.arrays(),
                self.plan.splits.train.classes,
                self.progress,
                self.backend.name,
                versions(),
                self.plan.execution,
            ),
            previous=self.plan.folder / PREVIOUS if name == LAST and self.last_is_whole else None,
        )
        if name == LAST:
            self.last_is_whole, self.saved = True, time.monotonic()


def shown_rate(chosen: dict[str, Settings]) -> float:
    """The one learning rate that an epoch's line shows: of the first weight that is not frozen."""
    rates = (
        setting.learning_rate for name, setting in chosen.items() if name.endswith(".weight") and not setting.frozen
    )
    return next(rates, 0.0)
