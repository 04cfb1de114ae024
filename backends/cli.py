"""The command line that ``backends/torch/train.py`` and ``backends/keras/train.py`` share.

Exit code 0: done. 1: it failed (the loss diverged, the disk is full); the last good checkpoint is kept. 2: asked
wrongly (option, specification, data, checkpoint, folder); one line says what, and nothing that existed was touched. 130
and 143: stopped by SIGINT or SIGTERM, with a checkpoint written. Several processes that train together say once what
concerns all of them.
"""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from backends import memory
from backends.allocator import keep_freed_memory
from backends.base import Backend
from backends.checkpoint import BEST, LAST, Progress
from backends.curves import write_report
from backends.group import ALONE, Elsewhere, Group, Lost
from backends.options import KERAS_BACKENDS, Parser, count, fail, keras_backend, minutes, rate, seed
from backends.planning import say
from backends.registry import join, speaks
from backends.reporting import Reporter
from backends.starting import AUTO, DEFAULT_SPEC, RUNS, WRONGLY_ASKED, Request, RequestError, preview, start
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


_DEVICES = {
    "torch": "1: PyTorch trains on several devices by as many processes, torchrun --nproc-per-node=N -m "
    "backends.torch.train ...; see docs/several-devices.md",
    "keras": "devices of this machine that share every batch (default: 1). On JAX also on several hosts; see "
    "docs/several-devices.md",
}


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
    add("--devices", "N", _DEVICES[family], type=count, default=1)
    made.add_argument(
        "--precision",
        choices=("float32", "bf16"),
        help="what products are computed in; parameters, velocities, normalisation and loss are float32 in both "
        "(default: float32, or what a resumed run had)",
    )
    add(
        "--accumulation-steps",
        "N",
        "take each batch in N pieces, one after another, with one update: the same step in less memory (default: 1, or "
        "what a resumed run had)",
        type=count,
    )
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


_ENDS: dict[int, type[BaseException]] = {signal.SIGTERM: _Terminated, signal.SIGINT: KeyboardInterrupt}


@contextmanager
def _terminable() -> Iterator[Callable[[], None]]:
    """SIGTERM and SIGINT raise inside, so that what is open is closed. Training itself has its own way.

    Gives what raises again if that came to nothing: what is imported or called may swallow whatever is raised in it.
    """
    asked: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        raise _ENDS[number]

    def again() -> None:
        if asked:
            raise _ENDS[asked[0]]

    if threading.current_thread() is not threading.main_thread():  # Python allows handlers nowhere else
        yield again
        return
    before = {number: signal.signal(number, end) for number in _ENDS}
    try:
        yield again
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(family: str, argv: Sequence[str] | None = None) -> int:
    """Run ``train.py`` of `family`, torch or keras. Returns the exit code."""
    reporter = Reporter()
    group: Group = ALONE
    try:
        request = _request(family, argv)
        keep_freed_memory()
        with _terminable() as end_if_asked, ExitStack() as claims:
            group = join(request.backend)
            claims.callback(group.close)
            if not group.first:
                reporter = Reporter(claims.enter_context(Path(os.devnull).open("w", encoding="utf-8")))
            if request.dry_run and group.ranks > 1:
                raise RequestError("--dry-run must be asked of one process. Received: several (leave torchrun away)")
            if request.dry_run:
                backend, planned = preview(request, reporter)
                say(planned, backend, reporter)
                return 0
            backend, plan, progress = start(_restarted(request), reporter, claims, group)
            end_if_asked()
            _announce(backend, plan, progress, reporter)
            try:
                outcome = train(backend, plan, progress, reporter)
            except Lost as error:  # said here, where signals cannot come in between
                return fail(_lost(error, group), 1)
            return _conclude(family, outcome, plan, reporter) if group.first else _code(outcome)
    except WRONGLY_ASKED as error:
        return fail(error, 2) if group.ranks > 1 or speaks() else 2
    except Elsewhere:
        return 2
    except Diverged as error:
        return fail(error, 1) if group.first else 1
    except (OSError, memory.OutOfMemory) as error:
        return fail(error, 1)
    except Lost as error:
        return fail(_lost(error, group), 1)
    except KeyboardInterrupt:
        return 130
    except _Terminated:
        return 128 + signal.SIGTERM


def _lost(error: Lost, group: Group) -> Lost:
    return Lost(f"process {group.rank} of {group.ranks}: {error}")


def _request(family: str, argv: Sequence[str] | None) -> Request:
    options = vars(parser(family).parse_args(argv))
    if family != "keras":
        return Request(backend=family, **options)
    framework = options.pop("backend")
    if framework not in KERAS_BACKENDS:
        raise RequestError(f"--backend must be one of {', '.join(KERAS_BACKENDS)}. Received: {framework!r}")
    return Request(backend=f"keras-{framework}", **options)


def _restarted(request: Request) -> Request:
    """The request after a restart by torchrun, which repeats the command: to go on with what the run has come to."""
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        return request
    folder = request.output_dir
    if folder is None and request.resume not in (None, AUTO):
        there = Path(request.resume or "")
        folder = there if there.is_dir() else there.parent
    if folder is None or not (folder / LAST).exists():
        return dataclasses.replace(request, resume=request.resume or AUTO)
    return dataclasses.replace(request, resume=str(folder))


def _announce(backend: Backend, plan: Plan, progress: Progress, reporter: Reporter) -> None:
    network, training = geometry(plan.spec), plan.spec.training
    reporter.line(
        f"{plan.spec.name}: {network.parameter_count:,} parameters, {network.macs:,} MACs an image; {training.epochs} "
        f"epochs, batch size {training.batch_size}, seed {progress.seed}, {backend.name} on {backend.device}"
        + (f", {backend.devices} devices" if backend.devices > 1 else "")
        + (f", {backend.group.ranks} processes" if backend.group.ranks > 1 else "")
    )
    where = f"going on after step {progress.step}, in epoch {progress.epoch + 1}; " if progress.step else ""
    reporter.line(f"{where}validation on central crops; the run is kept in {plan.folder}")


def _code(outcome: Outcome) -> int:
    return 0 if outcome.signal is None else 128 + outcome.signal


def _conclude(family: str, outcome: Outcome, plan: Plan, reporter: Reporter) -> int:
    command = f"python -m backends.{family}.train"
    if not outcome.finished:
        reporter.line(f"stopped after step {outcome.progress.step}; go on with: {command} --resume {plan.folder}")
        return _code(outcome)
    epoch, error = outcome.progress.best or (0, math.nan)
    reporter.line(f"best: top-1 {100 - 100 * error:.2f} % after epoch {epoch + 1}, kept as {plan.folder / BEST}")
    reporter.line(f"how it went: {write_report(plan.folder)}")
    if outcome.progress.source == EMBEDDED:
        reporter.line(f"the real thing, on your copy of ImageNet: {command} --spec source-2012 --data DIR")
    return 0
