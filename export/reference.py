"""A backend's answers from a process of its own, because frameworks do not share one.

Run as ``python -m export.reference FOLDER``, or without, for a process that answers many: folders come line by line on
standard input. FOLDER holds ``request.json`` and the images of every trial, ``0.npy`` and
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
from contextlib import suppress
from pathlib import Path

import numpy as np

from alexnet_rooms import ROOT
from backends import create
from backends.base import Array, Arrays
from export.source import Request, Trial, resolve

PARAMETERS = "parameters.npz"
_DONE = "done"


class BackendFailed(RuntimeError):
    """The backend could not be asked; the message is the last thing it said."""


def predictions(request: Request, trials: Sequence[Trial], parameters: Arrays | None = None) -> list[dict[int, Array]]:
    """The logits (n, classes) that the backend of `request` gives to each trial's batches, by batch size n.

    parameters: instead of the source's own, such as a file holds that rounds them. Raises BackendFailed if the
    backend's process fails.
    """
    with tempfile.TemporaryDirectory(prefix="alexnet-reference-") as name:
        _write(Path(name), request, trials, parameters)
        command = [sys.executable, "-m", "export.reference", name]
        done = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True, errors="replace")
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()]
            raise BackendFailed(said[-1] if said else f"its process ended with exit code {done.returncode}")
        return _read(Path(name), trials)


class Host:
    """A process that answers one request after another, all of one backend; called as :func:`predictions`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "export.reference"], cwd=ROOT, env=_environment(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def __call__(
        self, request: Request, trials: Sequence[Trial], parameters: Arrays | None = None
    ) -> list[dict[int, Array]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.TemporaryDirectory(prefix="alexnet-reference-") as name:
            _write(Path(name), request, trials, parameters)
            try:
                print(name, file=self._process.stdin, flush=True)
                said = self._process.stdout.readline().strip()
            except OSError:
                said = ""
            if said != _DONE:
                raise BackendFailed(said or "its process has ended")
            return _read(Path(name), trials)

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}


def _write(folder: Path, request: Request, trials: Sequence[Trial], parameters: Arrays | None) -> None:
    for i, trial in enumerate(trials):
        np.save(folder / f"{i}.npy", trial.images)
    if parameters is not None:
        np.savez(folder / PARAMETERS, allow_pickle=False, **parameters)
    batches = [trial.batches for trial in trials]
    (folder / "request.json").write_text(json.dumps({**request.values(), "batches": batches}))


def _read(folder: Path, trials: Sequence[Trial]) -> list[dict[int, Array]]:
    return [{n: np.load(folder / f"{i}-{n}.npy") for n in trial.batches} for i, trial in enumerate(trials)]


def serve() -> None:
    """Answer the request in every folder that a line of standard input names, until it ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what frameworks print is no answer
    for line in sys.stdin:
        try:
            main(Path(line.rstrip("\n")))
            said = _DONE
        except Exception as error:  # whatever a backend raises becomes the asker's BackendFailed
            said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        print(said, file=answers, flush=True)


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
    main(Path(sys.argv[1])) if sys.argv[1:] else serve()
