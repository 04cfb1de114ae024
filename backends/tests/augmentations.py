"""Everything that the language can ask of training images, for backends to be compared with the definition in."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from backends.tests import small
from data import Draws, Statistics, apply_training, compute_statistics, training_draws
from data.augment import F32
from data.dataset import U8
from spec import Spec, from_values

IMAGES = 24
NOISE: dict[str, Any] = {
    "none": None,
    "stddev": {"sigma": 0.1, "scale": "stddev", "divide_by": 1.1, "until_epoch": 2},
    "eigenvalue": {"sigma": 3.0, "scale": "eigenvalue"},
}
MEANS: dict[str, Any] = {
    "none": {"kind": "none"},
    "image": {"kind": "image", "align": "center"},
    "moving": {"kind": "image", "align": "crop"},
    "channel": {"kind": "channel"},
    "values": {"kind": "values", "values": [104.0, 116.7, 122.7]},
}
PLACES: dict[str, Any] = {
    "random": {"crop": {"kind": "random"}, "flip": {"probability": 0.5}},
    "shared": {"crop": {"kind": "random", "shared_by": 4}, "flip": {"probability": 0.5, "shared_by": 3}},
    "still": {"crop": {"kind": "center"}, "flip": {"probability": 0.0}},
}
CASES = tuple(product(NOISE, MEANS, PLACES, ("rgb", "bgr"), (1.0, 1 / 255)))


def case(noise: str, mean: str, places: str, order: str, scale: float) -> Spec:
    """A specification of crops of 8 x 8 of stored 12 x 12."""
    values = small.values(channels=3)
    values["data"] = {
        "storage": {"size": 12, "fit": "stretch"},
        "channel_order": order,
        "scale": scale,
        "mean": MEANS[mean]
        if mean != "values"
        else {**MEANS[mean], "values": [scale * v for v in (104, 116.7, 122.7)]},
        **PLACES[places],
        **({"color_noise": NOISE[noise]} if NOISE[noise] else {}),
        **({"std": [0.229, 0.224, 0.225]} if scale != 1 else {}),
    }
    return from_values(values)


def pictures() -> tuple[U8, Statistics]:
    rng = np.random.default_rng(7)
    images = (rng.integers(0, 256, (IMAGES, 12, 12, 3)) * np.array([1.0, 0.8, 0.5])).astype(np.uint8)
    return images, compute_statistics(images)


def expected(
    images: U8, statistics: Statistics, spec: Spec, epoch: int
) -> tuple[np.ndarray[Any, Any], Draws, dict[str, Any], F32]:
    """Indices, draws, what else the application needs, and what the definition makes of them."""
    indices = np.random.default_rng(epoch).permutation(IMAGES)[:17]
    known: dict[str, Any] = {"data": spec.data, "input": spec.input, "statistics": statistics}
    drawn = training_draws(indices, **known, seed=5, epoch=epoch)
    return indices, drawn, known, apply_training(images, indices, drawn, **known)
