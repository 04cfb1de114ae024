"""Specifications made from others, images of which a part is used, and trainings that end early or go wrong."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import spec
from backends.reporting import Reporter
from data import Dataset
from experiments.experiment import Size
from experiments.tests.small import values
from experiments.variants import derived, shortened
from experiments.work import Job, Trained, Work, balanced
from spec import Place, Spec, settings


def work(small: list[str], **size: Any) -> Work:
    """On the small images, silent."""
    made = spec.load(small[1])
    said = Reporter(io.StringIO())
    chosen = Size(1, **size)
    return Work("here", made, small[3], (0,), chosen, "torch", "cpu", argparse.Namespace(), Path("nowhere"), said)


@given(
    st.lists(st.integers(0, 3), min_size=8, max_size=40).filter(lambda labels: len(set(labels)) == 4),
    st.integers(1, 50),
)
def test_a_part_has_as_many_of_each_class(labels: list[int], images: int) -> None:
    pixels = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    whole = Dataset(pixels, np.array(labels, np.int64), ("a", "b", "c", "d"))
    part = balanced(whole, images)
    if images >= len(labels):
        assert part is whole
        return
    kept = np.asarray(part.images)[:, 0, 0, 0]
    assert list(kept) == sorted(kept)
    np.testing.assert_array_equal(part.labels, np.array(labels)[kept])
    for label in range(4):
        assert (part.labels == label).sum() == min(labels.count(label), max(1, images // 4))
    assert balanced(whole, None) is whole


@pytest.mark.parametrize(
    "name", ["source-2012", "paper-2012", "owt-2014", "torchvision", "fashion-mini", "cifar-11pct"]
)
def test_a_shorter_run_has_the_rates_of_the_longer_at_the_same_parts(name: str) -> None:
    """Thirds of the epochs: what holds in the middle of each of them holds there in the shorter run."""
    whole = spec.load(name)
    epochs = whole.training.epochs // 3
    part = shortened(whole, epochs)
    assert part.training.epochs == epochs
    for epoch in range(epochs):
        here = settings(part, Place(epoch, 10 * epoch, 10, epochs))
        there = [
            settings(whole, Place(3 * epoch + i, 10 * (3 * epoch + i), 10, whole.training.epochs)) for i in range(3)
        ]
        for parameter, setting in here.items():
            assert setting.learning_rate in {one[parameter].learning_rate for one in there}
    assert shortened(whole, None) is whole
    assert shortened(whole, whole.training.epochs) is whole


def test_what_is_derived_leaves_expectations_behind() -> None:
    base = spec.load("source-2012")
    made = derived(base, base.statement(), "-again")
    assert (made.hash, made.name) == (base.hash, "source-2012-again")
    assert made.expect.results == ()
    assert made.provenance == {}


def test_what_was_opened_and_used_is_recorded(small: list[str]) -> None:
    one = work(small, images=12, validation=6)
    opened = one.open(one.spec)
    assert (len(opened.splits.train), len(opened.splits.validation)) == (12, 6)
    assert list(one.data) == [opened.fingerprint]
    assert "48 training" in one.data[opened.fingerprint]
    assert one.data[opened.fingerprint].endswith("used here: 12 and 6")
    assert one.open(one.spec) is opened


def test_a_training_ends_where_it_need_not_go_on(small: list[str]) -> None:
    one = work(small)
    whole = one.fitting(one.spec)

    def two(trained: Trained) -> bool:
        return len(trained.epochs) == 2

    full, cut = one.train([Job("full", whole, 0), Job("cut", whole, 0, two)])
    assert [len(full.epochs), len(cut.epochs)] == [3, 2]
    assert cut.losses == full.losses[: len(cut.losses)]
    for field in ("top1_error", "validation_top1_error", "loss"):
        assert [epoch[field] for epoch in cut.epochs] == [epoch[field] for epoch in full.epochs[:2]]


def test_a_training_that_diverges_is_told(small: list[str]) -> None:
    one = work(small)
    wild: Spec = spec.from_values(values(learning_rate={"*": {"kind": "constant", "rate": 1e12}}))
    (done,) = one.train([Job("wild", one.fitting(wild), 0)])
    assert done.diverged is not None
    assert "must be finite" in done.diverged
    assert "Kept" not in done.diverged
    assert (done.parameters, done.validation_error) == ({}, 1.0)
