"""Writing questions as files, for backends that are not in Python or not on this machine. VECTORS.md has the layout.

:func:`write` asks every question of a backend that only records what it is asked; ``judging.py`` asks them again of one
that reads what came back. So the questions, the bounds and the words are those of a live run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from backends.base import Array, Arrays, Gradients, Masks, Metrics
from conformance.checks import CHECKS, Examination, Held, Job
from conformance.file_checks import EXPORT, IMPORT
from conformance.manifest import (
    FORMAT,
    MANIFEST,
    Case,
    File,
    Manifest,
    Question,
    Rates,
    Request,
    Tensor,
    VectorsError,
    file_of,
)
from conformance.oracle import INPUT
from conformance.runner import is_asked
from conformance.suite import OF_IMAGES
from spec import Settings, Spec, geometry

LIVE = ("free-run", *OF_IMAGES, EXPORT, IMPORT)
"""Checks that ask according to what was answered, or what is called in the backend's process: they need it itself."""


@dataclass
class _Record:
    """A backend that answers zeros and remembers what it was asked."""

    spec: Spec
    dtype: str
    keep: Any
    """Takes an array, returns the name of its file."""
    requests: list[Request] = field(default_factory=list)
    steps: int = 0

    def _note(self, do: Any, answer: Mapping[str, tuple[str, tuple[int, ...]]], **given: Any) -> dict[str, Array]:
        files: dict[str, Any] = {
            name: {key: self.keep(array) for key, array in value.items()}
            if isinstance(value, Mapping)
            else self.keep(value)
            for name, value in given.items()
            if value is not None and name != "settings"
        }
        rates = {
            name: Rates(learning_rate=one.learning_rate, weight_decay=one.weight_decay)
            for name, one in given.get("settings", {}).items()
        }
        wanted = {name: Tensor(dtype=dtype, shape=shape) for name, (dtype, shape) in answer.items()}
        self.requests.append(Request(do=do, **files, settings=rates or None, answer=wanted))
        return {name: np.zeros(shape, dtype) for name, (dtype, shape) in answer.items()}

    @property
    def _parameters(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        return {name: (self.dtype, shape) for name, shape in geometry(self.spec).parameters.items()}

    def load(self, parameters: Arrays, velocities: Arrays | None = None) -> None:
        self._note("load", {}, parameters=parameters, velocities=velocities)

    def outputs(self, images: Array, masks: Masks | None = None) -> dict[str, Array]:
        layers = geometry(self.spec).layers
        answer = {layer.name: (self.dtype, (len(images), *layer.output_shape)) for layer in layers}
        return self._note("outputs", answer, images=images, masks=masks)

    def _logits(self, images: Array) -> dict[str, tuple[str, tuple[int, ...]]]:
        return {"logits": (self.dtype, (len(images), *geometry(self.spec).output_shape))}

    def predict(self, images: Array) -> Array:
        return self._note("predict", self._logits(images), images=images)["logits"]

    def gradients(self, images: Array, cotangent: Array, masks: Masks | None = None) -> Gradients:
        answer = {**self._logits(images), **self._parameters, INPUT: (self.dtype, images.shape)}
        found = self._note("gradients", answer, images=images, cotangent=cotangent, masks=masks)
        return Gradients(found.pop("logits"), found, found.pop(INPUT))

    def loss(self, images: Array, labels: Array, masks: Masks | None = None) -> float:
        return float(self._note("loss", {"loss": ("float64", ())}, images=images, labels=labels, masks=masks)["loss"])

    def step(self, images: Array, labels: Array, settings: Mapping[str, Settings], masks: Masks) -> None:
        self.steps += 1
        self._note("step", {}, images=images, labels=labels, settings=settings, masks=masks)

    def parameters(self) -> dict[str, Array]:
        return self._note("parameters", self._parameters)

    def velocities(self) -> dict[str, Array]:
        return self._note("velocities", self._parameters)

    def metrics(self) -> Metrics:
        counts = dict.fromkeys(("images", "correct1", "correct5"), ("int64", tuple[int, ...]()))
        steps, self.steps = self.steps, 0
        self._note("metrics", {**counts, "loss": ("float64", ()), "losses": ("float64", (steps,))})
        return Metrics(0, 0.0, 0, 0, (0.0,) * steps)


def write(folder: Path, jobs: Iterable[Job], only: tuple[str, ...] | None = None) -> Manifest:
    """Write the questions of `jobs` into a folder that is new or empty; the manifest is written last.

    Raises VectorsError if there is something in the folder, or nothing to be asked; OSError if it cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise VectorsError(f"the folder for vectors must be new or empty. Received: {folder}")
    (folder / "arrays").mkdir(parents=True, exist_ok=True)
    files: dict[str, File] = {}

    def keep(array: Array) -> str:
        name = file_of(array)
        if name not in files:
            np.save(folder / name, array, allow_pickle=False)
            written = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            files[name] = File(sha256=written, dtype=str(array.dtype), shape=array.shape)
        return name

    cases: dict[str, Case] = {}
    for job in jobs:
        name = f"{job.spec.name}.{job.dtype}"
        e, questions = Examination(job), []
        for check in CHECKS:
            if check in LIVE or not is_asked(check, job, only):
                continue
            record = _Record(job.spec, e.carrier, keep)
            for _ in CHECKS[check].run(e, Held(record)):
                pass
            if record.requests:  # some checks ask for what a backend need not have
                questions.append(Question(check=check, requests=tuple(record.requests)))
        cases[name] = Case(
            name=name,
            spec={**job.spec.statement(), "provenance": {}},
            spec_hash=job.spec.hash,
            dtype=job.dtype,
            options={f.name: getattr(job, f.name) for f in fields(job) if f.name not in ("spec", "dtype")},
            questions=tuple(questions),
        )
    if not any(case.questions for case in cases.values()):
        raise VectorsError(f"the checks must be some that can be asked in files. Received: {', '.join(only or ())}")
    manifest = Manifest(format=FORMAT, numpy=np.__version__, files=files, cases=tuple(cases.values()))
    text = manifest.model_dump_json(indent=1, exclude_none=True)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return manifest
