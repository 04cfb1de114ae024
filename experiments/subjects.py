"""A trained network to look into: the one of ``--checkpoint``, or one for each seed, trained now."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from backends import checkpoint as checkpoints
from backends.base import Backend
from backends.checkpoint import LAST
from backends.options import count
from backends.starting import RequestError
from data import Dataset, Statistics
from experiments.activations import feature_layer
from experiments.work import Job, Work
from spec import Spec, draws
from spec.draws import Purpose

QUERIES = 2000


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained network on its backend, and images."""

    label: str
    """``seed 0``, or the checkpoint's path."""
    seed: int
    """Of all that is drawn for it."""
    spec: Spec
    backend: Backend
    statistics: Statistics
    items: Dataset
    """The training images, among which neighbours are looked for."""
    queries: Dataset
    """Held-out images, as many as were asked for; the same for every subject of an experiment."""


def options(parser: argparse.ArgumentParser) -> None:
    """What experiments on subjects can be told."""
    what = "look into this checkpoint, or the run in this folder, instead of training (--spec is its own, and --data "
    parser.add_argument("--checkpoint", metavar="PATH", type=Path, help=what + "unless another is named)")
    parser.add_argument(
        "--queries", metavar="N", type=count, default=QUERIES, help=f"held-out images, at most (default: {QUERIES:,})"
    )


def subjects(work: Work) -> Iterator[Subject]:
    """The networks that were asked for, one after another; what is recorded of the work is theirs.

    Raises RequestError, CheckpointError, and what opening images and training raise.
    """
    if work.options.checkpoint is not None:
        yield _from_checkpoint(work, work.options.checkpoint)
        return
    feature_layer(work.spec)
    work.spec = work.fitting(work.spec)
    images = work.open(work.spec)
    queries = drawn(images.splits.validation, work.options.queries)
    for done in work.train([Job("training", work.spec, seed) for seed in work.seeds]):
        if done.diverged:
            raise RequestError(f"every training must come to its end. Received: {done.diverged}")
        yield Subject(
            f"seed {done.job.seed}",
            done.job.seed,
            work.spec,
            work.network(work.spec, done.parameters),
            images.statistics,
            images.splits.train,
            queries,
        )


def _from_checkpoint(work: Work, path: Path) -> Subject:
    found = checkpoints.load(path / LAST if path.is_dir() else path)
    feature_layer(found.spec)
    work.spec, work.seeds = found.spec, (found.progress.seed,)
    work.size = replace(work.size, seeds=1)
    if work.options.data is None:
        work.source = found.progress.source
    images = work.open(found.spec)
    if images.classes != found.classes:
        raise RequestError(
            f"the images must have the classes of {path} in its order, {_few(found.classes)}. "
            f"Received: {_few(images.classes)} (--data)"
        )
    if images.fingerprint != found.progress.fingerprint:
        work.reporter.line(f"note: {path} was trained on other images than these")
    statistics = Statistics.from_arrays(found.statistics) if found.statistics else images.statistics
    queries = drawn(images.splits.validation, work.options.queries)
    network = work.network(found.spec, dict(found.parameters))
    return Subject(str(path), work.seeds[0], found.spec, network, statistics, images.splits.train, queries)


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} others" if len(names) > 3 else "")


def drawn(dataset: Dataset, n: int) -> Dataset:
    """`n` images of `dataset`, drawn with seed 0, in its order; all if there are no more."""
    if n >= len(dataset):
        return dataset
    chosen = np.sort(draws.permutation(0, Purpose.TEST, len(dataset))[:n])
    return Dataset(np.asarray(dataset.images[chosen]), dataset.labels[chosen], dataset.classes)
