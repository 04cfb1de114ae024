"""What a backend's process makes of images: what preparation, training, evaluation and prediction call there.

As in ``meaning.py``: a backend that does any of this itself has a method of the same name without the backend as an
argument, which :class:`Asks` gives to one in a worker; for one that has not, ``data`` and ``backends.evaluation`` do it
in its process, by its own ``apply_training`` and ``predict``.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from PIL import Image

from backends import predict
from backends.base import Array, Arrays
from backends.evaluation import images as evaluated_images
from backends.evaluation import models, scoring, summary
from conformance.exchange import read_arrays
from data import augment, batches
from data.dataset import Dataset
from data.images import MODES, read_image
from data.statistics import Statistics, compute_statistics

F = TypeVar("F", bound=Callable[..., Any])

WORKERS = 1
"""Threads that make batches: their number changes no bit, and the tests of ``data`` say so."""


@dataclass(frozen=True)
class Stored:
    """Images as they are stored, uint8 (M, S, S, C), labels int64 (M,), and what is known of training images."""

    images: Array
    labels: Array
    classes: tuple[str, ...]
    statistics: Arrays

    def arrays(self) -> dict[str, Array]:
        return {"images": self.images, "labels": self.labels, **self.statistics}

    @classmethod
    def of(cls, arrays: Mapping[str, Array], classes: Sequence[str]) -> Stored:
        rest = {name: np.array(array) for name, array in arrays.items()}
        return cls(rest.pop("images"), rest.pop("labels"), tuple(classes), rest)

    @property
    def dataset(self) -> Dataset:
        return Dataset(self.images, self.labels, self.classes)

    @property
    def known(self) -> Statistics:
        return Statistics.from_arrays(self.statistics)


def _own(answer: F) -> F:
    """`answer`, asked of the backend itself if it has a method of that name."""

    @wraps(answer)
    def asked(backend: Any, *given: Any, **named: Any) -> Any:
        own = getattr(backend, answer.__name__, None)
        return answer(backend, *given, **named) if own is None else own(*given, **named)

    return cast(F, asked)


@_own
def stored_image(backend: Any, photograph: Array) -> dict[str, Array]:
    """A photograph (height, width, C), from a file, as it is stored; nothing if no photograph has C channels."""
    if photograph.shape[2] not in MODES:
        return {}
    file = io.BytesIO()
    Image.fromarray(np.asarray(photograph).squeeze()).save(file, "PNG")
    spec = backend.spec
    return {"image": read_image(file, spec.data.storage, spec.input.channels)}


@_own
def known_statistics(backend: Any, images: Array) -> dict[str, Array]:
    """The statistics of uint8 (M, S, S, C)."""
    return dict(compute_statistics(np.array(images)).arrays())


@_own
def training_images(
    backend: Any, stored: Stored, seed: int, epoch: int, batch_size: int, on_device: bool
) -> dict[str, Array]:
    """The batches of an epoch behind one another: images as the network gets them, labels, indices.

    on_device: by the routine that is for devices other than the host's, here too; nothing if there is none.
    """
    apply = getattr(backend, "apply_on_device" if on_device else "apply_training", None)
    if apply is None:
        if on_device:
            return {}
        apply = augment.apply_training
    made = batches.training_batches(
        stored.dataset, backend.spec, stored.known, seed=seed, epoch=epoch, batch_size=batch_size, workers=WORKERS,
        apply=apply,
    )  # fmt: skip
    return _joined(made)


@_own
def evaluation_images(backend: Any, stored: Stored, batch_size: int) -> dict[str, Array]:
    """All views (M, V, C, H, W), labels and indices, by the specification's protocol."""
    made = batches.evaluation_batches(
        stored.dataset, backend.spec, stored.known, batch_size=batch_size, workers=WORKERS
    )
    return _joined(made)


def _joined(made: Any) -> dict[str, Array]:
    parts = [(_host(batch.images), batch.labels, batch.indices) for batch in made]
    return dict(zip(("images", "labels", "indices"), map(np.concatenate, zip(*parts, strict=True)), strict=True))


def _host(images: Any) -> Array:
    """Of any framework, a copy in the host's memory."""
    return np.array(images.detach().cpu().numpy() if hasattr(images, "detach") else images)


@_own
def scores(backend: Any, stored: Stored, first: Arrays, second: Arrays, batch_size: int) -> dict[str, dict[str, Array]]:
    """What evaluation says of the network with two sets of parameters, each alone and both together, by protocol:
    ranks, answers and confidences of every image, and top-1 and top-5 error."""
    known = [_model(backend, name, stored, one) for name, one in (("first", first), ("second", second))]
    rule = backend.spec.evaluation
    found = scoring.evaluate(
        known, [stored.dataset] * 2, crops=rule.crops, average=rule.average, batch_size=batch_size, workers=WORKERS
    )
    return {
        f"{outcome.who}, {outcome.crops}": {
            "ranks": outcome.ranks,
            "answers": outcome.answers,
            "confidences": outcome.confidences,
            "errors": np.array([summary.error_of(outcome, best).error for best in (1, 5)]),
        }
        for outcome in found
    }


def _model(backend: Any, name: str, stored: Stored, parameters: Arrays) -> models.Model:
    """The backend with some parameters, as a model that was read from a file."""

    def logits(images: Array) -> Array:
        backend.load(parameters)
        found: Array = backend.predict(images)
        return found

    spec = backend.spec
    count = len(stored.classes)
    return models.Model(name, spec, stored.classes, count, stored.known, logits, f"{backend.dtype}")


@_own
def named_answers(backend: Any, stored: Stored, parameters: Arrays) -> list[tuple[str, float]]:
    """The best classes of the first image with their probabilities, by name, as prediction prints them."""
    model = _model(backend, "model", stored, parameters)
    answers = predict.best_answers(model, stored.images[0], backend.spec.evaluation.crops)
    return [(answer.name, answer.probability) for answer in answers]


@_own
def refuses(backend: Any, stored: Stored, classes: Sequence[str]) -> bool:
    """Whether a model with the classes of `stored` is not tried on data with `classes`."""
    try:
        evaluated_images.require_classes(_model(backend, "model", stored, {}), tuple(classes))
    except models.ModelError:
        return True
    return False


Request = dict[str, Any]


class Answers(ABC):
    """The requests of a worker for these, as lines of JSON and files."""

    backend: Any

    @abstractmethod
    def _written(self, request: Request, arrays: dict[str, Array]) -> Request:
        """Write arrays where the request says. Returns the answer that names them."""

    def stored_image(self, request: Request) -> Request:
        return self._written(request, stored_image(self.backend, _read(request, "inputs")["photograph"]))

    def known_statistics(self, request: Request) -> Request:
        return self._written(request, known_statistics(self.backend, _read(request, "inputs")["images"]))

    def training_images(self, request: Request) -> Request:
        asked = {name: request[name] for name in ("seed", "epoch", "batch_size", "on_device")}
        return self._written(request, training_images(self.backend, _stored(request), **asked))

    def evaluation_images(self, request: Request) -> Request:
        return self._written(request, evaluation_images(self.backend, _stored(request), request["batch_size"]))

    def scores(self, request: Request) -> Request:
        first, second = _read(request, "first"), _read(request, "second")
        found = scores(self.backend, _stored(request), first, second, request["batch_size"])
        return self._written(
            request, {f"{who}: {what}": array for who, one in found.items() for what, array in one.items()}
        )

    def named_answers(self, request: Request) -> Request:
        found = named_answers(self.backend, _stored(request), _read(request, "first"))
        return {"answers": [(name, probability.hex()) for name, probability in found]}

    def refuses(self, request: Request) -> Request:
        return {"refused": bool(refuses(self.backend, _stored(request), request["others"]))}


def _read(request: Request, what: str) -> dict[str, Array]:
    folder, names = request[what]
    return read_arrays(Path(folder), names)


def _stored(request: Request) -> Stored:
    return Stored.of(_read(request, "stored"), request["classes"])


class Asks(ABC):
    """The same, asked of a worker."""

    @abstractmethod
    def _ask(self, do: str, what: str, arrays: Any = None, **request: Any) -> Request:
        """The answer to a request; `what` says in words what is being done."""

    @abstractmethod
    def _fetch(self, do: str, what: str, arrays: Any = None, **request: Any) -> dict[str, Array]:
        """The arrays of the answer to a request."""

    def stored_image(self, photograph: Array) -> dict[str, Array]:
        return self._fetch("stored_image", "storing a photograph for", {"inputs": {"photograph": photograph}})

    def known_statistics(self, images: Array) -> dict[str, Array]:
        return self._fetch("known_statistics", "taking the statistics of images for", {"inputs": {"images": images}})

    def training_images(
        self, stored: Stored, seed: int, epoch: int, batch_size: int, on_device: bool
    ) -> dict[str, Array]:
        asked = {"seed": seed, "epoch": epoch, "batch_size": batch_size, "on_device": on_device}
        arrays, classes = _given(stored)
        return self._fetch("training_images", "making training images for", arrays, **classes, **asked)

    def evaluation_images(self, stored: Stored, batch_size: int) -> dict[str, Array]:
        arrays, classes = _given(stored)
        return self._fetch("evaluation_images", "making views for", arrays, **classes, batch_size=batch_size)

    def scores(self, stored: Stored, first: Arrays, second: Arrays, batch_size: int) -> dict[str, dict[str, Array]]:
        arrays, classes = _given(stored)
        given = {**arrays, "first": first, "second": second}
        answer = self._fetch("scores", "evaluating", given, **classes, batch_size=batch_size)
        found: dict[str, dict[str, Array]] = {}
        for name, array in answer.items():
            who, _, what = name.partition(": ")
            found.setdefault(who, {})[what] = array
        return found

    def named_answers(self, stored: Stored, parameters: Arrays) -> list[tuple[str, float]]:
        arrays, classes = _given(stored)
        answer = self._ask("named_answers", "predicting with", {**arrays, "first": parameters}, **classes)
        return [(name, float.fromhex(probability)) for name, probability in answer["answers"]]

    def refuses(self, stored: Stored, classes: Sequence[str]) -> bool:
        arrays, own = _given(stored)
        return bool(self._ask("refuses", "offering other classes to", arrays, **own, others=list(classes))["refused"])


def _given(stored: Stored) -> tuple[dict[str, Arrays], dict[str, Any]]:
    return {"stored": stored.arrays()}, {"classes": list(stored.classes)}
