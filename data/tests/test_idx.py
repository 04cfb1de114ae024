"""The MNIST family's files."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from data.errors import DataError
from data.idx import idx_files, read_idx, read_pair


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_family(folder: Path, *, compress: bool = False, label_offset: int = 0) -> dict[str, np.ndarray]:
    """A folder like MNIST's, 12 + 4 images of 6 x 5. Returns the arrays by file name."""
    random = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 12), ("t10k", 4)):
        arrays[f"{split}-images-idx3-ubyte"] = random.integers(0, 256, (count, 6, 5), dtype=np.uint8)
        arrays[f"{split}-labels-idx1-ubyte"] = (np.arange(count) % 3 + label_offset).astype(np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        content = gzip.compress(idx(array)) if compress else idx(array)
        (folder / (name + ".gz" * compress)).write_bytes(content)
    return arrays


@pytest.mark.parametrize("compress", [False, True])
def test_a_family_is_read(tmp_path: Path, compress: bool) -> None:
    arrays = write_family(tmp_path, compress=compress)
    parts = idx_files(tmp_path)
    for part, split in (("train", "train"), ("validation", "t10k")):
        images, labels = read_pair(parts, part)
        np.testing.assert_array_equal(images, arrays[f"{split}-images-idx3-ubyte"])
        np.testing.assert_array_equal(labels, arrays[f"{split}-labels-idx1-ubyte"])


def test_a_folder_of_something_else_has_no_idx_files(tmp_path: Path) -> None:
    (tmp_path / "train-images.png").write_bytes(b"")
    assert idx_files(tmp_path) == {}


def test_an_incomplete_family_is_refused(tmp_path: Path) -> None:
    write_family(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="Missing: validation labels"):
        idx_files(tmp_path)


GOOD = idx(np.zeros((2, 3, 4), np.uint8))
ZIPPED = gzip.compress(GOOD, mtime=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no bytes"),
        (GOOD[:10], "a header of 00 00 08 03"),
        (b"\x00\x00\x0d\x03" + GOOD[4:], "a header of 00 00 0d 03"),
        (idx(np.zeros(24, np.uint8)), "a header of 00 00 08 01"),
        (GOOD[:-1], "a header that says 24 values and 23"),
        (GOOD + b"x", "a header that says 24 values and more"),
        (b"\x00\x00\x08\x03" + b"\xff" * 12, "more than 4,294,967,296"),
        (ZIPPED[:-9], "."),
        (ZIPPED[:15] + b"\xff\xff" + ZIPPED[17:], "."),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path, 3)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_images_without_labels_are_refused(tmp_path: Path) -> None:
    write_family(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(11, np.uint8)))
    with pytest.raises(DataError, match="Received: 12 images and 11 labels"):
        read_pair(idx_files(tmp_path), "train")
