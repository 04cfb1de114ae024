"""Questions as files, for backends that are not in Python or not on this machine. VECTORS.md has the layout.

:func:`write` asks every question of a backend that only records what it is asked; :func:`judge` asks them again of one
that reads what came back. So the questions, the bounds and the words are those of a live run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

from backends.base import Array, Arrays, Backend, Gradients, Masks, Metrics
from conformance.checks import CHECKS, Examination, Held, Job
from conformance.oracle import INPUT
from conformance.runner import Result, is_asked
from conformance.suite import OF_IMAGES
from spec import Settings, Spec, SpecError, from_values, geometry

FORMAT: Literal["executable-alexnet-vectors/1"] = "executable-alexnet-vectors/1"
MANIFEST, ABOUT = "manifest.json", "about.json"
LIVE = ("free-run", *OF_IMAGES)
"""Checks that ask according to what was answered, or what is called in the backend's process: they need it itself."""
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


def _parsed(path: Path, kind: type[Any], what: str) -> Any:
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
    found: Manifest = _parsed(folder / MANIFEST, Manifest, "the manifest")
    for case in found.cases:
        unknown = [question.check for question in case.questions if question.check not in CHECKS]
        if unknown:
            required = f"{folder / MANIFEST}, {case.name}: a check must be one of {', '.join(CHECKS)}"
            raise VectorsError(f"{required}. Received: {unknown[0]}")
        if Path(case.name).name != case.name:
            raise VectorsError(f"{folder / MANIFEST}: a case's name must be a folder's. Received: {case.name!r}")
    return found


# --- writing --------------------------------------------------------------------------------------------------------


def file_of(array: Array) -> str:
    """The name of the file that holds `array`: equal arrays have one file."""
    array = np.ascontiguousarray(array)
    kind = f"{array.dtype.str}{array.shape}".encode()
    return f"arrays/{hashlib.sha256(kind + array.tobytes()).hexdigest()[:24]}.npy"


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


# --- judging --------------------------------------------------------------------------------------------------------


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


def place_of(case: Case, question: Question, number: int) -> Path:
    """Where, in a folder of results, the answer to a question's request `number`, counted from 1, belongs."""
    return Path(case.name) / question.check / f"{number:02d}"


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
    about = _parsed(folder / ABOUT, About, "what results say of themselves") if (folder / ABOUT).exists() else About()
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
            replay = Held(Replay(case, question, answers, manifest.numpy))
            result.findings += list(CHECKS[question.check].run(e, replay))
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
