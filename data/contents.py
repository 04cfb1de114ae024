"""What a source holds before it is prepared, whatever form it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from data.dataset import I64, U8
from data.images import prepare_image, read_noted, reasons
from spec.language import Storage

Picture = Path | BinaryIO | U8
"""An image file, by its path or opened; or an image itself, uint8 (H, W) or (H, W, 3)."""
SPLITS = ("train", "validation")
"""The parts of every source."""


@dataclass(frozen=True, slots=True)
class Part:
    """The images of one split, before they are prepared."""

    labels: I64
    picture: Callable[[int], Picture]
    """Image i. May be called by several threads; raises OSError or :class:`data.images.ImageError`."""
    name: Callable[[int], str]
    """What image i is called in a report."""

    def prepared(self, i: int, storage: Storage, channels: int) -> tuple[U8, tuple[str, ...]]:
        """Image i, prepared: uint8 (S, S, C); and what was out of the ordinary. Raises ImageError."""
        with reasons():
            picture = self.picture(i)
            if isinstance(picture, np.ndarray):
                return prepare_image(Image.fromarray(picture), storage, channels), ()
            if isinstance(picture, Path):
                return read_noted(picture, storage, channels)
            with picture:
                return read_noted(picture, storage, channels)


@dataclass(frozen=True, slots=True)
class Contents:
    """The images of a source by split, and what in it is none."""

    classes: tuple[str, ...]
    parts: Mapping[str, Part]
    """By the names of SPLITS."""
    how: str = ""
    """In words where the validation images come from; nothing if that goes without saying."""
    refused: tuple[tuple[str, str], ...] = ()
    """(name, reason) of what looks like an image, or should be one, and is not even tried."""
    passed_over: Mapping[str, int] = field(default_factory=dict)
    """How many files of which ending are no images."""


@dataclass(frozen=True, slots=True)
class Source:
    """A recognised source."""

    what: str
    """For the user: ``image folder PATH``."""
    place: str
    """The path or name, for error messages."""
    identity: Any
    """What JSON can hold and tells other images from these: names, sizes and times of files, or digests."""
    contents: Callable[[], Contents]
    """Looks into it, which may take a while. Raises DataError and OSError."""
    arrays: Mapping[str, tuple[U8, I64]] | None = None
    """By split, images (N, H, W) or (N, H, W, 3) and labels, if the source is so small that they lie in memory."""


def array_part(pictures: U8, labels: I64) -> Part:
    """The part made of `pictures` (N, H, W) or (N, H, W, 3)."""
    return Part(labels, pictures.__getitem__, lambda i: f"image {i}")
