"""The command that counts false alarms: what it says of right backends, and what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conformance.alarms import main

POSIX = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")


def test_right_backends_are_not_accused_and_the_evidence_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "alarms.json"
    asked = ["--seeds", "2", "--backend", "torch", "--backend", "numpy", "--case", "tied"]
    assert main([*asked, "--evidence", str(file)]) == 0
    assert "0 false alarms in" in capsys.readouterr().out
    tallies = {one["backend"]: one for one in json.loads(file.read_text())["alarms"]}
    assert set(tallies) == {"torch", "numpy"}
    for one in tallies.values():
        assert one["seeds"] == 2
        assert one["comparisons"] > 0
        assert 0 < one["nearest"] <= 1


@pytest.mark.parametrize("arguments", [["--seeds", "0"], ["--evidence", "no/such/folder/file.json"]])
def test_what_cannot_be_done_is_refused_before_anything_is_asked(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert "--seeds must be 1 or more" in capsys.readouterr().err


def offspring(process: int) -> set[int]:
    """Every living process that descends from `process`."""
    parents = dict[int, int]()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue  # it has just ended
            if state != "Z":
                parents[int(folder.name)] = int(parent)
    found, new = set[int](), {process}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return found


@POSIX
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_a_command_that_is_ended(number: signal.Signals) -> None:
    command = subprocess.Popen(
        [sys.executable, "-m", "conformance.alarms", "--seeds", "1000", "--backend", "numpy", "--backend", "torch"],
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        # A process of the pool, and a worker that it has begun to ask.
        while len(left := offspring(command.pid)) < 4 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert len(left) >= 4
    finally:
        os.kill(command.pid, number)
        command.wait()
    deadline = time.monotonic() + 20
    while alive(left) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(left)


def alive(processes: set[int]) -> set[int]:
    """Those that still run."""
    return {one for one in processes if one in offspring(os.getpid()) or Path(f"/proc/{one}/cmdline").exists()}
