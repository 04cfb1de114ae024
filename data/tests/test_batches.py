"""Batches: the same whatever the threads, the start and, image by image, the batch size."""

from __future__ import annotations

import threading
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.augment import Draws
from data.batches import Batch, epoch_order, evaluation_batches, steps_per_epoch, training_batches
from data.dataset import Dataset, Images
from data.errors import DataError
from data.parallel import in_order
from data.statistics import compute_statistics
from data.tests.builders import dataset, network_input, settings, tiny_spec
from spec.language import ColorNoise, Crop, Flip, Mean

NOISY = settings(
    8,
    mean=Mean(kind="image"),
    crop=Crop(kind="random", shared_by=2),
    flip=Flip(probability=0.5),
    color_noise=ColorNoise(sigma=0.1, scale="stddev", divide_by=1.1),
)
SPEC = tiny_spec(NOISY, network_input(3, 6))


def batches(images: Dataset, **changes: Any) -> list[Batch]:
    options = {"seed": 3, "epoch": 1, "batch_size": 4, **changes}
    return list(training_batches(images, SPEC, compute_statistics(images.images), **options))


def test_an_epoch_is_a_permutation_and_each_epoch_another() -> None:
    orders = [epoch_order(0, epoch, 50).tolist() for epoch in range(3)] + [epoch_order(1, 0, 50).tolist()]
    for order in orders:
        assert sorted(order) == list(range(50))
    assert len({tuple(order) for order in orders}) == 4


def test_batches_are_the_order_cut_and_the_rest_is_dropped() -> None:
    images = dataset(11, classes=3)
    received = batches(images)
    order = epoch_order(3, 1, 11)
    assert [batch.step for batch in received] == [0, 1]
    np.testing.assert_array_equal(np.concatenate([batch.indices for batch in received]), order[:8])
    for batch in received:
        assert batch.images.shape == (4, 3, 6, 6)
        assert batch.images.dtype == np.float32
        assert batch.labels.dtype == np.int64
        np.testing.assert_array_equal(batch.labels, images.labels[batch.indices])


def test_fewer_images_than_a_batch_make_one() -> None:
    (batch,) = batches(dataset(3))
    assert sorted(batch.indices.tolist()) == [0, 1, 2]
    assert (steps_per_epoch(3, 4), steps_per_epoch(4, 4), steps_per_epoch(11, 4)) == (1, 1, 2)


@pytest.mark.parametrize("workers", [1, 3])
def test_neither_start_nor_threads_change_a_bit(workers: int) -> None:
    images = dataset(30)
    whole = batches(images)
    for start in range(len(whole) + 1):
        rest = batches(images, start=start, workers=workers)
        assert [batch.step for batch in rest] == list(range(start, len(whole)))
        for one, other in zip(rest, whole[start:], strict=True):
            np.testing.assert_array_equal(one.images, other.images)
            np.testing.assert_array_equal(one.indices, other.indices)


def test_the_batch_size_changes_no_image() -> None:
    images = dataset(24)
    by_size = []
    for batch_size in (1, 4, 24):
        received = batches(images, batch_size=batch_size)
        by_size.append(np.concatenate([batch.images for batch in received]))
    np.testing.assert_array_equal(by_size[0], by_size[1])
    np.testing.assert_array_equal(by_size[0], by_size[2])


def test_evaluation_sees_every_image_once_in_order() -> None:
    images = dataset(11)
    known = compute_statistics(images.images)
    received = list(evaluation_batches(images, SPEC, known, batch_size=4))
    assert [len(batch.labels) for batch in received] == [4, 4, 3]
    assert np.concatenate([batch.indices for batch in received]).tolist() == list(range(11))
    assert np.concatenate([batch.labels for batch in received]).tolist() == images.labels.tolist()
    assert received[2].images.shape == (3, 10, 3, 6, 6)  # ten views, as the specification says
    center = list(evaluation_batches(images, SPEC, known, batch_size=11, crops="center"))
    np.testing.assert_array_equal(center[0].images[8:, 0], received[2].images[:, 2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1. Received: 0"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"start": 3}, "start must be 0 .. 2, the steps of the epoch. Received: 3"),
        ({"start": -1}, "start must be 0 .. 2"),
        ({"rank": 2, "ranks": 2}, "rank must be 0 .. ranks - 1, and ranks at most 4, the images of a batch"),
        ({"rank": -1}, "Received: rank -1 of 1"),
        ({"ranks": 5}, "Received: rank 0 of 5"),
    ],
)
def test_impossible_requests_are_refused_at_once(changes: dict[str, int], message: str) -> None:
    options: dict[str, Any] = {"seed": 0, "epoch": 0, "batch_size": 4, **changes}
    with pytest.raises(ValueError, match=message):
        training_batches(dataset(8), SPEC, None, **options)


def test_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match="the number of images must be at least 1"):
        evaluation_batches(dataset(0), SPEC, None, batch_size=1)


# --- ranks ------------------------------------------------------------------------------------------------------------


@given(n=st.integers(1, 60), batch_size=st.integers(1, 20), ranks=st.integers(1, 6), seed=st.integers(0, 9))
@hypothesis.settings(max_examples=60, deadline=None)
def test_the_parts_of_all_ranks_are_the_batch(n: int, batch_size: int, ranks: int, seed: int) -> None:
    images = dataset(n)
    ranks = min(ranks, batch_size, n)
    whole = batches(images, batch_size=batch_size, seed=seed)
    parts = [batches(images, batch_size=batch_size, seed=seed, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert {len(part) for part in parts} == {len(whole)}
    for batch, *shares in zip(whole, *parts, strict=True):
        for field in ("images", "labels", "indices"):
            together = np.concatenate([getattr(part, field) for part in shares])
            np.testing.assert_array_equal(together, getattr(batch, field))
        sizes = [len(part.labels) for part in shares]
        assert max(sizes) - min(sizes) <= 1
        assert {part.step for part in shares} == {batch.step}


@given(n=st.integers(1, 60), batch_size=st.integers(1, 20), ranks=st.integers(1, 70))
@hypothesis.settings(max_examples=60, deadline=None)
def test_the_images_of_all_ranks_are_evaluated_once(n: int, batch_size: int, ranks: int) -> None:
    images, known = dataset(n), compute_statistics(dataset(8).images)
    seen: list[int] = []
    for rank in range(ranks):
        found = list(evaluation_batches(images, SPEC, known, batch_size=batch_size, rank=rank, ranks=ranks))
        assert [batch.step for batch in found] == list(range(len(found)))
        assert all(len(batch.labels) == batch_size for batch in found[:-1])
        seen += [index for batch in found for index in batch.indices.tolist()]
    assert seen == list(range(n))


def test_what_is_done_to_a_batch_can_be_done_elsewhere() -> None:
    images, asked = dataset(8), []

    def apply(images: Images, indices: Any, drawn: Draws, **known: Any) -> str:
        asked.append((drawn.rows.tolist(), known["input"]))
        return f"{indices.tolist()}"

    for batch in batches(images, apply=apply):
        assert batch.images == f"{batch.indices.tolist()}"
    assert [known for _, known in asked] == [SPEC.input] * 2


# --- threads ----------------------------------------------------------------------------------------------------------


def own_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("data")]


def test_an_error_in_a_thread_reaches_the_consumer() -> None:
    with pytest.raises(DataError, match="colour noise needs the statistics"):
        next(training_batches(dataset(8), SPEC, None, seed=0, epoch=0, batch_size=4))
    assert own_threads() == []


def test_threads_end_when_the_consumer_stops() -> None:
    images = dataset(64)
    iterator = training_batches(
        images, SPEC, compute_statistics(images.images), seed=0, epoch=0, batch_size=4, workers=2
    )
    next(iterator)
    assert own_threads() != []
    iterator.close()  # type: ignore[attr-defined]
    assert own_threads() == []


def test_work_is_done_ahead_but_not_far() -> None:
    begun: list[int] = []
    begun_four = threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        if len(begun) == 4:
            begun_four.set()
        return item

    iterator = in_order(work, range(100), workers=1, ahead=3)
    assert next(iterator) == 0
    assert begun_four.wait(10)  # item 0 and three ahead of it
    assert begun == [0, 1, 2, 3]
    assert list(iterator) == list(range(1, 100))
    assert begun == list(range(100))


def test_what_is_not_begun_when_the_consumer_stops_is_never_done() -> None:
    begun: list[int] = []
    closing = threading.Event()

    def work(item: int) -> None:
        begun.append(item)
        if item == 1:
            assert closing.wait(10)

    iterator = in_order(work, range(100), workers=1, ahead=5)
    next(iterator)
    threading.Timer(0.2, closing.set).start()  # item 1 ends while the iterator waits for its thread
    iterator.close()  # type: ignore[attr-defined]
    assert begun in ([0, 1], [0])


def test_order_is_kept_and_an_error_comes_at_its_turn() -> None:
    first_waits = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert first_waits.wait(10)
        if item == 1:
            first_waits.set()
        if item == 5:
            raise KeyError("five")
        return item

    iterator = in_order(work, range(10), workers=2, ahead=4)
    assert [next(iterator) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(KeyError, match="five"):
        next(iterator)
    assert own_threads() == []
