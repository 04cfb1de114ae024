"""Checks of what must be equal bit for bit: initial parameters, draws, and the settings of every step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.base import Array
from conformance import meaning
from conformance.comparison import Finding, compare, compare_all
from conformance.oracle import Expected
from spec import Place, Spec

if TYPE_CHECKING:
    from conformance.checks import Examination

IMAGES, EPOCHS, ORDERED = (0, 7, 8), (0, 3), 11
"""Images and epochs whose masks are compared, and how many images are put in order."""
ON_DEVICES = ((0, (0, 7, 8)), (2**32 - 1, (2**31 + 5, 2**32 - 1)))
"""Seeds and images whose masks are compared where a device draws them: words of 32 bits that a sign would spoil."""
ERRORS = (0.9, 0.8905, 0.8905, 0.8, 0.7995, 0.78995, 0.79, 0.79, 0.7, 0.69995, 0.69, 0.68, 0.68, 0.68, 0.68, 0.68)
"""Validation errors: an improvement of more than a hundredth of itself but less than 0.01, one of hardly more than
0.01, steps too small to count, more plateaus than a schedule has drops; the last goes on for ever."""
STEPS_PER_EPOCH = (3, 5005)
"""Of few images, and of ImageNet in batches of 256: schedules in steps turn within one or the other."""
MOST_EPOCHS = 100


class _Here:
    """What the judging process takes the specification to mean."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec


def _exactly(arrays: Mapping[str, Array]) -> dict[str, Expected]:
    return {name: Expected(np.asarray(array), np.zeros((1,) * np.ndim(array))) for name, array in arrays.items()}


def initialisation(e: Examination, backend: Any) -> Iterator[Finding]:
    """Where training starts, in float32 whatever the backend computes in."""
    expected = _exactly(meaning.initial_parameters(_Here(e.spec), e.job.seed))
    found = meaning.initial_parameters(backend, e.job.seed)
    yield from compare_all("initialisation", found, expected, "float32", tensor="the initial {}")


def draws(e: Examination, backend: Any) -> Iterator[Finding]:
    """The masks of every dropout layer for some images in two epochs, and the order of these epochs."""
    here, seed = _Here(e.spec), e.job.seed
    for epoch in EPOCHS:
        found = meaning.dropout_masks(backend, seed, IMAGES, epoch)
        expected = _exactly(meaning.dropout_masks(here, seed, IMAGES, epoch))
        tensor = f"the mask of {{}} in epoch {epoch}"
        yield from compare_all("draws", found, expected, "bool", tensor=tensor)
        ordered = meaning.order(backend, seed, ORDERED, epoch)
        right = _exactly({"order": meaning.order(here, seed, ORDERED, epoch)})["order"]
        yield compare("draws", f"the order of epoch {epoch}", ordered, right, "int64", "place")


def device_draws(e: Examination, backend: Any) -> Iterator[Finding]:
    """The masks of every dropout layer as the device works them out, whatever the device."""
    for seed, images in ON_DEVICES:
        for epoch in EPOCHS:
            found = backend.device_masks(seed, images, epoch)
            expected = _exactly(meaning.dropout_masks(_Here(e.spec), seed, images, epoch))
            tensor = f"the device's mask of {{}} with seed {seed} in epoch {epoch}"
            yield from compare_all("device-draws", found, expected, "bool", tensor=tensor)


def places(spec: Spec) -> tuple[list[Place], list[float]]:
    """Where in a run settings are compared, and the validation errors of all its epochs."""
    epochs = min(spec.training.epochs, MOST_EPOCHS)
    errors = [*ERRORS, *[ERRORS[-1]] * epochs][:epochs]
    found = [
        Place(epoch, epoch * steps + step, steps, spec.training.epochs)
        for steps in STEPS_PER_EPOCH
        for epoch in range(epochs)
        for step in (0, 1, steps - 1)
    ]
    return found, errors


def schedule(e: Examination, backend: Any) -> Iterator[Finding]:
    """Learning rate and decay of every parameter at the first, second and last step of every epoch."""
    where, errors = places(e.spec)
    expected, found = (meaning.schedule(one, where, errors) for one in (_Here(e.spec), backend))
    whats = {"the learning rate": "learning_rate", "the weight decay": "weight_decay"}
    for what, attribute in whats.items():
        yield from compare_all(
            "schedule",
            _courses(found, attribute),
            _exactly(_courses(expected, attribute)),
            "float64",
            tensor=f"{what} of {{}}",
            kind="step",
        )


def _courses(settings: meaning.Schedule, attribute: str) -> dict[str, Array]:
    """By parameter its values, step by step; none if a step lacks some of them."""
    names = settings[0] if settings else {}
    shared = [name for name in names if all(name in at for at in settings)]
    return {name: np.array([getattr(at[name], attribute) for at in settings]) for name in shared}
