"""Runs that diverge, and where: every framework must say the same of them."""

from __future__ import annotations

from pathlib import Path

from backends.tests import small

BEGINNINGS = {
    1e5: "at step 7 (epoch 2). It began in layer conv1, going backward at step 6: the gradient of conv1.bias was not "
    "finite, from outputs that were finite. Kept: ",
    1e20: "at step 1 (epoch 1). It began in the output of layer fc6: 48 of 128 numbers not finite; the parameters "
    "before step 1 were finite. Kept: ",
}
"""By learning rate."""


def options(folder: Path, rate: float) -> list[str]:
    """Of ``train.py``, for a run in `folder` with that rate."""
    stated = small.write_spec(folder, learning_rate={"*": {"kind": "constant", "rate": rate}})
    data = small.write_images(folder / "images")
    return ["--spec", str(stated), "--data", str(data), "--device", "cpu", "--output-dir", str(folder / "run")]
