"""How a run is executed: asked for, recorded, gone on with, and without effect on what is computed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from backends import cli, planning
from backends.base import pieces
from backends.checkpoint import DIGEST, EXECUTION, LAST, PLAIN, Execution, load
from backends.memory import need
from backends.reporting import METRICS
from backends.tests import diverging, small

RUN = Path("runs", "torch-small")
Train = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Train:
    """Run train.py of PyTorch in a new folder. Returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    small.write_spec(tmp_path)
    small.write_images(tmp_path / "images")

    def call(*options: str) -> tuple[int, str, str]:
        code = cli.main("torch", ["--spec", "small.yaml", "--data", "images", "--device", "cpu", *options])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.mark.parametrize(
    ("images", "count", "sizes"), [(8, 1, [8]), (8, 3, [3, 3, 2]), (8, 5, [2, 2, 2, 2]), (1, 4, [1])]
)
def test_pieces_have_one_size_but_the_last(images: int, count: int, sizes: list[int]) -> None:
    cut = pieces(images, count)
    assert [rows.stop - rows.start for rows in cut] == sizes
    assert np.concatenate([np.arange(images)[rows] for rows in cut]).tolist() == list(range(images))


def test_what_was_asked_for_is_recorded_and_gone_on_with(run: Train) -> None:
    wanted = Execution(precision="bf16", accumulation_steps=3)
    assert run("--precision", "bf16", "--accumulation-steps", "3", "--max-steps", "2")[0] == 0
    assert load(RUN / LAST).execution == wanted
    assert {array.dtype for array in load(RUN / LAST).velocities.values()} == {np.dtype("float32")}
    assert run("--resume", str(RUN), "--max-steps", "3")[0] == 0
    assert load(RUN / LAST).execution == wanted
    code, out, _ = run("--resume", str(RUN), "--precision", "float32", "--accumulation-steps", "1")
    assert code == 0
    assert "the run is computed in float32 from here on, where it was in bf16" in out
    assert load(RUN / LAST).execution == PLAIN
    begun = [json.loads(line) for line in (RUN / METRICS).read_text().splitlines()]
    told = [(one["precision"], one["accumulation_steps"]) for one in begun if one["event"] == "run"]
    assert told == [("bf16", 3), ("bf16", 3), ("float32", 1)]


def test_a_checkpoint_of_before_it_was_recorded_was_plain(run: Train) -> None:
    assert run("--max-steps", "2")[0] == 0
    with safe_open(RUN / LAST, framework="numpy") as file:
        header = {key: value for key, value in file.metadata().items() if key not in (EXECUTION, DIGEST)}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
    save_file(tensors, "old.safetensors", header)
    assert load(Path("old.safetensors")).execution == PLAIN


def test_a_run_in_pieces_that_is_stopped_ends_as_one_that_is_not(run: Train) -> None:
    asked = ("--accumulation-steps", "3")
    assert run(*asked, "--output-dir", "whole")[0] == 0
    assert run(*asked, "--output-dir", "parts", "--max-steps", "7")[0] == 0
    assert run("--resume", "parts")[0] == 0
    whole, parts = load(Path("whole", LAST)), load(Path("parts", LAST))
    assert whole.progress == parts.progress
    assert whole.progress.step == 15
    for name, array in whole.parameters.items():
        np.testing.assert_array_equal(parts.parameters[name], array)


def test_pieces_change_rounding_alone(run: Train) -> None:
    assert run("--output-dir", "whole", "--max-steps", "3")[0] == 0
    assert run("--output-dir", "pieces", "--max-steps", "3", "--accumulation-steps", "3")[0] == 0
    whole, parts = load(Path("whole", LAST)), load(Path("pieces", LAST))
    for name, array in whole.parameters.items():
        np.testing.assert_allclose(parts.parameters[name], array, rtol=0, atol=1e-6 * np.abs(array).max())


def test_more_pieces_than_images_are_refused(run: Train) -> None:
    code, _, err = run("--accumulation-steps", "9")
    assert (code, err) == (2, "error: --accumulation-steps must be at most the batch size, 8. Received: 9\n")
    assert run("--precision", "fp16")[0] == 2
    assert not Path("runs").exists()


def test_the_plan_says_how_much_less_memory_pieces_take(run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "PROBE_S", 0.0)
    code, out, _ = run("--dry-run", "--batch-size", "40", "--accumulation-steps", "4", "--precision", "bf16")
    assert code == 0
    wanted = need(small.spec(), "bf16")
    whole, part = (f"{wanted.of(images) / 2**20:,.1f} MiB" for images in (40, 10))
    assert "1 steps of 40 images, 10 at a time, torch on cpu in bf16" in out
    assert f"about {part}: " in out
    assert f"{whole} if a batch were taken at once" in out
    assert wanted.of(10) < wanted.of(40)


@pytest.mark.parametrize("rate", diverging.BEGINNINGS)
def test_a_divergence_is_told_by_its_layer(rate: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``backends/keras/tests/checks.py`` asks Keras for the same words."""
    assert cli.main("torch", diverging.options(tmp_path, rate)) == 1
    assert diverging.BEGINNINGS[rate] in capsys.readouterr().err
