"""From a source to a verified ONNX file: built, written beside its place, verified there, and only then moved to it."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from backends.base import Array, Arrays
from backends.onnx import build, parameters_of, tensor_names
from backends.onnx.graph import LrnLowering, Precision, describe, network_only
from backends.onnx.int8 import points, quantise
from data import Dataset
from export import exporters, framework
from export.accuracy import Cost, cost
from export.calibration import COMPARED, Data, prepared, ranges, spread
from export.ends import add_pixels, add_softmax
from export.reference import predictions
from export.source import Request, Source, Trial, trials
from export.verify import Agreement, verify

LICENCE = "Apache-2.0 for the graph; the weights are under the terms of whoever trained them"

Ask = Callable[[Request, Sequence[Trial], Arrays | None], list[dict[int, Array]]]


@dataclass(frozen=True)
class Form:
    """What an exported file is to be like."""

    lrn: LrnLowering = "ops"
    """As of :func:`backends.onnx.build`."""
    outputs: Sequence[str] = ()
    """Likewise: layers whose outputs it gives beside the logits."""
    pixels: bool = False
    """Whether it takes stored bytes, and prepares them itself: :mod:`export.ends`."""
    softmax: bool = False
    """Whether it gives probabilities beside the logits."""
    by_framework: bool = False
    """Whether the exporter of the request's backend writes the network. `lrn` is then the exporter's choice, and
    `precision` float32."""
    precision: Precision = "float32"
    data: Data | None = None
    """What calibrates int8 (:func:`export.calibration.data_for`); nothing else needs it."""


@dataclass(frozen=True)
class Exported:
    """A file that was kept."""

    path: Path
    bytes: int
    opset: int
    ir_version: int
    agreement: Agreement
    calibration: str | None = None
    """Of integers, the images that set the ranges, for people."""
    cost: Cost | None = None
    """Of integers, what they cost in accuracy, where images were held out."""


def export(request: Request, source: Source, output: Path, form: Form = Form(), *, ask: Ask | None = None) -> Exported:
    """Write `source`, which `request` names, to `output` as ONNX, in place of what is there.

    ask: what has the backend answer, :func:`export.reference.predictions` unless stated. Whatever fails, what was at
    `output` stays as it was. Raises VerificationError, BackendFailed, what :func:`assemble` raises, and OSError.
    """
    precision, data = form.precision, form.data
    seen = source if data is None else replace(source, statistics=data.statistics)
    source = seen if data is not None and data.held_out is not None else source
    model = assemble(request, source, form)
    lost = _cost(model, seen, data.held_out) if data is not None and data.held_out is not None else None
    tried = trials(seen, precision, data.pictures if data else None)
    answers = (ask or predictions)(
        request, tried, None if precision == "float32" else parameters_of(model, source.spec)
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.stem}.{uuid.uuid4().hex[:8]}.partial.onnx")
    try:
        onnx.save(model, partial)
        agreement = verify(partial, source, tried, answers, not form.by_framework, precision)
        size = partial.stat().st_size
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    return Exported(output, size, opset, model.ir_version, agreement, data.origin if data else None, lost)


def _cost(model: onnx.ModelProto, source: Source, images: Dataset) -> Cost:
    """What the integers of `model` cost on `images`; it is told so."""
    wide = build(source.spec, source.parameters)
    made = cost(wide, network_only(model), source, images, spread(len(images), COMPARED))
    said = {entry.key: entry.value for entry in model.metadata_props}
    helper.set_model_props(model, {**said, "cost": made.json()})
    return made


def assemble(request: Request, source: Source, form: Form = Form()) -> onnx.ModelProto:
    """The file, before anything has tried it.

    Raises ValueError and Unsupported as :func:`backends.onnx.build`, DataError as :func:`export.ends.add_pixels`,
    ExporterFailed.
    """
    stated = metadata(request, source)
    if form.precision == "int8":
        model = _integers(source, form, stated)
    elif form.by_framework:
        model = framework.exported(request.backend, source.spec, source.parameters, list(form.outputs))
        describe(model, source.spec, {**stated, "exporter": exporters.described(request.backend)})
    else:
        model = build(source.spec, source.parameters, lrn=form.lrn, outputs=form.outputs, metadata=stated,
                      precision=form.precision)  # fmt: skip
    if form.softmax:
        add_softmax(model)
    if form.pixels:
        add_pixels(model, source.spec, source.statistics)
    return model


def _integers(source: Source, form: Form, stated: dict[str, str]) -> onnx.ModelProto:
    """The network of integers, calibrated with the data of `form`."""
    if form.data is None:
        raise ValueError("int8 must be calibrated with data. Received: none")
    outputs, stated = list(form.outputs), {**stated, "calibration": form.data.origin}
    needed = [name for name, point in points(source.spec, outputs).items() if point.copied is None]
    layers = {tensor: layer for layer, tensor in tensor_names(source.spec).items()}
    seen = build(source.spec, source.parameters, outputs=[layers[name] for name in needed if name in layers])
    found = ranges(seen, needed, prepared(source, form.data))
    wide = build(source.spec, source.parameters, lrn=form.lrn, outputs=outputs, metadata=stated,
                 channels_last=form.lrn == "ops")  # fmt: skip
    return quantise(wide, source.spec, found, outputs)


def metadata(request: Request, source: Source) -> dict[str, str]:
    """What a file says of itself beside its specification: every value is text, structured ones are JSON.

    ``preprocessing`` describes x = (scale * pixel - mean) / std on bytes 0 to 255, in the order of channels and in the
    storage that it states; a mean image is in ``preprocessing.mean_image``, base64 of float32 (C, S, S), red first,
    little-endian, in the units of bytes, and is cut as ``mean.align`` says. Of a network of integers, ``calibration``
    says what images set its ranges, and ``cost`` what it costs in accuracy (:class:`export.accuracy.Cost`).
    """
    data = source.spec.data
    preprocessing = data.model_dump(mode="json", include={"storage", "channel_order", "scale", "mean", "std"})
    stated = {
        "source": source.origin,
        "source.backend": request.backend,
        "licence": LICENCE,
        "preprocessing": json.dumps(preprocessing),
    }
    if request.checkpoint is not None:
        with request.checkpoint.open("rb") as file:
            stated["source.sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    if source.progress is not None:
        stated["source.progress"] = source.progress.model_dump_json()
    if source.classes:
        stated["classes"] = json.dumps(source.classes)
    if source.statistics is not None:
        if data.mean.kind == "channel":
            stated["preprocessing.channel_mean"] = json.dumps(source.statistics.channel_mean.tolist())
        if data.mean.kind == "image":
            image = np.ascontiguousarray(source.statistics.mean_image, "<f4")
            stated["preprocessing.mean_image"] = base64.b64encode(image.tobytes()).decode()
    return stated
