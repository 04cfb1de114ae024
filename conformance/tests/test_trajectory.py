"""Training on real images: all backends start from the same weights, see the same images and masks, lose the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

import spec
from backends.base import Backend
from backends.numpy import NumpyBackend
from conformance.bounds import Arithmetic
from conformance.checks import Job
from conformance.client import NotInstalled, Remote
from conformance.runner import Pool, Result
from conformance.tests.conftest import require
from conformance.trajectory import Course, Envelope, Log, parting

TRAINERS = ("torch", "keras-tensorflow", "keras-jax", "keras-torch")
STEPS = 8


@dataclass
class Reference:
    course: Course
    log: Log
    envelope: Envelope


@pytest.fixture(scope="module")
def reference() -> Reference:
    network = spec.load("fashion-mini", {"training": {"batch_size": 16}})
    course = Course(network, steps=STEPS, seed=3)
    envelope = Envelope(network, Arithmetic("float32"), replicas=4)
    return Reference(course, course.follow(envelope), envelope)


def backend_of(pool: Pool, name: str, network: spec.Spec) -> Backend:
    try:
        return Remote(pool.worker(name), network)
    except NotInstalled as error:
        require(Result(name, Job(network), missing=error.library))
        raise


@pytest.mark.parametrize("name", TRAINERS)
def test_backends_see_the_same_and_lose_the_same(pool, reference, name):
    log = reference.course.follow(backend_of(pool, name, reference.course.spec))
    assert log.initial == reference.log.initial
    assert log.seen == reference.log.seen
    assert len(set(log.seen)) == STEPS
    left = parting(log, reference.envelope.expected)
    assert left is None, f"{name} leaves the envelope of float32 at step {left}: {log.losses[left - 1]}"


def test_the_envelope_is_narrow_and_the_oracle_is_inside(reference):
    """Eight steps of rounding change the loss in the fifth digit at most: the agreement says something."""
    assert parting(reference.log, reference.envelope.expected) is None
    assert all(one.bound < 1e-4 * one.value for one in reference.envelope.expected)


def test_another_seed_or_another_momentum_leaves_the_envelope(reference):
    other = spec.load("fashion-mini", {"training": {"batch_size": 16, "optimizer": {"momentum": 0.8999}}})
    backend = NumpyBackend(other, dtype="float32")
    log = reference.course.follow(backend)
    assert log.seen == reference.log.seen
    assert parting(log, reference.envelope.expected) in range(2, 7)
    elsewhere = Course(reference.course.spec, steps=STEPS, seed=4).follow(NumpyBackend(other, dtype="float32"))
    assert elsewhere.initial != reference.log.initial
    assert set(elsewhere.seen).isdisjoint(reference.log.seen)
    assert not np.allclose(elsewhere.losses, reference.log.losses)
