"""Every backend on images and evaluation: on all that the language says of them, and as every variant says it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import spec
from backends import NAMES
from conformance import data_oracle as oracle
from conformance.checks import Examination, Job
from conformance.data_checks import stored
from conformance.runner import Pool
from conformance.suite import IMAGES, OF_IMAGES, seeing
from conformance.tests.conftest import require
from spec import Spec, from_values


def recipe(name: str) -> Spec:
    """What a variant says of images and of evaluation, around a small network."""
    said, values = spec.load(name), seeing("bytes").statement()
    channels = said.input.channels
    values["name"], values["input"]["channels"] = f"{name}-images", channels
    data: dict[str, Any] = said.statement()["data"]
    values["data"] = data | {"storage": data["storage"] | {"size": 9}}
    return from_values(values | {"evaluation": said.statement()["evaluation"]})


@pytest.mark.parametrize("backend", NAMES)
@pytest.mark.parametrize("name", IMAGES)
def test_images_and_scores(pool: Pool, name: str, backend: str) -> None:
    require(pool.ask(backend, Examination(Job(seeing(name))), OF_IMAGES))


@pytest.mark.parametrize("backend", ["torch"])
@pytest.mark.parametrize("name", spec.names())
def test_what_every_variant_says_of_images(pool: Pool, name: str, backend: str) -> None:
    require(pool.ask(backend, Examination(Job(recipe(name))), OF_IMAGES))


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_scores_in_other_dtypes(pool: Pool, dtype: str) -> None:
    require(pool.ask("torch", Examination(Job(seeing("noisy"), dtype=dtype)), OF_IMAGES))


def test_the_routine_for_devices_is_asked_where_there_is_one(pool: Pool) -> None:
    found = {
        name: pool.ask(name, Examination(Job(seeing("moving"))), ("training-images",)) for name in ("numpy", "torch")
    }
    there = {name: sum("for devices" in one.tensor for one in result.findings) for name, result in found.items()}
    assert there["numpy"] == 0
    assert there["torch"] == len(found["torch"].findings) // 2 > 0


def test_the_oracle_of_storing_by_hand() -> None:
    """Four pixels made two, by triangles four wide: of the first, 3/8 and 3/8, 2/8 of which the border cuts nothing."""
    values = seeing("bytes").statement()
    values["input"] |= {"height": 2, "width": 2}
    values["data"]["storage"] = {"size": 2, "fit": "stretch"}
    photograph = np.array([[[0], [80], [160], [240]]] * 4, np.uint8).repeat(3, axis=2)
    found = oracle.stored_image(photograph, from_values(values)).value
    # centres 1 and 3, support 2: weights 0.75, 0.75, 0.25 over pixels at 0.5, 1.5, 2.5, brought to a sum of 1
    first = (0.75 * 0 + 0.75 * 80 + 0.25 * 160) / 1.75
    np.testing.assert_allclose(found[:, :, 0], [[first, 240 - first]] * 2)


def test_an_error_of_one_bit_is_noticed() -> None:
    """The bound of what the network sees is one unit in the last place of the largest number on the way."""
    spec_ = seeing("values")
    given = stored(spec_, 1)
    known = oracle.Known(**given.statistics)
    expected = oracle.seen(given.images[0], spec_, known, oracle.in_evaluation(spec_, "center")[0])
    unit = np.spacing(np.abs(expected.value).max().astype(np.float32))
    assert 0 < expected.bound.max() <= 4 * unit
    plain = seeing("bytes")
    whole = oracle.seen(given.images[0], plain, known, oracle.in_evaluation(plain, "ten")[7])
    assert not whole.bound.any()


def test_ties_go_to_the_smaller_class_and_doubt_is_no_accusation() -> None:
    logits = np.array([[1.0, 1.0, 0.0, 1.0]])
    exact = [oracle.verdict(logits, np.zeros((1, 4)), label, "logits") for label in range(4)]
    assert [(one.least, one.most, one.answer, one.sure) for one in exact] == [
        (0, 0, 0, True), (1, 1, 0, True), (3, 3, 0, True), (2, 2, 0, True)
    ]  # fmt: skip
    vague = oracle.verdict(logits, np.full((1, 4), 1e-6), 1, "probabilities")
    assert (vague.least, vague.most, vague.sure) == (0, 2, False)
