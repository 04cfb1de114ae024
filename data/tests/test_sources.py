"""Every kind of source, from the word on the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_rooms import ROOT
from data import cache
from data.dataset import Dataset, Splits, fingerprint, sha256_of
from data.embedded.samples import FASHION_CLASSES
from data.errors import DataError
from data.npz import npz
from data.shards import Shards
from data.sources import EMBEDDED, PHOTO_PATCHES, open_source
from data.statistics import compute_statistics
from data.tests.builders import photo_folder, picture, storage
from data.tests.test_idx import write_family

SCRIPT = ROOT / "data" / "embedded" / "make_fashion_mnist_mini.py"
UPSTREAM = Path("/usr/share/datasets/fashion-mnist")


def opened(source: str | Path, **changes: Any) -> Splits:
    return open_source(str(source), **{"storage": storage(28), "channels": 1, "seed": 0, **changes})


# --- the embedded sample ----------------------------------------------------------------------------------------------


def test_the_embedded_sample_is_balanced_and_unaltered() -> None:
    splits = opened(EMBEDDED)
    assert splits.train.images.shape == (10_000, 28, 28, 1)
    assert splits.validation.images.shape == (2_000, 28, 28, 1)
    assert np.bincount(splits.train.labels).tolist() == [1000] * 10
    assert np.bincount(splits.validation.labels).tolist() == [200] * 10
    assert splits.train.classes == splits.validation.classes == FASHION_CLASSES
    assert splits.train.labels.dtype == np.int64
    arrays = [array for part in (splits.train, splits.validation) for array in (part.images, part.labels)]
    received = [sha256_of(np.asarray(array)) for array in arrays]
    assert received == [
        "e1427044c614fabc29feeff0f27e6b68f88a9ee2f2cfe7d783b9157159864883",
        "edb5c24bb179a6556a7c209366b41f7dcbe507d51488fd8fd6611f75bb4fbfe6",
        "96315b1732ab731e68b8def3c284f34b605f7deb7a61e683c7d786265c827c83",
        "677b67be3a6866e81ab9d69880459046c7b0cf6686fb05ec9ecd06e8b7299c67",
    ]
    assert (ROOT / "data" / "embedded" / "fashion_mnist_mini.npz").stat().st_size < 6_000_000


def test_the_embedded_sample_is_described_in_one_line() -> None:
    assert opened(EMBEDDED).description == (
        "Fashion-MNIST subset (embedded): 10,000 training and 2,000 validation images, kept at 28x28 grey, 10 classes: "
        "T-shirt/top, Trouser, Pullover, Dress, Coat, ..."
    )


def test_the_embedded_sample_in_colour_is_grey_three_times() -> None:
    grey, colour = opened(EMBEDDED), opened(EMBEDDED, channels=3)
    assert colour.train.images.shape == (10_000, 28, 28, 3)
    for channel in range(3):
        np.testing.assert_array_equal(np.asarray(colour.train.images)[..., channel], grey.train.images[:][..., 0])


def test_the_embedded_sample_in_another_size_is_resized_as_photographs_are(own_cache: Path) -> None:
    small, native = opened(EMBEDDED, storage=storage(14)), opened(EMBEDDED)
    expected = Image.fromarray(native.train.images[77][..., 0]).resize((14, 14), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(small.train.images[77][..., 0], np.asarray(expected))
    assert list(own_cache.iterdir()) == []  # small enough for memory


def test_arrays_too_large_for_memory_are_cached(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory = opened(EMBEDDED, storage=storage(8), channels=3)
    monkeypatch.setattr(cache, "IN_MEMORY", 0)
    seen = []
    for _ in range(2):
        splits = opened(EMBEDDED, storage=storage(8), channels=3, progress=lambda *count: seen.append(count))
        assert isinstance(splits.train.images, Shards)
        assert fingerprint(splits.train) == fingerprint(in_memory.train)
        assert fingerprint(splits.validation) == fingerprint(in_memory.validation)
    assert seen[-1] == (12_000, 12_000)
    folders = sorted(path.name for path in (own_cache / "alexnet-spec").iterdir())
    assert len(folders) == 2
    assert folders[1] == "checked"


def test_the_sample_in_colour_needs_its_colours() -> None:
    """The training patch of the nearest mean colour tells the photograph, and no longer does in grey or in BGR."""
    splits = opened(PHOTO_PATCHES, storage=storage(32), channels=3)
    assert splits.description == (
        "patches of six photographs (embedded): 684 training and 228 validation images, kept at 32x32 RGB, 6 classes: "
        "astronaut, cat, coffee, galaxies, retina, ..."
    )
    assert np.bincount(splits.train.labels).tolist() == [120, 84, 120, 120, 120, 120]
    assert np.bincount(splits.validation.labels).tolist() == [40, 28, 40, 40, 40, 40]
    train, validation = (np.asarray(part.images).mean(axis=(1, 2)) for part in (splits.train, splits.validation))

    def accuracy(colours: Any) -> float:
        nearest = np.linalg.norm(colours[:, None] - train, axis=-1).argmin(axis=1)
        return float((splits.train.labels[nearest] == splits.validation.labels).mean())

    assert accuracy(validation) > 0.8
    assert accuracy(np.repeat(validation.mean(axis=1, keepdims=True), 3, axis=1)) < 0.5
    assert accuracy(validation[:, ::-1]) < 0.5
    known = compute_statistics(splits.train.images)
    assert known.eigenvalues[2] > 0.001 * known.eigenvalues[0]  # of grey images it is 0
    assert (ROOT / "data" / "embedded" / "photo_patches.npz").stat().st_size < 2_000_000


def test_no_training_patch_is_a_validation_patch() -> None:
    splits = opened(PHOTO_PATCHES, storage=storage(32), channels=3)
    found = [{image.tobytes() for image in part.images[:]} for part in (splits.train, splits.validation)]
    assert not found[0] & found[1]


def test_the_script_makes_the_sample_in_colour(tmp_path: Path) -> None:
    source = Path(str(pytest.importorskip("skimage").__file__)).parent / "data"
    made = tmp_path / "made.npz"
    script = SCRIPT.with_name("make_photo_patches.py")
    subprocess.run([sys.executable, script, "--source", source, "--output", made], check=True, capture_output=True)
    with np.load(made) as again, np.load(SCRIPT.with_name("photo_patches.npz")) as kept:
        assert sorted(again) == sorted(kept)
        for name in kept:
            np.testing.assert_array_equal(again[name], kept[name])


def test_the_script_refuses_other_photographs(tmp_path: Path) -> None:
    picture(8, 8).save(tmp_path / "astronaut.png")
    script = SCRIPT.with_name("make_photo_patches.py")
    command: list[str | Path] = [sys.executable, script, "--source", tmp_path, "--output", tmp_path / "made.npz"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "the file must have SHA-256" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not UPSTREAM.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_the_script_makes_the_embedded_sample(tmp_path: Path) -> None:
    made = tmp_path / "made.npz"
    subprocess.run([sys.executable, SCRIPT, "--output", made], check=True, cwd=tmp_path, capture_output=True)
    with np.load(made, allow_pickle=False) as again, np.load(SCRIPT.with_name("fashion_mnist_mini.npz")) as kept:
        assert sorted(again) == sorted(kept)
        for name in kept:
            np.testing.assert_array_equal(again[name], kept[name])
    full = opened(UPSTREAM)
    assert full.train.classes == FASHION_CLASSES
    assert full.description.startswith(f"IDX folder {UPSTREAM} (Fashion-MNIST): 60,000 training and 10,000 validation")
    small = opened(EMBEDDED)
    for label in range(10):  # the first 1000 of each
        first = full.train.images[full.train.labels == label][:1000]
        np.testing.assert_array_equal(small.train.images[small.train.labels == label], first)


def test_the_script_refuses_other_contents(tmp_path: Path) -> None:
    write_family(tmp_path)
    output = tmp_path / "made.npz"
    for folder, message in ((tmp_path, "must have SHA-256"), (tmp_path / "none", "No such file")):
        done = subprocess.run(
            [sys.executable, SCRIPT, "--source", folder, "--output", output],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
        assert not output.exists()


def test_the_script_writes_the_same_bytes_each_time() -> None:
    arrays = {"a": np.arange(6, dtype=np.uint8).reshape(2, 3), "b": np.zeros(1000, np.uint8)}
    assert npz(arrays) == npz(arrays)


# --- folders ----------------------------------------------------------------------------------------------------------


def test_an_image_folder_is_described(tmp_path: Path) -> None:
    root = photo_folder(tmp_path / "p", {"train/a": 2, "train/b": 2, "val/b": 1}, suffix=".JPEG")
    splits = opened(root, channels=3)
    assert splits.description == (
        f"image folder {root} (validation from val/): 4 training and 1 validation images, kept at 28x28 RGB, "
        "2 classes: a, b"
    )
    assert splits.validation.labels.tolist() == [1]
    assert splits.validation.classes == ("a", "b")
    assert splits.train.images.shape == (4, 28, 28, 3)


def test_an_image_folder_without_a_split_is_split(tmp_path: Path) -> None:
    root = photo_folder(tmp_path / "p", {"a": 10, "b": 20})
    splits = opened(root, seed=5)
    assert np.bincount(splits.train.labels).tolist() == [9, 18]
    assert np.bincount(splits.validation.labels).tolist() == [1, 2]
    assert "1 in 10 held out for validation, seed 5" in splits.description
    assert fingerprint(splits.train) == fingerprint(opened(root, seed=5).train)


def test_an_idx_folder_is_opened(tmp_path: Path) -> None:
    arrays = write_family(tmp_path, compress=True, label_offset=1)
    splits = opened(tmp_path, storage=storage(5))
    assert splits.train.classes == ("1", "2", "3")
    assert splits.train.labels.tolist() == [0, 1, 2] * 4
    assert splits.train.images.shape == (12, 5, 5, 1)
    np.testing.assert_array_equal(splits.train.images[3][..., 0], arrays["train-images-idx3-ubyte"][3, 0:5])


def test_an_idx_folder_of_one_class_is_refused(tmp_path: Path) -> None:
    write_family(tmp_path)
    labels = (tmp_path / "train-labels-idx1-ubyte").read_bytes()
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(labels[:8] + bytes(12))
    with pytest.raises(DataError, match=r"training labels \[0\], validation labels \[0, 1, 2\]"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "nowhere",
            "data must be 'fashion-mnist-mini', .*a folder of images, or a tar of one. Received: 'nowhere', no such",
        ),
        ("a.txt", "Received: '.*a.txt', a file"),
        ("", "Received: an empty folder"),
    ],
)
def test_a_source_that_is_none_is_refused(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("text")
    given = {"a.txt": str(tmp_path / "a.txt"), "": str(tmp_path / "empty")}.get(source, source)
    with pytest.raises(DataError, match=message) as caught:
        opened(given)
    assert "\n" not in str(caught.value)


def test_other_channels_are_refused() -> None:
    with pytest.raises(DataError, match=r"1 channel \(grey\) or 3 \(RGB\). Received: input.channels = 4"):
        opened(EMBEDDED, channels=4)


# --- identity ---------------------------------------------------------------------------------------------------------


def test_the_fingerprint_tells_images_labels_and_classes_apart() -> None:
    images = np.zeros((2, 4, 4, 1), np.uint8)
    other = images.copy()
    other[1, 2, 3, 0] = 1
    labels = np.array([0, 1])
    sets = [
        Dataset(images, labels, ("a", "b")),
        Dataset(other, labels, ("a", "b")),
        Dataset(images, labels[::-1].copy(), ("a", "b")),
        Dataset(images, labels, ("b", "a")),
        Dataset(images.reshape(2, 2, 8, 1), labels, ("a", "b")),
    ]
    assert len({fingerprint(one) for one in sets}) == 5
    assert fingerprint(sets[0]) == fingerprint(Dataset(images, labels, ("a", "b"), digest=sha256_of(images)))
