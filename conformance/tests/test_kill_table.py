"""Every mutant is killed by the check that it names."""

from __future__ import annotations

import json
import os

import pytest

from conformance.checks import CHECKS, Job
from conformance.client import WorkerFailed
from conformance.killing import Cases, Kill, kills
from conformance.mutants import CATALOGUE, find
from conformance.mutants.__main__ import BACKENDS, KILLED_ON, main
from conformance.recipes import every
from conformance.runner import Pool
from conformance.suite import Small, square
from spec import load


@pytest.fixture(scope="module")
def given() -> Cases:
    return Cases(every())


def test_every_mutant_names_a_check_of_the_suite_and_runs_on_one_backend_here() -> None:
    assert {mutant.expected_check for mutant in CATALOGUE} <= set(CHECKS)
    assert all(sum(backend in BACKENDS[mutant.target] for backend in KILLED_ON) == 1 for mutant in CATALOGUE)


COMPILED = ("keras-tensorflow", "keras-jax")
"""They compile for every question, and run the same code of ours: asked by ``tox -e conformance-full``."""


@pytest.mark.slow
@pytest.mark.parametrize("backend", (*KILLED_ON, *COMPILED) if os.environ.get("ALEXNET_FULL") else KILLED_ON)
def test_every_mutant_is_killed_by_the_check_that_it_names(pool: Pool, given: Cases, backend: str) -> None:
    mutants = [mutant for mutant in CATALOGUE if backend in BACKENDS[mutant.target]]
    table = list(kills(pool, backend, mutants, given))
    assert [kill.mutant.name for kill in table if kill.case is None] == []
    assert [kill.mutant.name for kill in table if not kill.fault] == []


def test_a_mutant_that_the_cases_do_not_concern_survives() -> None:
    """And is in the table."""
    with Pool() as pool:
        (kill,) = kills(pool, "numpy", [find("numpy-max-pool-last-tie-wins")], Cases({"square": Small(Job(square()))}))
    assert kill == Kill(kill.mutant, "numpy", None, asked=1, seconds=kill.seconds)
    assert kill.record()["killed"] is False


def test_a_backend_that_is_wrong_without_a_mutant_makes_no_table() -> None:
    backend = "conformance.tests.misbehaving:NotFinite"
    with Pool() as pool, pytest.raises(WorkerFailed, match="without a mutant does not pass evaluation-outputs"):
        list(
            kills(
                pool, backend, [find("spec-pools-always-round-up")], Cases({"mini": Small(Job(load("fashion-mini")))})
            )
        )


def test_the_command_writes_the_table(tmp_path, capsys):
    path = tmp_path / "evidence.json"
    names = ["numpy-tanh-gradient-without-slope", "spec-step-counts-the-other-unit"]
    assert main(["kill", *names, "--backend", "numpy", "--evidence", str(path)]) == 0
    assert "2 of 2 mutants killed" in capsys.readouterr().out
    first, second = json.loads(path.read_text())["mutants"]
    assert (first["mutant"], first["killed"], first["check"]) == (names[0], True, "training-gradients")
    assert "the gradient of" in first["fault"]
    assert second["check"] == "schedule"
    assert "the learning rate of" in second["fault"]
