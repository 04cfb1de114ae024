"""Checkpoints for tests: small, whole, and made without training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import spec
from backends.checkpoint import LAST, Checkpoint, Progress, save
from data import compute_statistics
from export.source import photographs

CLASSES = tuple(f"class {i}" for i in range(10))


def write(folder: Path, *, mean: str = "channel", backend: str = "torch", seed: int = 9) -> Path:
    """A checkpoint of fashion-mini at its initial parameters, in a run of its own in `folder`. Returns its path."""
    stated = spec.load("fashion-mini", {"data": {"mean": {"kind": mean}}})
    parameters = spec.initial_parameters(stated, seed)
    progress = Progress(
        seed=seed, source="none", fingerprint="none", epoch=0, batch_in_epoch=0, step=0, images=0
    )  # fmt: skip
    path = folder / f"run-{backend}" / LAST
    path.parent.mkdir(parents=True)
    save(
        path,
        Checkpoint(
            stated,
            parameters,
            {name: np.zeros_like(value) for name, value in parameters.items()},
            compute_statistics(photographs(stated, 4)).arrays(),
            CLASSES,
            progress,
            backend,
            {"python": "3"},
        ),
    )
    return path
