"""Which files are measured, and what is known of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx

import spec
from backends import create
from backends.base import Array
from backends.onnx import build, parameters_of
from backends.onnx.graph import LrnLowering
from benchmarks.engines import read
from benchmarks.measure import CHECKED, images
from benchmarks.results import Model
from spec import Spec, geometry

FAMILIES = ("torch", "keras")


@dataclass(frozen=True)
class Chosen:
    """A file to measure."""

    path: Path
    model: Model
    source: str
    """The backend that it comes from; torch for a file of ours that does not say, empty for a file of others."""
    expected: Array | None
    """The oracle's logits of the images that every engine is checked with; None for a file of others, and for one that
    takes bytes."""


def describe(path: Path, name: str = "", origin: str = "") -> Chosen:
    """The file at `path`. Raises EngineError, SpecError.

    name: by default the file's own, or its folder's if it is called ``model.onnx``. origin: by default the path.
    """
    subject, graph = read(path)
    stated = subject.spec
    network = geometry(stated) if stated else None
    model = Model(
        name=name or (path.resolve().parent.name if path.name == "model.onnx" else path.stem),
        origin=origin or str(path),
        spec_hash=stated.hash if stated else None,
        lrn=subject.metadata.get("lrn"),
        parameters=network.parameter_count if network else None,
        macs=network.macs if network else None,
        bytes=path.stat().st_size,
    )
    expected = None if stated is None or subject.pixels else _expected(stated, graph)
    return Chosen(path.resolve(), model, subject.metadata.get("source.backend", "torch" if stated else ""), expected)


def _expected(stated: Spec, graph: onnx.ModelProto) -> Array:
    oracle = create("numpy", stated, dtype="float64")
    oracle.load(parameters_of(graph, stated))
    return oracle.predict(images(geometry(stated).input_shape, CHECKED))


def newest(runs: Path) -> list[Path]:
    """The exported model of each family of backends that was written last in `runs`, in the order of FAMILIES."""
    found: dict[str, Path] = {}
    dated = sorted(((path.stat().st_mtime_ns, path) for path in runs.glob("*/model.onnx")), reverse=True)
    for _, path in dated:
        family = read(path)[0].metadata.get("source.backend", "").partition("-")[0]
        if family in FAMILIES:
            found.setdefault(family, path)
        if len(found) == len(FAMILIES):
            break
    return [found[family] for family in FAMILIES if family in found]


def initialised(reference: str, folder: Path, lrn: LrnLowering = "ops", seed: int = 0) -> Chosen:
    """The specification `reference` with its initial parameters, as a file in `folder`. Raises SpecError."""
    stated = spec.load(reference)
    path = folder / f"{stated.name}.onnx"
    onnx.save(build(stated, spec.initial_parameters(stated, seed), lrn=lrn), path)
    return describe(path, stated.name, f"{stated.name} with its initial parameters, seed {seed}")


def unique(names: Iterable[str]) -> list[str]:
    """`names` with -2, -3 and so on behind those that came before."""
    seen: dict[str, int] = {}
    made = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        made.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return made
