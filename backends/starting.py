"""From what a command asks for to a run that can begin, or go on: specification, data, checkpoint, folder, backend."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from backends import checkpoint as checkpoints
from backends.base import Backend
from backends.checkpoint import BEST, LAST, PREVIOUS, Checkpoint, CheckpointError, Progress
from backends.planning import Preview
from backends.registry import create
from backends.reporting import METRICS, Reporter
from backends.trainer import CHECKPOINT_EVERY_MINUTES, Plan
from data import EMBEDDED, DataError, Splits, Statistics, dataset_statistics, fingerprint, open_source
from data.embedded.samples import SAMPLES
from data.locking import Busy, held
from data.parallel import cores
from data.prepared import is_prepared
from data.sources import expanded, recognise
from spec import Spec, from_values, geometry, initial_parameters, load, with_classes
from spec.language import Storage
from spec.schedule import scaled_learning_rates

RUNS = Path("runs")
DEFAULT_SPEC = "fashion-mini"
AUTO = "auto"
LOCK = ".lock"
"""In a run's folder: held by the process that trains there, and let go by whatever ends it."""


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
    checkpoint_every: float = CHECKPOINT_EVERY_MINUTES
    """Minutes."""
    keep_every: int | None = None
    """Epochs."""
    tensorboard: bool = False
    dry_run: bool = False


def start(request: Request, reporter: Reporter, claims: ExitStack) -> tuple[Backend, Plan, Progress]:
    """Everything :func:`backends.trainer.train` needs. The run's folder is made last, when all else is right; it
    belongs to this process until `claims` is closed.

    Raises RequestError, SpecError, DataError, CheckpointError and Unsupported, each with one line for the user.
    """
    if request.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise RequestError("--tensorboard needs TensorBoard, which is not installed: pip install tensorboard")
    path, before = _found(request)
    if request.resume == AUTO and path is None:
        reporter.line("nothing to go on from: this run starts at the beginning")
    if path is not None and before is not None and _is_own(request, path):
        claim(path.parent, claims)
        if checkpoints.header(path)["progress"] != before.progress.model_dump_json():
            raise RequestError(f"{path} must stay as it is while it is read. Received: another process's later state")
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
    plan = Plan(
        spec,
        splits,
        statistics,
        _folder(request, spec, path, claims),
        workers=request.workers or max(1, cores() // 2),
        max_steps=request.max_steps,
        checkpoint_every=60 * request.checkpoint_every,
        keep_every=request.keep_every,
        tensorboard=request.tensorboard,
    )
    return backend, plan, before.progress if before else fresh


def preview(request: Request, reporter: Reporter) -> tuple[Backend, Preview]:
    """What `start` would begin, without preparing an image, making a folder or claiming one. Raises as `start` does."""
    path, before = _found(request)
    spec = _specification(request, before)
    source = request.data or (before.progress.source if before else EMBEDDED)
    seed = request.seed if request.seed is not None else before.progress.seed if before else 0
    count, classes, what = look(source, storage=spec.data.storage, channels=spec.input.channels, seed=seed)
    if classes != geometry(spec).output_shape[0]:
        spec = with_classes(spec, classes)
    folder = request.output_dir or (path.parent if path else RUNS / f"{request.backend}-{spec.name}")
    if request.output_dir is not None and not (path is not None and _is_own(request, path)):
        _require_empty(request, folder)
    backend = create(request.backend, spec, device=request.device)
    assert isinstance(backend, Backend)
    backend.load(initial_parameters(spec, seed) if before is None else before.parameters)
    return backend, Preview(spec, count, what, folder)


def look(source: str, *, storage: Storage, channels: int, seed: int) -> tuple[int, int, str]:
    """How many images for training and how many classes `source` has, and what it is; nothing is prepared."""
    path = expanded(source)
    if source not in SAMPLES and is_prepared(path):
        splits = open_source(source, storage=storage, channels=channels, seed=seed)
        return len(splits.train), len(splits.train.classes), splits.description
    found = recognise(source, seed)
    contents = found.contents()
    count = len(contents.parts["train"].labels)
    return count, len(contents.classes), f"{found.what}: {count:,} training images, not prepared yet"


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


def _found(request: Request) -> tuple[Path | None, Checkpoint | None]:
    """The checkpoint to go on from, read, or None twice. A damaged one is refused with the whole ones beside it."""
    try:
        path = _checkpoint_path(request)
        return path, None if path is None else checkpoints.load(path)
    except CheckpointError as error:
        if error.path is None:
            raise
        whole = checkpoints.good_ones(error.path.parent)
        if not whole:
            raise
        offered = ", ".join(f"{path.name} (step {checkpoints.load(path).progress.step})" for path in whole)
        raise CheckpointError(f"{error}. Whole beside it: {offered}. Go on with: --resume {whole[0]}") from error


def _is_own(request: Request, path: Path) -> bool:
    """Whether the run goes on in the folder of the checkpoint at `path`."""
    folder = request.output_dir
    return folder is None or folder.resolve() == path.parent.resolve()


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


def _folder(request: Request, spec: Spec, path: Path | None, claims: ExitStack) -> Path:
    """The run's folder, made if it is new, and claimed.

    Raises RequestError if it holds another run, belongs to another process or cannot be written.
    """
    folder = request.output_dir
    if path is not None and _is_own(request, path):
        folder = path.parent
    else:
        try:
            if folder is None:
                folder = new_folder(RUNS / f"{request.backend}-{spec.name}")
            _require_empty(request, folder)
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError(f"--output-dir must be a folder that can be made. Received: {error}") from error
        claim(folder, claims)
        _require_empty(request, folder)  # another run may have come and gone between the look and the claim
    if not os.access(folder, os.W_OK):
        raise RequestError(f"--output-dir must be a folder that can be written. Received: {folder}")
    return folder


def _require_empty(request: Request, folder: Path) -> None:
    there = [name for name in (LAST, BEST, PREVIOUS, METRICS) if (folder / name).exists()]
    killed_early = request.resume == AUTO and there == [METRICS]
    if there and not killed_early:
        required = "--output-dir must hold no run, or --resume must be given to go on with it"
        raise RequestError(f"{required}. Received: {folder}, which holds {', '.join(there)}")


def claim(folder: Path, claims: ExitStack) -> None:
    """Let no other process train in `folder` until `claims` is closed. Raises RequestError if one does."""
    lock = folder / LOCK
    try:
        if not lock.exists():
            lock.touch()
        claims.enter_context(held(lock, wait=False))
    except Busy as error:
        required = "a run's folder must belong to one process at a time"
        raise RequestError(f"{required}. Received: {folder}, in which another one is training") from error
    except OSError as error:
        raise RequestError(f"a run's folder must be one that can be written. Received: {error}") from error


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
