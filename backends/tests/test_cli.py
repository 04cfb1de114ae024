"""The command line: what it says, what it refuses, what it leaves behind."""

from __future__ import annotations

import json
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

from alexnet_rooms import ROOT
from backends import cli
from backends.checkpoint import BEST, LAST, PREVIOUS, load
from backends.curves import REPORT
from backends.reporting import METRICS
from backends.starting import LOCK
from backends.tests import small

Train = Callable[..., tuple[int, str, str]]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder but for a specification, small.yaml, and images."""
    return small.workplace(tmp_path, monkeypatch)


@pytest.fixture
def run(here: Path, capsys: pytest.CaptureFixture[str]) -> Train:
    """Run train.py of PyTorch on the small specification and images. Returns exit code, stdout and stderr."""

    def call(*options: str, given: bool = True) -> tuple[int, str, str]:
        own = ["--spec", "small.yaml", "--data", "images", "--device", "cpu"] if given else []
        code = cli.main("torch", [*own, *options])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below `folder`, with its size and time."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_run_says_what_it_does_and_leaves_its_files(run: Train, here: Path) -> None:
    code, out, err = run()
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    lines = out.splitlines()
    assert lines[0].startswith("IDX folder images: 44 training and 10 validation images")
    sizes = r"small: [\d,]+ parameters, [\d,]+ MACs an image; 3 epochs, batch size 8, seed 0, torch on cpu"
    assert re.fullmatch(sizes, lines[1]), lines[1]
    assert lines[2] == "validation on central crops; the run is kept in runs/torch-small"
    for number, line in enumerate(lines[3:6], 1):
        pattern = rf"epoch {number}/3  loss \d\.\d+  top-1 [\d.]+ %  top-5 [\d.]+ %  \d+ img/s  lr 0\.0\d+(  best)?"
        assert re.fullmatch(pattern, line), line
    assert re.match(r"best: top-1 [\d.]+ % after epoch \d, kept as runs/torch-small/best.safetensors", lines[6])
    assert lines[7:] == ["how it went: runs/torch-small/report.html"]
    assert {path.name for path in (here / "runs" / "torch-small").iterdir()} == {
        LAST,
        PREVIOUS,
        BEST,
        METRICS,
        LOCK,
        REPORT,
    }


def test_the_same_command_again_makes_a_folder_of_its_own(run: Train, here: Path) -> None:
    for _ in range(3):
        assert run("--max-steps", "1")[0] == 0
    assert {path.name for path in (here / "runs").iterdir()} == {"torch-small", "torch-small-2", "torch-small-3"}


def test_options_change_the_specification_of_the_run(run: Train, here: Path) -> None:
    assert run("--epochs", "1", "--batch-size", "11", "--lr", "0.1", "--seed", "5", "--workers", "2")[0] == 0
    found = load(here / "runs" / "torch-small" / LAST)
    assert (found.spec.training.epochs, found.spec.training.batch_size) == (1, 11)
    rates = found.spec.statement()["training"]["learning_rate"]
    assert [stage["rate"] for stage in rates["*"]["stages"]] == [0.1, 0.01]
    assert rates["*.bias"]["rate"] == pytest.approx(0.04)
    assert (found.progress.seed, found.progress.step) == (5, 4)
    assert found.classes == ("0", "1", "2", "3")


def test_the_number_of_classes_follows_the_data(run: Train, here: Path) -> None:
    small.write_images(here / "six", classes=6)
    code, out, _ = run("--data", "six", "--max-steps", "1")
    assert code == 0
    assert "the data has 6 classes: fc8 has as many outputs in this run, instead of 4" in out
    assert load(here / "runs" / "torch-small" / LAST).parameters["fc8.weight"].shape == (6, 16)


def test_stopping_and_going_on_is_told_and_ends_as_if_not_stopped(run: Train, here: Path) -> None:
    assert run("--output-dir", "whole")[0] == 0
    code, out, _ = run("--max-steps", "7")
    assert code == 0
    assert re.search(r"^epoch 2/3, 2 of 5 steps  loss \d\.\d+  \d+ img/s$", out, re.MULTILINE)
    assert "stopped after step 7; go on with: python -m backends.torch.train --resume runs/torch-small" in out
    code, out, _ = run("--resume", "runs/torch-small", given=False)  # the data and the specification are remembered
    assert code == 0
    assert "going on after step 7, in epoch 2; validation on central crops; the run is kept in runs/torch-small" in out
    found, expected = (load(here / folder / LAST) for folder in ("runs/torch-small", "whole"))
    for name, array in expected.parameters.items():
        np.testing.assert_array_equal(found.parameters[name], array)
    assert found.progress == expected.progress


def test_resume_without_a_path_finds_the_newest_run_or_begins(run: Train, here: Path) -> None:
    code, out, _ = run("--resume", "--max-steps", "2")
    assert code == 0
    assert "nothing to go on from: this run starts at the beginning" in out
    assert run("--output-dir", "runs/other", "--max-steps", "3")[0] == 0
    code, out, _ = run("--resume", "auto", "--max-steps", "4", given=False)
    assert code == 0
    assert "going on after step 3" in out
    code, out, _ = run("--resume", "--output-dir", "runs/torch-small", "--max-steps", "4")
    assert "going on after step 2" in out
    assert {path.name for path in (here / "runs").iterdir()} == {"torch-small", "other"}


def test_a_run_can_be_made_longer_and_says_so(run: Train, here: Path) -> None:
    assert run("--epochs", "1")[0] == 0
    code, out, _ = run("--resume", "--epochs", "2")
    assert code == 0
    assert "the run is 2 epochs long from here on, where it began with 1" in out
    assert load(here / "runs" / "torch-small" / LAST).progress.epoch == 2
    code, out, _ = run("--resume", given=False)  # finished: says what it is and does nothing
    assert code == 0
    assert "best: top-1" in out


def test_a_run_resumed_into_another_folder_leaves_the_first_alone(run: Train, here: Path) -> None:
    run("--max-steps", "2")
    before = listing(here / "runs")
    assert run("--resume", "runs/torch-small", "--output-dir", "branch", "--max-steps", "4")[0] == 0
    assert listing(here / "runs") == before
    assert load(here / "branch" / LAST).progress.step == 4


def test_an_early_killed_runs_folder_can_be_gone_on_with(run: Train, here: Path) -> None:
    (here / "early").mkdir()
    (here / "early" / METRICS).write_text('{"event": "step", "epoch": 0, "step": 0, "loss": 9.0}\n')
    assert run("--output-dir", "early", "--resume", "--max-steps", "1")[0] == 0
    assert '"loss": 9.0' not in (here / "early" / METRICS).read_text()


WRONG: dict[str, tuple[list[str], str]] = {
    "unknown option": (["--learning-rate", "1"], "unrecognized arguments: --learning-rate 1"),
    "abbreviated option": (["--epoch", "1"], "unrecognized arguments: --epoch 1. Did you mean --epochs?"),
    "no value": (["--epochs"], "argument --epochs: expected one argument"),
    "no number": (["--epochs", "two"], "argument --epochs: must be a whole number of at least 1. Received: 'two'"),
    "zero epochs": (["--epochs", "0"], "argument --epochs: must be a whole number of at least 1. Received: '0'"),
    "half a batch": (["--batch-size", "1.5"], "argument --batch-size: must be"),
    "negative rate": (["--lr=-0.1"], "argument --lr: must be a number above 0. Received: '-0.1'"),
    "rate of nothing": (["--lr", "nan"], "argument --lr: must be a number above 0. Received: 'nan'"),
    "infinite rate": (["--lr", "inf"], "argument --lr: must be"),
    "large seed": (["--seed", str(2**32)], "argument --seed: must be a whole number from 0"),
    "no workers": (["--workers", "0"], "argument --workers: must be"),
    "unknown specification": (["--spec", "alexnet"], "'alexnet'"),
    "specification that is no YAML": (["--spec", "images/t10k-labels-idx1-ubyte.gz"], "not a .yaml file"),
    "missing data": (["--data", "nowhere"], "Received: 'nowhere'"),
    "empty folder": (["--data", "void"], "void"),
    "unknown device": (["--device", "abacus"], "Received: abacus"),
    "missing checkpoint": (["--resume", "nowhere.safetensors"], "nowhere.safetensors: a checkpoint must be a readable"),
    "folder without checkpoint": (["--resume", "void"], "no such file"),
    "damaged checkpoint": (["--resume", "damaged.safetensors"], "damaged.safetensors: a checkpoint must be a readable"),
    "another batch size": (["--resume", "runs/torch-small", "--batch-size", "4"], "batch_size 4, where it began"),
    "another rate": (["--resume", "runs/torch-small", "--lr", "9"], "learning_rate"),
    "another seed": (["--resume", "runs/torch-small", "--seed", "1"], "the seed 1, where it began with 0"),
    "other images": (["--resume", "runs/torch-small", "--data", "images2"], "images with the fingerprint"),
    "other classes": (["--resume", "runs/torch-small", "--data", "six"], "fc8.out_features 6, where it began with 4"),
    "another specification": (["--resume", "runs/torch-small", "--spec", "fashion-mini"], "more fields that differ"),
    "fewer epochs than done": (["--resume", "runs/torch-small", "--epochs", "1"], "--epochs must be at least 2"),
    "folder of another run": (["--output-dir", "runs/torch-small"], "runs/torch-small, which holds last.safetensors"),
    "a file for a folder": (["--output-dir", "small.yaml"], "--output-dir must be a folder that can be made"),
    "a folder below a file": (["--output-dir", "small.yaml/x"], "--output-dir must be a folder that can be made"),
}  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a run of two epochs and a bit, other data, and a damaged checkpoint."""
    folder = tmp_path_factory.mktemp("prepared")
    spec, images = str(small.write_spec(folder)), str(small.write_images(folder / "images"))
    first = ["--output-dir", str(folder / "runs" / "torch-small"), "--max-steps", "12"]
    assert cli.main("torch", ["--spec", spec, "--data", images, "--device", "cpu", *first]) == 0
    small.write_images(folder / "images2", seed=2)
    small.write_images(folder / "six", classes=6)
    (folder / "void").mkdir()
    (folder / "damaged.safetensors").write_bytes((folder / "runs" / "torch-small" / LAST).read_bytes()[:5000])
    return folder


@pytest.mark.parametrize(("options", "named"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_request_is_one_line_and_changes_nothing(
    prepared: Path, run: Train, monkeypatch: pytest.MonkeyPatch, options: list[str], named: str
) -> None:
    monkeypatch.chdir(prepared)
    before = listing(prepared)
    code, _, err = run(*options)
    assert code == 2
    assert named in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert listing(prepared) == before


def test_every_problem_of_a_specification_is_named(run: Train, here: Path) -> None:
    values = small.values()
    values["training"] = {**values["training"], "batch_size": 0, "epochs": -1}
    (here / "small.yaml").write_text(json.dumps(values))
    code, _, err = run()
    assert code == 2
    assert "training.batch_size" in err
    assert "training.epochs" in err
    assert "Traceback" not in err


def test_divergence_is_one_line_and_code_1(run: Train, here: Path) -> None:
    small.write_spec(here, learning_rate={"*": {"kind": "constant", "rate": 1e19}})
    code, _, err = run()
    assert code == 1
    pattern = (
        r"error: the loss must be finite. Received: (nan|inf) at step \d \(epoch 1\). It began in .*layer \w+.*"
        r" Kept: runs/torch-small/last.safetensors, after step 0\n"
    )
    assert re.fullmatch(pattern, err), err


def test_a_folder_that_cannot_be_written_is_refused(run: Train, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the tests may run as root, who may write anywhere
    code, _, err = run("--output-dir", "sealed")
    assert code == 2
    assert "sealed" in err


@pytest.mark.parametrize("family", ["torch", "keras"])
def test_help_teaches(family: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(family, ["--help"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    options = (
        "--spec --data --epochs --batch-size --lr --seed --device --workers --output-dir --resume --max-steps --dry-run"
    )
    for option in [*options.split(), "--backend"] if family == "keras" else options.split():
        assert f"  {option} " in said
    assert f"python -m backends.{family}.train --spec source-2012 --data DIR" in said
    assert all(len(line) <= 120 for line in said.splitlines())


def test_keras_runs_on_one_of_its_frameworks(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main("keras", ["--backend", "theano"]) == 2
    said = capsys.readouterr().err
    assert said == "error: --backend must be one of tensorflow, jax, torch. Received: 'theano'\n"


def environment() -> dict[str, str]:
    """That of a user who set no PYTHONPATH."""
    return {**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, "OMP_NUM_THREADS": "1"}


def test_the_script_runs_by_its_path_from_anywhere_and_stops_at_a_signal(here: Path) -> None:
    """Beside modules with the names of ours and of our dependencies, which must not be found."""
    for namesake in ("spec", "data", "torch", "numpy", "backends"):
        (here / f"{namesake}.py").write_text("raise SystemExit('the wrong module')\n")
    script = ROOT / "backends" / "torch" / "train.py"
    options = ["--spec", "small.yaml", "--data", "images", "--epochs", "1000000", "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, str(script), *options],
        cwd=here,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    checkpoint = here / "runs" / "torch-small" / LAST
    try:
        until = time.monotonic() + 300
        while not checkpoint.exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert (process.returncode, err) == (128 + signal.SIGTERM, b""), out
    assert b"\x1b" not in out
    steps = load(checkpoint).progress.step
    assert f"stopped after step {steps}; go on with" in out.decode()


def test_a_checkout_in_front_of_a_foreign_room_is_named(tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text("")
    command = [sys.executable, "-m", "backends.torch.train", "--max-steps", "1"]
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        command, cwd=tmp_path, env={**environment(), "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert str(tmp_path / "data.py") in done.stderr
