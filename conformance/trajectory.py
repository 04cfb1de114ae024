"""A real run of training, followed: what every backend sees at every step, and how long its loss stays the oracle's.

Every backend is trained by the trainer that the commands use. Runs in float32 part sooner or later, because rounding
decides a ReLU differently and training amplifies it; how far apart they may be at a step is measured by runs of the
oracle that err as float32 does and are left to run freely, decisions included.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from backends.base import Array, Arrays, Backend, Gradients, Masks, Metrics, tally
from backends.checkpoint import Progress
from backends.numpy import NumpyBackend
from backends.reporting import Reporter
from backends.trainer import Plan, train
from conformance.bounds import Arithmetic, bound, loss_rounding
from conformance.oracle import Expected, Losses
from conformance.training import Batch, Run
from data import EMBEDDED, Splits, Statistics, dataset_statistics, open_source
from spec import Settings, Spec, geometry, initial_parameters


@dataclass
class Log:
    """What a backend was given, as digests, and the losses that it reported."""

    initial: str = ""
    """Of the parameters it was to start from."""
    seen: list[str] = field(default_factory=list)
    """Of every step: its images, labels, masks and settings."""
    losses: list[float] = field(default_factory=list)


def _digest(*groups: Mapping[str, object]) -> str:
    digest = hashlib.sha256()
    for group in groups:
        for name, value in sorted(group.items()):
            digest.update(name.encode())
            digest.update(
                np.ascontiguousarray(value).tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
            )
    return digest.hexdigest()


class Witness(Backend):
    """Passes everything on to `inner`, and keeps a log."""

    name = "witness"

    def __init__(self, inner: Backend) -> None:
        self.inner, self.log = inner, Log()
        self.spec, self.dtype, self.device = inner.spec, inner.dtype, inner.device

    def load(self, parameters: Arrays, velocities: Arrays | None = None) -> None:
        self.log.initial = _digest(parameters)
        self.inner.load(parameters, velocities)

    def step(self, images: Array, labels: Array, settings: Mapping[str, Settings], masks: Masks) -> None:
        self.log.seen.append(_digest({"images": images, "labels": labels}, masks, settings))
        self.inner.step(images, labels, settings, masks)

    def metrics(self) -> Metrics:
        found = self.inner.metrics()
        self.log.losses += found.losses
        return found

    def parameters(self) -> dict[str, Array]:
        return self.inner.parameters()

    def velocities(self) -> dict[str, Array]:
        return self.inner.velocities()

    def outputs(self, images: Array, masks: Masks | None = None) -> dict[str, Array]:
        return self.inner.outputs(images, masks)

    def predict(self, images: Array) -> Array:
        return self.inner.predict(images)

    def gradients(self, images: Array, cotangent: Array, masks: Masks | None = None) -> Gradients:
        return self.inner.gradients(images, cotangent, masks)

    def loss(self, images: Array, labels: Array, masks: Masks | None = None) -> float:
        return self.inner.loss(images, labels, masks)


class Envelope(NumpyBackend):
    """The oracle, trained beside runs that err as `arithmetic` does; `expected` has every step's loss and bound."""

    name = "envelope"

    def __init__(self, spec: Spec, arithmetic: Arithmetic, *, replicas: int) -> None:
        super().__init__(spec, dtype="float64")
        self.arithmetic, self.replicas = arithmetic, replicas
        self.expected: list[Expected] = []
        self._runs: list[Run] = []

    def load(self, parameters: Arrays, velocities: Arrays | None = None) -> None:
        super().load(parameters, velocities)
        draws = [None, *(np.random.default_rng([6, replica]) for replica in range(self.replicas))]
        self._runs = [Run(self._parameters, self._velocities, draw) for draw in draws]

    def step(self, images: Array, labels: Array, settings: Mapping[str, Settings], masks: Masks) -> None:
        batch, losses = Batch(images, labels, masks, settings), Losses(self.arithmetic)
        for run in self._runs:
            run.forward(geometry(self.spec), batch, losses)
            run.update(batch, losses, self.spec.training.optimizer)
        clean, *others = self._runs
        logits = clean.steps[-1].output
        deviations = [np.asarray(abs(run.loss - clean.loss)) for run in others]
        last = loss_rounding(logits, clean.loss, self.arithmetic)
        self.expected.append(Expected(np.asarray(clean.loss), bound(deviations, last, self.arithmetic.dtype, 1)))
        self._parameters, self._velocities = clean.parameters, clean.velocities
        self._metrics += tally(logits, labels)


class Course:
    """The start of one run of training on real images: specification, images, seed and number of steps.

    data: as the option ``--data``; the images embedded in the repository by default. Raises DataError.
    """

    def __init__(self, spec: Spec, *, steps: int, seed: int = 0, data: str = EMBEDDED) -> None:
        self.spec, self.steps, self.seed = spec, steps, seed
        self.splits: Splits = open_source(data, storage=spec.data.storage, channels=spec.input.channels, seed=seed)
        self.statistics: Statistics = dataset_statistics(self.splits.train)

    def follow(self, backend: Backend) -> Log:
        """Train `backend` from the initial parameters, by the trainer that the commands use."""
        witness = Witness(backend)
        witness.load(initial_parameters(self.spec, self.seed))
        with _scratch() as folder:
            plan = Plan(self.spec, self.splits, self.statistics, folder, max_steps=self.steps)
            progress = Progress(seed=self.seed, source="trajectory", fingerprint="")
            train(witness, plan, progress, Reporter(io.StringIO()))
        return witness.log


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def parting(log: Log, expected: list[Expected]) -> int | None:
    """The first step (from 1) at which the loss leaves the envelope; None if it never does."""
    for number, (loss, one) in enumerate(zip(log.losses, expected, strict=True), 1):
        if not abs(loss - float(one.value)) <= float(one.bound):
            return number
    return None
