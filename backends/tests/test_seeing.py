"""What a run shows of itself: TensorBoard's file, the page at its end, the plan before it, and what was meant."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import cli, planning
from backends.checkpoint import LAST, load
from backends.curves import POINTS, Curve, filter_sheet, marks, page, plot
from backends.memory import need
from backends.options import Parser
from backends.starting import RequestError
from backends.tests import small
from backends.tests.test_cli import listing

RUN = Path("runs", "torch-small")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return small.workplace(tmp_path, monkeypatch)


def train(*options: str) -> int:
    return cli.main("torch", ["--spec", "small.yaml", "--data", "images", "--device", "cpu", *options])


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard reads there."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.glob("events.*")):
        for event in loader.LegacyEventFileLoader(str(path)).Load():
            if event.HasField("session_log"):
                found = {tag: [one for one in seen if one[0] < event.step] for tag, seen in found.items()}
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_tensorboard_reads_the_metrics_once_though_the_run_was_stopped(here: Path) -> None:
    pytest.importorskip("tensorboard")
    assert train("--tensorboard", "--max-steps", "7") == 0
    assert train("--tensorboard", "--resume", str(RUN)) == 0
    found = scalars(RUN / "tensorboard")
    assert [step for step, _ in found["step/loss"]] == list(range(15))
    assert [step for step, _ in found["epoch/validation_top1_error"]] == [5, 10, 15]
    errors = load(RUN / LAST).progress.validation_errors
    np.testing.assert_allclose([value for _, value in found["epoch/validation_top1_error"]], errors, rtol=1e-6)


def test_without_tensorboard_its_option_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("backends.starting.importlib.util.find_spec", lambda name: None)
    assert train("--tensorboard") == 2
    assert capsys.readouterr().err.startswith("error: --tensorboard needs TensorBoard")
    assert not (here / "runs").exists()


def test_a_run_ends_with_a_page_of_its_curves_and_filters(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train() == 0
    assert f"how it went: {RUN / 'report.html'}" in capsys.readouterr().out
    text = (RUN / "report.html").read_text()
    assert text.count("<svg") == 3
    assert "data:image/png;base64," in text
    assert "4 filters of 3 x 3" in text
    assert "torch in float32, seed 0" in text
    assert re.search(r"<td>3</td><td>\d\.\d{4}</td>", text)
    assert not re.search(r"(src|href)=\"(?!data:)|<script|nan", text)


def test_curves_are_their_numbers() -> None:
    assert marks(0, 2.3) == [0, 0.5, 1.0, 1.5, 2.0, 2.5]
    assert marks(0.001, 0.1, logarithmic=True) == pytest.approx([0.001, 0.01, 0.1])
    assert marks(0, 0)[0] == 0 < marks(0, 0)[1]
    drawn = plot("t", [Curve("a", [1, 2], [0.0, 2.5])], "y")
    circles = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', drawn)
    assert circles == [("344.0", "280.0"), ("624.0", "12.0")]


def test_many_steps_are_means_with_a_band(here: Path) -> None:
    assert train("--epochs", "1") == 0
    steps = [{"event": "step", "epoch": 0, "step": i, "loss": float(i % 2), "learning_rate": 0.1} for i in range(4000)]
    run: dict[str, Any] = {"event": "run", "steps_per_epoch": 4000}
    text = page([run, *steps], load(RUN / LAST))
    line = re.search(r'<polyline points="([^"]+)" fill="none" stroke="#0072b2"', text)
    assert line is not None
    assert len(line[1].split()) == POINTS
    assert {point.split(",")[1] for point in line[1].split()} == {"146.0"}  # the mean of 0 and 1: half way up


def test_filters_are_grey_where_a_weight_is_zero() -> None:
    kernels = np.zeros((17, 3, 2, 2))
    kernels[0, 0, 0, 0], kernels[16, :, 1, 1] = 2.0, -2.0  # 4 of 204: beyond the quantile that is white or black
    sheet = np.asarray(filter_sheet(kernels))
    scale = 22
    assert sheet.shape == (7 * scale, 49 * scale, 4)
    assert sheet[scale, scale].tolist() == [255, 128, 128, 255]
    assert sheet[5 * scale, 2 * scale].tolist() == [0, 0, 0, 255]
    assert sheet[0, 0, 3] == 0


def test_a_dry_run_prints_the_plan_and_does_nothing_else(here: Path, capsys: pytest.CaptureFixture[str],
                                                         monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(planning, "PROBE_S", 0.0)
    before = listing(here)
    assert train("--dry-run", "--batch-size", "11") == 0
    out = capsys.readouterr().out
    assert listing(here) == before
    assert not (here / "runs").exists()
    spec = small.spec()
    wanted = need(spec).of(11) / 2**20
    for words in (
        "IDX folder images: 44 training images",
        "conv2    conv out_channels=6 kernel=3 groups=2",
        "3 epochs of 4 steps of 11 images, torch on cpu",
        f"about {wanted:,.1f} MiB",
        "runs/torch-small/last.safetensors; nothing has been written",
    ):
        assert words in out
    assert train("--dry-run", "--spec", "nowhere.yaml") == 2


def test_what_was_meant_is_asked() -> None:
    parser = Parser()
    for name in ("--output-dir", "--batch-size"):
        parser.option(name, "X", "help")
    for wrong, near in (("--out", "--output-dir"), ("--ouput-dir", "--output-dir"), ("--batchsize=3", "--batch-size")):
        with pytest.raises(RequestError, match=f"Did you mean {near}\\?"):
            parser.parse_args([wrong, "1"])
    with pytest.raises(RequestError) as caught:
        parser.parse_args(["--zzz"])
    assert "mean" not in str(caught.value)
