"""Ratios of times, some of which are only known to be longer than the run."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.censored import Time, arrival, ratio

TIMES = st.lists(st.floats(0.5, 50), min_size=2, max_size=8)


def test_arrival_is_on_the_line_between_two_epochs() -> None:
    assert arrival([0.5, 0.3, 0.1], 0.2, 0.9) == Time(2.5)
    assert arrival([0.5, 0.3, 0.1], 0.3, 0.9) == Time(2.0)
    assert arrival([0.1], 0.5, 0.9) == Time(0.5)
    assert arrival([0.5, 0.6, 0.4], 0.45, 0.9) == Time(2.75)  # what went up in between does not matter
    assert arrival([0.5, 0.3], 0.2, 0.9) == Time(2.0, censored=True)


@pytest.mark.parametrize(("errors", "target", "start"), [([], 0.1, 0.9), ([0.5], 0.9, 0.9), ([0.5], 0.95, 0.9)])
def test_arrival_needs_errors_that_begin_above(errors: list[float], target: float, start: float) -> None:
    with pytest.raises(ValueError, match="begin above"):
        arrival(errors, target, start)


@given(st.lists(st.floats(0, 0.89), min_size=1, max_size=9), st.floats(0.01, 0.8))
def test_arrival_is_where_the_line_first_meets_the_target(errors: list[float], target: float) -> None:
    found = arrival(errors, target, 0.9)
    if found.censored:
        assert min(errors) > target
        assert found.epochs == len(errors)
    else:
        assert np.interp(found.epochs, range(len(errors) + 1), [0.9, *errors]) == pytest.approx(target, abs=1e-9)
        assert all(error > target for error in errors[: math.ceil(found.epochs) - 1])


@given(TIMES, st.floats(0.1, 10))
def test_a_ratio_that_all_pairs_share_is_found(epochs: list[float], factor: float) -> None:
    found = ratio([Time(factor * e) for e in epochs], [Time(e) for e in epochs])
    for value in (found.low, found.smallest, found.largest, found.high):
        assert value == pytest.approx(factor)


@given(TIMES, TIMES)
def test_the_ratio_turned_round_is_the_inverse(first: list[float], second: list[float]) -> None:
    count = min(len(first), len(second))
    a, b = [Time(e) for e in first[:count]], [Time(e) for e in second[:count]]
    found, turned = ratio(a, b), ratio(b, a)
    assert found.smallest == pytest.approx(1 / turned.smallest)
    assert found.low == pytest.approx(1 / turned.high)


@given(TIMES, st.lists(st.floats(0.5, 50), min_size=8, max_size=8), st.floats(1, 9))
def test_what_did_not_arrive_never_narrows_the_interval_from_above(
    slow: list[float], fast: list[float], cut: float
) -> None:
    """Cutting runs off bounds the ratio of the whole runs from below, whatever they would have come to."""
    whole = [a / b for a, b in zip(slow, fast, strict=False)]
    cut_off = [Time(min(e, cut), censored=e > cut) for e in slow]
    found = ratio(cut_off, [Time(e) for e in fast[: len(slow)]])
    if any(time.censored for time in cut_off):
        assert found.low <= min(whole) * (1 + 1e-12)
        assert found.smallest <= np.median(whole) * (1 + 1e-12)
        assert found.largest >= np.median(whole) * (1 - 1e-12)
        assert found.high == math.inf
        assert found.confidence == 1 - 2.0 ** (1 - len(slow))


def test_words() -> None:
    assert ratio([Time(6), Time(6)], [Time(2), Time(2)]).said == "3 times"
    assert ratio([Time(6, True), Time(6, True)], [Time(2), Time(2)]).said == "at least 3 times"
    assert ratio([Time(6), Time(6)], [Time(2, True), Time(2, True)]).said == "at most 3 times"
    assert ratio([Time(6, True)] * 2, [Time(2, True)] * 2).said == "a number of times not known"
    assert ratio([Time(6)], [Time(2)]).confidence == 0
    assert str(Time(3, True)) == "> 3"
