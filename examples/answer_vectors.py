"""Answers the questions of ``python -m conformance vectors`` by a backend, on whatever machine: a reader of the format.

    python examples/answer_vectors.py VECTORS RESULTS --backend torch

The layout is in conformance/VECTORS.md. To answer in another language, do what this file does.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import numpy.typing as npt

from backends import create
from spec import Settings, from_values

Array = npt.NDArray[Any]


class Reader:
    """Arrays of the questions by the names of their files."""

    def __init__(self, folder: Path, files: Mapping[str, Any]) -> None:
        self.folder, self.files = folder, files

    def __call__(self, name: str) -> Array:
        path = self.folder / name
        if hashlib.sha256(path.read_bytes()).hexdigest() != self.files[name]["sha256"]:
            raise ValueError(f"{path} must have the hash that the manifest says; it is damaged")
        array: Array = np.load(path, allow_pickle=False)
        return array

    def all(self, names: Mapping[str, str] | None) -> dict[str, Array] | None:
        return None if names is None else {key: self(name) for key, name in names.items()}


def answer(backend: Any, request: Mapping[str, Any], read: Reader) -> dict[str, Array]:
    """Do what one request says. Returns what it wants to know."""
    do = request["do"]
    given = {name: read(request[name]) for name in ("images", "labels", "cotangent") if name in request}
    masks = read.all(request.get("masks"))
    if do == "load":
        backend.load(read.all(request["parameters"]), read.all(request.get("velocities")))
        return {}
    if do == "outputs":
        outputs: dict[str, Array] = backend.outputs(**given) if masks is None else backend.outputs(**given, masks=masks)
        return outputs
    if do == "predict":
        return {"logits": backend.predict(**given)}
    if do == "gradients":
        found = backend.gradients(**given, masks=masks)
        return {"logits": found.logits, **found.parameters, "input": found.input}
    if do == "loss":
        return {"loss": np.array(backend.loss(**given, masks=masks), np.float64)}
    if do == "step":
        rates = {name: Settings(one["learning_rate"], one["weight_decay"]) for name, one in request["settings"].items()}
        backend.step(**given, settings=rates, masks=masks)
        return {}
    if do == "metrics":
        found = backend.metrics()
        counts = {name: np.array(getattr(found, name), np.int64) for name in ("images", "correct1", "correct5")}
        return {**counts, "loss": np.array(found.loss, np.float64), "losses": np.array(found.losses, np.float64)}
    return dict(getattr(backend, do)())  # parameters, velocities


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vectors", type=Path, metavar="VECTORS")
    parser.add_argument("results", type=Path, metavar="RESULTS")
    parser.add_argument("--backend", required=True)
    arguments = parser.parse_args()
    manifest = json.loads((arguments.vectors / "manifest.json").read_text(encoding="utf-8"))
    read = Reader(arguments.vectors, manifest["files"])
    arguments.results.mkdir(parents=True)
    shutil.copy(arguments.vectors / "manifest.json", arguments.results)
    for case in manifest["cases"]:
        backend = create(arguments.backend, from_values(case["spec"]), dtype=case["dtype"])
        for question in case["questions"]:
            for number, request in enumerate(question["requests"], 1):
                found = answer(backend, request, read)
                place = arguments.results / case["name"] / question["check"] / f"{number:02d}"
                for name in request["answer"]:
                    place.mkdir(parents=True, exist_ok=True)
                    np.save(place / f"{name}.npy", found[name], allow_pickle=False)
    about = {"backend": arguments.backend, "versions": {"numpy": np.__version__}}
    (arguments.results / "about.json").write_text(json.dumps(about), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
