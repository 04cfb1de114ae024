"""The comparison of one tensor: what passes, what fails, and in which words."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import spec
from conformance.checks import first_fault, verdict
from conformance.comparison import Finding, compare, compare_all
from conformance.oracle import Expected

VALUE = np.arange(24, dtype=np.float64).reshape(2, 3, 2, 2) - 12
WITHIN = Expected(VALUE, np.full((1, 3, 1, 1), 0.5))


def of(array: Any, expected: Expected = WITHIN, kind: str = "map") -> Finding:
    return compare("a-check", "the output of conv1", array, expected, "float32", kind)


def test_within_the_bound_is_right_and_beyond_is_not():
    near = VALUE.astype(np.float32)
    near[1, 2, 0, 1] += 0.5
    assert of(near).passed
    assert of(near).ratio == 1
    near[1, 2, 0, 1] += 0.25
    found = of(near)
    assert not found.passed
    assert found.ratio == pytest.approx(1.5)
    assert found.fault is not None
    assert (
        "differs in 1 of 24 elements; at image 1, channel 2, row 0, column 1 it is 9.75 but should be 9" in found.fault
    )
    assert "the error is 0.75, the bound 0.5" in found.fault


def test_every_channel_has_its_own_bound():
    tight = Expected(VALUE, np.array([0.5, 0.0, 0.5]).reshape(1, 3, 1, 1))
    off = VALUE.astype(np.float32)
    off[0, 1, 0, 0] += 0.001
    found = of(off, tight)
    assert found.ratio == math.inf
    assert found.fault is not None
    assert "channel 1" in found.fault


def test_digits_are_of_the_largest_value():
    off = VALUE.astype(np.float32)
    off[0, 0, 1, 1] += 0.012
    assert of(off).digits == pytest.approx(3, abs=0.001)
    assert of(VALUE.astype(np.float32)).digits == math.inf


FIRST = np.array([1.0, 0]).reshape(2, 1, 1, 1)
EDGE = np.array([0.0, 1])


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (0.2 * VALUE, "it is 0.2 times what it should be throughout"),
        (-VALUE, "it is -1 times what it should be throughout"),
        (VALUE[::-1], "its images are in the opposite order"),
        (VALUE[:, ::-1], "its channels are in the opposite order"),
        (VALUE.swapaxes(2, 3), "its rows and columns are exchanged"),
        (np.roll(VALUE, 1, axis=1), "it has the right numbers in another order"),
        (
            VALUE + np.array([3.0, 0, -2]).reshape(3, 1, 1),
            "every channel is off by a constant of its own, as with another bias",
        ),
        (np.minimum(VALUE, 6), "it is what it should be, but cut off above at 6"),
        (np.clip(VALUE, -5, 6), "it is what it should be, but cut off below at -5 and above at 6"),
        (VALUE + FIRST * VALUE**2, "what is wrong is in image 0 alone"),
        (VALUE + FIRST[:, :1] * EDGE * VALUE**2, "what is wrong is in column 1 of image 0 alone"),
        (0 * VALUE, "it is zero throughout"),
        (VALUE + VALUE**2, "the bound 0.5"),
    ],
)
def test_a_simple_difference_is_named(array, said):
    fault = of(array.astype(np.float32)).fault
    assert fault is not None
    assert fault.endswith(said)


@pytest.mark.parametrize(("dtype", "bits"), [("float16", 11), ("bfloat16", 8)])
def test_numbers_with_too_few_digits_are_named(dtype, bits):
    value = np.random.default_rng(1).standard_normal((2, 5, 4, 4))
    mantissa, exponent = np.frexp(value)
    coarse = np.ldexp(np.rint(mantissa * 2.0**bits) / 2.0**bits, exponent)
    found = compare("c", "x", coarse, Expected(value, np.full((1,) * 4, 1e-6)), None, "map")
    assert found.fault is not None
    assert f"as if something had been rounded to {dtype}" in found.fault


def test_shape_dtype_and_finiteness_come_first():
    assert of(VALUE[0].astype(np.float32)).fault == "has shape (3, 2, 2), but should have (2, 3, 2, 2)"
    assert of(VALUE).fault == "has dtype float64, but should have float32"
    infinite = VALUE.astype(np.float32)
    infinite[0, 1, 1, 0] = np.inf
    fault = of(infinite).fault
    assert fault is not None
    assert "not finite in 1 of 24 elements, first at image 0, channel 1, row 1, column 0: inf" in fault


def test_places_are_named_after_what_the_tensor_is():
    weight = np.ones((2, 3))
    wrong = weight.astype(np.float32)
    wrong[1, 2] = 5
    found = compare_all(
        "c", {"fc.weight": wrong}, {"fc.weight": Expected(weight, np.zeros((1, 1)))}, "float32", tensor="{}"
    )
    assert found[0].fault is not None
    assert "at output 1, input 2 it is 5 but should be 1" in found[0].fault


def test_names_that_are_missing_or_unknown():
    found = compare_all("c", {"b": VALUE}, {"a": WITHIN}, "float32", tensor="the output of {}")
    assert [finding.fault for finding in found] == ["the answer lacks a and has unknown b"]


def test_a_number_is_compared_like_a_tensor():
    expected = Expected(np.asarray(2.0), np.asarray(1e-6))
    assert compare("loss", "the loss", 2.0 + 5e-7, expected, None, "vector").passed
    assert not compare("loss", "the loss", 2.1, expected, None, "vector").passed
    assert not compare("loss", "the loss", math.nan, expected, None, "vector").passed


def test_the_verdict_names_the_first_fault_and_what_is_right_before_it():
    right, wrong = of(VALUE.astype(np.float32)), of((VALUE * 3).astype(np.float32))
    network = spec.load("fashion-mini")
    assert verdict("torch", network, "float32", [right, right]) is None
    said = verdict("torch", network, "float32", [right, wrong, wrong])
    assert said is not None
    assert said.startswith("torch, fashion-mini in float32, check a-check: the output of conv1 (conv) differs in")
    assert "Before it, 1 tensor agrees exactly" in said
    assert "2 of 3 comparisons fail" in said
    assert first_fault([right, wrong]) is wrong
