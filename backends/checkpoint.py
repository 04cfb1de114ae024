"""One file that holds a run, so that every backend can continue every other's.

It is safetensors: arrays (``conv1.weight`` and so on in canonical layout, ``velocity/conv1.weight``,
``statistics/mean_image``), and in the header the strings of :data:`FIELDS`, most of them JSON. A file is written beside
its place and then moved there, so that at every instant the place holds a whole checkpoint: the old one or the new one.
A digest in the header covers all the rest; fields of the header that are not known here are left alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from backends.base import Array, Arrays, check_arrays
from spec import Spec, SpecError, from_values, geometry

FORMAT = "executable-alexnet/1"
EXECUTION = "execution"
"""Header field: how the run was executed. Files of before it was written have none."""
FIELDS = ("format", "spec", "spec_name", "spec_hash", "progress", "classes", "backend", "versions")
LAST, BEST = "last.safetensors", "best.safetensors"
"""The checkpoint that a run is continued from, and that of its lowest validation top-1 error."""
PREVIOUS = "previous.safetensors"
"""What `last` was before, for the day on which `last` turns out to be damaged."""
KEPT = "epoch-{:04d}.safetensors"
"""After so many epochs, where such checkpoints are asked for."""
IMPORTED = "imported"
"""The fingerprint of the training images of weights that came from elsewhere: nothing is known of them."""
DIGEST = "digest"
"""Header field: SHA-256 of the other fields and of all arrays. Files of before it was written have none."""

_VELOCITY, _STATISTICS = "velocity/", "statistics/"
_DTYPES = ("F32", "F64")
_Count = Annotated[int, Field(ge=0, le=2**53)]
Model = TypeVar("Model", bound=BaseModel)


class CheckpointError(ValueError):
    """A file is no checkpoint of this project, or not of what it is asked for. One line: required, received, where."""

    path: Path | None = None
    """The file, if that is where the fault lies, and not in what is asked of it."""


class Progress(BaseModel):
    """Where a run stands, so that it can be continued at exactly this place."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    seed: int = Field(ge=0, le=2**32 - 1)
    source: str
    """What ``--data`` said."""
    fingerprint: str
    """Of the images, by :func:`data.fingerprint`: those for training and for validation."""
    epoch: _Count = 0
    """The epoch that comes next or is under way; the first is 0. As many are finished, validation included."""
    batch_in_epoch: _Count = 0
    """Steps done of that epoch."""
    step: _Count = 0
    """Steps done in all."""
    images: _Count = 0
    """Images seen in all, a repeated image counted each time."""
    validation_errors: tuple[float, ...] = ()
    """The validation top-1 error (centre crop, a fraction) after every finished epoch."""
    epoch_loss: float = 0.0
    """Of the epoch under way: the sum of the losses of its steps, and the hits among their images."""
    epoch_correct1: _Count = 0
    epoch_correct5: _Count = 0

    @property
    def best(self) -> tuple[int, float] | None:
        """The epoch (from 0) of the lowest validation error, the first of equals, and that error."""
        if not self.validation_errors:
            return None
        lowest = min(self.validation_errors)
        return self.validation_errors.index(lowest), lowest


class Execution(BaseModel):
    """How a run is executed: it changes rounding and memory, and nothing of what is computed."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    precision: Literal["float32", "bf16"] = "float32"
    """What products are computed in; parameters, velocities, normalisation and loss are float32 in both."""
    accumulation_steps: int = Field(default=1, ge=1)
    """Pieces in which a batch is taken, one after another."""

    @property
    def dtype(self) -> str:
        """What a backend is made with."""
        return {"float32": "float32", "bf16": "mixed_bfloat16"}[self.precision]


PLAIN = Execution()


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A run at one place. Arrays are NumPy, in canonical layout."""

    spec: Spec
    parameters: Arrays
    velocities: Arrays
    statistics: Arrays
    """``data.Statistics.arrays()`` of the training images; empty if the specification needs none."""
    classes: tuple[str, ...]
    """Names in the order of the scores."""
    progress: Progress
    backend: str
    versions: Mapping[str, str]
    """Of what computed it: Python, NumPy, frameworks."""
    execution: Execution = PLAIN


def versions() -> dict[str, str]:
    """The versions of Python and of those of our frameworks that this process has imported."""
    frameworks = ("numpy", "torch", "keras", "tensorflow", "jax", "onnxruntime")
    found = {name: str(sys.modules[name].__version__) for name in frameworks if name in sys.modules}
    return {"python": platform.python_version(), **found}


def save(path: Path, checkpoint: Checkpoint, *, previous: Path | None = None) -> None:
    """Write `checkpoint` to `path`, in place of what is there, which goes on to be `previous` if that is given.

    Raises OSError; both files then stay as they were.
    """
    tensors: dict[str, Array] = {
        **checkpoint.parameters,
        **{_VELOCITY + name: array for name, array in checkpoint.velocities.items()},
        **{_STATISTICS + name: array for name, array in checkpoint.statistics.items()},
    }
    header = {
        "format": FORMAT,
        "spec": json.dumps(checkpoint.spec.statement()),
        "spec_name": checkpoint.spec.name,
        "spec_hash": checkpoint.spec.hash,
        "progress": checkpoint.progress.model_dump_json(),
        "classes": json.dumps(checkpoint.classes),
        "backend": checkpoint.backend,
        "versions": json.dumps(dict(checkpoint.versions)),
        EXECUTION: checkpoint.execution.model_dump_json(),
    }
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    header[DIGEST] = _digest(header, tensors)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.touch()
        mode = partial.stat().st_mode
        try:
            save_file(tensors, partial, header)
        except SafetensorError as error:  # safetensors reports the system's errors (disk full) as its own
            raise OSError(f"{error} (while writing {path})") from error
        partial.chmod(mode)  # safetensors lets only the owner read what it writes
        _flush(partial, os.O_RDWR)
        if previous is not None and path.exists():
            _also(path, previous)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    if os.name == "posix":  # elsewhere a folder cannot be opened
        _flush(path.parent, os.O_RDONLY)


def _also(path: Path, other: Path) -> None:
    """Let `other` be the file that `path` is, in place of what it was; neither is ever missing. Raises OSError."""
    second = other.with_name(f".{other.name}.partial")
    second.unlink(missing_ok=True)
    try:
        try:
            second.hardlink_to(path)
        except OSError:  # not every file system has links
            shutil.copyfile(path, second)
            _flush(second, os.O_RDWR)
        second.replace(other)
    finally:
        second.unlink(missing_ok=True)


def _digest(header: Mapping[str, str], tensors: Mapping[str, Array]) -> str:
    """Of every field of the header but the digest itself, and of every array: name, dtype, shape, bytes."""
    found = hashlib.sha256(json.dumps({k: v for k, v in header.items() if k != DIGEST}, sort_keys=True).encode())
    for name in sorted(tensors):
        array = tensors[name]
        found.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        found.update(array.reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def _flush(path: Path, flags: int) -> None:
    """Wait until the disk has what was written to `path`."""
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def header(path: Path) -> dict[str, str]:
    """The header of the checkpoint at `path`, its arrays unread. Raises CheckpointError."""
    try:
        with safe_open(path, framework="numpy") as file:
            found = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise _refusal(path, f"a readable safetensors file (received: {_reason(path, error)})") from error
    if found.get("format") != FORMAT:
        received = repr(found["format"]) if "format" in found else "a file of another program"
        raise _refusal(path, f"of the format {FORMAT} (received: {received})")
    if missing := [field for field in FIELDS if field not in found]:
        raise _refusal(path, f"complete (missing: {', '.join(missing)})")
    return dict(found)


def load(path: Path) -> Checkpoint:
    """The checkpoint at `path`, checked: its specification, progress, names, shapes, dtypes and values.

    Raises CheckpointError, one line, if the file is missing, damaged, foreign, or does not agree with itself.
    """
    found = header(path)
    spec = _spec(path, found)
    classes = _json(path, found, "classes")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes) or not classes:
        raise _refusal(path, "whole: `classes` must be a list of names")
    recorded = _json(path, found, "versions")
    if not isinstance(recorded, dict) or not all(isinstance(version, str) for version in recorded.values()):
        raise _refusal(path, "whole: `versions` must map names to versions")
    progress = _validated(path, found, "progress", Progress)
    execution = _validated(path, found, EXECUTION, Execution) if EXECUTION in found else PLAIN
    tensors = _tensors(path)
    parts: dict[str, dict[str, Array]] = {_VELOCITY: {}, _STATISTICS: {}, "": {}}
    for name, array in tensors.items():
        prefix = next(prefix for prefix in parts if name.startswith(prefix))
        parts[prefix][name.removeprefix(prefix)] = array
    try:
        check_arrays(parts[""], spec, "parameters")
        check_arrays(parts[_VELOCITY], spec, "velocities")
    except ValueError as error:
        raise _refusal(path, f"whole: {error}") from error
    if DIGEST in found and found[DIGEST] != _digest(found, tensors):
        raise _refusal(path, "whole: its content must have the digest that its header states")
    return Checkpoint(
        spec,
        {name: parts[""][name] for name in geometry(spec).parameters},
        {name: parts[_VELOCITY][name] for name in geometry(spec).parameters},
        parts[_STATISTICS],
        tuple(classes),
        progress,
        found["backend"],
        recorded,
        execution,
    )


def _validated(path: Path, found: Mapping[str, str], field: str, model: type[Model]) -> Model:
    try:
        return model.model_validate_json(found[field])
    except ValidationError as error:
        what = error.errors()[0]
        raise _refusal(path, f"whole: {'.'.join(map(str, (field, *what['loc'])))}: {what['msg']}") from error


def _spec(path: Path, found: Mapping[str, str]) -> Spec:
    values = _json(path, found, "spec")
    if not isinstance(values, dict):
        raise _refusal(path, "whole: `spec` must be a specification")
    try:
        spec = from_values(values, found["spec_name"])
    except SpecError as error:
        raise _refusal(path, f"of a specification that this version reads ({error.problems[0]})") from error
    if spec.hash != found["spec_hash"]:
        raise _refusal(path, f"whole: spec_hash must be {spec.hash[:12]}..., its specification's")
    return spec


def _json(path: Path, found: Mapping[str, str], field: str) -> Any:
    try:
        return json.loads(found[field])
    except (ValueError, RecursionError) as error:
        raise _refusal(path, f"whole: `{field}` must be JSON ({error})") from error


def _tensors(path: Path) -> dict[str, Array]:
    """Every array of `path`. Dtypes are looked at before anything is read: a file may hold some that NumPy lacks."""
    tensors = {}
    with safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118, it is no mapping
            dtype = file.get_slice(name).get_dtype()
            if dtype not in _DTYPES:
                raise _refusal(path, f"whole: {name} must be {' or '.join(_DTYPES)} (received: {dtype})")
            tensors[name] = file.get_tensor(name)
            if not np.isfinite(tensors[name]).all():
                raise _refusal(path, f"whole: {name} must be finite")
    return tensors


def _refusal(path: Path, required: str) -> CheckpointError:
    error = CheckpointError(f"{path}: a checkpoint must be {required}")
    error.path = path
    return error


def _reason(path: Path, error: Exception) -> str:
    if not path.exists():
        return "no such file"
    if path.is_dir():
        return "a folder"
    return (str(error).splitlines() or [type(error).__name__])[0]


def good_ones(folder: Path) -> list[Path]:
    """The whole checkpoints in `folder`, the furthest first, for who cannot use one of them. Reads all of each."""
    found = []
    for path in folder.glob("*.safetensors"):
        try:
            found.append((load(path).progress.step, path))
        except CheckpointError:
            continue
    return [path for _, path in sorted(found, key=lambda one: (-one[0], one[1].name))]


def newest(runs: Path, backend: str | None = None, spec_name: str | None = None) -> Path | None:
    """The `last` checkpoint that was written last among the runs in the folder `runs`, or None if there is none.

    backend: only of this backend (``keras-jax``) or family (``keras``). spec_name: only of this specification.
    Raises CheckpointError for a damaged file that is newer than all that fit.
    """
    dated = sorted(((path.stat().st_mtime_ns, path) for path in runs.glob(f"*/{LAST}")), reverse=True)
    for _, path in dated:
        found = header(path)
        of_backend = backend is None or found["backend"] == backend or found["backend"].startswith(f"{backend}-")
        if of_backend and (spec_name is None or found["spec_name"] == spec_name):
            return path
    return None


def differences(ours: Spec, theirs: Spec) -> dict[str, tuple[Any, Any]]:
    """The fields in which two specifications mean different things: dotted path to (ours, theirs), None for absent."""
    a, b = (_flat({section: spec.statement()[section] for section in Spec.SECTIONS}) for spec in (ours, theirs))
    found = {path: (a.get(path), b.get(path)) for path in {**a, **b} if a.get(path) != b.get(path)}
    order = [[layer.name for layer in spec.layers] for spec in (ours, theirs)]
    if not found and order[0] != order[1]:
        found["layers"] = (", ".join(order[0]), ", ".join(order[1]))
    return found


def _flat(values: Any, path: str = "") -> dict[str, Any]:
    if isinstance(values, dict) and values:
        return {
            k: v for key, value in values.items() for k, v in _flat(value, f"{path}.{key}" if path else key).items()
        }
    return {path: values}
