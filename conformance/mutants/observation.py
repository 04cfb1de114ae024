"""What can be seen of a backend on a witness, check by check, and how far two observations are apart."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from backends.base import Array
from conformance import data_answers
from conformance.data_checks import (
    IMAGES,
    PHOTOGRAPHS,
    drawn_photograph,
    epochs,
    scaled_for,
    stored,
    tied_parameters,
    views,
)
from conformance.data_oracle import probabilities
from conformance.file_answers import DIGEST, FILES, SAID, WIDE, exported, imported, text
from conformance.file_checks import truths
from conformance.foreign import WAYS, write
from conformance.mutants.mutant import CHECKS
from conformance.mutants.witnesses import BATCH, Inputs
from spec import Place, draws, initial_parameters, settings

Arrays = dict[str, Array]
STEPS = 4
"""Of a training run: one for each epoch of a witness, so that its schedule turns on the way."""
_STEPS_PER_EPOCH = 3


def _evaluation_outputs(backend: Any, given: Inputs) -> Arrays:
    return dict(backend.outputs(given.images))


def _prediction(backend: Any, given: Inputs) -> Arrays:
    return {"predict": backend.predict(given.images)}


def _training_outputs(backend: Any, given: Inputs) -> Arrays:
    return dict(backend.outputs(given.images, given.masks))


def _gradients(backend: Any, given: Inputs, masks: Any) -> Arrays:
    found = backend.gradients(given.images, given.cotangent, masks)
    return {**found.parameters, "input": found.input, "logits": found.logits}


def _loss(backend: Any, given: Inputs) -> Arrays:
    return {"loss": np.asarray(backend.loss(given.images, given.labels))}


def _training_steps(backend: Any, given: Inputs) -> Arrays:
    """Parameters, velocities and metrics after every step, from velocities that are not zero."""
    backend.load(given.parameters, given.velocities)
    found: Arrays = {}
    for step in range(STEPS):
        place = Place(step, step * _STEPS_PER_EPOCH, _STEPS_PER_EPOCH, given.spec.training.epochs)
        backend.step(given.images, given.labels, settings(given.spec, place), given.masks)
        metrics = backend.metrics()
        after = f"after step {step + 1}"
        found |= {f"parameter {name} {after}": array for name, array in backend.parameters().items()}
        found |= {f"velocity {name} {after}": array for name, array in backend.velocities().items()}
        found[f"loss {after}"] = np.asarray(metrics.loss)
        found[f"hits {after}"] = np.asarray([metrics.images, metrics.correct1, metrics.correct5], np.float64)
    return found


def _initialisation(backend: Any, given: Inputs) -> Arrays:
    return dict(initial_parameters(given.spec, seed=5))


def _draws(backend: Any, given: Inputs) -> Arrays:
    """Masks of two layers in two epochs for a few images, and the order of two epochs."""
    images = np.array([0, 7, 8])
    found: Arrays = {}
    for epoch in (0, 3):
        for layer in ("drop6", "drop7"):
            mask = draws.dropout_mask(5, layer, 0.3, (4, 5), images=images, epoch=epoch)
            found[f"mask of {layer} in epoch {epoch}"] = mask
        found[f"order of epoch {epoch}"] = draws.permutation(5, draws.Purpose.SHUFFLE, 11, epoch=epoch)
    return found


PLATEAU = (0.9, 0.8905, 0.8905, 0.8, 0.7995, 0.8, 0.7, 0.7, 0.7, 0.69, 0.6899)
"""Validation errors with an improvement of more than a hundredth of itself but less than 0.01, steps too small to
count, and more plateaus than a schedule has drops."""


def _schedule(backend: Any, given: Inputs) -> Arrays:
    """Rate and decay of every parameter at every step of a run whose validation errors are :data:`PLATEAU`."""
    rows = []
    for epoch in range(given.spec.training.epochs):
        for step in range(_STEPS_PER_EPOCH):
            place = Place(epoch, epoch * _STEPS_PER_EPOCH + step, _STEPS_PER_EPOCH, given.spec.training.epochs)
            chosen = settings(given.spec, place, PLATEAU[:epoch]).values()
            rows.append([value for one in chosen for value in (one.learning_rate, one.weight_decay)])
    return {"settings": np.array(rows)}


def _stored_images(backend: Any, given: Inputs) -> Arrays:
    found = data_answers.known_statistics(backend, stored(given.spec, IMAGES).images)
    for sides in PHOTOGRAPHS:
        photograph = drawn_photograph(given.spec, sides, seed=5)
        found |= {f"photograph {sides}": data_answers.stored_image(backend, photograph)["image"]}
    return found


def _training_images(backend: Any, given: Inputs) -> Arrays:
    """On the host, and by the routine for devices of a backend that has one."""
    found: Arrays = {}
    for epoch in epochs(given.spec):
        for on_device in (False, True):
            asked = stored(given.spec, IMAGES), 5, epoch, BATCH
            made = data_answers.training_images(backend, *asked, on_device) or data_answers.training_images(
                backend, *asked, False
            )
            found |= {f"{what} of epoch {epoch}, on a device: {on_device}": array for what, array in made.items()}
    return found


def _evaluation_images(backend: Any, given: Inputs) -> Arrays:
    return dict(data_answers.evaluation_images(backend, stored(given.spec, IMAGES), BATCH))


def _scores(backend: Any, given: Inputs) -> Arrays:
    """Of the witness's parameters and of those with which many logits tie; names as numbers."""
    images, spec, seen = stored(given.spec, IMAGES), given.spec, dict[str, Array]()
    pixel = {name: value / np.float32(100 * spec.data.scale) for name, value in given.parameters.items()}
    (tied, _), (other, _) = tied_parameters(spec, given.parameters) or ((pixel, None), (pixel, None))
    for first, second in ((pixel, {n: v[::-1] for n, v in pixel.items()}), (tied, other)):
        found = data_answers.scores(backend, images, first, second, 11)
        seen |= {f"{len(seen)} {who} {what}": array for who, one in found.items() for what, array in one.items()}
    best = data_answers.named_answers(backend, images, pixel)
    seen["best"] = np.array([images.classes.index(name) for name, _ in best], np.float64)
    others = sorted(images.classes), images.classes
    seen["refused"] = np.array([data_answers.refuses(backend, images, one) for one in others], np.float64)
    return seen


PIECES = 2
"""In which a witness's three images are taken: one piece has two of them."""


def _accumulation(backend: Any, given: Inputs) -> Arrays:
    """Training where every batch is taken in pieces; by the oracle at once."""
    if backend.name != "numpy":
        backend.accumulate(PIECES)
    return _training_steps(backend, given)


def _device_draws(backend: Any, given: Inputs) -> Arrays:
    """Masks as the device works them out; the oracle's are the definition's."""
    draw = backend.dropout_masks if backend.name == "numpy" else backend.device_masks
    found: Arrays = {}
    for epoch in (0, 3):
        masks = draw(2**32 - 1, np.array([0, 7, 2**31 + 5]), epoch)
        found |= {f"mask of {name} in epoch {epoch}": np.asarray(mask) for name, mask in masks.items()}
    return found


def _export(backend: Any, given: Inputs) -> Arrays:
    """Outputs of both kinds of files and the truth of what they say; by the oracle those of the network."""
    images, found = stored(given.spec, BATCH), dict[str, Array]()
    crops = views(given.spec, images, "center").value[:, 0].astype(np.float32)
    for file in FILES:
        narrow = FILES[file].get("precision", "float32") != "float32"
        on_bytes = file == "pixels"
        x, parameters = (crops, scaled_for(given.spec, given.parameters, crops)) if on_bytes else (
            given.images, given.parameters)  # fmt: skip
        if backend.name == "numpy":
            backend.load(parameters)
            outputs = backend.outputs(x)
            logits = list(outputs.values())[-1]
            more = {"probabilities": np.stack([probabilities(row) for row in logits])} if on_bytes else {}
            true: dict[str, Any] = dict.fromkeys(truths({}, given.spec, images, "", file), True)
        else:
            outputs = exported(backend, images, parameters, None if on_bytes else x, file)
            said = json.loads(text(outputs[SAID]))
            true = truths(said, given.spec, images, text(outputs[DIGEST]), file)
            more = {}
        wide = {layer.name: np.ones(()) for layer in given.spec.layers if layer.op in ("lrn", "spatial_norm")}
        if narrow:  # its few digits are further from the oracle than an unchanged backend may be
            kept = {name: outputs.get(f"{WIDE}{name}", one) for name, one in wide.items()}
        else:
            kept = {name: array for name, array in outputs.items() if name not in (SAID, DIGEST) and "/" not in name}
        kept |= more | {f"truth of {key}": np.asarray(float(one)) for key, one in true.items()}
        found |= {f"{file}: {name}": array for name, array in kept.items()}
    return found


def _import(backend: Any, given: Inputs) -> Arrays:
    """What comes back from every kind of file; by the oracle what went in."""
    images, found = stored(given.spec, 1), dict[str, Array]()
    for way in WAYS:
        back = dict(imported(backend, images, given.parameters, way)) if backend.name == "onnx" else None
        if back is None:
            with TemporaryDirectory() as folder:
                kept = write(way, given.spec, given.parameters, Path(folder)) is not None
            back = (
                {**given.parameters, SAID: np.frombuffer("\n".join(images.classes).encode(), np.uint8)} if kept else {}
            )
        found |= {f"{way}: {name}": array for name, array in back.items()}
    return found


_OBSERVE: dict[str, Callable[[Any, Inputs], Arrays]] = {
    "evaluation-outputs": _evaluation_outputs,
    "prediction": _prediction,
    "training-outputs": _training_outputs,
    "evaluation-gradients": lambda backend, given: _gradients(backend, given, None),
    "training-gradients": lambda backend, given: _gradients(backend, given, given.masks),
    "loss": _loss,
    "training-steps": _training_steps,
    "initialisation": _initialisation,
    "draws": _draws,
    "schedule": _schedule,
    "stored-images": _stored_images,
    "training-images": _training_images,
    "evaluation-images": _evaluation_images,
    "scores": _scores,
    "accumulation": _accumulation,
    "device-draws": _device_draws,
    "export": _export,
    "import": _import,
}
assert tuple(_OBSERVE) == CHECKS
WITHOUT_BACKEND = ("initialisation", "draws", "schedule")
"""Checks of what the specification means, for which no backend is asked."""


def observe(check: str, backend: Any, given: Inputs) -> Arrays:
    """What `check` looks at, by name. The backend starts from the witness's parameters."""
    if check not in WITHOUT_BACKEND:
        backend.load(given.parameters)
    return _OBSERVE[check](backend, given)


def distance(found: Arrays, expected: Arrays) -> tuple[float, str]:
    """The largest difference of any array, relative to the largest number in the expected one, and which array it is.

    Infinite if a name, a shape or finiteness differs.
    """
    worst, where = 0.0, ""
    if found.keys() != expected.keys():
        return math.inf, f"names: {sorted(found.keys() ^ expected.keys())}"
    for name, right in expected.items():
        got = np.asarray(found[name], np.float64)
        if got.shape != np.shape(right) or not np.isfinite(got).all():
            return math.inf, name
        right = np.asarray(right, np.float64)
        gap = float(np.abs(got - right).max(initial=0.0)) / (float(np.abs(right).max(initial=0.0)) or 1.0)
        if gap > worst:
            worst, where = gap, name
    return worst, where
