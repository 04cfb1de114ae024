"""What the suite of data measures and says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backends.tests import small
from benchmarks import run
from benchmarks.results import read
from data.shards import Shards, taken


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return small.workplace(tmp_path, monkeypatch)


def test_all_parts_are_measured_said_and_kept(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--spec", "small.yaml", "--data", "images", "--backend", "numpy", "--images", "128", "--rounds", "2"]
    asked += ["--steps", "6", "--files", "4", "--sets", "500x375"]
    assert run.main(["--suite", "data", *asked, "--output", "found.json"]) == 0
    out = capsys.readouterr().out
    cases = read(here / "found.json").cases
    by_section = {
        section: [c for c in cases if c.section == section] for section in dict.fromkeys(c.section for c in cases)
    }
    assert list(by_section) == ["streaming", "waiting", "preparation"]
    plain = [case for case in by_section["streaming"] if not case.detail]
    assert [case.name for case in plain] == ["copied", "copied one by one", "shuffled"]
    for case in plain:
        bytes_a_second = case.images_per_second.median * 256 * 256 * 3
        assert case.gbytes_per_second == pytest.approx(1e-9 * bytes_a_second, rel=1)  # of two rounds, the upper
    (step,) = by_section["waiting"]
    assert (len(step.seconds), step.batch) == (6, 8)
    assert 0 < step.values["waiting"] < 1
    assert [case.name for case in by_section["preparation"]] == [
        "plain",
        "reading",
        "preparation",
        "preparation on 2 cores",
    ]
    assert by_section["preparation"][1].values["difference_mean"] < 2
    assert "waiting 0." in out


def test_what_is_streamed_are_the_images() -> None:
    parts = [np.random.default_rng(i).integers(0, 256, (5, 4, 4, 3), np.uint8) for i in range(3)]
    order = np.random.default_rng(0).permutation(15)
    np.testing.assert_array_equal(taken(Shards(parts), order), np.concatenate(parts)[order])


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["--images", "5"], "at least 128"),
        (["--output", "found.txt"], "must be a file that ends in .json"),
        (["--parts", "waiting", "--spec", "nothing"], "nothing"),
        (["--parts", "waiting", "--data", "nowhere"], "nowhere"),
        (["--parts", "preparation", "--photographs", "nowhere"], "must be a folder of JPEG or PNG files"),
        (["--parts", "cooking"], "must be among streaming, waiting, preparation"),
    ],
)
def test_wrong_requests_are_one_line(
    here: Path, asked: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = run.main(["--suite", "data", *asked])
    except SystemExit as error:
        code = int(str(error.code))
    err = capsys.readouterr().err
    assert (code, len(err.splitlines())) == (2, 1)
    assert words in err
