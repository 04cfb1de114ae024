"""The command line that ``backends/torch/train.py`` and ``backends/keras/train.py`` share.

Exit code 0: done. 1: it failed (the loss diverged, the disk is full); the last good checkpoint is kept. 2: asked
wrongly (option, specification, data, checkpoint, folder); one line says what, and nothing that existed was touched. 130
and 143: stopped by SIGINT or SIGTERM, with a checkpoint written.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from backends import memory
from backends.allocator import keep_freed_memory
from backends.base import Backend
from backends.checkpoint import BEST, Progress
from backends.curves import write_report
from backends.options import KERAS_BACKENDS, WRONGLY_ASKED, Parser, count, fail, keras_backend, minutes, rate, seed
from backends.planning import say
from backends.reporting import Reporter
from backends.starting import AUTO, DEFAULT_SPEC, RUNS, Request, RequestError, preview, start
from backends.trainer import CHECKPOINT_EVERY_MINUTES, Diverged, Outcome, Plan, train
from data import EMBEDDED
from spec import geometry

_DESCRIPTION = """Train a network of this repository with {framework}.

With no option: {spec}, a small AlexNet, on the images of Fashion-MNIST that come with the repository, for a
minute or two on two cores. Every epoch ends with a validation on central crops, a line, and a checkpoint.
"""
_EPILOG = """examples:
  {command}
  {command} --epochs 2 --lr 0.01 --output-dir runs/try
  {command} --resume                            go on where the newest run stopped
  {command} --resume runs/try --epochs 12       make a run longer
  {command} --spec source-2012 --data DIR       the run of 2012, on your copy of ImageNet

A run's folder holds last.safetensors, to go on from; previous.safetensors, which was the last before it;
best.safetensors, of the lowest validation error; metrics.jsonl, one JSON object for every step and every epoch; and at
the end report.html, with curves and the first layer's filters.
Ctrl-C stops after the step at hand, with a checkpoint.
"""


def parser(family: str) -> Parser:
    """The options of ``train.py`` of `family`, torch or keras."""
    command = f"python -m backends.{family}.train"
    framework = {"torch": "PyTorch", "keras": "Keras"}[family]
    made = Parser(
        prog=command,
        description=_DESCRIPTION.format(framework=framework, spec=DEFAULT_SPEC),
        epilog=_EPILOG.format(command=command),
    )
    add = made.option
    if family == "keras":
        what = f"what Keras runs on: {', '.join(KERAS_BACKENDS)} (default: $KERAS_BACKEND, or {KERAS_BACKENDS[0]})"
        add("--backend", "NAME", what, default=keras_backend())
    add("--spec", "NAME|FILE", f"what to train; `python -m spec list` names the variants (default: {DEFAULT_SPEC})")
    add(
        "--data",
        "NAME|DIR",
        "images: a folder with one folder per class, with or without train/ and val/, or a folder of IDX files "
        f"(default: {EMBEDDED}, which comes with the repository). The number of classes follows the data",
    )
    add("--epochs", "N", "passes over the training images (default: the specification's)", type=count)
    add("--batch-size", "N", "images a step (default: the specification's)", type=count)
    add(
        "--lr",
        "RATE",
        "the first learning rate; those of other parameters and later epochs change in proportion (default: the "
        "specification's)",
        type=rate,
    )
    add("--seed", "N", "of initial weights, order, crops, flips and dropout (default: 0)", type=seed)
    add("--device", "NAME", "auto, cpu, or a GPU such as cuda or mps (default: auto)", default="auto")
    add("--workers", "N", "threads that make batches (default: half the cores)", type=count)
    add(
        "--output-dir",
        "DIR",
        f"the run's folder (default: a new one, {RUNS}/BACKEND-SPEC, with -2, -3 and so on where that exists)",
        type=Path,
    )
    add(
        "--resume",
        "PATH",
        f"go on from this checkpoint or run. Without PATH, or with {AUTO}: from the run in --output-dir, or else the "
        "newest of this backend (and of --spec, if given); where there is none, from the beginning",
        nargs="?",
        const=AUTO,
    )
    add("--max-steps", "N", "stop, with a checkpoint, when the run has done N steps in all", type=count)
    add(
        "--checkpoint-every",
        "MINUTES",
        f"write last.safetensors within an epoch too, this often (default: {CHECKPOINT_EVERY_MINUTES:g})",
        type=minutes,
        default=CHECKPOINT_EVERY_MINUTES,
    )
    add("--keep-every", "N", "keep the checkpoint of every N-th epoch, as epoch-0010.safetensors", type=count)
    made.add_argument("--tensorboard", action="store_true", help="write the metrics for TensorBoard too")
    made.add_argument(
        "--dry-run",
        action="store_true",
        help="print the plan (layers, memory, operations, time of an epoch as measured by a few steps) and do nothing",
    )
    return made


class _Terminated(BaseException):
    """SIGTERM, before there is anything to keep."""


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM raises _Terminated inside, so that what is open is closed. Training itself has its own way."""

    def end(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():  # Python allows handlers nowhere else
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(family: str, argv: Sequence[str] | None = None) -> int:
    """Run ``train.py`` of `family`, torch or keras. Returns the exit code."""
    reporter = Reporter()
    try:
        request = _request(family, argv)
        keep_freed_memory()
        with _terminable(), ExitStack() as claims:
            if request.dry_run:
                backend, planned = preview(request, reporter)
                say(planned, backend, reporter)
                return 0
            backend, plan, progress = start(request, reporter, claims)
            _announce(backend, plan, progress, reporter)
            outcome = train(backend, plan, progress, reporter)
            return _conclude(family, outcome, plan, reporter)
    except WRONGLY_ASKED as error:
        return fail(error, 2)
    except (Diverged, OSError, memory.OutOfMemory) as error:
        return fail(error, 1)
    except KeyboardInterrupt:
        return 130
    except _Terminated:
        return 128 + signal.SIGTERM


def _request(family: str, argv: Sequence[str] | None) -> Request:
    options = vars(parser(family).parse_args(argv))
    if family != "keras":
        return Request(backend=family, **options)
    framework = options.pop("backend")
    if framework not in KERAS_BACKENDS:
        raise RequestError(f"--backend must be one of {', '.join(KERAS_BACKENDS)}. Received: {framework!r}")
    return Request(backend=f"keras-{framework}", **options)


def _announce(backend: Backend, plan: Plan, progress: Progress, reporter: Reporter) -> None:
    network, training = geometry(plan.spec), plan.spec.training
    reporter.line(
        f"{plan.spec.name}: {network.parameter_count:,} parameters, {network.macs:,} MACs an image; {training.epochs} "
        f"epochs, batch size {training.batch_size}, seed {progress.seed}, {backend.name} on {backend.device}"
    )
    where = f"going on after step {progress.step}, in epoch {progress.epoch + 1}; " if progress.step else ""
    reporter.line(f"{where}validation on central crops; the run is kept in {plan.folder}")


def _conclude(family: str, outcome: Outcome, plan: Plan, reporter: Reporter) -> int:
    command = f"python -m backends.{family}.train"
    if not outcome.finished:
        reporter.line(f"stopped after step {outcome.progress.step}; go on with: {command} --resume {plan.folder}")
        return 0 if outcome.signal is None else 128 + outcome.signal
    epoch, error = outcome.progress.best or (0, math.nan)
    reporter.line(f"best: top-1 {100 - 100 * error:.2f} % after epoch {epoch + 1}, kept as {plan.folder / BEST}")
    reporter.line(f"how it went: {write_report(plan.folder)}")
    if outcome.progress.source == EMBEDDED:
        reporter.line(f"the real thing, on your copy of ImageNet: {command} --spec source-2012 --data DIR")
    return 0
