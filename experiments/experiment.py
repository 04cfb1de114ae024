"""What an experiment is, what it is given and what it gives.

An experiment is one module of this room with ``EXPERIMENT``, an :class:`Experiment`, whose `run` takes a
:class:`experiments.work.Work` and returns a :class:`Finding`. The command, the files and the page are the same for all.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.work import Work


@dataclass(frozen=True)
class Size:
    """How much an experiment does."""

    seeds: int
    """Repetitions, with seeds 0, 1, 2 and so on."""
    epochs: int | None = None
    """Of a training; None: as many as the specification says."""
    images: int | None = None
    """For training, at most, as many of each class as of every other; None: all."""
    validation: int | None = None
    """For validation, likewise."""


@dataclass(frozen=True)
class Table:
    """A table of a page. cells are text."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture of a page."""

    file: str
    """Its name in the result's folder; it ends in .png."""
    png: bytes
    caption: str


@dataclass(frozen=True)
class Reference:
    """What others found: `value` in words, for `what`, and where that was printed."""

    what: str
    value: str
    source: str


@dataclass(frozen=True)
class Finding:
    """What came out."""

    sentence: str
    """The answer to the experiment's question."""
    numbers: dict[str, Any]
    """For programs: what JSON can hold. Rerunning the command gives the same."""
    pictures: Sequence[Picture]
    tables: Sequence[Table] = ()
    references: Sequence[Reference] = ()
    limits: Sequence[str] = ()
    """What these data, this network or so few seeds cannot show."""


def _no_options(parser: argparse.ArgumentParser) -> None:
    return


@dataclass(frozen=True)
class Experiment:
    """A question and how it is asked."""

    name: str
    """As users type it."""
    question: str
    """One line."""
    method: str
    """What is done, for ``--help`` and for the page."""
    spec: str
    """The specification that is taken unless another one is named."""
    data: str
    """Likewise the images."""
    size: Size
    """By default."""
    quick: Size
    """With ``--quick``: at most five minutes on two cores."""
    run: Callable[[Work], Finding]
    options: Callable[[argparse.ArgumentParser], None] = field(default=_no_options)
    """Adds what this experiment alone can be told."""
