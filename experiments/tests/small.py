"""Data and specifications small enough that an experiment takes a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from experiments.__main__ import main

LAYERS = {
    "conv1": {"op": "conv", "out_channels": 4, "kernel": 3, "padding": 1},
    "relu1": {"op": "relu"},
    "norm1": {"op": "lrn", "size": 3, "alpha": 0.1, "alpha_over": "size", "beta": 0.75, "k": 2.0, "groups": 2},
    "pool1": {"op": "max_pool", "kernel": 3, "stride": 2, "rounding": "ceil"},
    "conv2": {"op": "conv", "out_channels": 6, "kernel": 3, "padding": 1, "groups": 2},
    "relu2": {"op": "relu"},
    "flatten": {"op": "flatten"},
    "fc6": {"op": "dense", "out_features": 16},
    "relu6": {"op": "relu"},
    "drop6": {"op": "dropout", "rate": 0.5, "scale": "test"},
    "fc8": {"op": "dense", "out_features": 3},
}


def values(**training: Any) -> dict[str, Any]:
    """A network of two towers for crops of 8 x 8 from colour images of 10 x 10, as plain values."""
    return {
        "name": "small",
        "title": "A small network for tests",
        "input": {"channels": 3, "height": 8, "width": 8},
        "layers": LAYERS,
        "init": {
            "weight": {"kind": "variance_scaling", "scale": 2.0, "fan": "fan_in", "distribution": "normal"},
            "bias": {"kind": "constant", "value": 0.0},
        },
        "training": {
            "batch_size": 8,
            "epochs": 3,
            "loss": "softmax_cross_entropy",
            "optimizer": {"kind": "sgd", "momentum": 0.9, "learning_rate_in_velocity": True, "decay": "coupled"},
            "learning_rate": {"*": {"kind": "step", "rate": 0.02, "factor": 0.1, "every": 2, "unit": "epoch"}},
            "weight_decay": {"*": 0.0005, "*.bias": 0.0},
            **training,
        },
        "data": {
            "storage": {"size": 10, "fit": "stretch"},
            "channel_order": "rgb",
            "scale": 1 / 128,
            "mean": {"kind": "image"},
            "crop": {"kind": "random"},
            "flip": {"probability": 0.5},
            "color_noise": {"sigma": 0.1, "scale": "stddev"},
        },
        "evaluation": {"crops": "center", "average": "probabilities"},
    }  # fmt: skip


def workplace(folder: Path) -> tuple[str, str]:
    """Writes small.yaml and a folder of images into `folder`. Returns the paths of both."""
    rng = np.random.default_rng(3)
    for split, count in (("train", 16), ("val", 6)):
        for label, colour in enumerate(((200, 40, 40), (40, 200, 40), (40, 40, 200))):
            place = folder / "images" / split / f"class{label}"
            place.mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(np.array(colour) + rng.integers(-40, 40, (10, 10, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.png")
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(values(), sort_keys=False))
    return str(path), str(folder / "images")


def run(folder: Path, name: str, *arguments: str) -> dict[str, Any]:
    """The ``result.json`` of experiment `name`, run in this process with --output-dir `folder`."""
    assert main([name, *arguments, "--output-dir", str(folder)]) == 0
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    for picture in result["pictures"]:
        with Image.open(folder / picture) as image:
            assert image.format == "PNG"
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(result["pictures"])
    assert "http" not in page  # it needs nothing else
    return result
