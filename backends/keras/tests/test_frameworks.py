"""Runs ``checks.py`` on TensorFlow, JAX and PyTorch, each in a process of its own, and tries the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.tests import small

ROOT = Path(__file__).resolve().parents[3]
TRAIN = ROOT / "backends" / "keras" / "train.py"
FRAMEWORKS = ("tensorflow", "jax", "torch")
Process = subprocess.Popen[str]


def start(*arguments: str | Path, folder: Path = ROOT, environment: dict[str, str] | None = None) -> Process:
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def processes() -> Iterator[dict[str, Process]]:
    """The checks, under way on every framework at once. XLA need not optimise what runs once."""
    checks = ("-m", "pytest", "-q", "-p", "no:cacheprovider", Path(__file__).with_name("checks.py"))
    thrifty = {"XLA_FLAGS": "--xla_backend_optimization_level=0", "OMP_NUM_THREADS": "1"}
    started = {name: start(*checks, environment={"KERAS_BACKEND": name, **thrifty}) for name in FRAMEWORKS}
    yield started
    for process in started.values():
        process.kill()
        process.communicate()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_keras_on(framework: str, processes: dict[str, Process]) -> None:
    output, errors = processes[framework].communicate(timeout=300)
    assert processes[framework].returncode == 0, f"{output[-6000:]}\n{errors[-2000:]}"
    assert "passed" in output
    assert "skipped" not in output


@pytest.mark.parametrize(("framework", "command"), [("tensorflow", [TRAIN]), ("jax", ["-m", "backends.keras.train"])])
def test_train(framework: str, command: list[str | Path], tmp_path: Path) -> None:
    """By its path from elsewhere, and as a module from the root."""
    data = small.write_images(tmp_path / "images", train=16)
    options: list[str | Path] = ["--backend", framework, "--spec", small.write_spec(tmp_path), "--data", data]
    folder = ROOT if "-m" in command else tmp_path
    process = start(*command, *options, "--epochs", "1", "--output-dir", tmp_path / "run", folder=folder)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert f"keras-{framework}" in output
    assert (tmp_path / "run" / "last.safetensors").is_file()


def test_another_framework_is_refused_in_one_line(tmp_path: Path) -> None:
    process = start(TRAIN, "--backend", "openvino", folder=tmp_path)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (2, "")
    assert errors.count("\n") == 1
    assert "one of tensorflow, jax, torch. Received: 'openvino'" in errors
