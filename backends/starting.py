"""From what a command asks for to a run that can begin, or go on: specification, data, checkpoint, folder, backend."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from backends import checkpoint as checkpoints
from backends.base import Backend
from backends.checkpoint import BEST, LAST, Checkpoint, CheckpointError, Progress
from backends.registry import create
from backends.reporting import METRICS, Reporter
from backends.trainer import Plan
from data import EMBEDDED, DataError, Splits, Statistics, dataset_statistics, fingerprint, open_source
from data.parallel import cores
from spec import Spec, from_values, geometry, initial_parameters, load, with_classes
from spec.schedule import scaled_learning_rates

RUNS = Path("runs")
DEFAULT_SPEC = "fashion-mini"
AUTO = "auto"


class RequestError(ValueError):
    """What is asked for cannot be done. One line: required, received."""


@dataclass(frozen=True)
class Request:
    """The options of ``train.py``; None where one was not given."""

    backend: str
    """``torch``, ``keras-tensorflow``, ..."""
    spec: str | None = None
    data: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    seed: int | None = None
    device: str = "auto"
    workers: int | None = None
    output_dir: Path | None = None
    resume: str | None = None
    """A checkpoint, a run's folder, or ``auto``."""
    max_steps: int | None = None


def start(request: Request, reporter: Reporter) -> tuple[Backend, Plan, Progress]:
    """Everything :func:`backends.trainer.train` needs. The run's folder is made last, when all else is right.

    Raises RequestError, SpecError, DataError, CheckpointError and Unsupported, each with one line for the user.
    """
    path = _checkpoint_path(request)
    if request.resume == AUTO and path is None:
        reporter.line("nothing to go on from: this run starts at the beginning")
    before = None if path is None else checkpoints.load(path)
    spec = _specification(request, before)
    source = request.data or (before.progress.source if before else EMBEDDED)
    seed = request.seed if request.seed is not None else before.progress.seed if before else 0
    storage, channels = spec.data.storage, spec.input.channels
    with reporter.work("preparing images") as advance:
        splits = open_source(
            source, storage=storage, channels=channels, seed=seed, progress=lambda done, n: advance(done, total=n)
        )
    reporter.line(splits.description)
    spec = _with_the_classes_of(splits, spec, reporter)
    fresh = Progress(seed=seed, source=source, fingerprint=fingerprint_of(splits))
    if path is None or before is None:
        with reporter.work("mean of the training images") as advance:
            statistics = dataset_statistics(splits.train, progress=lambda done, n: advance(done, total=n))
    else:
        _require_the_same_run(path, before, spec, splits, fresh, reporter)
        statistics = _recorded_statistics(path, before)
    backend = create(request.backend, spec, device=request.device)
    assert isinstance(backend, Backend)
    if before is None:
        backend.load(initial_parameters(spec, seed))
    else:
        backend.load(before.parameters, before.velocities)
    folder = _folder(request, spec, path)
    plan = Plan(spec, splits, statistics, folder, request.workers or max(1, cores() // 2), request.max_steps)
    return backend, plan, before.progress if before else fresh


# --- specification ----------------------------------------------------------------------------------------------------


def _specification(request: Request, before: Checkpoint | None) -> Spec:
    """The specification that is asked for, by name or the checkpoint's, and over it the options."""
    spec = before.spec if before and request.spec is None else load(request.spec or DEFAULT_SPEC)
    wanted = {"epochs": request.epochs, "batch_size": request.batch_size}
    changes: dict[str, Any] = {field: value for field, value in wanted.items() if value is not None}
    if request.lr is not None:
        try:
            changes["learning_rate"] = scaled_learning_rates(spec, request.lr)
        except ValueError as error:
            raise RequestError(f"--lr cannot be used with {spec.name}: {error}") from error
    values = spec.statement()
    return from_values({**values, "training": {**values["training"], **changes}}, spec.name) if changes else spec


def _with_the_classes_of(splits: Splits, spec: Spec, reporter: Reporter) -> Spec:
    classes, (before,) = len(splits.train.classes), geometry(spec).output_shape
    if classes == before:
        return spec
    last = next(layer.name for layer in reversed(spec.layers) if layer.op == "dense")
    reporter.line(f"the data has {classes} classes: {last} has as many outputs in this run, instead of {before}")
    return with_classes(spec, classes)


# --- going on ---------------------------------------------------------------------------------------------------------


def _checkpoint_path(request: Request) -> Path | None:
    """The checkpoint to go on from, or None to start at the beginning."""
    if request.resume is None:
        return None
    if request.resume != AUTO:
        path = Path(request.resume)
        return path / LAST if path.is_dir() else path
    if request.output_dir is not None:
        path = request.output_dir / LAST
        return path if path.exists() else None
    return checkpoints.newest(RUNS, request.backend, None if request.spec is None else load(request.spec).name)


def fingerprint_of(splits: Splits) -> str:
    """What a checkpoint records of the images for training and for validation together."""
    both = fingerprint(splits.train) + fingerprint(splits.validation)
    return hashlib.sha256(both.encode()).hexdigest()


def _require_the_same_run(
    path: Path, before: Checkpoint, spec: Spec, splits: Splits, fresh: Progress, reporter: Reporter
) -> None:
    """Raise CheckpointError unless what is asked for is the run of the checkpoint, though perhaps of another length."""

    def refuse(what: str, there: object, here: object) -> NoReturn:
        raise CheckpointError(
            f"{path}: a run must go on as it began. Received: {what} {here}, where it began with {there}"
        )

    changed = checkpoints.differences(spec, before.spec)
    length = changed.pop("training.epochs", None)
    if changed:
        field, (here, there) = next(iter(changed.items()))
        more = f" (and {len(changed) - 1} more fields that differ)" if len(changed) > 1 else ""
        refuse(field, f"{there}{more}", here)
    if fresh.seed != before.progress.seed:
        refuse("the seed", before.progress.seed, fresh.seed)
    if splits.train.classes != before.classes:
        refuse("the classes", *(f"{', '.join(names[:3])}, ..." for names in (before.classes, splits.train.classes)))
    if fresh.fingerprint != before.progress.fingerprint:
        refuse("images with the fingerprint", before.progress.fingerprint[:12], fresh.fingerprint[:12])
    if spec.training.epochs < before.progress.epoch:
        raise CheckpointError(
            f"{path}: --epochs must be at least {before.progress.epoch}, which are finished. "
            f"Received: {spec.training.epochs}"
        )
    if length:
        reporter.line(f"the run is {length[0]} epochs long from here on, where it began with {length[1]}")


def _recorded_statistics(path: Path, before: Checkpoint) -> Statistics:
    try:
        return Statistics.from_arrays(before.statistics)
    except DataError as error:
        raise CheckpointError(f"{path}: {error}") from error


# --- the folder -------------------------------------------------------------------------------------------------------


def _folder(request: Request, spec: Spec, path: Path | None) -> Path:
    """The run's folder, made if it is new. Raises RequestError if it holds another run or cannot be written."""
    folder = request.output_dir
    try:
        if folder is None:
            return path.parent if path is not None else new_folder(RUNS / f"{request.backend}-{spec.name}")
        held = [name for name in (LAST, BEST, METRICS) if (folder / name).exists()]
        own = path is not None and path.parent.resolve() == folder.resolve()
        killed_early = request.resume == AUTO and held == [METRICS]
        if held and not (own or killed_early):
            required = "--output-dir must hold no run, or --resume must be given to go on with it"
            raise RequestError(f"{required}. Received: {folder}, which holds {', '.join(held)}")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"--output-dir must be a folder that can be made. Received: {error}") from error
    if not os.access(folder, os.W_OK):
        raise RequestError(f"--output-dir must be a folder that can be written. Received: {folder}")
    return folder


def new_folder(wanted: Path) -> Path:
    """`wanted`, or with the next number behind it. Making it is what claims it."""
    wanted.parent.mkdir(parents=True, exist_ok=True)
    numbered = [re.fullmatch(rf"{re.escape(wanted.name)}-(\d+)", path.name) for path in wanted.parent.iterdir()]
    number = max((int(match[1]) for match in numbered if match), default=1)
    folder = wanted
    while True:
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
            folder = wanted.with_name(f"{wanted.name}-{number}")
        else:
            return folder
