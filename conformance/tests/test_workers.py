"""Whatever happens in a worker is said in words, by its time limit, and the others live on."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import numpy as np
import pytest

import spec
from conformance.checks import Examination, Job
from conformance.client import NotInstalled, Remote, Worker, WorkerFailed
from conformance.exchange import read_arrays, write_arrays
from conformance.runner import Pool, Result
from conformance.specs import slim

ONLY = ("evaluation-outputs",)


@pytest.fixture(scope="module")
def job() -> Job:
    return Job(slim(spec.load("fashion-mini")))


@pytest.fixture(scope="module")
def ask(job):
    def asked(*names: str, limit: float = 60.0, only: tuple[str, ...] | None = ONLY) -> list[Result]:
        with Pool(limit) as pool:
            return pool.run([f"conformance.tests.misbehaving:{name}" for name in names], job, only)

    return asked


REPORTS = {
    "Dies": r"died with signal 9 \(SIGKILL\) while computing the outputs of fashion-mini-slim in float32",
    "Exits": r"exited with code 3 while computing the outputs.*\n.*out of licences",
    "Raises": r"raised ZeroDivisionError: by zero while computing the outputs",
    "NotArrays": r"raised TypeError: .* must be NumPy arrays. Received: list for conv1",
    "NotFinite": r"the output of conv1 \(conv\) is not finite in 1 of \d+ elements, first at image 1, channel 2, row 3",
    "WrongShape": r"the output of conv1 \(conv\) has shape \(2, 14, 14, 6\), but should have \(2, 6, 14, 14\)",
    "WrongDtype": r"the output of conv1 \(conv\) has dtype float64, but should have float32",
    "WrongName": r"the answer lacks conv1 and has unknown Conv_1",
}


@pytest.fixture(scope="module")
def reports(ask: Callable[..., list[Result]]) -> dict[str, Result]:
    return dict(zip([*REPORTS, "OnlyInfers"], ask(*REPORTS, "OnlyInfers"), strict=True))


@pytest.mark.parametrize("name", REPORTS)
def test_a_backend_that_goes_wrong_is_reported_as_that(reports, name):
    fault = reports[name].fault
    assert fault is not None
    assert re.search(REPORTS[name], fault, re.DOTALL), fault


def test_the_others_live_on(reports):
    assert reports["OnlyInfers"].passed


def test_a_backend_that_hangs_is_stopped_by_its_limit(ask):
    started = time.monotonic()
    hanging, right = ask("Hangs", "OnlyInfers", limit=4.0)
    assert hanging.fault is not None
    assert "no answer within 4 s while computing the outputs" in hanging.fault
    assert time.monotonic() - started < 40
    assert right.passed


def test_what_a_backend_prints_is_no_answer(ask):
    (chatty,) = ask("Chatters")
    assert chatty.passed


def test_arrays_that_change_later_are_read_before(ask):
    (views,) = ask("Views", only=("training-steps",))
    assert views.passed


def test_an_inference_engine_is_asked_what_it_can(ask):
    (result,) = ask("OnlyInfers", only=None)
    assert {finding.check for finding in result.findings} == {"evaluation-outputs", "prediction"}


def test_a_worker_that_died_is_replaced(job):
    with Pool(60.0) as pool:
        e = Examination(job)
        first = pool.ask("conformance.tests.misbehaving:Dies", e, ONLY)
        again = pool.ask("conformance.tests.misbehaving:Dies", e, ("prediction",))
    assert first.failure is not None
    assert "died" in first.failure
    assert again.failure is not None


def test_what_cannot_be_started_says_why():
    with pytest.raises(NotInstalled, match="no_such_package"):
        Worker("no_such_package.backend:Backend")
    with pytest.raises(WorkerFailed, match="must be a subclass of"):
        Worker("conformance.tests.misbehaving:NOT_A_BACKEND")
    with pytest.raises(WorkerFailed, match="must be a subclass of"):
        Worker("conformance.tests.misbehaving:Nothing")


def test_a_missing_framework_is_told_apart(job):
    with Pool() as pool:
        (result,) = pool.run(["no_such_package.backend:Backend"], job)
    assert result.missing == "no_such_package"
    assert not result.passed
    assert result.fault is None


def test_unsupported_is_no_failure(job):
    with Pool() as pool:
        (result,) = pool.run(["conformance.tests.misbehaving:OnlyInfers"], Job(job.spec, dtype="float64"))
    assert result.unsupported is not None
    assert "float32" in result.unsupported


def test_nothing_is_left_behind(job):
    with Worker("numpy") as worker:
        folder = worker.folder
        backend = Remote(worker, job.spec)
        case = Examination(job).case
        backend.load(case.parameters)
        outputs = backend.outputs(case.images)
        assert [path.name for path in folder.iterdir()] == ["stderr.txt"]
    assert not folder.exists()
    assert outputs["fc8"].shape == (2, 11)


def test_any_name_can_travel(tmp_path):
    arrays = {"../up": np.arange(3.0), "a b/c": np.ones((2, 2), np.float32), "": np.array(True)}
    names = write_arrays(tmp_path / "new", arrays)
    found = read_arrays(tmp_path / "new", names)
    assert list(found) == list(arrays)
    assert all(np.array_equal(found[name], array) for name, array in arrays.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new"]
