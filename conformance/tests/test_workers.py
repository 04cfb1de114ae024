"""Whatever happens in a worker is said in words, by its time limit, and the others live on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import spec
from alexnet_rooms import ROOT
from conformance.checks import Examination, Job
from conformance.client import NotInstalled, NotThere, Remote, Worker, WorkerFailed
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
        with Pool(limit, memory=2**30) as pool:
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
    "NoMapping": r"raised TypeError: .* must be NumPy arrays by name. Received: list",
    "WantsToExit": r"raised SystemExit: 7 while computing the outputs",
    "Interrupts": r"raised KeyboardInterrupt: .* while computing the outputs",
    "LeavesAChild": r"died with signal 9 \(SIGKILL\) while computing the outputs",
    "ClosesPipes": r"closed the pipe that its answers go through while computing the outputs",
    "Greedy": r"took \d\.\d GiB of memory, more than the limit of 1\.0 GiB, while computing the outputs",
    "Gigantic": r"raised ValueError: .* Received: 4096\.0 GiB, shape \(1048576, 1048576\) while computing the outputs",
    "Floods": r"printed more than 64 MiB while computing the outputs",
    "NotBuilt": r"raised OSError: no device is free while building fashion-mini-slim in float32",
}


@pytest.fixture(scope="module")
def reports(ask: Callable[..., list[Result]]) -> dict[str, Result]:
    names = [*REPORTS, "OnlyInfers", "Forks"]
    return dict(zip(names, ask(*names), strict=True))


@pytest.mark.parametrize("name", REPORTS)
def test_a_backend_that_goes_wrong_is_reported_as_that(reports, name):
    fault = reports[name].fault
    assert fault is not None
    assert re.search(REPORTS[name], fault, re.DOTALL), fault


def test_the_others_live_on(reports):
    assert reports["OnlyInfers"].passed


def test_what_a_child_answers_is_not_listened_to(reports):
    assert reports["Forks"].passed


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


MORE = ("evaluation-outputs", "prediction", "training-outputs", "training-gradients", "training-steps")


@pytest.fixture(scope="module")
def further(ask: Callable[..., list[Result]]) -> dict[str, Result]:
    names = ("Views", "OneBuffer", "OnlyInfers", "Partly", "Dies")
    return dict(zip(names, ask(*names, only=MORE), strict=True))


@pytest.mark.parametrize(
    ("name", "failed", "method", "first"),
    [("Views", "training-steps", "parameters", "conv1.weight"), ("OneBuffer", "training-outputs", "outputs", "drop6")],
)
def test_arrays_that_change_later_are_reported(further, name, failed, method, first):
    result = further[name]
    assert f"what {method}() returned must be a copy, but it changed later: {first}" in result.failures[failed]
    assert {finding.check for finding in result.findings} >= {"evaluation-outputs", "prediction"}
    assert not result.passed


def test_an_inference_engine_is_asked_what_it_can(further):
    result = further["OnlyInfers"]
    assert {finding.check for finding in result.findings} == {"evaluation-outputs", "prediction"}
    assert result.inapplicable["training-gradients"] == "it only infers: this check needs a backend that trains"
    assert result.passed


def test_what_a_backend_cannot_do_costs_it_nothing_else(further):
    result = further["Partly"]
    assert result.inapplicable == {"training-gradients": "gradients stay on the device"}
    assert {finding.check for finding in result.findings} == set(MORE) - {"training-gradients"}
    assert result.passed


def test_a_check_is_given_up_when_the_backend_was_lost_at_it_too_often(ask, further):
    assert list(further["Dies"].failures) == ["evaluation-outputs", "prediction", "training-outputs"]
    with Pool() as pool:
        e, name = Examination(further["Dies"].job), "conformance.tests.misbehaving:Dies"
        lost = [str(pool.ask(name, e, ONLY).failure) for _ in range(4)]
    assert [said.startswith(f"{name} died with signal 9") for said in lost] == [True, True, True, False]
    given_up = f"{name} was lost 3 times at evaluation-outputs, which is not asked again; the last time: {name} died"
    assert lost[3].startswith(given_up)


IMPORTS = {
    "raises": ("raise RuntimeError('no licence')", r"raised RuntimeError: no licence while starting"),
    "exits": ("raise SystemExit(4)", r"raised SystemExit: 4 while starting"),
    "leaves": ("import os; os._exit(4)", r"exited with code 4 while starting"),
    "hangs": ("import time; time.sleep(3600)", r"no answer within 2 s while starting"),
    "lacks": ("from json import no_such_name", r"raised ImportError: cannot import name 'no_such_name'"),
}


@pytest.mark.parametrize("name", IMPORTS)
def test_what_goes_wrong_at_import_is_reported(name, tmp_path):
    code, said = IMPORTS[name]
    (tmp_path / f"import_{name}.py").write_text(code + "\n")
    limit = 2.0 if name == "hangs" else 60.0
    with pytest.raises(WorkerFailed, match=said) as caught:
        Worker(f"import_{name}:Backend", start_limit=limit, environment={"PYTHONPATH": f"{tmp_path}:{ROOT}"})
    assert not isinstance(caught.value, NotThere)


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


ASKER = """
import sys
from conformance.client import Worker
worker = Worker("conformance.tests.misbehaving:Dies")
print(worker.process, worker.folder, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(os.name != "posix", reason="processes have parents and groups")
def test_who_is_killed_while_asking_leaves_no_process_and_no_folder():
    asker = subprocess.Popen(
        [sys.executable, "-c", ASKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert asker.stdin is not None
    assert asker.stdout is not None
    process, folder = asker.stdout.readline().split()
    assert Path(folder).is_dir()
    os.kill(int(process), 0)
    os.kill(int(process), signal.SIGSTOP)  # too busy to notice that nobody asks any more, until it goes on
    asker.kill()
    asker.communicate()
    os.kill(int(process), signal.SIGCONT)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and (_lives(int(process)) or Path(folder).exists()):
        time.sleep(0.1)
    assert not _lives(int(process))
    assert not Path(folder).exists()


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_any_name_can_travel(tmp_path):
    arrays = {"../up": np.arange(3.0), "a b/c": np.ones((2, 2), np.float32), "": np.array(True)}
    names = write_arrays(tmp_path / "new", arrays)
    found = read_arrays(tmp_path / "new", names)
    assert list(found) == list(arrays)
    assert all(np.array_equal(found[name], array) for name, array in arrays.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new"]
