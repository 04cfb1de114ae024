"""The images that models are tried on, stored as each of them wants them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backends.checkpoint import IMPORTED
from backends.evaluation.models import Model, ModelError, with_statistics
from backends.reporting import Reporter
from backends.starting import fingerprint_of
from data import Dataset, Splits, Statistics, dataset_statistics, open_source
from data.dataset import Shards
from spec.language import Storage

SPLITS = ("validation", "train", "all")
_NAMES_SHOWN = 3


def images_for(
    models: Sequence[Model], source: str | None, split: str, reporter: Reporter
) -> tuple[str, tuple[Model, ...], tuple[Dataset, ...]]:
    """(source, models, a data set for each) for what ``--data`` and ``--split`` say.

    source: what the first model was trained on, unless stated. A model without the mean that it needs gets that of the
    training images there. Says what the images are, and what is to be known of them beside the models. Raises
    ModelError, one line, if classes and models do not go together or the source is not known or has changed, and
    DataError.
    """
    first = models[0]
    chosen = source or (first.origin.source if first.origin else None)
    if source is None and first.origin is not None and first.origin.fingerprint == IMPORTED:
        raise ModelError(f"--data must be given: {first.name} was {first.origin.source}, which says no images")
    if chosen is None:
        raise ModelError(f"--data must be given: {first.name} does not say what it was trained on")
    opened = _Opened(chosen, first.origin.seed if first.origin else 0, reporter)
    splits = [opened(model) for model in models]
    reporter.line(splits[0].description)
    for model, found in zip(models, splits, strict=True):
        require_classes(model, found.train.classes)
        _say_whether_known(model, found, chosen, source is not None, split, reporter)
    datasets = [_part(found, split) for found in splits]
    if any(not np.array_equal(datasets[0].labels, other.labels) for other in datasets[1:]):
        raise ModelError("models must be tried on the same images, which, prepared as each needs them, these are not")
    if not len(datasets[0]):
        raise ModelError(f"there must be images to evaluate on. Received: none in the part {split} of {chosen}")
    ready = [
        with_statistics(model, _statistics(found, model, reporter)) if model.needs_statistics else model
        for model, found in zip(models, splits, strict=True)
    ]
    return chosen, tuple(ready), tuple(datasets)


class _Opened:
    """Opens a source once for each way of storing its images."""

    def __init__(self, source: str, seed: int, reporter: Reporter) -> None:
        self._source, self._seed, self._reporter = source, seed, reporter
        self._found: dict[tuple[Storage, int], Splits] = {}

    def __call__(self, model: Model) -> Splits:
        storage, channels = model.spec.data.storage, model.spec.input.channels
        if (storage, channels) not in self._found:
            with self._reporter.work("preparing images") as advance:
                self._found[storage, channels] = open_source(
                    self._source,
                    storage=storage,
                    channels=channels,
                    seed=self._seed,
                    progress=lambda done, n: advance(done, total=n),
                )
        return self._found[storage, channels]


def _statistics(found: Splits, model: Model, reporter: Reporter) -> Statistics:
    reporter.line(f"note: {model.name} records no mean: that of the training images here is taken")
    with reporter.work("mean of the training images") as advance:
        return dataset_statistics(found.train, progress=lambda done, n: advance(done, total=n))


def require_classes(model: Model, classes: tuple[str, ...]) -> None:
    """Raise ModelError unless the scores of `model` are those of `classes`, in this order."""
    if not model.classes:
        if model.scores != len(classes):
            raise ModelError(
                f"{model.name}: the data must have the model's {model.scores} classes. Received: {len(classes)}"
            )
        return
    if model.classes == classes:
        return
    if sorted(model.classes) == sorted(classes):
        at = next(i for i, (ours, theirs) in enumerate(zip(model.classes, classes)) if ours != theirs)
        received = f"the same classes in another order, at {at} {classes[at]!r} and not {model.classes[at]!r}"
    elif len(model.classes) == len(classes):
        strangers = [name for name in classes if name not in model.classes]
        received = f"{_some(strangers)}, which it does not know"
    else:
        received = f"{len(classes)}: {_some(classes)}"
    raise ModelError(
        f"{model.name}: the data must have the model's {len(model.classes)} classes in its order. Received: {received}"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:_NAMES_SHOWN])) + (", ..." if len(names) > _NAMES_SHOWN else "")


def _say_whether_known(model: Model, found: Splits, source: str, stated: bool, split: str, reporter: Reporter) -> None:
    if not model.classes:
        reporter.line(f"note: {model.name} names no classes; its scores are taken to be in the order of the data's")
    if model.origin is None:
        return
    own = fingerprint_of(found) == model.origin.fingerprint
    if not own and not stated:
        raise ModelError(
            f"{model.name}: the images of {source} must be those that it was trained on, and have changed since "
            f"(--data {source} evaluates on them as they are)"
        )
    if own and split != "validation":
        reporter.line(f"note: {model.name} was trained on images among these")
    if not own and source == model.origin.source:
        reporter.line(f"note: {model.name} was trained on other images of {source}, or on another part of them")


def _part(found: Splits, split: str) -> Dataset:
    if split != "all":
        part: Dataset = getattr(found, split)
        return part
    both = found.train, found.validation
    pieces = [p for d in both for p in (d.images.parts if isinstance(d.images, Shards) else (d.images,))]
    return Dataset(Shards(pieces), np.concatenate([d.labels for d in both]), found.train.classes)
