"""What streaming.py measures and says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from backends.tests import small
from benchmarks import streaming
from data.shards import Shards, taken


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return small.workplace(tmp_path, monkeypatch)


def test_both_measurements_are_said_and_kept(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--spec", "small.yaml", "--data", "images", "--backend", "numpy", "--images", "128"]
    assert streaming.main([*asked, "--rounds", "2", "--steps", "6", "--json", "found.json"]) == 0
    out = capsys.readouterr().out
    found = json.loads((here / "found.json").read_text())
    fast, slow = found["streaming"], found["waiting"]
    assert fast["share"] == pytest.approx(fast["shuffled"] / fast["copied"])
    assert (slow["steps"], slow["batch_size"]) == (6, 8)
    assert 0 < slow["waiting"] < 1
    assert f"{fast['share']:.0%} of the" in out
    assert f"{slow['waiting']:.2%} of it waiting" in out


def test_what_is_streamed_are_the_images() -> None:
    parts = [np.random.default_rng(i).integers(0, 256, (5, 4, 4, 3), np.uint8) for i in range(3)]
    order = np.random.default_rng(0).permutation(15)
    np.testing.assert_array_equal(taken(Shards(parts), order), np.concatenate(parts)[order])


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["--images", "5"], "at least 128"),
        (["--json", "found.txt"], "must be a file that ends in .json"),
        (["--spec", "nothing"], "nothing"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_wrong_requests_are_one_line(
    here: Path, asked: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = streaming.main(asked)
    except SystemExit as error:
        code = int(str(error.code))
    err = capsys.readouterr().err
    assert (code, len(err.splitlines())) == (2, 1)
    assert words in err
