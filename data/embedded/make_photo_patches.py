"""Makes ``photo_patches.npz``: patches of six photographs in colour, labelled by the photograph they are from.

Source: files of scikit-image 0.26.0 (``pip install scikit-image==0.26.0``), in the folder ``skimage/data`` of the
installed package. They are checked against the digests below. All six are in the public domain or under CC0;
see ``LICENSE-photo-patches.txt``.

    python data/embedded/make_photo_patches.py --source FOLDER [--output FILE]
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from data.dataset import U8  # noqa: E402
from data.embedded.making import main  # noqa: E402
from data.errors import DataError  # noqa: E402

OUTPUT = Path(__file__).resolve().parent / "photo_patches.npz"
PATCH, BLOCK = 32, 64
"""Sides of a patch and of a block. A block, all four patches of it, is for training or for testing."""
BLOCKS = 40
"""The most blocks of one photograph, a quarter of them for testing."""


@dataclass(frozen=True)
class Photograph:
    """A source file. `reduced`: by how much its sides are divided first. `dark`: the least mean byte of a patch."""

    name: str
    file: str
    sha256: str
    """Of the file."""
    reduced: int = 1
    dark: int = 0


PHOTOGRAPHS = (
    Photograph("astronaut", "astronaut.png", "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5"),
    Photograph("cat", "chelsea.png", "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb"),
    Photograph("coffee", "coffee.png", "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7"),
    Photograph("galaxies", "hubble_deep_field.jpg", "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4"),
    Photograph(
        "retina", "retina.jpg", "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6", reduced=2, dark=30
    ),
    Photograph("rocket", "rocket.jpg", "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c"),
)
"""In the order of the labels, which is that of the alphabet."""


def patches(photograph: Photograph, source: Path) -> tuple[U8, U8]:
    """The patches for training and for testing: uint8 (N, 32, 32, 3) each. Raises DataError and OSError."""
    path = source / photograph.file
    received = hashlib.sha256(path.read_bytes()).hexdigest()
    if received != photograph.sha256:
        raise DataError(f"the file must have SHA-256 {photograph.sha256}. Received: {received}. In: {path}")
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB").reduce(photograph.reduced))
    rows, columns = pixels.shape[0] // BLOCK, pixels.shape[1] // BLOCK
    blocks = pixels[: rows * BLOCK, : columns * BLOCK].reshape(rows, 2, PATCH, columns, 2, PATCH, 3)
    fours = blocks.transpose(0, 3, 1, 4, 2, 5, 6).reshape(-1, 4, PATCH, PATCH, 3)
    fours = fours[fours.mean(axis=(2, 3, 4)).min(axis=1) >= photograph.dark]
    fours = fours[np.linspace(0, len(fours) - 1, min(BLOCKS, len(fours))).round().astype(int)]
    testing = np.arange(len(fours)) % 4 == 2
    return fours[~testing].reshape(-1, PATCH, PATCH, 3), fours[testing].reshape(-1, PATCH, PATCH, 3)


def selection(source: Path) -> dict[str, U8]:
    """The output: ``{train,test}_images`` (N, 32, 32, 3), ``{train,test}_labels`` (N,). Raises as :func:`patches`."""
    made = [patches(photograph, source) for photograph in PHOTOGRAPHS]
    arrays = {}
    for place, split in enumerate(("train", "test")):
        arrays[f"{split}_images"] = np.concatenate([both[place] for both in made])
        arrays[f"{split}_labels"] = np.repeat(np.arange(len(made)), [len(both[place]) for both in made]).astype(
            np.uint8
        )
    return arrays


if __name__ == "__main__":
    sys.exit(main(__doc__, selection, OUTPUT, "the folder skimage/data"))
