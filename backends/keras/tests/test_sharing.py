"""A batch shared by several devices, and by several processes on JAX: what one device makes of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from alexnet_rooms import ROOT
from backends import cli
from backends.checkpoint import LAST, load
from backends.tests import small
from backends.tests.small import finish

OPTIONS = ("--spec", "small.yaml", "--data", "images", "--device", "cpu", "--batch-size", "7")
"""7 images a step, which two devices cannot share evenly."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Specification, images, and in ``one`` the run of one device."""
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    small.write_spec(tmp_path)
    small.write_images(tmp_path / "images")
    assert cli.main("torch", [*OPTIONS, "--output-dir", "one"]) == 0
    return tmp_path


def begin(here: Path, framework: str, *options: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "backends.keras.train", "--backend", framework, *OPTIONS, *options]
    return subprocess.Popen(
        command,
        cwd=here,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def pair(here: Path, *options: str) -> list[subprocess.Popen[str]]:
    """Two processes of JAX, as if on two hosts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    common = {"KERAS_DISTRIBUTION_JOB_ADDRESSES": address, "KERAS_DISTRIBUTION_NUM_PROCESSES": "2"}
    return [begin(here, "jax", *options, **common, KERAS_DISTRIBUTION_PROCESS_ID=str(rank)) for rank in range(2)]


def require_the_run_of_one(here: Path, folder: str) -> None:
    found, expected = load(here / folder / LAST), load(here / "one" / LAST)
    assert found.progress == expected.progress
    for kind in ("parameters", "velocities"):
        for name, array in getattr(expected, kind).items():
            bound = 1e-5 * np.abs(array).max()
            np.testing.assert_allclose(getattr(found, kind)[name], array, rtol=0, atol=bound, err_msg=f"{kind} {name}")


@pytest.mark.parametrize("framework", ["tensorflow", "jax"])
def test_two_devices_do_what_one_does(here: Path, framework: str) -> None:
    """With parts of 3 and 4 images."""
    pytest.importorskip(framework)
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"} if framework == "jax" else {}
    code, said, err = finish(begin(here, framework, "--devices", "2", "--output-dir", "two", **flags))
    assert code == 0, err
    assert f"keras-{framework} on cpu, 2 devices" in said
    require_the_run_of_one(here, "two")


def test_two_processes_on_jax_do_what_one_does(here: Path) -> None:
    pytest.importorskip("jax")
    found = [finish(process) for process in pair(here, "--output-dir", "two")]
    assert [code for code, _, _ in found] == [0, 0], found
    assert "keras-jax on cpu, 2 processes" in found[0][1]
    assert "keras-jax" not in found[1][1]
    require_the_run_of_one(here, "two")


@pytest.mark.parametrize("victim", [0, 1] if os.environ.get("ALEXNET_FULL") else [1])
def test_the_death_of_a_process_ends_the_other(here: Path, victim: int) -> None:
    """Process 1 is told by the connection; what process 0 dies of, JAX itself says, and aborts process 1."""
    pytest.importorskip("jax")
    processes = pair(here, "--epochs", "1000000", "--output-dir", "run")
    until, log = time.monotonic() + 240, here / "run" / "metrics.jsonl"
    while time.monotonic() < until and not (log.exists() and '"event": "epoch"' in log.read_text()):
        time.sleep(0.05)
    os.kill(processes[victim].pid, signal.SIGKILL)
    began = time.monotonic()
    code, _, err = finish(processes[1 - victim], 90)
    assert code not in (0, -9), err
    assert time.monotonic() - began < 60
    if victim == 1:
        (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
        assert "process 0 of 2: another process of this run has ended or cannot be reached. Kept: " in line
    finish(processes[victim])
    load(here / "run" / LAST)


@pytest.mark.parametrize(
    ("framework", "options", "environment", "named"),
    [
        ("torch", ("--devices", "2"), {}, "must be asked of Keras on JAX or TensorFlow, or of torchrun"),
        ("tensorflow", (), {"KERAS_DISTRIBUTION_NUM_PROCESSES": "2"}, "MultiWorkerMirroredStrategy does not work"),
        ("jax", ("--devices", "8"), {}, "a batch of 7 images must have one at least for every device"),
    ],
)
def test_what_cannot_be_shared_is_refused(
    here: Path, framework: str, options: tuple[str, ...], environment: dict[str, str], named: str
) -> None:
    pytest.importorskip(framework)
    code, _, err = finish(begin(here, framework, *options, "--output-dir", "two", **environment))
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert (code, len(errors)) == (2, 1), err
    assert named in errors[0]
    assert not (here / "two").exists()
