"""Checks of files: what an exported network gives and says of itself, and what comes back of weights others keep."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.base import Array, Arrays
from conformance import data_checks, data_oracle, file_answers
from conformance.bounds import MIXED_HALF, Arithmetic
from conformance.comparison import Finding, compare, compare_all
from conformance.data_answers import Stored
from conformance.file_answers import DIGEST, FILES, SAID, WIDE, text
from conformance.foreign import WAYS
from conformance.oracle import Expected, Oracle
from spec import Spec, SpecError, from_values, geometry

if TYPE_CHECKING:
    from conformance.checks import Examination

Findings = Iterator[Finding]
EXPORT, IMPORT = "export", "import"
IMAGES = 3
HELD, PROBABILITIES = "held/", "probabilities"
LARGEST = 2.0**14
"""A quarter of what float16 holds."""
EPS = float(np.finfo(np.float32).eps)


def _answer(backend: Any, name: str) -> Any:
    """What a backend in a worker is asked by, or what answers for one in this process."""
    return getattr(backend, name, None) or partial(getattr(file_answers, name), backend)


# --- export -----------------------------------------------------------------------------------------------------------


def export(e: Examination, backend: Any) -> Findings:
    """Files of a checkpoint: one that takes stored bytes and gives probabilities, one with ONNX's LRN node, one of
    float16. Every layer's output, the parameters in them, and what they say of themselves."""
    given = data_checks.stored(e.spec, IMAGES, e.job.seed)
    ask = _answer(backend, "exported")
    parameters, expected = data_checks.kept(e, "filed", lambda: _on_bytes(e, given))
    found = ask(given, parameters, None, "pixels")
    yield from _filed("pixels", e, found, expected, given, parameters)
    r = e.running  # the kernel of the node sums as it goes
    parameters = {name: np.asarray(value, np.float32) for name, value in r.case.parameters.items()}
    images = np.asarray(r.case.images, np.float32)
    yield from _filed("node", e, ask(given, parameters, images, "node"), r.evaluation.outputs(), given, parameters)
    rounded, images, expected = data_checks.kept(e, "half", lambda: _in_half(e))
    parameters = {name: np.asarray(value, np.float32) for name, value in e.case.parameters.items()}
    yield from _filed("half", e, ask(given, parameters, images, "half"), expected, given, rounded)


def _in_half(e: Examination) -> tuple[Arrays, Array, dict[str, Expected]]:
    """Parameters as float16 holds them, images so loud that squares of activations exceed what it holds, and every
    layer's output: all is float16 but what normalises."""
    rounded = in_half(e.case.parameters)
    (images,) = in_half({"images": loud(e.case.images, e.evaluation.outputs())}).values()
    wide = {name: value.astype(np.float64) for name, value in rounded.items()}
    arithmetic = Arithmetic(MIXED_HALF)
    oracle = Oracle(e.spec, wide, images, None, arithmetic, replicas=e.replicas, seed=e.job.seed)
    return rounded, images, oracle.outputs()


def in_half(arrays: Arrays) -> dict[str, Array]:
    """Each rounded to float16, as float32."""
    return {name: np.asarray(value, np.float16).astype(np.float32) for name, value in arrays.items()}


def loud(images: Array, outputs: Mapping[str, Any]) -> Array:
    """Images times a power of two, so that the largest activation is about a quarter of what float16 holds."""
    largest = max(float(np.abs(getattr(one, "value", one)).max()) for one in (images, *outputs.values()))
    return np.asarray(images * 2.0 ** np.floor(np.log2(LARGEST / largest)), np.float32)


def _on_bytes(e: Examination, given: Stored) -> tuple[Arrays, dict[str, Expected]]:
    """Parameters for numbers of the order of 1, and every layer's output on the central crops of stored images."""
    views = data_checks.views(e.spec, given, "center").value[:, 0].astype(np.float32)
    parameters = data_checks.scaled_for(e.spec, e.case.parameters, views)
    wide = {name: value.astype(np.float64) for name, value in parameters.items()}
    oracle = Oracle(e.spec, wide, views, None, e.arithmetic, replicas=e.replicas, seed=e.job.seed)
    return parameters, oracle.outputs()


def _filed(
    file: str,
    e: Examination,
    found: Mapping[str, Array],
    expected: Mapping[str, Expected],
    given: Stored,
    parameters: Arrays,
) -> Findings:
    of = f"of the file with {file}"
    layers = {name: found[name] for name in found if name in expected}
    yield from compare_all(EXPORT, layers, expected, e.carrier, tensor=f"the output {{}} {of}")
    if FILES[file].get("softmax"):
        logits = list(expected.values())[-1]
        right = _softmax(logits)
        what = f"the probabilities {of}"
        yield compare(EXPORT, what, found.get(PROBABILITIES, np.zeros(0)), right, e.carrier, "vector")
    held = {name: found[f"{HELD}{name}"] for name in parameters if f"{HELD}{name}" in found}
    exact = {name: _exactly(value) for name, value in parameters.items()}
    yield from compare_all(EXPORT, held, exact, e.carrier, tensor=f"the parameter {{}} {of}")
    for name in (layer.name for layer in e.spec.layers if f"{WIDE}{layer.name}" in found):
        what = f"whether {name} {of} is computed in float32"
        yield compare(EXPORT, what, float(found[f"{WIDE}{name}"]), _exactly(1.0), None, "number")
    said: dict[str, str] = json.loads(text(found[SAID]))
    digest = text(found[DIGEST])
    for key, right_said in truths(said, e.spec, given, digest, file).items():
        what = f"whether {key} {of} is said rightly"
        yield compare(EXPORT, what, float(right_said), _exactly(1.0), None, "number")


def _softmax(logits: Expected) -> Expected:
    """A softmax moves by at most twice what its logits do, relative to itself; its own rounding is that of an
    exponential, whose argument may be as large as the spread of the logits, of a sum and of a quotient."""
    value = logits.value
    exact = np.stack([data_oracle.probabilities(row) for row in value])
    moved = 2 * np.broadcast_to(logits.bound, value.shape).max(axis=1, keepdims=True)
    rounded = EPS * (8 + value.shape[1] + np.ptp(value, axis=1, keepdims=True))
    return Expected(exact, exact * np.expm1(moved + rounded) + float(np.finfo(np.float32).tiny))


def truths(said: Mapping[str, str], spec: Spec, given: Stored, digest: str, file: str) -> dict[str, bool]:
    """By key, whether what a file says of itself is true."""
    data, statistics = spec.data, given.statistics
    prepared = data.model_dump(mode="json", include={"storage", "channel_order", "scale", "mean", "std"})
    found = {
        "spec.name": said.get("spec.name") == spec.name,
        "spec.hash": said.get("spec.hash") == spec.hash,
        "spec.json": _hash_of(said.get("spec.json", "")) == spec.hash,
        "classes": _json(said, "classes") == list(given.classes),
        "preprocessing": _json(said, "preprocessing") == prepared,
        "source.sha256": said.get("source.sha256") == digest,
        "lrn": said.get("lrn") == FILES[file].get("lrn", "ops"),
        "precision": said.get("precision") == FILES[file].get("precision", "float32"),
    }
    if data.mean.kind == "channel":
        mean = np.asarray(statistics["channel_mean"], np.float64).tolist()
        found["preprocessing.channel_mean"] = _json(said, "preprocessing.channel_mean") == mean
    if data.mean.kind == "image":
        image = np.asarray(statistics["mean_image"], "<f4").tobytes()
        found["preprocessing.mean_image"] = base64.b64decode(said.get("preprocessing.mean_image", "")) == image
    return found


def _json(said: Mapping[str, str], key: str) -> Any:
    try:
        return json.loads(said[key])
    except (KeyError, ValueError):
        return None


def _hash_of(values: str) -> str | None:
    try:
        return from_values(json.loads(values)).hash
    except (ValueError, SpecError):
        return None


# --- import -----------------------------------------------------------------------------------------------------------


def import_(e: Examination, backend: Any) -> Findings:
    """From every kind of file in which others keep weights, the same bits, and the classes in their order."""
    given = data_checks.stored(e.spec, 1, e.job.seed)
    draw = np.random.default_rng([e.job.seed, 5])
    shapes = geometry(e.spec).parameters
    parameters = {name: draw.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    exact = {name: _exactly(value) for name, value in parameters.items()}
    ask = _answer(backend, "imported")
    for way in WAYS:
        found = dict(ask(given, parameters, way))
        if not found:
            continue
        named = text(found.pop(SAID)) == "\n".join(given.classes)
        yield from compare_all(IMPORT, found, exact, e.carrier, tensor=f"the parameter {{}} from {way}")
        what = f"whether the classes from {way} are those that were stated"
        yield compare(IMPORT, what, float(named), _exactly(1.0), None, "number")


def _exactly(value: Any) -> Expected:
    array = np.asarray(value, np.float64)
    return Expected(array, np.zeros((1,) * array.ndim))
