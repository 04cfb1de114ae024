"""From a model and images to scores, ranks and answers, as the specification's section ``evaluation`` says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from backends.base import Array, ranks
from backends.evaluation.models import Model, ModelFailed
from data import Batch, Dataset, evaluation_batches
from data.dataset import I64

CENTER, TEN = "center", "ten"
VIEWS = {CENTER: 1, TEN: 10}
CENTRAL_VIEW = {CENTER: 0, TEN: 2}
"""Which of the views is the central crop, unreflected: see :func:`data.evaluation_views`."""
TOGETHER = "all together"


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one model, or several together, made of N images, with one protocol."""

    who: str
    """A model's name, or TOGETHER."""
    crops: str
    ranks: I64
    """(N,): how many classes have a better score than the label's; 0 where the answer is right."""
    answers: I64
    """(N,): the class of the best score."""
    confidences: npt.NDArray[np.float64]
    """(N,): its probability."""

    def wrong(self, best: int) -> npt.NDArray[np.bool_]:
        """(N,): whether the label is not among the `best` best scores."""
        return self.ranks >= best


def softmax(logits: Array) -> Array:
    """Of the last axis, in float64."""
    shifted = np.asarray(logits, np.float64)
    powers = np.exp(shifted - shifted.max(axis=-1, keepdims=True))
    probabilities: Array = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities


def averaged(logits: Array, average: str) -> Array:
    """Scores (N, classes) of logits (N, V, classes) of V views, of one model or of several.

    average: ``probabilities``, the mean of the views' softmax, as the 2012 source does it (src/layer.cu); ``logits``:
    the mean of their logits.
    """
    scores: Array = (softmax(logits) if average == "probabilities" else np.asarray(logits, np.float64)).mean(axis=1)
    return scores


def view_scores(model: Model, views: Array) -> Array:
    """The logits (N, V, classes) of views (N, V, C, H, W). Raises ModelFailed if they are not finite."""
    n, v = views.shape[:2]
    logits = np.asarray(model.predict(views.reshape(n * v, *views.shape[2:])))
    if not np.isfinite(logits).all():
        raise ModelFailed(f"{model.name}: every score must be finite. Received: {logits[~np.isfinite(logits)][0]}")
    return logits.reshape(n, v, -1)


class _Tally:
    """Outcomes under construction."""

    def __init__(self, average: str) -> None:
        self.average = average
        self.found: dict[tuple[str, str], list[tuple[Array, Array, Array]]] = {}

    def add(self, who: str, crops: str, logits: Array, labels: I64) -> None:
        scores = averaged(logits, self.average)
        answers = scores.argmax(axis=1)
        probabilities = scores if self.average == "probabilities" else softmax(scores)
        confidences = probabilities[np.arange(len(labels)), answers]
        self.found.setdefault((who, crops), []).append((ranks(scores, labels), answers, confidences))

    def outcomes(self) -> tuple[Outcome, ...]:
        return tuple(
            Outcome(who, crops, *map(np.concatenate, zip(*parts, strict=True)))
            for (who, crops), parts in self.found.items()
        )


def evaluate(
    models: Sequence[Model],
    datasets: Sequence[Dataset],
    *,
    crops: str,
    average: str,
    batch_size: int,
    workers: int = 1,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[Outcome, ...]:
    """Every model on its data set (the same images, stored as the model wants them) and, of several, all together.

    For ten crops the outcomes of the central crop alone come too, from the same run, each before that of all ten. The
    last outcome is that of all models with `crops`. batch_size: views at a time. progress: called with how many images
    are done. Raises ModelFailed, and DataError as :func:`data.evaluation_batches`.
    """
    tally = _Tally(average)
    streams = [_stream(model, dataset, crops, batch_size, workers) for model, dataset in zip(models, datasets)]
    done = 0
    try:
        for batches in zip(*streams, strict=True):
            labels = batches[0].labels
            found = [view_scores(model, batch.images) for model, batch in zip(models, batches, strict=True)]
            for kind in dict.fromkeys((CENTER, crops)):
                seen = [logits if kind == crops else logits[:, [CENTRAL_VIEW[crops]]] for logits in found]
                for model, logits in zip(models, seen, strict=True):
                    tally.add(model.name, kind, logits, labels)
                if len(models) > 1:
                    tally.add(TOGETHER, kind, np.concatenate(seen, axis=1), labels)
            done += len(labels)
            progress(done)
    finally:
        for stream in streams:
            stream.close()  # type: ignore[attr-defined]
    return tally.outcomes()


def _stream(model: Model, dataset: Dataset, crops: str, batch_size: int, workers: int) -> Iterator[Batch]:
    images = max(1, batch_size // VIEWS[crops])
    return evaluation_batches(dataset, model.spec, model.statistics, batch_size=images, crops=crops, workers=workers)
