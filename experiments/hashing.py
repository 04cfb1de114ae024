"""``hashing``: short binary codes of what the network makes of images, and what they cost and save in retrieval."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.starting import RequestError
from data import EMBEDDED, Dataset
from data.dataset import U8
from experiments.activations import F32, feature_layer, see
from experiments.autoencoder import Autoencoder, train
from experiments.experiment import Experiment, Finding, Reference, Size
from experiments.hashing_page import pictures, sentence, tables
from experiments.nearest import F64, Nearest, shares
from experiments.presentations import plan, presented
from experiments.resampling import Resamples
from experiments.search import BATCH, BLAS, FLAT, Searched, search
from experiments.subjects import Subject, drawn, options, subjects
from experiments.work import Work
from spec import draws
from spec.draws import Purpose

LENGTHS = (8, 16, 32, 64, 128, 256)
"""Bits of a code."""
K = 10
ITEMS = 100_000
"""Among which a query is timed; of more training images, as many are drawn."""
SIDE = 32
"""Pixels of an image whose pixels are encoded: as many as in the work that the paper cites for it."""


@dataclass(frozen=True, eq=False)
class Vectors:
    """Items (N, F) and queries (Q, F) in one space."""

    items: F32
    queries: F32


@dataclass(frozen=True, eq=False)
class Measured:
    """One network."""

    precision: dict[str, F64]
    """By kind of vector, of every query (Q,): the share of its class among the K nearest items."""
    encoders: dict[int, Autoencoder]
    items: int
    """How many there are."""
    queries: F32
    """(Q, F): their features."""


def features_of(subject: Subject, dataset: Dataset) -> F32:
    """What the classifier is given of each image, (N, F)."""
    return np.concatenate([part.features for part in see(subject.backend, dataset, subject.statistics)])


def pixels_of(images: Any) -> F32:
    """The bytes of images (N, S, S, C) as vectors; of more than SIDE rows, SIDE means of rows that lie together."""
    parts = [_reduced(np.asarray(images[i : i + 1000])) for i in range(0, len(images), 1000)]
    return np.concatenate(parts)


def _reduced(images: U8) -> F32:
    size = images.shape[1]
    values = images.astype(np.float32)
    if size > SIDE:
        edges = np.arange(SIDE) * size // SIDE
        counts = np.diff([*edges, size]).astype(np.float32)
        values = np.add.reduceat(np.add.reduceat(values, edges, axis=1), edges, axis=2)
        values /= (counts[:, None] * counts)[:, :, None]
    return values.reshape(len(images), -1)


def measure(subject: Subject, work: Work) -> Measured:
    """Train the autoencoders on the items of `subject` and look up every query, by every kind of vector."""
    items = drawn(subject.items, ITEMS)
    order = draws.permutation(subject.seed, Purpose.TEST, len(items), epoch=2)  # of equals, the first counts
    labels, wanted = items.labels[order], subject.queries.labels
    features = Vectors(features_of(subject, items)[order], features_of(subject, subject.queries))
    pixels = Vectors(pixels_of(items.images)[order], pixels_of(subject.queries.images))
    precision: dict[str, F64] = {}

    def look(name: str, vectors: Vectors) -> None:
        nearest = Nearest(vectors.queries, K)
        nearest.show(vectors.items)
        precision[name] = shares(nearest.items, labels, wanted, K)

    def look_by_code(name: str, vectors: Vectors, encoder: Autoencoder) -> None:
        look(name, Vectors(*(np.where(encoder.bits(part), np.float32(1), np.float32(-1))
                             for part in (vectors.items, vectors.queries))))  # fmt: skip

    look("features", features)
    look("pixels", pixels)
    encoders = {}
    with work.reporter.work("codes", len(LENGTHS)) as advance:
        for done, bits in enumerate(LENGTHS, 1):
            encoders[bits] = train(features.items, bits, subject.seed)
            look_by_code(f"features-{bits}", features, encoders[bits])
            look_by_code(f"random-{bits}", features, train(features.items, bits, subject.seed, steps=0))
            look_by_code(f"pixels-{bits}", pixels, train(pixels.items, bits, subject.seed))
            advance(done)
    return Measured(precision, encoders, len(items), features.queries)


@dataclass(frozen=True, eq=False)
class Timed:
    """One network's codes among ITEMS items, or as many as can be made."""

    items: int
    how: str
    """What the items are, in words."""
    searched: Searched
    precision: dict[str, F64]
    """By ``float`` and number of bits, of every query (Q,)."""


def timed(subject: Subject, measured: Measured, work: Work) -> Timed:
    """Search among many items: the training images, each shown as often as is needed, or as many of them."""
    chosen = drawn(subject.items, ITEMS)
    planned = plan(chosen, ITEMS, mirror=subject.spec.data.flip.probability > 0)
    total, parts, labels = planned.items(chosen), [], []
    with work.reporter.work("items for the search", total) as advance:
        for part in presented(chosen, planned):
            parts.append(features_of(subject, part))
            labels.append(part.labels)
            advance(sum(map(len, labels)))
    order = draws.permutation(subject.seed, Purpose.TEST, total, epoch=2)
    work.reporter.line(f"timing the search among {total:,} items, on one thread")
    searched = search(np.concatenate(parts)[order], measured.queries, measured.encoders)
    known = np.concatenate(labels)[order]
    precision = {name: shares(found, known, subject.queries.labels, K) for name, found in searched.found.items()}
    return Timed(total, planned.words(chosen), searched, precision)


def _run(work: Work) -> Finding:
    if importlib.util.find_spec("faiss") is None:
        raise RequestError("hashing needs faiss, which is not installed: pip install -e '.[experiments]'")
    measured: list[Measured] = []
    for subject in subjects(work):
        measured.append(measure(subject, work))
        if len(measured) == 1:
            first, speed = subject, timed(subject, measured[0], work)
    resamples = Resamples(len(first.queries))
    rows = [_row(name, measured, resamples) for name in measured[0].precision]
    numbers = {
        "layer": feature_layer(first.spec),
        "width": int(measured[0].queries.shape[1]),
        "items": measured[0].items,
        "queries": len(first.queries),
        "k": K,
        "precision": rows,
        "learned_less_random": [_gain(bits, measured, resamples) for bits in LENGTHS],
        "search": _search_numbers(speed, resamples),
    }
    shown = pictures(numbers, work.provenance(work.spec))
    limits = _LIMITS + (_OF_THE_EMBEDDED if work.source == EMBEDDED else ())
    return Finding(sentence(numbers), numbers, shown, tables(numbers), _REFERENCES, limits)


def _row(name: str, measured: Sequence[Measured], resamples: Resamples) -> dict[str, Any]:
    values = np.mean([one.precision[name] for one in measured], axis=0)
    whole = np.mean([one.precision["features"] for one in measured], axis=0)
    kept = {"precision": resamples.mean(values).values(), "of_features": resamples.ratio(values, whole).values()}
    return {"vectors": name, **kept, "networks": [float(one.precision[name].mean()) for one in measured]}


def _gain(bits: int, measured: Sequence[Measured], resamples: Resamples) -> dict[str, Any]:
    """What learning adds to the precision of codes of `bits` bits of the features."""
    gains = [one.precision[f"features-{bits}"] - one.precision[f"random-{bits}"] for one in measured]
    return {"bits": bits, **resamples.mean(np.mean(gains, axis=0)).values()}


def _search_numbers(speed: Timed, resamples: Resamples) -> dict[str, Any]:
    codes = []
    for bits in LENGTHS:
        values, seconds = speed.precision[str(bits)], speed.searched.seconds[str(bits)]
        codes.append(
            {
                "bits": bits,
                "precision": resamples.mean(values).values(),
                "of_features": resamples.ratio(values, speed.precision["float"]).values(),
                "seconds": seconds,
                "times_faster": {how: speed.searched.brute(how) / seconds[how] for how in ("single", "batch")},
            }
        )
    return {
        "items": speed.items,
        "made_of": speed.how,
        "threads": 1,
        "batch": BATCH,
        "float": {
            "precision": resamples.mean(speed.precision["float"]).values(),
            "seconds": {name: speed.searched.seconds[name] for name in (FLAT, BLAS)},
        },
        "codes": codes,
    }


_REFERENCES = (
    Reference(
        "what the paper proposes",
        "to compress the vectors to short binary codes by an autoencoder: 'much better' than codes of raw pixels",
        "the paper, section 6.1; it gives no number",
    ),
    Reference(
        "codes of pixels",
        "28 and 256 bits of images of 32 x 32, by deep autoencoders",
        "Krizhevsky and Hinton, ESANN 2011",
    ),
)
_OF_THE_EMBEDDED = ("Ten classes of clothes need few bits; a thousand classes of photographs need more.",)
_LIMITS = (
    "Precision counts classes. Whether two images are alike within a class is not measured.",
    "Times are of this machine; they are the part of the numbers that does not come out the same again.",
)
EXPERIMENT = Experiment(
    name="hashing",
    question="How much of retrieval by the last hidden layer do short binary codes keep, and how much faster are they?",
    method=f"""A network is trained with every seed, or the one in --checkpoint is taken. Autoencoders learn codes of
{", ".join(map(str, LENGTHS))} bits of what its classifier is given of the training images, without labels; beside them
stand codes of pixels, and bits along random directions. Held-out images are looked up by each.

Then a query is timed among {ITEMS:,} items, as floats and as codes. Where there are fewer training images, each is
shown several times: moved by a pixel or more, and mirrored if training mirrors.""",
    spec="fashion-mini",
    data=EMBEDDED,
    size=Size(seeds=3),
    quick=Size(seeds=1),
    run=_run,
    options=options,
)
