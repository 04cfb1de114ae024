"""More items than there are images: each image again, moved by a pixel or two, or mirrored.

They are for measuring a search among many; nothing is trained on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data import Dataset
from data.dataset import U8
from spec import draws
from spec.draws import Purpose

_AT_A_TIME = 1000


@dataclass(frozen=True)
class Presentation:
    """An image moved by (down, right) pixels, what was at its edge drawn out, and then perhaps mirrored."""

    down: int
    right: int
    mirrored: bool

    def of(self, images: U8) -> U8:
        """images: (N, S, S, C). Returns the same shape."""
        size, (down, right) = images.shape[1], (self.down, self.right)
        rows, columns = (np.clip(np.arange(size) - moved, 0, size - 1) for moved in (down, right))
        moved = images[:, rows][:, :, columns]
        return moved[:, :, ::-1] if self.mirrored else moved


def presentations(reach: int, mirror: bool) -> list[Presentation]:
    """All that move by at most `reach` in either direction, those that move least first; the first is the image."""
    steps = range(-reach, reach + 1)
    moves = sorted(((down, right) for down in steps for right in steps), key=lambda m: (m[0] ** 2 + m[1] ** 2, m))
    return [Presentation(*move, mirrored) for move in moves for mirrored in ([False, True] if mirror else [False])]


@dataclass(frozen=True)
class Plan:
    """Which presentations of how many images are shown."""

    whole: tuple[Presentation, ...]
    """Of every image."""
    rest: Presentation
    """Of `images` of them, drawn."""
    images: int

    def items(self, dataset: Dataset) -> int:
        return len(self.whole) * len(dataset) + self.images

    def words(self, dataset: Dataset) -> str:
        """What the items are."""
        if not self.whole or self.items(dataset) == len(dataset):
            return f"{self.items(dataset):,} training images"
        many = f"{len(self.whole):,} times" + (f" ({self.images:,} of them once more)" if self.images else "")
        far = max(max(abs(one.down), abs(one.right)) for one in self.whole)
        mirrored = ", and mirrored" if any(one.mirrored for one in self.whole) else ""
        return f"{len(dataset):,} training images, each {many}: moved by up to {far} pixel{'s' * (far > 1)}{mirrored}"


def plan(dataset: Dataset, items: int, mirror: bool) -> Plan:
    """How to show `items` items, or as many as moves by an eighth of the image give."""
    every = presentations(max(1, dataset.images.shape[1] // 8), mirror)
    times, rest = divmod(min(items, len(every) * len(dataset)), len(dataset))
    return Plan(tuple(every[:times]), every[min(times, len(every) - 1)], rest)


def presented(dataset: Dataset, planned: Plan) -> Iterator[Dataset]:
    """All items, some at a time."""
    every = np.arange(len(dataset))
    some = np.sort(draws.permutation(0, Purpose.TEST, len(dataset))[: planned.images])
    for presentation, chosen in [*((one, every) for one in planned.whole), (planned.rest, some)]:
        for start in range(0, len(chosen), _AT_A_TIME):
            part = chosen[start : start + _AT_A_TIME]
            yield Dataset(presentation.of(np.asarray(dataset.images[part])), dataset.labels[part], dataset.classes)
