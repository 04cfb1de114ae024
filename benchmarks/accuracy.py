"""On which images engines are compared with a reference, and what their answers are worth beside it.

The images are those of validation of the data set that a file says it was trained on, where that is at hand without a
network; else noise, on which a best class means little but a wrong logit still shows. The reference is the float64
oracle with the file's parameters, or, for a file that has rounded them, the float32 file of the same network that is
measured in the same run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from backends import create
from backends.base import Array
from backends.evaluation.models import recorded_origin, recorded_statistics
from benchmarks.engines.base import EngineError, Subject, specified
from benchmarks.results import Accuracy
from data import DataError, evaluation_batch, open_source
from spec import Spec, geometry

MOST = 1000
"""Images; with so many a share of 1 percent is known to 0.3 (one standard error)."""
FEWEST = 8
ORACLE_MACS = 2e10
"""Multiplications that the oracle is asked for, all images together: some twenty seconds on one core."""
BYTES = 1 << 28
"""All images together."""


@dataclass(frozen=True, eq=False)
class Checked:
    """What the engines of a model answer before they are measured."""

    images: Array
    """(N, C, H, W), or (N, H, W, C) bytes, as the file takes them."""
    plain: Array
    """The same as float32 (N, C, H, W): what the network itself takes."""
    labels: Array | None
    words: str
    """Which images they are."""
    reference: str | None = None
    expected: Array | None = None
    """Logits (N, classes)."""


def noise(shape: tuple[int, ...], batch: int, dtype: str = "float32") -> Array:
    """Normal numbers (batch, *shape), or bytes for uint8: 16 different images, again and again."""
    random, size = np.random.default_rng(0), (min(batch, 16), *shape)
    if dtype == "uint8":
        different = random.integers(0, 256, size, np.uint8)
    else:
        different = cast(random.standard_normal(size).astype(np.float32), dtype)
    return np.ascontiguousarray(np.resize(different, (batch, *shape)))


def cast(images: Array, dtype: str) -> Array:
    """`images` in a type by name, which may be bfloat16."""
    if dtype == "bfloat16":
        import ml_dtypes

        return images.astype(ml_dtypes.bfloat16)
    return images.astype(dtype)


def checked(subject: Subject, model: onnx.ModelProto) -> Checked:
    """The images for `subject`, and the oracle's answers where it can be asked. Raises SpecError."""
    stated = subject.spec
    macs = geometry(stated).macs if stated else 1
    affordable = int(min(MOST, max(FEWEST, ORACLE_MACS / max(macs, 1)), BYTES / (4 * np.prod(subject.input_shape))))
    found = None if stated is None else _validation(subject, stated, affordable)
    if found is None:
        count = min(affordable, 16)
        images = noise(subject.input_shape, count, subject.dtype)
        found = Checked(images, images.astype(np.float32), None, f"noise, {count} images")
    if stated is None or subject.precision not in ("float32", "float16", "bfloat16"):
        return found
    if subject.pixels and found.labels is None:
        return found  # bytes of noise: nothing but the file knows what the network sees of them
    try:
        _, parameters = specified(subject, model)
    except EngineError:
        return found
    oracle = create("numpy", stated, dtype="float64")
    oracle.load(parameters)
    step = max(1, (1 << 24) // found.plain[:1].size)
    parts = [oracle.predict(found.plain[i : i + step]) for i in range(0, len(found.plain), step)]
    return Checked(found.images, found.plain, found.labels, found.words, "oracle", np.concatenate(parts))


def _validation(subject: Subject, stated: Spec, most: int) -> Checked | None:
    """Validation images as the file and as the network take them; None where the file or this machine has them not."""
    origin = recorded_origin(subject.path, subject.metadata)
    if origin is None:
        return None
    try:
        splits = open_source(
            origin.source, storage=stated.data.storage, channels=stated.input.channels, seed=origin.seed
        )
        chosen = np.linspace(0, len(splits.validation) - 1, min(most, len(splits.validation))).astype(np.int64)
        stored = np.stack([np.asarray(splits.validation.images[int(i)]) for i in chosen])
        statistics = recorded_statistics(subject.path, subject.metadata, stated)
        seen = evaluation_batch(stored, data=stated.data, input=stated.input, statistics=statistics)
    except (DataError, OSError):
        return None
    plain = np.ascontiguousarray(seen[:, 0])
    images = stored if subject.pixels else cast(plain, subject.dtype)
    words = f"{len(chosen)} validation images of {origin.source}"
    return Checked(images, plain, splits.validation.labels[chosen], words)


def accuracy(logits: Array, images: Checked) -> Accuracy:
    """What `logits` (N, classes) of an engine are worth. Numbers that are not finite count as an infinite error."""
    best = logits.argmax(axis=1)
    expected = images.expected
    error = None
    if expected is not None:
        error = float(np.abs(logits - expected).max() / np.abs(expected).max())
        if not np.isfinite(error):
            error = float(np.finfo(np.float64).max)
    right = None if images.labels is None else float((best == images.labels).mean())
    reference_right = None
    if expected is not None and images.labels is not None:
        reference_right = float((expected.argmax(axis=1) == images.labels).mean())
    return Accuracy(
        images=len(logits),
        reference=images.reference if expected is not None else None,
        logit_error=error,
        top1_changed=None if expected is None else float((best != expected.argmax(axis=1)).mean()),
        top1=right,
        reference_top1=reference_right,
    )
