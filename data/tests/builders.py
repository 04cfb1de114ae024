"""Settings and pictures to test with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data.dataset import U8, Dataset
from spec.language import (
    ConstantRate,
    Crop,
    Data,
    Dense,
    Evaluation,
    Flatten,
    Flip,
    Init,
    Input,
    Mean,
    Normal,
    Optimizer,
    Spec,
    Storage,
    Training,
)


def storage(size: int, fit: Any = "short_side") -> Storage:
    return Storage(size=size, fit=fit)


def settings(size: int = 8, **changes: Any) -> Data:
    """Data settings that do nothing but turn bytes into floats, with `changes`."""
    plain: dict[str, Any] = {
        "storage": storage(size),
        "channel_order": "rgb",
        "scale": 1.0,
        "mean": Mean(kind="none"),
        "crop": Crop(kind="center"),
        "flip": Flip(probability=0.0),
    }
    return Data(**{**plain, **changes})


def network_input(channels: int, height: int, width: int | None = None) -> Input:
    return Input(channels=channels, height=height, width=width or height)


def pixels(count: int, size: int, channels: int, seed: int = 0) -> U8:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, channels), dtype=np.uint8)


def dataset(count: int, size: int = 8, channels: int = 3, classes: int = 2) -> Dataset:
    return Dataset(pixels(count, size, channels), np.arange(count) % classes, tuple(map(str, range(classes))))


def tiny_spec(data: Data, input: Input) -> Spec:
    """The smallest specification around `data` and `input`."""
    normal = Normal(kind="normal", std=0.01)
    return Spec(
        name="tiny",
        title="Tiny",
        input=input,
        layers=(Flatten(name="flat", op="flatten"), Dense(name="fc", op="dense", out_features=2)),
        init=Init(weight=normal, bias=normal),
        training=Training(
            batch_size=4,
            epochs=1,
            loss="softmax_cross_entropy",
            optimizer=Optimizer(kind="sgd", momentum=0.9, learning_rate_in_velocity=True, decay="coupled"),
            learning_rate={"*": ConstantRate(kind="constant", rate=0.1)},
            weight_decay={"*": 0.0},
        ),
        data=data,
        evaluation=Evaluation(crops="ten", average="probabilities"),
    )


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> Image.Image:
    """Noise: any place differs from its neighbours."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(values[..., 0] if channels == 1 else values)


def photo_folder(root: Path, counts: dict[str, int], suffix: str = ".png") -> Path:
    """Folders under `root` with so many pictures of different sizes each."""
    for seed, (folder, count) in enumerate(counts.items()):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            picture(20 + i, 24 + seed, seed=100 * seed + i).save(root / folder / f"{i}{suffix}")
    return root
