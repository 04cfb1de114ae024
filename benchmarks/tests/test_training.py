"""The measurement of training, very briefly: every way trains, ours and the usual one alike. Times are not judged."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import spec
from alexnet_rooms import ROOT
from benchmarks import training
from benchmarks.subjects import SUBJECTS, without

SCRIPT = ROOT / "benchmarks" / "training.py"


def test_subjects_train_and_are_compared(tmp_path):
    output = tmp_path / "training.json"
    options = [
        "--spec",
        "fashion-mini",
        "--batch",
        "4",
        "--rounds",
        "2",
        "--threads",
        "1",
        "--subjects",
        "torch,usual-torch",
    ]
    done = subprocess.run([sys.executable, SCRIPT, *options, "--output", output], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(output.read_text())
    assert result["batch"] == 4
    assert not result["failures"]
    assert {name: len(one["seconds"]) for name, one in result["subjects"].items()} == {"torch": 2, "usual-torch": 2}
    line = next(line for line in done.stdout.splitlines() if line.startswith("torch "))
    assert "x  " in line, "ours is compared with the usual way"


@pytest.mark.parametrize("name", ["usual-torch", "torch-no-lrn", "torch-bf16"])
def test_the_loss_falls_on_images_seen_again_and_again(name):
    step = SUBJECTS[name].make(spec.load("fashion-mini"), 4)
    losses = [step() for _ in range(6)]
    assert losses[-1] < losses[0]


def test_a_network_without_normalisation_is_otherwise_the_same():
    chosen = spec.load("paper-2012")
    assert [layer for layer in chosen.layers if layer.op != "lrn"] == list(without(chosen, "lrn").layers)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--subjects", "tensorflow"], "'tensorflow'"),
        (["--spec", "alexnet-2031"], "alexnet-2031"),
        (["--batch", "0"], "'0'"),
        (["--output", "result.txt"], ".json"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(capsys, options, said):
    try:
        code: object = training.main(options)
    except SystemExit as left:
        code = left.code
    error = capsys.readouterr().err
    assert code == 2
    assert error.count("\n") == 1
    assert said in error
