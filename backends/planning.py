"""``--dry-run``: what a run would be, and how long an epoch would take on this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backends.base import Backend
from backends.checkpoint import LAST, PLAIN, Execution
from backends.memory import Need, available, need
from backends.reporting import Reporter
from data import steps_per_epoch
from spec import Place, Spec, describe, geometry, settings

PROBE_S = 5.0
"""Steps are measured for so long, at least PROBE_STEPS of them after one that warms up."""
PROBE_STEPS = 2
TRAINING_MACS = 3
"""MACs of a training step for one of the forward pass: backward takes the gradient of inputs and that of weights."""


@dataclass(frozen=True)
class Preview:
    """A run that has not been begun: `start` without its images and without its folder."""

    spec: Spec
    images: int
    """For training."""
    what: str
    """Of the images, for the user."""
    folder: Path
    """Where the run would be kept."""
    execution: Execution = PLAIN


def seconds_a_step(backend: Backend, *, at_least: float = PROBE_S) -> float:
    """The median over `at_least` seconds, on images of noise with the masks and settings of the first steps."""
    spec = backend.spec
    size, rng = spec.training.batch_size, np.random.default_rng(0)
    images = rng.standard_normal((size, spec.input.channels, spec.input.height, spec.input.width), np.float32)
    (classes,) = geometry(spec).output_shape
    labels = rng.integers(0, classes, size)
    masks = backend.dropout_masks(0, np.arange(size), 0)
    chosen = settings(spec, Place(epoch=0, step=0, steps_per_epoch=1, epochs=spec.training.epochs))
    taken: list[float] = []
    began = time.perf_counter()
    while len(taken) < 1 + PROBE_STEPS or time.perf_counter() - began < at_least:
        before = time.perf_counter()
        backend.step(images, labels, chosen, masks)
        backend.metrics()  # waits for the device
        taken.append(time.perf_counter() - before)
    return float(np.median(taken[1:]))


def say(preview: Preview, backend: Backend, reporter: Reporter) -> None:
    """Print the plan: layers, memory, operations, and the time of an epoch. Raises what a step of `backend` does."""
    spec, training = preview.spec, preview.spec.training
    network, wanted, execution = geometry(spec), need(spec, preview.execution.precision), preview.execution
    reporter.line(preview.what)
    reporter.line("\n".join(describe.aligned([describe.HEADINGS, *describe.rows(network)], right=(4, 5, 6))))
    flops = 2 * TRAINING_MACS * network.macs
    steps = steps_per_epoch(preview.images, training.batch_size)
    seconds = seconds_a_step(backend)
    size = min(training.batch_size, preview.images)
    speed, taken = size / seconds, -(-training.batch_size // execution.accumulation_steps)
    parts = f"{_mib(wanted.fixed)} for parameters, velocities and gradients, {_mib(wanted.per_image)} an image"
    noise = "measured on images of noise: reading and augmenting images is not in it"
    epochs = f"{training.epochs} epochs of {steps:,} steps of {training.batch_size} images"
    if execution.accumulation_steps > 1:
        epochs += f", {taken} at a time"
        parts += f", {_mib(wanted.of(training.batch_size))} if a batch were taken at once"
    lines = [
        ("run", f"{epochs}, {backend.name} on {backend.device} in {execution.precision}"),
        ("memory", f"about {_mib(wanted.of(taken))}: {parts}; {_room(wanted, backend)}"),
        ("operations", f"{flops / 1e9:,.3g} GFLOP an image, {flops * preview.images / 1e12:,.4g} TFLOP an epoch"),
        ("disk", f"{_mib(8 * network.parameter_count)} a checkpoint: last, previous, best, and one while writing"),
        ("speed", f"{speed:,.0f} images a second, {flops * speed / 1e9:,.1f} GFLOP/s, {noise}"),
        ("an epoch", f"{duration(steps * seconds)}, without validation"),
        ("all epochs", duration(training.epochs * steps * seconds)),
        ("checkpoints", f"{preview.folder / LAST}; nothing has been written"),
    ]
    reporter.line("\n".join(describe.aligned(lines)))


def _room(wanted: Need, backend: Backend) -> str:
    room = available() if backend.device.startswith("cpu") else None
    if room is None:
        return "how much the device has is not known"
    return f"{_mib(room)} there, enough for {wanted.fitting(room):,} images at a time"


def _mib(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"


def duration(seconds: float) -> str:
    """`seconds` in the unit that suits them."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.1f} seconds"
