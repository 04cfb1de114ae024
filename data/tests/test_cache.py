"""Prepared once for the user, and never wrong without a word."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
import pytest
from PIL import Image

from data import cache, preparation
from data.dataset import Splits, fingerprint
from data.errors import DataError
from data.images import prepare_image
from data.locking import held
from data.prepared import CHECKED, PLAN
from data.shards import Shards
from data.sources import open_source
from data.statistics import compute_statistics, dataset_statistics
from data.tests.builders import photo_folder, storage


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return photo_folder(tmp_path / "photos", {"train/a": 3, "train/b": 2, "val/a": 1, "val/b": 1})


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "kept"


def opened(photos: Path, kept: Path, **changes: Any) -> Splits:
    return open_source(str(photos), **{"storage": storage(16), "channels": 3, "seed": 0, "cache_dir": kept, **changes})


def prepared_folders(kept: Path) -> list[Path]:
    return sorted(path for path in kept.iterdir() if path.name != CHECKED)


def test_images_come_prepared_in_order_and_mapped(photos: Path, kept: Path) -> None:
    splits = opened(photos, kept)
    assert isinstance(splits.train.images, Shards)
    assert isinstance(splits.train.images.parts[0].base, np.memmap)
    assert splits.train.images.shape == (5, 16, 16, 3)
    assert splits.train.labels.tolist() == [0, 0, 0, 1, 1]
    with Image.open(photos / "train" / "b" / "1.png") as image:
        np.testing.assert_array_equal(splits.train.images[4], prepare_image(image, storage(16), 3))
    (folder,) = prepared_folders(kept)
    assert json.loads((folder / "index.json").read_text())["classes"] == ["a", "b"]


def test_a_second_time_nothing_is_prepared(photos: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(photos, kept)
    monkeypatch.setattr(preparation, "prepare", None)
    second = opened(photos, kept)
    np.testing.assert_array_equal(first.train.images[:], second.train.images[:])
    assert len(prepared_folders(kept)) == 1


def test_anything_that_decides_the_bytes_makes_another_cache(
    photos: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def folders() -> int:
        return len(prepared_folders(kept))

    opened(photos, kept)
    opened(photos, kept, channels=1)
    assert folders() == 2
    opened(photos, kept, storage=storage(17))
    assert folders() == 3
    opened(photos, kept, storage=storage(16, "stretch"))
    assert folders() == 4
    path = photos / "train" / "a" / "0.png"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    opened(photos, kept)
    assert folders() == 5
    path.rename(path.with_name("9.png"))
    opened(photos, kept)
    assert folders() == 6
    monkeypatch.setattr(PIL, "__version__", "0")
    opened(photos, kept)
    assert folders() == 7


def test_the_seed_matters_only_without_a_split(tmp_path: Path, photos: Path, kept: Path) -> None:
    opened(photos, kept)
    opened(photos, kept, seed=1)
    assert len(prepared_folders(kept)) == 1
    unsplit = photo_folder(tmp_path / "unsplit", {"a": 12, "b": 12})
    sets = [opened(unsplit, tmp_path / "kept too", seed=seed) for seed in (0, 1)]
    assert fingerprint(sets[0].train) != fingerprint(sets[1].train)


def test_a_moved_folder_keeps_its_cache(photos: Path, kept: Path) -> None:
    opened(photos, kept)
    opened(photos.rename(photos.with_name("moved")), kept)
    assert len(prepared_folders(kept)) == 1


def test_all_unreadable_images_are_named_and_nothing_is_left(photos: Path, kept: Path) -> None:
    for name in ("train/a/1.png", "val/b/0.png"):
        (photos / name).write_bytes(b"broken")
    with pytest.raises(DataError) as caught:
        opened(photos, kept)
    none = "none of JPEG, PNG, WEBP, BMP, GIF"
    assert str(caught.value) == (
        "every image must be readable, unless python -m data.prepare leaves it out. Received: 2 of 7 unreadable: "
        f"'train/a/1.png' ({none}); 'val/b/0.png' ({none}). In: {photos}"
    )
    assert list(kept.iterdir()) == []


def test_of_many_unreadable_images_ten_are_named(tmp_path: Path, kept: Path) -> None:
    root = photo_folder(tmp_path / "p", {"a": 9, "b": 9})
    for path in root.glob("*/*.png"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="18 of 18 unreadable") as caught:
        opened(root, kept)
    assert "and 8 more. In:" in str(caught.value)
    assert str(caught.value).count(".png'") == 10


def test_progress_counts_to_the_end(photos: Path, kept: Path) -> None:
    seen: list[tuple[int, int]] = []
    opened(photos, kept, progress=lambda done, total: seen.append((done, total)))
    made = seen[: len(seen) // 2]
    assert made == [(5, 7), (7, 7)]  # prepared
    assert seen[len(made) :] == [(5, 7), (7, 7)]  # and then read again, and checked
    seen.clear()
    opened(photos, kept, progress=lambda done, total: seen.append((done, total)))
    assert seen == []


def test_an_interrupted_preparation_goes_on(photos: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(photos, kept, progress=interrupt)
    (folder,) = prepared_folders(kept)
    assert (folder / "train-00000.json").exists()
    seen: list[tuple[int, int]] = []
    opened(photos, kept, progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (7, 7)  # the training images were there


def test_what_was_begun_long_ago_is_removed(photos: Path, kept: Path) -> None:
    old, new, working, other = (kept / (letter * 32) for letter in "abcd")
    for folder in (old, new, working):
        folder.mkdir(parents=True)
        (folder / PLAN).write_text("{}")
    other.mkdir()
    long_ago = time.time() - 2 * cache._STALE_S
    for folder in (old, working, other):
        for path in (*folder.iterdir(), folder):
            os.utime(path, (0, long_ago))
    with held(working / PLAN, wait=False):
        opened(photos, kept)
    assert not old.exists()
    assert new.exists()
    assert working.exists()
    assert other.exists()


def test_who_comes_second_waits_and_takes_what_the_first_made(photos: Path, kept: Path) -> None:
    results: list[Splits] = []
    calls: list[int] = []
    begun = threading.Event()

    def slowly(done: int, total: int) -> None:
        calls.append(done)
        begun.set()
        time.sleep(0.3)

    first = threading.Thread(target=lambda: results.append(opened(photos, kept, progress=slowly)))
    first.start()
    assert begun.wait(20)
    results.append(opened(photos, kept, progress=lambda done, total: calls.append(-1)))
    first.join()
    assert len(results) == 2
    assert calls[:2] == [5, 7]  # the second prepared nothing
    np.testing.assert_array_equal(results[0].train.images[:], results[1].train.images[:])


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_full_disk_is_noticed_before_anything_is_prepared(
    photos: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 5000))
    with pytest.raises(DataError, match=r"needs 0.00 GB. Received: 0.00 GB free"):
        opened(photos, kept)


def test_a_cache_that_cannot_be_made_is_one_error(photos: Path, kept: Path) -> None:
    kept.write_text("a file")
    with pytest.raises(DataError, match="must be writable") as caught:
        opened(photos, kept)
    assert "\n" not in str(caught.value)
    assert kept.read_text() == "a file"


@pytest.mark.parametrize(
    "name", ["index.json", "train-00000.npy", "validation-00000.npy", "train-labels.npy", "train-statistics.npz"]
)
@pytest.mark.parametrize("damage", ["cut", "gone", "other"])
def test_a_damaged_cache_is_refused(photos: Path, kept: Path, name: str, damage: str) -> None:
    opened(photos, kept)
    (folder,) = prepared_folders(kept)
    path = folder / name
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "gone":
        path.unlink()
    elif path.suffix == ".npy":
        np.save(path, np.load(path)[1:])
    else:
        path.write_bytes(b"[]")
    if (name, damage) == ("index.json", "gone"):  # that is what an unfinished one looks like, but for the plan
        with pytest.raises(DataError, match="must be new, empty or hold the same images"):
            opened(photos, kept)
        return
    with pytest.raises(DataError, match=f"Delete {folder} and run again") as caught:
        opened(photos, kept)
    assert "\n" not in str(caught.value)


def test_statistics_are_those_of_the_images(photos: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = opened(photos, kept).train
    expected = compute_statistics(train.images[:])
    monkeypatch.setattr("data.statistics.compute_statistics", None)
    received = dataset_statistics(train)
    for name, array in expected.arrays().items():
        np.testing.assert_array_equal(received.arrays()[name], array)
    assert train.statistics_file is not None
    train.statistics_file.write_bytes(train.statistics_file.read_bytes()[:-30])
    with pytest.raises(DataError, match="kept statistics must be readable"):
        dataset_statistics(train)
