"""What is exported: the parameters of a checkpoint, or the initial ones of a specification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import spec
from backends import checkpoint, create
from backends.base import Arrays
from data import Statistics, compute_statistics, evaluation_batch
from data.augment import F32
from data.dataset import U8
from spec import Spec, draws
from spec.draws import Purpose


@dataclass(frozen=True)
class Request:
    """A source by name, so that another process can be asked for the same; either a checkpoint or a specification."""

    backend: str
    """The backend that the file is verified against."""
    checkpoint: Path | None = None
    spec: str = ""
    seed: int = 0

    def values(self) -> dict[str, str | int]:
        """As JSON can carry it, to a process that runs in another folder: paths are absolute."""
        of_file = Path(self.spec).suffix and Path(self.spec).is_file()
        reference = str(Path(self.spec).resolve()) if of_file else self.spec
        checkpoint = {"checkpoint": str(self.checkpoint.resolve())} if self.checkpoint else {}
        return {"backend": self.backend, "spec": reference, "seed": self.seed, **checkpoint}

    @classmethod
    def from_values(cls, values: Mapping[str, str | int]) -> Request:
        """The inverse of :meth:`values`."""
        path = values.get("checkpoint")
        return cls(str(values["backend"]), Path(str(path)) if path else None, str(values["spec"]), int(values["seed"]))


@dataclass(frozen=True)
class Source:
    """A network with its parameters and what is known of the data it was trained on."""

    spec: Spec
    parameters: Arrays
    origin: str
    """Where the parameters come from, for people."""
    classes: tuple[str, ...] = ()
    statistics: Statistics | None = None
    progress: checkpoint.Progress | None = None
    """How far, and on what images, it was trained."""


def resolve(request: Request) -> Source:
    """Read what `request` names. Raises SpecError, CheckpointError or DataError: required, received, where."""
    if request.checkpoint is None:
        stated = spec.load(request.spec)
        return Source(stated, spec.initial_parameters(stated, request.seed), f"initial parameters, seed {request.seed}")
    found = checkpoint.load(request.checkpoint)
    statistics = Statistics.from_arrays(found.statistics) if found.statistics else None
    return Source(found.spec, found.parameters, str(request.checkpoint), found.classes, statistics, found.progress)


def photographs(stated: Spec, count: int, seed: int = 0) -> U8:
    """Made-up photographs, uint8 (count, S, S, C): smooth patches under noise, a pure function of the arguments."""
    size, channels = stated.data.storage.size, stated.input.channels
    cells = -(-size // 8)
    items = np.arange(count)
    patches = draws.words(seed, Purpose.TEST, cells * cells * channels, items=items) % 192
    noise = draws.words(seed, Purpose.TEST, size * size * channels, items=items, epoch=1) % 64
    coarse = patches.reshape(count, cells, cells, channels).repeat(8, axis=1).repeat(8, axis=2)[:, :size, :size]
    return (coarse + noise.reshape(count, size, size, channels)).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class Trial:
    """Images (N, C, H, W) for file and backend alike: the first n of them at once, for each n of `batches`."""

    images: F32
    batches: tuple[int, ...]
    pixels: U8 | None = None
    """The stored bytes (N, S, S, C) that the images come from; None if they come from none."""
    rounded: bool = True
    """Whether a file of fewer digits than float32 is tried on them, and not its twin in float32 alone."""


BATCHES = (1, 2, 5)
"""One, because it is the commonest; two others, because a batch size could have been written into the file."""
LOUD = 100.0
"""At their usual size the images of some variants hardly move the denominators of their normalisations (alpha is 1e-4),
and a wrong one would hide in rounding. A hundred times louder, the sums of squares are beyond k."""


HALF_REACH = 2.0**14
"""How loud activations of float16 are made: a quarter of what it can hold, and their squares far beyond."""


def trials(source: Source, precision: str = "float32", pictures: U8 | None = None) -> list[Trial]:
    """What a file is tried on: `pictures` (N, S, S, C) as the network sees them in evaluation, and louder.

    pictures: :func:`photographs` unless stated. Of a file of integers only the twin can be tried on what is louder
    than it was calibrated for; one of float16 also gets what is as loud as its numbers allow.
    """
    pictures = photographs(source.spec, max(BATCHES)) if pictures is None else pictures[: max(BATCHES)]
    statistics = source.statistics or compute_statistics(pictures)
    seen = evaluation_batch(pictures, data=source.spec.data, input=source.spec.input, statistics=statistics)[:, 0]
    batches = tuple(n for n in BATCHES if n <= len(seen))
    loud = Trial(seen[:2] * np.float32(LOUD), (len(seen[:2]),), rounded=precision == "bfloat16")
    made = [Trial(seen, batches, pictures), loud]
    if precision == "float16" and (factor := _half_loudness(source, seen[:2])) > 1:
        made.append(Trial(seen[:2] * np.float32(factor), loud.batches))
    return made


def _half_loudness(source: Source, images: F32) -> float:
    """The power of two by which images may be louder for no activation to leave float16."""
    oracle = create("numpy", source.spec, dtype="float64")
    oracle.load(source.parameters)
    outputs = oracle.outputs(images)
    largest = max(float(np.abs(value).max()) for value in (images, *outputs.values()))
    return float(2.0 ** np.floor(np.log2(HALF_REACH / largest))) if largest > 0 else 1.0
