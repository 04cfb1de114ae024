"""Specifications, data and runs small enough that a test trains them in a blink."""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from alexnet_rooms import ROOT
from spec import Spec, from_values

TRAINING = {
    "batch_size": 8,
    "epochs": 3,
    "loss": "softmax_cross_entropy",
    "optimizer": {"kind": "sgd", "momentum": 0.9, "learning_rate_in_velocity": True, "decay": "coupled"},
    "learning_rate": {
        "*": {"kind": "stages", "stages": [{"epoch": 0, "rate": 0.05}, {"epoch": 2, "rate": 0.005}]},
        "*.bias": {"kind": "constant", "rate": 0.02},
    },
    "weight_decay": {"*": 0.0005, "*.bias": 0.0},
}

ALEXNET = {
    "conv1": {"op": "conv", "out_channels": 4, "kernel": 3, "padding": 1},
    "relu1": {"op": "relu"},
    "norm1": {"op": "lrn", "size": 3, "alpha": 0.1, "alpha_over": "size", "beta": 0.75, "k": 2.0, "groups": 2},
    "pool1": {"op": "max_pool", "kernel": 3, "stride": 2, "rounding": "ceil"},
    "conv2": {"op": "conv", "out_channels": 6, "kernel": 3, "padding": 1, "groups": 2},
    "relu2": {"op": "relu"},
    "pool2": {"op": "max_pool", "kernel": 3, "stride": 2, "rounding": "ceil"},
    "flatten": {"op": "flatten"},
    "fc6": {"op": "dense", "out_features": 16},
    "relu6": {"op": "relu"},
    "drop6": {"op": "dropout", "rate": 0.5, "scale": "test"},
    "fc8": {"op": "dense", "out_features": 4},
}


def values(layers: dict[str, Any] | None = None, channels: int = 1, size: int = 8, **training: Any) -> dict[str, Any]:
    """A specification as plain values."""
    return {
        "name": "small",
        "title": "A small network for tests",
        "input": {"channels": channels, "height": size, "width": size},
        "layers": layers or ALEXNET,
        "init": {
            "weight": {"kind": "variance_scaling", "scale": 2.0, "fan": "fan_in", "distribution": "normal"},
            "bias": {"kind": "constant", "value": 0.1},
        },
        "training": {**TRAINING, **training},
        "data": {
            "storage": {"size": size, "fit": "stretch"},
            "channel_order": "rgb",
            "scale": 1 / 128,
            "mean": {"kind": "image"},
            "crop": {"kind": "center"},
            "flip": {"probability": 0.5},
        },
        "evaluation": {"crops": "ten", "average": "probabilities"},
    }


def spec(layers: dict[str, Any] | None = None, channels: int = 1, size: int = 8, **training: Any) -> Spec:
    return from_values(values(layers, channels, size, **training))


def write_spec(folder: Path, **training: Any) -> Path:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(values(**training), sort_keys=False))
    return path


def write_images(folder: Path, classes: int = 4, train: int = 44, validation: int = 10, seed: int = 1) -> Path:
    """A folder of IDX files of 8 x 8 grey images: noise, and a bright row whose place is the class."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for part, count in (("train", train), ("t10k", validation)):
        labels = (np.arange(count) % classes).astype(np.uint8)
        images = rng.integers(0, 100, (count, 8, 8)).astype(np.uint8)
        images[np.arange(count), 2 * (labels % 4)] += 150
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (folder / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes(), mtime=0))
    return folder


def workplace(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes `folder` the working folder, empty but for a specification, small.yaml, and images."""
    monkeypatch.chdir(folder)
    write_spec(folder)
    write_images(folder / "images")
    return folder


def python(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python with the project's rooms in `folder`, until it ends; `environment` besides that of this process."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def finish(process: subprocess.Popen[str], seconds: float = 240) -> tuple[int, str, str]:
    """Its exit code and what it said; it is killed if it takes longer than `seconds`."""
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return process.returncode, out, err
