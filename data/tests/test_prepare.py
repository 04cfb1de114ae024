"""``python -m data.prepare``: whatever it is given ends in a report or in one line, and nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_rooms import ROOT
from data import preparation
from data.dataset import fingerprint
from data.errors import DataError
from data.prepare import main
from data.prepared import open_prepared
from data.sources import open_source
from data.tests import hostile, kill
from data.tests.archives import jpeg
from data.tests.builders import photo_folder, storage

MEMORY_KB = 1_000_000


MEASURED = """
import resource, runpy, sys
from pathlib import Path
peak = Path(sys.argv.pop(1))
try:
    runpy.run_module("data.prepare", run_name="__main__", alter_sys=True)
finally:
    status = Path("/proc/self/status")  # ru_maxrss begins with what the process that started this one held
    held = [line.split()[1] for line in status.read_text().splitlines() if "VmHWM" in line] if status.exists() else []
    peak.write_text(held[0] if held else str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024))
"""


def run(*arguments: str | Path) -> tuple[int, str, str, int]:
    """(exit code, stdout, stderr, peak resident kB) of the command."""
    with tempfile.TemporaryDirectory() as folder:
        peak = Path(folder, "peak")
        command = [sys.executable, "-c", MEASURED, str(peak), *map(str, arguments)]
        environment = {**os.environ, "PYTHONUTF8": "1"}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
        return done.returncode, done.stdout, done.stderr, int(peak.read_text())


def files_below(root: Path) -> set[str]:
    return {str(path) for path in root.rglob("*")}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return photo_folder(tmp_path / "photos", {"train/a": 30, "train/b": 20, "val/a": 10, "val/b": 10})


def prepared(photos: Path, folder: Path, *more: str) -> int:
    return main(["--data", str(photos), "--output-dir", str(folder), "--size", "16", *more])


def test_training_opens_what_was_prepared(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], own_cache: Path
) -> None:
    assert prepared(photos, tmp_path / "made") == 0
    said = capsys.readouterr().out
    assert (
        f"found: image folder {photos}\n50 train and 20 validation images (validation from val/), 2 classes: a, b\n"
        in said
    )
    received = open_source(str(tmp_path / "made"), storage=storage(16), channels=3, seed=0)
    expected = open_source(str(photos), storage=storage(16), channels=3, seed=0)
    for one, other in ((received.train, expected.train), (received.validation, expected.validation)):
        np.testing.assert_array_equal(one.images[:], other.images[:])
        assert fingerprint(one) == fingerprint(other)
    before = files_below(tmp_path / "made")
    assert prepared(photos, tmp_path / "made") == 0  # it is finished: nothing happens
    assert files_below(tmp_path / "made") == before
    with pytest.raises(DataError, match=r"prepared as the specification says, 8x8 RGB .* Received: 16x16 RGB"):
        open_source(str(tmp_path / "made"), storage=storage(8), channels=3, seed=0)


def test_bytes_depend_on_neither_workers_nor_place(photos: Path, tmp_path: Path) -> None:
    for name, workers in (("one", "1"), ("five", "5")):
        assert prepared(photos, tmp_path / name, "--workers", workers, "--shard-mb", "1") == 0
    assert kill.digests(tmp_path / "one") == kill.digests(tmp_path / "five")


def test_kills_cost_no_byte(tmp_path: Path) -> None:
    """``python -m data.tests.kill`` does it 30 times."""
    outcome = kill.killed(tmp_path, kills=3, images=300, seed=int(os.environ.get("PYTEST_SEED", "1")))
    assert outcome.different == []
    assert outcome.finished >= 1


@pytest.mark.parametrize("name", ["train-00000.npy", "validation-00000.npy", "train-statistics.npz"])
def test_a_flipped_bit_is_refused_by_name(
    photos: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made"
    assert prepared(photos, made) == 0
    assert main(["--verify", str(made)]) == 0
    open_source(str(made), storage=storage(16), channels=3, seed=0)  # after which the check is remembered
    content = bytearray((made / name).read_bytes())
    content[len(content) // 2] ^= 1
    (made / name).write_bytes(content)
    assert main(["--verify", str(made)]) == 2
    said = capsys.readouterr().err
    assert "the contents must have SHA-256" in said
    assert said.endswith(f"In: {made / name}\n")
    assert said.count("\n") == 1
    with pytest.raises(DataError, match="the contents must have SHA-256") as caught:
        open_source(str(made), storage=storage(16), channels=3, seed=0)
    assert str(caught.value).endswith(f"In: {made / name}")


WRONG: dict[str, tuple[list[str], str]] = {
    "nothing": ([], "--data and --output-dir must be stated"),
    "no such option": (["--sise", "3"], "unrecognized arguments: --sise 3"),
    "no number": (["--size", "big"], "must be a whole number from 1 to 4096. Received: 'big'"),
    "no such fit": (["--fit", "round"], "invalid choice: 'round'"),
    "no such source": (["--data", "nowhere", "--output-dir", "OUT"], "no such name, folder or file"),
    "a NUL": (["--data", "a\0b", "--output-dir", "OUT"], "a name or a path is required"),
    "a NUL in the output": (["--data", "photo-patches", "--output-dir", "a\0b"], "a name or a path is required"),
    "no such user": (["--data", "~nobody.here/x", "--output-dir", "OUT"], "a name or a path is required"),
    "no such specification": (["--data", "photo-patches", "--output-dir", "OUT", "--spec", "x-2012"], "x-2012"),
    "inside the images": (["--data", "PHOTOS", "--output-dir", "PHOTOS/out"], "must lie outside of the images"),
    "not prepared": (["--verify", "PHOTOS"], "prepared images must have their index.json"),
    "occupied": (["--data", "photo-patches", "--output-dir", "OCCUPIED"], "must be new, empty or hold the same images"),
    "no folder": (["--data", "photo-patches", "--output-dir", "OCCUPIED/file/x"], "Not a directory"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_asked_wrongly_is_one_line_and_changes_nothing(
    photos: Path, tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "file").write_text("mine")
    before = files_below(tmp_path)
    arguments, message = WRONG[case]
    places = {"OUT": tmp_path / "out", "PHOTOS": photos, "OCCUPIED": tmp_path / "occupied"}
    for word, place in places.items():
        arguments = [argument.replace(word, str(place)) for argument in arguments]
    assert main(arguments) == (1 if case == "no folder" else 2)
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert files_below(tmp_path) == before


def test_a_full_disk_is_a_failure(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    assert prepared(photos, tmp_path / "made") == 1
    assert "needs 0.00 GB. Received: 0.00 GB free" in capsys.readouterr().err
    monkeypatch.undo()
    assert prepared(photos, tmp_path / "made") == 0


def test_an_interrupted_preparation_says_how_to_go_on(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(preparation, "_finish", interrupted)
    assert prepared(photos, tmp_path / "made") == 130
    assert "the same command goes on from here" in capsys.readouterr().out
    with pytest.raises(DataError, match="the preparation was not finished, and the same command takes it up again"):
        open_source(str(tmp_path / "made"), storage=storage(16), channels=3, seed=0)
    monkeypatch.undo()
    assert prepared(photos, tmp_path / "made") == 0


def test_a_class_without_images_is_an_error(tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (photos / "train" / "b").iterdir():
        path.write_bytes(jpeg()[:100])
    assert prepared(photos, tmp_path / "made") == 2
    assert "Received: none of b" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "made" / "report.json").read_text())["left_out"]) == 20


@pytest.mark.skipif(os.name == "nt", reason="most of these files cannot be made there")
@pytest.mark.parametrize("form", ["folder", "tar"])
def test_whatever_is_there_ends_in_a_report(tmp_path: Path, form: str) -> None:
    source = tmp_path / "in" / "photos.tar" if form == "tar" else tmp_path / "in" / "photos"
    source.parent.mkdir()
    bad, used = (hostile.write_tar if form == "tar" else hostile.write_folder)(source)
    assert len(bad) + len(hostile.CONTENTS) > 80
    before = files_below(tmp_path)
    code, out, error, kilobytes = run("--data", source, "--output-dir", tmp_path / "out", "--size", "32")
    assert (code, error) == (0, "")
    assert "Traceback" not in out
    assert out.isprintable() or all(line.isprintable() for line in out.splitlines())
    assert kilobytes < MEMORY_KB
    assert not [path for path in files_below(tmp_path) - before if not path.startswith(str(tmp_path / "out"))]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    reasons = {one["image"]: one["reason"] for one in report["left_out"]}
    assert sorted(reasons) == sorted(bad)
    for name, reason in bad.items():
        assert reason == "." or reason in reasons[name], name
        assert reasons[name].isprintable()
    assert sum(report["images"].values()) == used
    splits = open_prepared(tmp_path / "out", verify=True)
    assert len(splits.train) + len(splits.validation) == used
    handled = {what: found["images"] for what, found in report["handled"].items()}
    assert handled == {"16-bit": 2, "CMYK": 1, "EXIF orientation": 1, "alpha dropped": 3, "animated": 4, "palette": 3}
    if form == "folder":
        assert report["passed_over"] == {"": 1, ".db": 1, ".mp4": 1, ".tif": 1, ".txt": 1, "hidden": 2}
