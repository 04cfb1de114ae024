"""``neighbours``: the paper's figure 4. What the network takes images for, and which images it finds alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data import EMBEDDED
from experiments.activations import Seen, feature_layer, see, see_all
from experiments.experiment import Experiment, Finding, Reference, Size
from experiments.nearest import F64, Nearest, shares
from experiments.neighbours_page import pictures, sentence, tables
from experiments.resampling import Resamples
from experiments.subjects import Subject, options, subjects
from experiments.work import Work

KS = (1, 5, 10, 50)
"""Of the nearest, how many are looked at."""


@dataclass(frozen=True, eq=False)
class Found:
    """What one network finds for Q queries among N items."""

    subject: Subject
    seen: Seen
    """The queries."""
    by_features: Nearest
    by_pixels: Nearest

    def precision(self, nearest: Nearest, k: int) -> F64:
        """(Q,): of the first k items, the share of the query's class."""
        return shares(nearest.items, self.subject.items.labels, self.subject.queries.labels, k)


def look(subject: Subject, work: Work) -> Found:
    """The nearest items of every query, by features and by pixels."""
    seen = see_all(subject.backend, subject.queries, subject.statistics)
    by_features, by_pixels = Nearest(seen.features, max(KS)), Nearest(seen.pixels, max(KS))
    with work.reporter.work("nearest images", len(subject.items)) as advance:
        done = 0
        for part in see(subject.backend, subject.items, subject.statistics):
            by_features.show(part.features)
            by_pixels.show(part.pixels)
            advance(done := done + len(part.labels))
    return Found(subject, seen, by_features, by_pixels)


def _run(work: Work) -> Finding:
    found = [look(subject, work) for subject in subjects(work)]
    numbers = measured(found)
    first = found[0]
    shown = pictures(first.subject, first.seen, first.by_features, first.by_pixels, numbers, work.provenance(work.spec))
    limits = _LIMITS + (_OF_THE_EMBEDDED if work.source == EMBEDDED else ())
    return Finding(sentence(numbers), numbers, shown, tables(numbers), _REFERENCES, limits)


def measured(found: Sequence[Found]) -> dict[str, Any]:
    """What ``result.json`` holds. Several networks on the same queries count as one, their precisions averaged."""
    first = found[0]
    items, queries = first.subject.items, first.subject.queries
    resamples = Resamples(len(queries))
    ks, rows = [k for k in KS if k <= len(items)], []
    for k in ks:
        features = np.mean([one.precision(one.by_features, k) for one in found], axis=0)
        pixels = np.mean([one.precision(one.by_pixels, k) for one in found], axis=0)
        rows.append(
            {
                "k": k,
                "features": resamples.mean(features).values(),
                "pixels": resamples.mean(pixels).values(),
                "difference": resamples.mean(features - pixels).values(),
            }
        )
    counts = np.bincount(items.labels, minlength=len(items.classes))
    return {
        "layer": feature_layer(first.subject.spec),
        "width": int(first.seen.features.shape[1]),
        "pixels": int(first.seen.pixels.shape[1]),
        "items": len(items),
        "queries": len(queries),
        "chance": float(np.mean(counts[queries.labels] / len(items))),
        "precision": rows,
        "networks": [
            {
                "network": one.subject.label,
                "top1_error": float(np.mean(one.seen.scores.argmax(axis=1) != queries.labels)),
                "precision": [float(one.precision(one.by_features, k).mean()) for k in ks],
            }
            for one in found
        ],
    }


_REFERENCES = (
    Reference(
        "nearest training images on ImageNet",
        "six for each of five test images: alike in what they show, and in general not close in pixels",
        "the paper, section 6.1 and figure 4; it gives no number",
    ),
)
_OF_THE_EMBEDDED = (
    "Clothes on black, centred and of one size, are alike in pixels to begin with; of photographs that is not so.",
)
_LIMITS = ("Neighbours are looked for among the images that the network was trained on, as in the paper.",)
EXPERIMENT = Experiment(
    name="neighbours",
    question="Are images that the network finds alike of one class, and more often than images alike in pixels?",
    method="""A network is trained with every seed, or the one in --checkpoint is taken. For every held-out image the
nearest training images are found twice, exactly: by the Euclidean distance of what the classifier is given (the last
hidden layer, after its ReLU), and by that of the pixels, as the network is given them, in central crops.""",
    spec="fashion-mini",
    data=EMBEDDED,
    size=Size(seeds=3),
    quick=Size(seeds=1),
    run=_run,
    options=options,
)
