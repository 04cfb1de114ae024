"""Two processes, or two devices, do what one does: single steps against the oracle, within its bounds; mutants."""

from __future__ import annotations

import os

import pytest

from conformance.checks import Examination, Job
from conformance.killing import Cases, kills
from conformance.mutants.parallel import KERAS, TORCH
from conformance.runner import Pool
from conformance.specs import slim
from conformance.suite import Small, smooth, square
from conformance.tests.conftest import require
from spec import load

SHARED = ("torch*2", "keras-jax*2", "keras-tensorflow*2")
CHECK = ("training-steps",)
SPECS = {"smooth": smooth, "square": square, "caffenet": lambda: slim(load("caffenet"))}
ASKED = [
    ("torch*2", "smooth", "float64"),
    ("torch*2", "square", "float32"),
    ("torch*2", "caffenet", "float32"),
    ("keras-jax*2", "smooth", "float32"),
    ("keras-tensorflow*2", "smooth", "float32"),
]
"""Of 3 images a step, which two cannot share evenly."""
MORE = [(name, spec, dtype) for name in SHARED for spec in SPECS for dtype in ("float32", "float64")]

WRONG = [pytest.param("torch*2", TORCH, id="torch*2"), pytest.param("keras-jax*2", KERAS, id="keras-jax*2")]
"""Keras compiles for every question: its mutants are asked by ``tox -e conformance-full``."""


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "name", "dtype"), MORE if os.environ.get("ALEXNET_FULL") else ASKED)
def test_steps_of_two_are_steps_of_one(pool: Pool, backend: str, name: str, dtype: str) -> None:
    require(pool.ask(backend, Examination(Job(SPECS[name](), dtype, images=3)), CHECK))


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "mutants"), WRONG if os.environ.get("ALEXNET_FULL") else WRONG[:1])
def test_mistakes_of_sharing_are_noticed(pool: Pool, backend: str, mutants: tuple[object, ...]) -> None:
    given = Cases({"smooth": Small(Job(smooth(), images=3), CHECK)})
    table = list(kills(pool, backend, mutants, given))  # type: ignore[arg-type]
    assert [kill.mutant.name for kill in table if kill.case is None] == []
