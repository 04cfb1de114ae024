"""Judging what came back in files, as a live backend is judged. VECTORS.md has the layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from backends.base import Array, Arrays, Backend, Gradients, Masks, Metrics
from conformance.checks import CHECKS, Examination, Held
from conformance.explain import Heard
from conformance.manifest import (
    ABOUT,
    MANIFEST,
    About,
    Case,
    Manifest,
    Question,
    Request,
    Tensor,
    VectorsError,
    file_of,
    parsed,
    place_of,
    read_manifest,
)
from conformance.oracle import INPUT
from conformance.runner import Result
from spec import Settings


class _Unusable(ValueError):
    """Why a file cannot be used, without its name."""


def _require_as_asked(dtype: str, shape: Sequence[int], wanted: Tensor) -> None:
    if tuple(shape) != wanted.shape:
        raise _Unusable(f"has shape {tuple(shape)}, but should have {wanted.shape}")
    if dtype != wanted.dtype:
        raise _Unusable(f"has dtype {dtype}, but should have {wanted.dtype}")


def _read_npy(path: Path, wanted: Tensor) -> Array:
    """The array of a .npy file. Its header is believed only if it says what was asked for. Raises _Unusable."""
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            if version not in readers:
                raise _Unusable(f"must be .npy of version 1.0 or 2.0. Received: {version[0]}.{version[1]}")
            shape, _, dtype = readers[version](file)
            _require_as_asked(str(dtype), shape, wanted)
            bytes_here, bytes_said = path.stat().st_size - file.tell(), dtype.itemsize * int(np.prod(shape))
            if bytes_here != bytes_said:
                word = "truncated" if bytes_here < bytes_said else "too long"
                raise _Unusable(f"is {word}: it has {bytes_here} bytes of numbers, but should have {bytes_said}")
            file.seek(0)
            found: Array = np.lib.format.read_array(file, allow_pickle=False)
            return found
    except OSError as error:
        raise _Unusable(f"cannot be read: {error.strerror}") from None
    except _Unusable:
        raise
    except (ValueError, EOFError, SyntaxError, TypeError) as error:
        raise _Unusable(f"is not a .npy file: {str(error).splitlines()[0]}") from None


_SAFETENSORS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64"}


def _read_safetensors(path: Path, request: Request) -> tuple[dict[str, Array], list[str]]:
    """The arrays of a .safetensors file that can be used, and a line about each of the others."""
    found, problems = {}, []
    try:
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            for name, wanted in request.answer.items():
                if name not in names:
                    problems.append(f"{path}: lacks {name}")
                    continue
                piece = file.get_slice(name)
                kind = _SAFETENSORS.get(piece.get_dtype(), piece.get_dtype())
                try:
                    _require_as_asked(kind, piece.get_shape(), wanted)
                    found[name] = file.get_tensor(name)
                except _Unusable as error:
                    problems.append(f"{path}: {name} {error}")
            problems += [f"{path}: {name} is not asked for" for name in names if name not in request.answer]
    except (SafetensorError, OSError) as error:
        problems.append(f"{path}: is not a .safetensors file: {str(error).splitlines()[0]}")
    return found, problems


def _read_answer(folder: Path, request: Request) -> tuple[dict[str, Array], list[str]]:
    """The arrays that answer `request`: files in `folder`, or one file beside it. Each problem is one line."""
    whole = folder.with_name(folder.name + ".safetensors")
    if whole.exists():
        return _read_safetensors(whole, request)
    if request.answer and not folder.is_dir():
        return {}, [f"{folder}: is missing, with all of {', '.join(request.answer)}"]
    found, problems = {}, []
    for name, wanted in request.answer.items():
        path = folder / f"{name}.npy"
        if not path.exists():
            problems.append(f"{path}: is missing")
            continue
        try:
            found[name] = _read_npy(path, wanted)
        except _Unusable as error:
            problems.append(f"{path}: {error}")
    return found, problems


class Replay(Backend):
    """A backend that answers one question by what was found in files."""

    def __init__(self, case: Case, question: Question, answers: Sequence[dict[str, Array]], numpy: str) -> None:
        self._where, self._numpy = f"{case.name}, {question.check}", numpy
        self._left = list(zip(question.requests, answers, strict=True))

    def _answer(self, do: str, **given: Any) -> dict[str, Array]:
        """The answer to the next request, which must be this one. Raises VectorsError."""
        if not self._left or self._left[0][0].do != do:
            raise VectorsError(f"{self._where}: the manifest must ask what this version asks. Received: not {do} here")
        request, answer = self._left.pop(0)
        for name, value in given.items():
            files = getattr(request, name)
            pairs = [(files, value)] if not isinstance(value, Mapping) else [(files[key], value[key]) for key in value]
            if any(file_of(array) != file for file, array in pairs):
                raise VectorsError(
                    f"{self._where}: the inputs must come out as they were written, by NumPy {self._numpy}. "
                    f"Received: other {name}, by NumPy {np.__version__}"
                )
        return answer

    def load(self, parameters: Arrays, velocities: Arrays | None = None) -> None:
        self._answer("load", parameters=parameters, **({} if velocities is None else {"velocities": velocities}))

    def outputs(self, images: Array, masks: Masks | None = None) -> dict[str, Array]:
        return self._answer("outputs", images=images)

    def predict(self, images: Array) -> Array:
        return self._answer("predict", images=images)["logits"]

    def gradients(self, images: Array, cotangent: Array, masks: Masks | None = None) -> Gradients:
        found = dict(self._answer("gradients", images=images, cotangent=cotangent))
        return Gradients(found.pop("logits"), found, found.pop(INPUT))

    def loss(self, images: Array, labels: Array, masks: Masks | None = None) -> float:
        return float(self._answer("loss", images=images, labels=labels)["loss"])

    def step(self, images: Array, labels: Array, settings: Mapping[str, Settings], masks: Masks) -> None:
        self._answer("step", images=images, labels=labels)

    def parameters(self) -> dict[str, Array]:
        return self._answer("parameters")

    def velocities(self) -> dict[str, Array]:
        return self._answer("velocities")

    def metrics(self) -> Metrics:
        found = self._answer("metrics")
        images, correct1, correct5 = (int(found[name]) for name in ("images", "correct1", "correct5"))
        return Metrics(images, float(found["loss"]), correct1, correct5, tuple(map(float, found["losses"])))


@dataclass
class Judgement:
    """What came of a folder of results."""

    about: About
    results: list[Result]
    problems: list[str]
    """One line for each file that is missing, damaged, of the wrong kind, or not asked for."""


def judge(folder: Path, only: tuple[str, ...] | None = None) -> Judgement:
    """Judge a folder of results, which holds the manifest that it answers.

    Raises VectorsError if the folder holds no manifest, or one whose inputs this version does not make again.
    """
    manifest = read_manifest(folder)
    about = parsed(folder / ABOUT, About, "what results say of themselves") if (folder / ABOUT).exists() else About()
    name = about.backend or folder.resolve().name
    judgement = Judgement(about, [], _strangers(folder, manifest))
    for case in manifest.cases:
        job = case.job()
        e, result = Examination(job), Result(name, job)
        for question in case.questions:
            if only is not None and question.check not in only:
                continue
            reasons = (why for pattern, why in about.unsupported.items() if fnmatchcase(question.check, pattern))
            reason = next(reasons, None)
            if reason is not None:
                result.inapplicable[question.check] = reason
                continue
            answers, problems = [], []
            for number, request in enumerate(question.requests, 1):
                found, wrong = _read_answer(folder / place_of(case, question, number), request)
                answers.append(found)
                problems += wrong
            if problems:
                judgement.problems += problems
                files = f"{len(problems)} of its files are" if len(problems) > 1 else "one of its files is"
                said = f"{name}: {case.name}, {question.check} cannot be judged: {files} missing or unusable"
                result.failures[question.check] = said
                continue
            replay = Heard(Held(Replay(case, question, answers, manifest.numpy)))
            findings = list(CHECKS[question.check].run(e, replay))
            result.explain(e, question.check, replay.answers, findings)
            result.findings += findings
        judgement.results.append(result)
    return judgement


def _strangers(folder: Path, manifest: Manifest) -> list[str]:
    """A line for every file of `folder` that nothing asked for."""
    wanted = {Path(MANIFEST), Path(ABOUT)}
    for case in manifest.cases:
        for question in case.questions:
            for number, request in enumerate(question.requests, 1):
                place = place_of(case, question, number)
                wanted |= {place / f"{name}.npy" for name in request.answer}
                wanted |= {place.with_name(f"{place.name}.safetensors")} if request.answer else set()
    asked = set(manifest.files) | {str(path) for path in wanted}  # results may lie among the questions
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    return [f"{folder / path}: is not asked for" for path in files if path.as_posix() not in asked]
