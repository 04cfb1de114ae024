"""Makes ``fashion_mnist_mini.npz``: the first 1000 training and 200 test images of each class of Fashion-MNIST.

Source: the four files of https://github.com/zalandoresearch/fashion-mnist, for instance from Debian's package
``dataset-fashion-mnist`` (``apt-get install dataset-fashion-mnist``). Their contents are checked against the digests
below; Zalando's README gives MD5s of the compressed files, of which Debian's differ in the gzip header alone.

    python data/embedded/make_fashion_mnist_mini.py [--source FOLDER] [--output FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402

from data.dataset import U8, sha256_of  # noqa: E402
from data.embedded.making import main  # noqa: E402
from data.errors import DataError  # noqa: E402
from data.idx import idx_files, read_pair  # noqa: E402

SOURCE = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package puts the files."""
OUTPUT = Path(__file__).resolve().parent / "fashion_mnist_mini.npz"
SPLITS = {"train": ("train", 1000), "test": ("validation", 200)}
"""The name in the output: the part of the source, and how many images of each class."""
DIGESTS = {
    ("train", "images"): "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
    ("train", "labels"): "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
    ("validation", "images"): "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
    ("validation", "labels"): "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
}
"""SHA-256 of the bytes behind the IDX header of each source file."""


def first_of_each(labels: U8, count: int) -> npt.NDArray[np.int64]:
    """The places of the first `count` of every label, in ascending order."""
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:count] for label in np.unique(labels)]))


def selection(source: Path) -> dict[str, U8]:
    """The output: ``{train,test}_images`` (N, 28, 28) and ``{train,test}_labels`` (N,). Raises DataError."""
    files = idx_files(source)
    if not files:
        raise DataError(f"the four IDX files of Fashion-MNIST are required. Received: none of them. In: {source}")
    arrays = {}
    for name, (part, count) in SPLITS.items():
        images, labels = read_pair(files, part)
        for what, array in (("images", images), ("labels", labels)):
            received = sha256_of(array)
            if received != DIGESTS[part, what]:
                raise DataError(f"the contents must have SHA-256 {DIGESTS[part, what]}. Received: {received}. "
                                f"In: {files[part, what]}")  # fmt: skip
        chosen = first_of_each(labels, count)
        arrays[f"{name}_images"], arrays[f"{name}_labels"] = images[chosen], labels[chosen]
    return arrays


if __name__ == "__main__":
    sys.exit(main(__doc__, selection, OUTPUT, "folder with the four IDX files", SOURCE))
