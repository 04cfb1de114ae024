"""Prepared images, as every consumer sees them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.shards import I64, U8, Images, Shards

__all__ = ["I64", "U8", "Dataset", "Images", "Shards", "Splits", "digest_of", "fingerprint", "sha256_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Images of one size with their labels.

    images: uint8 (N, S, S, C), an array or :class:`data.shards.Shards`; C is 1 (grey) or 3 (red, green, blue).
    labels: int64 (N,), numbers into `classes`.
    """

    images: Images
    labels: I64
    classes: tuple[str, ...]
    """Names in the order of the labels. The order is part of what a checkpoint means."""
    digest: str | None = None
    """SHA-256 of the bytes of `images`, where it is known without reading them; see :func:`digest_of`."""
    statistics_file: Path | None = None
    """Where the statistics of these images are kept, if they lie in a prepared folder."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Splits:
    """What a source holds."""

    train: Dataset
    validation: Dataset
    description: str
    """One line for the user: what it is, how many images and classes, the first classes."""


def sha256_of(array: npt.NDArray[Any]) -> str:
    """SHA-256 of the bytes of `array` in C order, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(array).data.cast("B")).hexdigest()


def digest_of(digests: Sequence[str]) -> str:
    """What stands for all images where `digests` are the SHA-256 of the parts they lie in: of several, the SHA-256."""
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def fingerprint(dataset: Dataset) -> str:
    """SHA-256, in hexadecimal, over the prepared images, their labels and the names and order of the classes.

    It does not depend on where the images came from or lie, so that a run can be resumed on another machine, and not on
    other images. The images themselves are read only where their digest was not recorded when they were prepared.
    """
    digest = dataset.digest or digest_of([sha256_of(np.asarray(dataset.images))])
    labels = sha256_of(dataset.labels.astype("<i8"))
    return hashlib.sha256(json.dumps([dataset.images.shape, digest, labels, dataset.classes]).encode()).hexdigest()
