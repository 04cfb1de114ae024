"""``python -m conformance``: what it prints, what it writes, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from alexnet_rooms import ROOT
from conformance.__main__ import main

MISBEHAVING = "conformance.tests.misbehaving"


def test_a_right_backend_and_its_evidence(capsys, tmp_path):
    path = tmp_path / "evidence.json"
    command = ["run", "--backend", "numpy", "--spec", "fashion-mini", "--spec", "generated:3", "--evidence", str(path)]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "2 of 2 examinations passed" in out
    assert "training-steps" in out
    evidence = json.loads(path.read_text())
    assert evidence["format"] == 1
    assert evidence["versions"]["numpy"]["numpy"]
    first = evidence["results"][0]
    assert (first["backend"], first["spec"], first["passed"]) == ("numpy", "fashion-mini-slim", True)
    assert {"check", "tensor", "error", "bound", "ratio", "digits", "fault"} == set(first["findings"][0])
    assert all(0 <= finding["ratio"] <= 1 for finding in first["findings"])


def test_a_wrong_backend_is_named_and_the_exit_code_says_so(capsys, tmp_path):
    path = tmp_path / "evidence.json"
    asked = ["--backend", f"{MISBEHAVING}:NotFinite", "--backend", f"{MISBEHAVING}:OnlyInfers"]
    only = ["--only", "evaluation-outputs", "--evidence", str(path)]
    assert main(["run", *asked, *only, "--spec", "fashion-mini"]) == 1
    captured = capsys.readouterr()
    assert "the output of conv1 (conv) is not finite in 1 of" in captured.err
    assert "1 of 2 examinations passed, 1 failed" in captured.out
    results = json.loads(path.read_text(), parse_constant=pytest.fail)["results"]
    assert [result["passed"] for result in results] == [False, True]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--backend", "caffe"], "must be one of numpy, torch"),
        (["run", "--backend", "no_such_package.x:Y"], "needs no_such_package, which is not installed"),
        (["run", "--backend", f"{MISBEHAVING}:NOT_A_BACKEND"], "must be a subclass of"),
        (["run", "--backend", "numpy", "--spec", "alexnet"], "must be the path of a .yaml file or one of"),
        (["run", "--backend", "numpy", "--spec", "generated:x"], "needs a whole number"),
        (["run", "--backend", "numpy", "--images", "0"], "must be a whole number from 1"),
        (["run", "--backend", "numpy", "--only", "everything"], "invalid choice: 'everything'"),
        (["run", "--backend", "numpy", "--limit", "-1"], "must be a number of seconds above 0"),
        (
            ["run", "--backend", "numpy", "--evidence", "/no/such/folder/x.json"],
            "must be a file in a folder that exists",
        ),
        (["trajectory", "--data", "/no/such/folder"], "/no/such/folder"),
        (["trajectory", "--steps", "0"], "must be a whole number from 1"),
        (["fly"], "invalid choice: 'fly'"),
        ([], "the following arguments are required: command"),
    ],
)
def test_a_wrong_question_gets_one_line_and_exit_code_2(capsys, arguments, said):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize("command", [["-m", "conformance"], [str(ROOT / "conformance" / "__main__.py")]])
def test_it_runs_as_a_module_and_by_path(command, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} if command[0] == "-m" else dict(os.environ)
    asked = [sys.executable, *command, "run", "--backend", "numpy", "--spec", "generated:1", "--only", "prediction"]
    done = subprocess.run(
        asked, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "1 of 1 examinations passed" in done.stdout


def test_a_trajectory_says_where_rounding_parts(capsys):
    command = ["trajectory", "--backend", "numpy", "--steps", "3", "--batch-size", "4", "--replicas", "3"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "numpy sees the oracle's weights, images, masks and settings" in out
    assert "stays in the envelope for all 3 steps" in out
