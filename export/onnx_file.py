"""From a source to a verified ONNX file: built, written beside its place, verified there, and only then moved to it."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from backends.onnx import build
from backends.onnx.graph import LrnLowering, describe
from export import exporters, framework
from export.ends import add_pixels, add_softmax
from export.reference import predictions
from export.source import Request, Source, trials
from export.verify import Agreement, verify

LICENCE = "Apache-2.0 for the graph; the weights are under the terms of whoever trained them"


@dataclass(frozen=True)
class Exported:
    """A file that was kept."""

    path: Path
    bytes: int
    agreement: Agreement


def export(
    request: Request,
    source: Source,
    output: Path,
    *,
    lrn: LrnLowering = "ops",
    outputs: Iterable[str] = (),
    pixels: bool = False,
    softmax: bool = False,
    by_framework: bool = False,
) -> Exported:
    """Write `source`, which `request` names, to `output` as ONNX, in place of what is there.

    lrn, outputs, pixels, softmax, by_framework: see :func:`assemble`. Whatever fails, what was at `output` stays as it
    was. Raises VerificationError, BackendFailed, what assemble raises, and OSError.
    """
    model = assemble(request, source, lrn=lrn, outputs=outputs, pixels=pixels, softmax=softmax,
                     by_framework=by_framework)  # fmt: skip
    tried = trials(source)
    answers = predictions(request, tried)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.stem}.{uuid.uuid4().hex[:8]}.partial.onnx")
    try:
        onnx.save(model, partial)
        agreement = verify(partial, source, tried, answers, by_name=not by_framework)
        size = partial.stat().st_size
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
    return Exported(output, size, agreement)


def assemble(
    request: Request,
    source: Source,
    *,
    lrn: LrnLowering = "ops",
    outputs: Iterable[str] = (),
    pixels: bool = False,
    softmax: bool = False,
    by_framework: bool = False,
) -> onnx.ModelProto:
    """The file, before anything has tried it.

    lrn, outputs: as of :func:`backends.onnx.build`. pixels, softmax: see :mod:`export.ends`. by_framework: the network
    as the exporter of the request's backend writes it; lrn is then the exporter's choice. Raises ValueError and
    Unsupported as build, DataError as :func:`export.ends.add_pixels`, ExporterFailed.
    """
    stated = metadata(request, source)
    if by_framework:
        model = framework.exported(request.backend, source.spec, source.parameters, outputs)
        describe(model, source.spec, {**stated, "exporter": exporters.described(request.backend)})
    else:
        model = build(source.spec, source.parameters, lrn=lrn, outputs=outputs, metadata=stated)
    if softmax:
        add_softmax(model)
    if pixels:
        add_pixels(model, source.spec, source.statistics)
    return model


def metadata(request: Request, source: Source) -> dict[str, str]:
    """What a file says of itself beside its specification: every value is text, structured ones are JSON.

    ``preprocessing`` describes x = (scale * pixel - mean) / std on bytes 0 to 255, in the order of channels and in the
    storage that it states; a mean image is in ``preprocessing.mean_image``, base64 of float32 (C, S, S), red first,
    little-endian, in the units of bytes, and is cut as ``mean.align`` says.
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
