"""More items than images: what is shown, and how often."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data import Dataset
from experiments.presentations import Presentation, plan, presentations, presented


def _dataset(images: int, size: int = 16) -> Dataset:
    rng = np.random.default_rng(images)
    return Dataset(
        rng.integers(0, 256, (images, size, size, 1)).astype(np.uint8), np.arange(images) % 3, ("a", "b", "c")
    )


@given(st.integers(-3, 3), st.integers(-3, 3), st.booleans())
def test_an_image_is_moved_and_then_mirrored(down: int, right: int, mirrored: bool) -> None:
    image = np.asarray(_dataset(1, 8).images)
    found = Presentation(down, right, mirrored).of(image)
    for y in range(8):
        for x in range(8):
            column = 7 - x if mirrored else x
            source = min(max(y - down, 0), 7), min(max(column - right, 0), 7)
            assert found[0, y, x, 0] == image[0, source[0], source[1], 0]


def test_the_first_presentation_is_the_image_and_no_two_are_alike() -> None:
    every = presentations(2, mirror=True)
    assert every[0] == Presentation(0, 0, False)
    assert len(set(every)) == len(every) == 50
    moves = [abs(one.down) ** 2 + abs(one.right) ** 2 for one in every]
    assert moves == sorted(moves)
    assert not any(one.mirrored for one in presentations(2, mirror=False))


@given(st.integers(1, 40), st.integers(1, 500), st.booleans())
def test_as_many_items_are_shown_as_are_planned(images: int, items: int, mirror: bool) -> None:
    dataset = _dataset(images)
    planned = plan(dataset, items, mirror)
    shown = list(presented(dataset, planned))
    most = len(presentations(2, mirror)) * images
    assert sum(map(len, shown)) == planned.items(dataset) == min(items, most)
    labels = np.concatenate([part.labels for part in shown])
    counts, own = np.bincount(labels, minlength=3), np.bincount(dataset.labels, minlength=3)
    assert (counts >= len(planned.whole) * own).all()
    if planned.whole:
        np.testing.assert_array_equal(np.concatenate([p.images for p in shown])[:images], dataset.images)


def test_what_the_items_are_is_said() -> None:
    dataset = _dataset(10)
    assert plan(dataset, 10, True).words(dataset) == "10 training images"
    assert plan(dataset, 4, True).words(dataset) == "4 training images"
    words = plan(dataset, 105, True).words(dataset)
    assert words == "10 training images, each 10 times (5 of them once more): moved by up to 1 pixel, and mirrored"
