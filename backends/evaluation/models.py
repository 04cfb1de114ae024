"""A trained model from its file: what it computes, how images are made ready for it, and what its scores are called.

A file is a checkpoint of this project, which every backend can run; an ONNX file of this project, which ONNX Runtime
runs as it stands, and every other backend from the parameters in it; or any other ONNX file with one image in and
scores out, for which a specification must say how images are prepared.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from backends import checkpoint as checkpoints
from backends.base import Array
from backends.checkpoint import LAST, CheckpointError, Progress
from backends.external import locations, metadata, require_beside
from backends.registry import create
from data import DataError, Statistics
from spec import Spec, SpecError, from_values, geometry

if TYPE_CHECKING:
    import onnx

ONNX = "onnx"
MAX_ELEMENTS = 2**30
"""Of a tensor in an ONNX file, for each image: four gigabytes of float32."""
MAX_BYTES = 2**31
"""Protobuf's own bound of a file."""


class ModelError(ValueError):
    """A file is no model that can be evaluated. One line: required, received, where."""


class ModelFailed(RuntimeError):
    """A model gave no usable scores."""


@dataclass(frozen=True, eq=False)
class Model:
    """A model that is ready to run."""

    name: str
    """As the user named it."""
    spec: Spec
    """Of a foreign file only `input`, `data` and `evaluation` are the file's; the rest is of whatever was stated."""
    classes: tuple[str, ...]
    """Names in the order of the scores; empty if the file has none."""
    scores: int
    """How many classes it tells apart."""
    statistics: Statistics | None
    """Of its training images, if it needs and has them."""
    predict: Callable[[Array], Array]
    """The logits (N, classes) of float32 (N, C, H, W)."""
    runs_on: str
    """``torch on cuda``."""
    origin: Progress | None = None
    """What it was trained on, and how far, if the file says so."""

    @property
    def needs_statistics(self) -> bool:
        """Whether the mean of training images is missing."""
        return self.statistics is None and self.spec.data.mean.kind in ("image", "channel")

    def named(self, number: int) -> str:
        """What class `number` is called."""
        return self.classes[number] if self.classes else f"class {number}"


def load_model(name: str, *, backend: str | None = None, device: str = "auto", stated: Spec | None = None) -> Model:
    """The model in the file or run `name`, with `backend` (of :data:`backends.NAMES`), or its own.

    Its own is the one that wrote the checkpoint, and ONNX Runtime for an ONNX file. stated: for ONNX files that say
    nothing of themselves, how images are prepared.

    Raises ModelError, CheckpointError, SpecError or Unsupported, each with one line, and ModuleNotFoundError if what
    the backend needs is not installed.
    """
    path = Path(name)
    path = path / LAST if path.is_dir() else path
    if not path.is_file():
        others = sorted(one.name for one in Path(name).glob("*.safetensors")) if Path(name).is_dir() else []
        received = f"{name}, which holds {', '.join(others)} and no {LAST}" if others else f"{name}, no such file"
        raise ModelError(f"a model must be a checkpoint, a run's folder or an ONNX file. Received: {received}")
    if path.suffix.lower() == ".onnx":
        return _onnx(name, path, backend or ONNX, device, stated)
    return _checkpoint(name, path, backend, device)


def _checkpoint(name: str, path: Path, backend: str | None, device: str) -> Model:
    found = checkpoints.load(path)
    (scores,) = geometry(found.spec).output_shape
    if len(found.classes) != scores:
        raise CheckpointError(f"{path}: a checkpoint must name its {scores} classes. Received: {len(found.classes)}")
    statistics = None
    if found.statistics:
        try:
            statistics = Statistics.from_arrays(found.statistics)
        except DataError as error:
            raise CheckpointError(f"{path}: {error}") from error
    predict, runs_on = _network(found.spec, found.parameters, backend or found.backend, device, path)
    return Model(name, found.spec, _names(found.classes), scores, statistics, predict, runs_on, found.progress)


def _names(classes: tuple[str, ...]) -> tuple[str, ...]:
    """`classes`, or nothing if they are mere numbers, as those of weights that came without names."""
    return () if classes == tuple(f"class {i}" for i in range(len(classes))) else classes


def _network(
    spec: Spec, parameters: Mapping[str, Array], backend: str, device: str, path: Path
) -> tuple[Callable[[Array], Array], str]:
    try:
        made = create(backend, spec, device=device)
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from error
    made.load(parameters)
    return made.predict, f"{made.name} on {made.device}"


# --- ONNX -------------------------------------------------------------------------------------------------------------


def _onnx(name: str, path: Path, backend: str, device: str, stated: Spec | None) -> Model:
    model = _read(path)
    try:
        said = metadata(model)
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from None
    if "spec.json" not in said:
        return _foreign(name, path, model, backend, device, stated)
    spec = _spec_of(path, said)
    (scores,) = geometry(spec).output_shape
    classes = _names(_strings(path, said, "classes")) if "classes" in said else ()
    if classes and len(classes) != scores:
        raise ModelError(f"{path}: the file must name its {scores} classes. Received: {len(classes)}")
    if backend == ONNX:
        predict, runs_on = _session(path, model, device, batch=None)
    else:
        from backends.onnx import parameters_of

        try:
            parameters = parameters_of(model, spec)
            predict, runs_on = _network(spec, parameters, backend, device, path)
        except (KeyError, ValueError) as error:
            raise ModelError(f"{path}: the file must hold the parameters of {spec.name}. Received: {error}") from error
    statistics, origin = recorded_statistics(path, said, spec), recorded_origin(path, said)
    return Model(name, spec, classes, scores, statistics, predict, runs_on, origin)


def _read(path: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        if path.stat().st_size >= MAX_BYTES:
            raise ModelError(f"{path}: an ONNX file must have less than {MAX_BYTES:,} bytes. "
                             f"Received: {path.stat().st_size:,}")  # fmt: skip
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError, RuntimeError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{path}: must be an ONNX file. Received: bytes that are no ONNX model") from None
    if not model.graph.node:
        raise ModelError(f"{path}: must be an ONNX file with a graph of nodes. Received: none")
    for place in locations(model):
        try:
            require_beside(place, path.parent)
        except ValueError as error:
            raise ModelError(f"{path}: {error}") from None
    _require_bounded(path, model)
    return model


def _require_bounded(path: Path, model: onnx.ModelProto) -> None:
    """Raise ModelError if a tensor of the graph would have more elements than any network's has: a few bytes can ask
    ONNX Runtime for all memory. What shape inference does not know, or cannot read, is left to the runtime."""
    import onnx

    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return
    for value in (*graph.value_info, *graph.output):
        sides = [axis.dim_value for axis in value.type.tensor_type.shape.dim if axis.dim_value > 0]
        if math.prod(sides) > MAX_ELEMENTS:
            raise ModelError(f"{path}: a tensor must have at most {MAX_ELEMENTS:,} elements. "
                             f"Received: {value.name[:40]}, {math.prod(sides):,}")  # fmt: skip


def _spec_of(path: Path, said: Mapping[str, str]) -> Spec:
    try:
        values = json.loads(said["spec.json"])
        if not isinstance(values, dict):
            raise ModelError(f"{path}: spec.json must be a specification. Received: {type(values).__name__}")
        return from_values(values, said.get("spec.name", "unnamed"))
    except SpecError as error:
        raise ModelError(f"{path}: spec.json must be a specification. Received: {error.problems[0]}") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise ModelError(f"{path}: spec.json must be JSON. Received: {error}") from error


def _strings(path: Path, said: Mapping[str, str], key: str) -> tuple[str, ...]:
    try:
        values = json.loads(said[key])
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ModelError(f"{path}: {key} must be a list of names in JSON. Received: {said[key][:40]!r}")
    return tuple(values)


def recorded_statistics(path: Path, said: Mapping[str, str], spec: Spec) -> Statistics | None:
    """The mean that an ONNX file with this metadata records in ``preprocessing``. Raises ModelError.

    No evaluation needs the covariance of the colours.
    """
    kind, size, channels = spec.data.mean.kind, spec.data.storage.size, spec.input.channels
    key = {"image": "preprocessing.mean_image", "channel": "preprocessing.channel_mean"}.get(kind)
    if key is None or key not in said:
        return None
    try:
        if kind == "image":
            values = np.frombuffer(base64.b64decode(said[key], validate=True), "<f4").reshape(channels, size, size)
        else:
            values = np.array(json.loads(said[key]), np.float64).reshape(channels, 1, 1)
        if not np.isfinite(values).all():
            raise ValueError("numbers that are not finite")
    except (ValueError, TypeError, binascii.Error) as error:
        raise ModelError(f"{path}: {key} must be a mean for {channels} x {size} x {size}. Received: {error}") from error
    image = np.broadcast_to(values.astype(np.float64), (channels, size, size))
    unknown = np.full((channels, channels), np.nan)
    return Statistics(image, image.mean(axis=(1, 2)) if kind == "image" else image[:, 0, 0], unknown, unknown[0],
                      unknown)  # fmt: skip


def recorded_origin(path: Path, said: Mapping[str, str]) -> Progress | None:
    """What the network in an ONNX file with this metadata was trained on. Raises ModelError."""
    if "source.progress" not in said:
        return None
    try:
        return Progress.model_validate_json(said["source.progress"])
    except ValidationError as error:
        what = error.errors()[0]
        received = f"{'.'.join(map(str, what['loc'])) or 'all of it'}: {what['msg']}"
        raise ModelError(f"{path}: source.progress must be a run's progress. Received: {received}") from error


def _foreign(name: str, path: Path, model: onnx.ModelProto, backend: str, device: str, stated: Spec | None) -> Model:
    if backend != ONNX:
        raise ModelError(f"{path}: an ONNX file of another program runs on the backend onnx. Received: {backend}")
    if stated is None:
        raise ModelError(f"{path}: --spec must say how images are prepared for a file that does not say so itself")
    initial = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initial]
    shapes = [[axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in inputs]
    wanted = [stated.input.channels, stated.input.height, stated.input.width]
    free = [[got or w for got, w in zip(shape[1:], wanted)] for shape in shapes]
    if len(inputs) != 1 or len(shapes[0]) != 4 or free[0] != wanted:
        raise ModelError(f"{path}: the file must take images {' x '.join(map(str, wanted))}, as {stated.name} says. "
                         f"Received: inputs of shape {shapes}")  # fmt: skip
    predict, runs_on = _session(path, model, device, batch=shapes[0][0] or None)
    try:
        (answer,) = predict(np.zeros((1, *wanted), np.float32))
    except ModelFailed as error:
        raise ModelError(f"{error}") from error
    return Model(name, stated, (), len(answer), None, predict, runs_on)


def _session(
    path: Path, model: onnx.ModelProto, device: str, batch: int | None
) -> tuple[Callable[[Array], Array], str]:
    """The file run by ONNX Runtime from images to logits, `batch` images at a time if it must be so many."""
    from backends.onnx import session
    from backends.onnx.backend import RUNTIME_ERRORS
    from backends.onnx.graph import LOGITS, PIXELS, network_only

    device = "cpu" if device == "auto" else device
    takes_bytes = any(value.name == PIXELS for value in model.graph.input)
    try:
        made = session(network_only(model) if takes_bytes else path, device=device)
    except RUNTIME_ERRORS as error:
        raise ModelError(
            f"{path}: ONNX Runtime must be able to run the file. Received: {_first_line(error)}"
        ) from error
    (given, *more), outputs = made.get_inputs(), [output.name for output in made.get_outputs()]
    if more or given.type != "tensor(float)":
        raise ModelError(f"{path}: the file must take one float32 tensor. Received: {1 + len(more)}, {given.type}")
    output = LOGITS if LOGITS in outputs else outputs[0]
    # A network that ends in its softmax gives probabilities, the logarithms of which are logits of the same softmax.
    ends_in_softmax = any(node.op_type == "Softmax" and output in node.output for node in model.graph.node)

    def run(images: Array) -> Array:
        try:
            (scores,) = made.run([output], {given.name: np.ascontiguousarray(images, np.float32)})
        except RUNTIME_ERRORS as error:
            raise ModelFailed(f"{path}: {_first_line(error)}") from error
        flat = np.asarray(scores).reshape(len(images), -1)
        return np.log(np.maximum(flat, np.finfo(np.float32).tiny)) if ends_in_softmax else flat

    def in_batches(images: Array) -> Array:
        assert batch is not None
        found = []
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            short = batch - len(part)
            found.append(run(np.concatenate([part, np.zeros((short, *part.shape[1:]), part.dtype)]))[: len(part)])
        return np.concatenate(found)

    return (in_batches if batch else run), f"{ONNX} on {device}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def with_statistics(model: Model, statistics: Statistics) -> Model:
    """`model` with the mean of other training images than its own file records, which has none."""
    return replace(model, statistics=statistics)


__all__ = ["Model", "ModelError", "ModelFailed", "load_model", "with_statistics"]
