"""The examples: a template that runs as it is, and a backend from outside that passes."""

from __future__ import annotations

import importlib.util
import platform
import shutil
from collections.abc import Callable

import pytest

from alexnet_rooms import ROOT
from conformance.checks import Job
from conformance.runner import Pool, Result
from conformance.specs import chooser, generate, slim
from conformance.tests.conftest import without
from spec import Spec, load

EXAMPLES = ROOT / "examples"
PINNED = (EXAMPLES / "requirements.txt").read_text().split()[-1]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Spec], Result]:
    """An examination of an example as its user would have it: found where it lies."""
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES))
    monkeypatch.setenv("NOOPT", "1")  # tinygrad's own: no search for fast programs

    def asked(name: str, spec: Spec) -> Result:
        with Pool() as pool:
            (result,) = pool.run([name], Job(spec))
        return result

    return asked


def test_the_template_runs_as_far_as_it_goes(ask):
    result = ask("template:MyBackend", slim(load("fashion-mini")))
    assert result.failures == {}
    assert result.inapplicable["evaluation-outputs"] == "conv is not written yet"
    assert result.inapplicable["loss"] == "it only infers: this check needs a backend that trains"


def test_a_backend_from_outside_passes_every_check(ask):
    if importlib.util.find_spec("tinygrad") is None:
        without(f"{PINNED} is not installed")
    if platform.machine().lower() not in ("x86_64", "amd64") and shutil.which("clang") is None:
        pytest.skip("tinygrad needs clang here")
    result = ask("tinygrad_backend:TinygradBackend", generate(chooser(3), "generated-3"))
    assert result.fault is None
    assert result.inapplicable == {}
    assert {"training-outputs", "training-gradients", "training-steps"} <= {f.check for f in result.findings}


def test_what_the_example_is_pinned_to_is_what_is_tested():
    assert PINNED in (ROOT / "constraints.txt").read_text().split()
    assert f'"{PINNED}"' in (ROOT / "pyproject.toml").read_text()
