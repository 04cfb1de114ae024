"""Questions as files: what a manifest says, and what results say of themselves. VECTORS.md has the layout."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from backends.base import Array
from conformance.checks import CHECKS, Job
from spec import SpecError, from_values

FORMAT: Literal["executable-alexnet-vectors/1"] = "executable-alexnet-vectors/1"
MANIFEST, ABOUT = "manifest.json", "about.json"
MAX_JSON = 1 << 28
"""Bytes of a manifest. Every variant in every check, slim, has some 20 million."""


class VectorsError(ValueError):
    """A folder of vectors or of results cannot be used. One line: required, received, where."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Tensor(_Part):
    """What one array of an answer must be."""

    dtype: str
    shape: tuple[int, ...] = Field(strict=False)


class Rates(_Part):
    """The settings of one parameter in one step."""

    learning_rate: float
    weight_decay: float


class Request(_Part):
    """One call of a backend's method ``do``; see ``backends.base``. Arrays are named by their files."""

    do: Literal["load", "outputs", "predict", "gradients", "loss", "step", "parameters", "velocities", "metrics"]
    parameters: dict[str, str] | None = None
    velocities: dict[str, str] | None = None
    images: str | None = None
    labels: str | None = None
    cotangent: str | None = None
    masks: dict[str, str] | None = None
    settings: dict[str, Rates] | None = None
    answer: dict[str, Tensor] = {}


class Question(_Part):
    """One check: requests that follow one another, the first of which loads."""

    check: str
    requests: tuple[Request, ...] = Field(strict=False)


class Case(_Part):
    """One specification in one dtype."""

    name: str
    spec: dict[str, Any]
    spec_hash: str
    dtype: str
    options: dict[str, Any]
    """The rest of a :class:`Job`."""
    questions: tuple[Question, ...] = Field(strict=False)

    def job(self) -> Job:
        """What :class:`Examination` makes the same inputs of. Raises VectorsError if the specification is another."""
        try:
            spec = from_values(self.spec)
        except SpecError as error:
            raise VectorsError(
                f"{MANIFEST}, {self.name}: must hold a specification. Received: {error.problems[0]}"
            ) from None
        if spec.hash != self.spec_hash:
            required = f"{MANIFEST}, {self.name}: the specification must have the hash {self.spec_hash}"
            raise VectorsError(f"{required}. Received: {spec.hash}")
        try:
            return Job(spec, self.dtype, **self.options)
        except TypeError as error:
            required = f"{MANIFEST}, {self.name}: the options must be those of this version"
            raise VectorsError(f"{required}. Received: {error}") from None


class File(_Part):
    """An array of the questions."""

    sha256: str
    dtype: str
    shape: tuple[int, ...] = Field(strict=False)


class Manifest(_Part):
    """Everything that is asked."""

    format: Literal["executable-alexnet-vectors/1"]
    numpy: str
    """The version that drew the inputs."""
    files: dict[str, File]
    cases: tuple[Case, ...] = Field(strict=False)


class About(_Part):
    """What results say of themselves; all of it may be left out."""

    backend: str | None = None
    device: str | None = None
    versions: dict[str, str] = {}
    unsupported: dict[str, str] = {}
    """Checks, or patterns of them, that this backend cannot answer, each with the reason."""


def _problem(error: ValidationError) -> str:
    """The first thing that is wrong, in one line."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"


def parsed(path: Path, kind: type[Any], what: str) -> Any:
    """A file of JSON as `kind`. Raises VectorsError, which calls it `what`."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise VectorsError(f"{path} must have at most {MAX_JSON} bytes")
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise VectorsError(f"{what} must be a file {path}. Received: {error.strerror}") from None
    except ValidationError as error:
        raise VectorsError(f"{path} must be {what} of vectors. Received: {_problem(error)}") from None


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder of vectors or of results. Raises VectorsError."""
    found: Manifest = parsed(folder / MANIFEST, Manifest, "the manifest")
    for case in found.cases:
        unknown = [question.check for question in case.questions if question.check not in CHECKS]
        if unknown:
            required = f"{folder / MANIFEST}, {case.name}: a check must be one of {', '.join(CHECKS)}"
            raise VectorsError(f"{required}. Received: {unknown[0]}")
        if Path(case.name).name != case.name:
            raise VectorsError(f"{folder / MANIFEST}: a case's name must be a folder's. Received: {case.name!r}")
    return found


def file_of(array: Array) -> str:
    """The name of the file that holds `array`: equal arrays have one file."""
    array = np.ascontiguousarray(array)
    kind = f"{array.dtype.str}{array.shape}".encode()
    return f"arrays/{hashlib.sha256(kind + array.tobytes()).hexdigest()[:24]}.npy"


def place_of(case: Case, question: Question, number: int) -> Path:
    """Where, in a folder of results, the answer to a question's request `number`, counted from 1, belongs."""
    return Path(case.name) / question.check / f"{number:02d}"
