"""Which files are measured, and what is known of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

import spec
from backends.onnx import build
from benchmarks.accuracy import Checked, checked
from benchmarks.engines import read
from benchmarks.results import Model
from benchmarks.subjects import parameters_of
from spec import geometry

FAMILIES = ("torch", "keras")
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "uint8": 1}


@dataclass(frozen=True)
class Chosen:
    """A file to measure."""

    path: Path
    model: Model
    source: str
    """The backend that it comes from; torch for a file of ours that does not say, empty for a file of others."""
    whose: tuple[str | None, ...]
    """What it shares with other files of the same network, in other precisions."""
    checked: Checked
    """On what its engines are compared with what."""


def describe(path: Path, name: str = "", origin: str = "") -> Chosen:
    """The file at `path`. Raises EngineError, SpecError, ModelError.

    name: by default the file's own; its folder's if it is called ``model.onnx`` or, with the precision behind it,
    ``model-int8.onnx``. origin: by default the path.
    """
    subject, graph = read(path)
    stated, images = subject.spec, checked(subject, graph)
    network = geometry(stated) if stated else None
    outputs = int(np.prod(network.output_shape)) if network else 0
    model = Model(
        name=name or (path.resolve().parent.name + path.stem[5:] if path.stem[:5] == "model" else path.stem),
        origin=origin or str(path),
        spec_hash=stated.hash if stated else None,
        lrn=subject.metadata.get("lrn"),
        precision=subject.precision,
        parameters=network.parameter_count if network else None,
        macs=network.macs if network else None,
        bytes=path.stat().st_size,
        parameter_bytes=sum(len(tensor.raw_data) for tensor in graph.graph.initializer),
        image_bytes=_BYTES[subject.dtype] * int(np.prod(subject.input_shape)) + 4 * outputs,
        images=images.words,
    )
    whose = (model.spec_hash, *(subject.metadata.get(key) for key in ("source", "source.sha256")))
    source = subject.metadata.get("source.backend", "torch" if stated else "")
    return Chosen(path.resolve(), model, source, whose, images)


def with_references(models: Sequence[Chosen]) -> list[Chosen]:
    """`models`, in which a file of rounded parameters is compared with the float32 file of the same network.

    A file that shares its network with none keeps the reference that it has, which may be none.
    """
    found = []
    for chosen in models:
        exact = next((other for other in models if _more_exact(other, chosen)), None)
        if exact is not None:
            words = f"the oracle of {exact.model.name}"
            images = replace(chosen.checked, reference=words, expected=exact.checked.expected)
            chosen = replace(chosen, checked=images)
        found.append(chosen)
    return found


def _more_exact(one: Chosen, other: Chosen) -> bool:
    same = one.whose == other.whose and one.model.spec_hash is not None
    exact = one.model.precision == "float32" != other.model.precision and one.checked.expected is not None
    return same and exact and np.array_equal(one.checked.plain, other.checked.plain)


def newest(runs: Path) -> list[Path]:
    """The exported model of each family of backends that was written last in `runs`, in the order of FAMILIES.

    Behind it, what lies beside it in other precisions.
    """
    found: dict[str, Path] = {}
    dated = sorted(((path.stat().st_mtime_ns, path) for path in runs.glob("*/model.onnx")), reverse=True)
    for _, path in dated:
        family = read(path)[0].metadata.get("source.backend", "").partition("-")[0]
        if family in FAMILIES:
            found.setdefault(family, path)
        if len(found) == len(FAMILIES):
            break
    chosen = [found[family] for family in FAMILIES if family in found]
    return [one for path in chosen for one in (path, *sorted(path.parent.glob("model-*.onnx")))]


def untrained(reference: str, folder: Path) -> Chosen:
    """The specification `reference` with :func:`parameters_of` it, as a file in `folder`. Raises SpecError."""
    stated = spec.load(reference)
    path = folder / f"{stated.name}.onnx"
    onnx.save(build(stated, parameters_of(stated)), path)
    return describe(path, stated.name, f"{stated.name}, untrained, with random parameters that keep a signal's size")


def unique(names: Iterable[str]) -> list[str]:
    """`names` with -2, -3 and so on behind those that came before."""
    seen: dict[str, int] = {}
    made = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        made.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return made
