"""Which images a folder holds, in which class and split."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from data.errors import DataError
from data.folders import File, held_out, list_images
from data.tests.builders import photo_folder, picture


def names(files: tuple[File, ...]) -> list[str]:
    return [file.path for file in files]


@pytest.mark.parametrize("train", ["train", "training", "Train"])
@pytest.mark.parametrize("validation", ["val", "valid", "validation", "test", "eval", "VAL"])
def test_split_folders_go_by_many_names(tmp_path: Path, train: str, validation: str) -> None:
    photo_folder(tmp_path, {f"{train}/b": 1, f"{train}/a": 2, f"{validation}/b": 3})
    listing = list_images(tmp_path, seed=0)
    assert listing.classes == ("a", "b")
    assert [file.label for file in listing.train] == [0, 0, 1]
    assert names(listing.train) == [f"{train}/a/0.png", f"{train}/a/1.png", f"{train}/b/0.png"]
    assert [file.label for file in listing.validation] == [1, 1, 1]
    assert listing.how == f"validation from {validation}/"


def test_val_goes_before_test(tmp_path: Path) -> None:
    photo_folder(tmp_path, {"train/a": 1, "train/b": 1, "test/a": 1, "val/a": 1})
    assert list_images(tmp_path, 0).how == "validation from val/"


def test_a_test_folder_without_classes_is_no_validation_set(tmp_path: Path) -> None:
    photo_folder(tmp_path, {"train/a": 10, "train/b": 10, "test": 3})
    listing = list_images(tmp_path, 0)
    assert (len(listing.train), len(listing.validation)) == (18, 2)
    assert "held out" in listing.how


def test_train_can_be_a_class(tmp_path: Path) -> None:
    photo_folder(tmp_path, {"bus": 2, "train": 2, "test": 2})
    assert list_images(tmp_path, 0).classes == ("bus", "test", "train")


def test_classes_are_in_the_order_of_sorted(tmp_path: Path) -> None:
    photo_folder(tmp_path, {"10": 2, "9": 2, "a": 2, "B": 2})
    assert list_images(tmp_path, 0).classes == ("10", "9", "B", "a")


def test_images_are_found_by_suffix_in_any_case_at_any_depth(tmp_path: Path) -> None:
    photo_folder(tmp_path, {"a": 1, "b": 1, "b/more/and more": 1, "b/.hidden": 1, ".git/objects": 1})
    image = picture(4, 4)
    for name in ("x.JPEG", "y.Jpg", "z.PNG"):
        image.save(tmp_path / "a" / name, "PNG")
    for name in ("._x.png", "notes.txt", "w.tif", "png"):
        (tmp_path / "a" / name).write_bytes(b"no")
    listing = list_images(tmp_path, 0)
    assert listing.classes == ("a", "b")
    assert listing.passed_over == {"hidden": 1, ".txt": 1, ".tif": 1, "": 1}
    found = sorted(names(listing.train + listing.validation))
    assert found == ["a/0.png", "a/x.JPEG", "a/y.Jpg", "a/z.PNG", "b/0.png", "b/more/and more/0.png"]


def test_links_to_images_and_to_class_folders_are_followed(tmp_path: Path) -> None:
    photo_folder(tmp_path / "far", {"a": 2, "b": 2})
    root = tmp_path / "near"
    (root / "b").mkdir(parents=True)
    (root / "a").symlink_to(tmp_path / "far" / "a", target_is_directory=True)
    for i in range(2):
        (root / "b" / f"{i}.png").symlink_to(tmp_path / "far" / "b" / f"{i}.png")
    (root / "b" / "gone.png").symlink_to("nowhere")
    listing = list_images(root, 0)
    sizes = {file.path: file.size for file in listing.train + listing.validation}
    assert sorted(sizes) == ["a/0.png", "a/1.png", "b/0.png", "b/1.png", "b/gone.png"]
    assert sizes["b/gone.png"] == -1
    assert sizes["b/1.png"] == (tmp_path / "far" / "b" / "1.png").stat().st_size
    (root / "b" / "loop").symlink_to(root, target_is_directory=True)
    (root / "b" / "self.png").symlink_to("self.png")
    listing = list_images(root, 0)
    assert listing.refused == (("b/loop", "a link to a folder"),)
    assert len(listing.train + listing.validation) == 6  # and the link to itself, which will be found unreadable


@hypothesis_settings(max_examples=50, deadline=None)
@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=200), seed=st.integers(0, 2**32 - 1))
def test_one_in_ten_of_each_class_is_held_out(labels: list[int], seed: int) -> None:
    held = held_out(labels, seed)
    for label in set(labels):
        count = labels.count(label)
        expected = 0 if count == 1 else max(1, count // 10)
        assert held[np.array(labels) == label].sum() == expected


def test_the_split_is_drawn_by_the_seed() -> None:
    labels = [0, 1] * 100
    splits = [tuple(np.flatnonzero(held_out(labels, seed))) for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]
    chosen = np.concatenate([np.flatnonzero(held_out(labels, seed)) for seed in range(200)])
    counts = np.bincount(chosen, minlength=200)
    assert counts.sum() == 200 * 20
    assert counts.min() > 0  # every image has its turn
    assert counts.max() < 45  # 20 expected, standard deviation about 4.2


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "two class folders with images are required. Received: an empty folder"),
        ({"": 3}, "Received: 3 images that lie in no class folder"),
        ({"a": 3}, "Received: only the folder 'a'"),
        ({"train/a": 3, "val/a": 1}, "Received: only the folder 'a'. In: .*train"),
        ({"a": 3, "b": 0, "c": 0}, "every class must have training images .* Without any: b; c"),
        ({"train/a": 3, "train/b": 0, "val/a": 1}, "every class must have training images"),
        ({"train/a": 1, "train/b": 1, "val/a": 1, "val/c": 1}, "must be a training class. Received: c. In: .*val"),
        ({"train/a": 1, "train/b": 1, "val/a": 0}, "at least one validation image is required"),
        ({"a": 1, "b": 1}, "at least one validation image is required"),
        ({"train/a": 1, "Training/a": 1}, "one training folder. Received: Training, train"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path, counts: dict[str, int], message: str) -> None:
    if "" in counts:
        photo_folder(tmp_path / "sub", {"x": counts[""]})
        root = tmp_path / "sub" / "x"
    else:
        root = photo_folder(tmp_path, counts)
    with pytest.raises(DataError, match=message) as caught:
        list_images(root, 0)
    assert "\n" not in str(caught.value)


def test_many_classes_without_images_are_counted(tmp_path: Path) -> None:
    photo_folder(tmp_path, {f"c{i:02}": 0 for i in range(25)})
    with pytest.raises(DataError, match=r"c00; .*; c09; and 15 more"):
        list_images(tmp_path, 0)


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_a_class_whose_name_cannot_be_printed_is_refused(tmp_path: Path) -> None:
    photo_folder(tmp_path, {"a": 2, "b": 2})
    os.mkdir(os.fsencode(tmp_path) + b"/\xff")  # noqa: PTH102
    with pytest.raises(DataError, match=r"printable UTF-8 name. Received: '\\udcff'"):
        list_images(tmp_path, 0)
