"""The images that come with this repository. Where they are from and how they were made: ``README.md`` beside this."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.dataset import I64, U8

FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
"""Fashion-MNIST's labels 0 to 9, from its README (zalandoresearch/fashion-mnist@b2617bb)."""


@dataclass(frozen=True, slots=True)
class Sample:
    """An embedded sample."""

    title: str
    file: str
    classes: tuple[str, ...]


SAMPLES = {
    "fashion-mnist-mini": Sample("Fashion-MNIST subset (embedded)", "fashion_mnist_mini.npz", FASHION_CLASSES),
    "photo-patches": Sample(
        "patches of six photographs (embedded)",
        "photo_patches.npz",
        ("astronaut", "cat", "coffee", "galaxies", "retina", "rocket"),
    ),
}
"""By the name that ``--data`` takes."""


def load_sample(name: str) -> dict[str, tuple[U8, I64]]:
    """By split, the images uint8 (N, H, W) or (N, H, W, 3) and the labels (N,) of the sample `name`."""
    with np.load(Path(__file__).with_name(SAMPLES[name].file), allow_pickle=False) as file:
        return {part: (file[f"{prefix}_images"], file[f"{prefix}_labels"].astype(np.int64))
                for part, prefix in (("train", "train"), ("validation", "test"))}  # fmt: skip
