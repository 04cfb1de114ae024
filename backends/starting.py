"""From what a command asks for to a run that can begin, or go on: specification, data, checkpoint, folder, backend."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from backends import checkpoint as checkpoints
from backends.base import Backend, Unsupported
from backends.checkpoint import BEST, LAST, PLAIN, PREVIOUS, Checkpoint, CheckpointError, Execution, Progress
from backends.group import ALONE, Group
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
from spec import Spec, SpecError, from_values, geometry, initial_parameters, load, with_classes
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
    devices: int = 1
    """Of each process, sharing its batches."""
    precision: str | None = None
    accumulation_steps: int | None = None
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


WRONGLY_ASKED = (RequestError, SpecError, DataError, CheckpointError, Unsupported)
"""What :func:`start` raises, each with one line for the user."""


WRONGLY_ASKED = (RequestError, SpecError, DataError, CheckpointError, Unsupported)
"""What :func:`start` raises, each with one line for the user."""


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A run without its backend and its folder."""

    path: Path | None
    before: Checkpoint | None
    """What it goes on from."""
    spec: Spec
    splits: Splits
    statistics: Statistics
    progress: Progress
    execution: Execution


def start(
    request: Request, reporter: Reporter, claims: ExitStack, group: Group = ALONE
) -> tuple[Backend, Plan, Progress]:
    """Everything :func:`backends.trainer.train` needs. The run's folder is made last, when all else is right; it
    belongs to this process, the first of its group, until `claims` is closed.

    Raises WRONGLY_ASKED, and in a group also Elsewhere and Lost.
    """
    if group.ranks > 1:
        request = _as_the_first_sees_it(request, group)
    found = group.together(lambda: _prepare(request, reporter, claims, group), WRONGLY_ASKED)
    group.together(lambda: _require_the_same_start(request, found, group), WRONGLY_ASKED)
    backend = group.together(lambda: _backend(request, found, group), WRONGLY_ASKED)
    folder = group.together(
        lambda: _folder(request, found.spec, found.path, claims) if group.first else Path(), WRONGLY_ASKED
    )
    plan = Plan(
        found.spec,
        found.splits,
        found.statistics,
        folder,
        workers=request.workers or max(1, cores() // (2 * group.local_ranks)),
        max_steps=request.max_steps,
        checkpoint_every=60 * request.checkpoint_every,
        keep_every=request.keep_every,
        tensorboard=request.tensorboard,
        execution=found.execution,
    )
    return backend, plan, found.progress


def _as_the_first_sees_it(request: Request, group: Group) -> Request:
    """Which checkpoint is the newest is decided by the first process, before it writes a newer one. A collective."""
    path = group.together(lambda: _checkpoint_path(request) if group.first else None, WRONGLY_ASKED)
    said = group.text_of_first("" if path is None else str(path.resolve()))
    if group.first:
        return request
    return dataclasses.replace(request, resume=said or None)


def _require_the_same_start(request: Request, found: _Prepared, group: Group) -> None:
    """Raise RequestError unless this process is about to begin where the first one is. A collective."""
    records = found.progress.model_dump_json(), found.execution.model_dump_json()
    digest = hashlib.sha256(f"{found.spec.hash} {request.max_steps} {' '.join(records)}".encode())
    for name, array in found.statistics.arrays().items():
        digest.update(name.encode() + array.tobytes())
    if group.text_of_first(digest.hexdigest()) != digest.hexdigest():
        required = "every process must be asked for the same run on the same images"
        raise RequestError(f"{required}. Received: process {group.rank} of {group.ranks} is not, as the first one is")


def _prepare(request: Request, reporter: Reporter, claims: ExitStack, group: Group) -> _Prepared:
    if request.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise RequestError("--tensorboard needs TensorBoard, which is not installed: pip install tensorboard")
    path, before = _found(request)
    if request.resume == AUTO and path is None:
        reporter.line("nothing to go on from: this run starts at the beginning")
    if path is not None and before is not None and _is_own(request, path) and group.first:
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
    execution = _execution(request, spec, before, reporter)
    smallest = min(spec.training.batch_size, len(splits.train))
    if group.ranks * request.devices > smallest:
        required = f"a batch of {smallest} images must have one at least for every device"
        raise RequestError(f"{required}. Received: {group.ranks * request.devices} devices")
    if path is None or before is None:
        with reporter.work("mean of the training images") as advance:
            statistics = dataset_statistics(splits.train, progress=lambda done, n: advance(done, total=n))
        return _Prepared(None, None, spec, splits, statistics, fresh, execution)
    _require_the_same_run(path, before, spec, splits, fresh, reporter)
    return _Prepared(path, before, spec, splits, _recorded_statistics(path, before), before.progress, execution)


def _backend(request: Request, found: _Prepared, group: Group) -> Backend:
    backend = _made(request, found.spec, found.execution, group)
    if found.before is None:
        backend.load(initial_parameters(found.spec, found.progress.seed))
    else:
        backend.load(found.before.parameters, found.before.velocities)
    return backend


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
    execution = _execution(request, spec, before, reporter)
    backend = _made(request, spec, execution)
    backend.load(initial_parameters(spec, seed) if before is None else before.parameters)
    return backend, Preview(spec, count, what, folder, execution)


def _execution(request: Request, spec: Spec, before: Checkpoint | None, reporter: Reporter) -> Execution:
    """How the run is executed: as it is asked for, or else as it was before."""
    recorded = before.execution if before else PLAIN
    wanted = {"precision": request.precision, "accumulation_steps": request.accumulation_steps}
    execution = recorded.model_copy(update={field: value for field, value in wanted.items() if value is not None})
    if execution.accumulation_steps > spec.training.batch_size:
        required = f"--accumulation-steps must be at most the batch size, {spec.training.batch_size}"
        raise RequestError(f"{required}. Received: {execution.accumulation_steps}")
    if before and execution.precision != recorded.precision:
        reporter.line(
            f"the run is computed in {execution.precision} from here on, where it was in {recorded.precision}"
        )
    return execution


def _made(request: Request, spec: Spec, execution: Execution, group: Group = ALONE) -> Backend:
    where: dict[str, Any] = {"device": request.device, "devices": request.devices, "group": group}
    backend = create(request.backend, spec, dtype=execution.dtype, **where)
    assert isinstance(backend, Backend)
    backend.accumulate(execution.accumulation_steps)
    return backend


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
