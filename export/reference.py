"""A backend's answers from a process of its own, because frameworks do not share one.

Run as ``python -m export.reference FOLDER``. FOLDER holds ``request.json`` and the images of every trial, ``0.npy`` and
so on, and ``parameters.npz`` if they are not to be the source's own; it receives the logits, ``0-5.npy`` for those of
trial 0 in a batch of 5.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alexnet_rooms import ROOT
from backends import create
from backends.base import Array, Arrays
from export.source import Request, Trial, resolve

PARAMETERS = "parameters.npz"


class BackendFailed(RuntimeError):
    """The backend could not be asked; the message is the last thing it said."""


def predictions(request: Request, trials: Sequence[Trial], parameters: Arrays | None = None) -> list[dict[int, Array]]:
    """The logits (n, classes) that the backend of `request` gives to each trial's batches, by batch size n.

    parameters: instead of the source's own, such as a file holds that rounds them. Raises BackendFailed if the
    backend's process fails.
    """
    with tempfile.TemporaryDirectory(prefix="alexnet-reference-") as name:
        folder = Path(name)
        for i, trial in enumerate(trials):
            np.save(folder / f"{i}.npy", trial.images)
        if parameters is not None:
            np.savez(folder / PARAMETERS, allow_pickle=False, **parameters)
        batches = [trial.batches for trial in trials]
        (folder / "request.json").write_text(json.dumps({**request.values(), "batches": batches}))
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
        command = [sys.executable, "-m", "export.reference", name]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace")
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()]
            raise BackendFailed(said[-1] if said else f"its process ended with exit code {done.returncode}")
        return [{n: np.load(folder / f"{i}-{n}.npy") for n in trial.batches} for i, trial in enumerate(trials)]


def main(folder: Path) -> None:
    """Answer the request in `folder`."""
    values = json.loads((folder / "request.json").read_text())
    request = Request.from_values(values)
    source = resolve(request)
    backend = create(request.backend, source.spec, dtype="float32", device="cpu")
    stated = folder / PARAMETERS
    backend.load(dict(np.load(stated)) if stated.exists() else source.parameters)
    for i, batches in enumerate(values["batches"]):
        images = np.load(folder / f"{i}.npy")
        for n in batches:
            np.save(folder / f"{i}-{n}.npy", backend.predict(images[:n]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
