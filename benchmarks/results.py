"""What a benchmark says: the shape of its JSON, which ``schema.json`` beside this file states.

A file is one :class:`Result`. Inference is told by models, engines and measurements: every number of a measurement
follows from the times of single calls; a *round* is one turn of an engine at one batch size, and engines take turns, so
that whatever else the machine did falls on all of them. Everything else is told by cases: the same work done in several
ways, which take turns too. What was not measured is a failure, and says why.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from backends.pages import write_text

FORMAT: Literal["executable-alexnet-benchmark/2"] = "executable-alexnet-benchmark/2"
SCHEMA = Path(__file__).with_name("schema.json")


class ResultError(ValueError):
    """A file is no result of a benchmark. One line: required, received, where."""


class Part(BaseModel):
    """Base of everything in a result: frozen, strict, closed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Accelerator(Part):
    """A GPU, as its driver names it."""

    name: str
    memory_mib: float
    driver: str
    """Version of the driver, which bounds the CUDA that can be used."""
    clock_mhz: float | None = None
    """The highest of its multiprocessors."""
    power_watts: float | None = None
    """The limit that it is set to."""


class Environment(Part):
    """What the numbers belong to."""

    machine: str
    """Architecture, as in x86_64."""
    system: str
    cpu: str
    instructions: tuple[str, ...] = ()
    """Vector extensions that decide speed: avx2, avx512f, avx512_bf16, amx_bf16, ..."""
    cores: int
    """Cores that this process may use."""
    threads: int
    """Threads that every engine was given."""
    memory_gib: float | None
    load: float | None
    """Processes that wanted to run, the minute before the measurement began. Near 0 is a quiet machine."""
    python: str
    versions: dict[str, str]
    """Of the packages that took part."""
    revision: str | None
    """The commit of this repository, with a + if files differ from it."""
    accelerators: tuple[Accelerator, ...] = ()


class Roof(Part):
    """What the device itself can do, measured in the same run with the same threads; see :mod:`benchmarks.roof`."""

    device: str
    """``cpu`` or ``cuda``."""
    gflops: dict[str, float]
    """By precision: of the fastest product of two large square matrices, 2 n^3 operations each."""
    by: dict[str, str]
    """By precision: whose product that was."""
    gbytes_per_second: float
    """Of copying, or of reading, arrays that are larger than any cache; bytes read and bytes written both count."""


class Settings(Part):
    """What was asked for."""

    suite: str
    batches: tuple[int, ...]
    rounds: int
    seconds: float
    """Of measurement for one engine at one batch size, over all rounds; a call that was begun is finished."""
    queries: int = 0
    """Calls at batch 1 that are made at least, over all rounds: what the percentiles of a single stream stand on."""
    budget_seconds: float | None = None
    """After which nothing more is begun; null is no limit."""


class Model(Part):
    """One network that was measured."""

    name: str
    origin: str
    """A file, or a specification and how its parameters were made."""
    spec_hash: str | None
    lrn: str | None
    precision: str
    """In which the file states its products: float32, float16, bfloat16, int8."""
    parameters: int | None
    macs: int | None
    """Multiply-accumulates of one image."""
    bytes: int
    parameter_bytes: int
    """Of the weights in the file. With those of images and logits, what no engine can avoid to move."""
    image_bytes: int
    """Of one image in and its logits out."""
    images: str | None
    """On which answers are compared: validation images of a data set, or noise."""


class Accuracy(Part):
    """What an engine's answers are worth, beside those of a reference on the same images."""

    images: int
    reference: str | None
    """The float64 oracle with the file's parameters, or the float32 file of the same network; null if neither is."""
    logit_error: float | None
    """The largest difference of a logit from the reference's, divided by the reference's largest logit."""
    top1_changed: float | None
    """The share of images whose best class is another than the reference's."""
    top1: float | None
    """The share of images whose best class is the label; null where the images have none."""
    reference_top1: float | None

    @property
    def top1_lost(self) -> float | None:
        """How much less often than the reference it is right."""
        return None if self.top1 is None or self.reference_top1 is None else self.reference_top1 - self.top1


class Engine(Part):
    """One process that ran one model."""

    model: int
    """Its place in `models`."""
    name: str
    what: str
    """What computed, in words: provider, compilation, layout."""
    device: str
    """``cpu`` or ``cuda``."""
    precision: str
    """In which the products were really computed, as far as the engine can be asked; the commonest where it mixes."""
    versions: dict[str, str]
    load_seconds: float
    """From the start of the process to the first answer, compilation included."""
    peak_memory_mib: float | None
    """Of the process in the host's memory."""
    device_memory_mib: float | None = None
    """Of the process in the accelerator's memory, as its framework counts; null where it does not."""
    accuracy: Accuracy | None


class Round(Part):
    """One turn."""

    calls: int
    seconds: float
    cpu_seconds: float
    """Of all threads of the process: on a machine that others use too, steadier than the clock."""


class Throughput(Part):
    """Images a second: the median round, the slowest and the fastest."""

    median: float
    low: float
    high: float


class Latency(Part):
    """Milliseconds of one call, over all calls of all rounds."""

    p50: float
    p90: float
    p99: float
    max: float


class Measurement(Part):
    """One engine at one batch size."""

    engine: int
    """Its place in `engines`."""
    batch: int
    rounds: tuple[Round, ...] = Field(min_length=1)
    images_per_second: Throughput
    latency_ms: Latency
    cpu_ms_per_image: float
    gflops: float | None
    """2 * macs * images per second / 1e9, median round."""
    attainable: float | None = None
    """Images a second that the roof allows: the smaller of peak and intensity * bandwidth; see ``roof.py``."""
    of_roof: float | None = None
    """The share of them that was reached."""
    bound: Literal["compute", "memory"] | None = None
    """Which of the two the roof is here."""


class SingleStream(Part):
    """LoadGen's scenario of that name, in short: one image at a time, the next when the last is answered."""

    queries: int
    p50_ms: float
    p90_ms: float
    """What MLPerf reports of this scenario."""
    p99_ms: float


class Offline(Part):
    """LoadGen's scenario of that name, in short: all images are there; the best batch size counts."""

    batch: int
    images_per_second: float


class Scenario(Part):
    """What an engine does in the two scenarios; `single_stream` is null where batch 1 was not measured."""

    engine: int
    single_stream: SingleStream | None
    offline: Offline


class Case(Part):
    """One way to do a piece of work. Ways with the same `section`, `where` and `batch` did the same."""

    section: str
    """``training``, ``lrn``, ``grouped convolution``, ``streaming``, ``waiting`` or ``preparation``."""
    where: str
    """The network, or the layer and the shape of its maps; or which images."""
    name: str
    what: str
    """The way in words."""
    detail: str = ""
    """Layout, and which passes: ``NHWC, forward``."""
    batch: int
    device: str
    precision: str
    seconds: tuple[float, ...] = Field(min_length=1)
    """Of every call, in order."""
    items: int
    """Images of one call."""
    images_per_second: Throughput
    """Of the median call, the slowest and the fastest."""
    baseline: str | None = None
    """The name of the usual way, where this is compared with one."""
    first_seconds: float | None = None
    """From the start of the process to the end of the first calls, compilation included."""
    gflops: float | None = None
    gbytes_per_second: float | None = None
    """Of the memory traffic that no way can avoid."""
    of_roof: float | None = None
    """The share of the roof's, of whichever of the two above is stated."""
    peak_memory_mib: float | None = None
    device_memory_mib: float | None = None
    values: dict[str, float] = Field(default_factory=dict)
    """What else there is to say, each in the unit of its name."""

    @property
    def key(self) -> tuple[str, ...]:
        """What makes it comparable with a case of another result."""
        return self.section, self.where, self.name, self.detail, self.precision, self.device


class Failure(Part):
    """What was to be measured and was not."""

    section: str = "inference"
    model: int | None
    engine: str
    """The engine, or the way of a case."""
    batch: int | None
    reason: str
    kind: Literal["failed", "out of memory", "skipped", "absent"] = "failed"
    """Only `failed` is an error: a batch may be too large, time may be up, a package may not be installed."""


class Result(Part):
    """One run of ``benchmarks/run.py``."""

    format: Literal["executable-alexnet-benchmark/2"]
    created: str
    """UTC, ISO 8601."""
    environment: Environment
    settings: Settings
    roofs: tuple[Roof, ...] = ()
    models: tuple[Model, ...] = ()
    engines: tuple[Engine, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    scenarios: tuple[Scenario, ...] = ()
    cases: tuple[Case, ...] = ()
    failures: tuple[Failure, ...] = ()


def write(path: Path, result: Result) -> None:
    """Write `result` to `path` in one piece. Raises OSError, and then leaves what is there as it was."""
    write_text(path, result.model_dump_json(indent=1) + "\n")


def read(path: Path) -> Result:
    """The result in `path`. Raises ResultError."""
    try:
        return Result.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ResultError(f"{path}: a result must be a readable file. Received: {error.strerror}") from error
    except ValidationError as error:
        what = error.errors()[0]
        if what["loc"] == ("format",) and str(what["input"]).startswith(FORMAT.partition("/")[0]):
            raise ResultError(
                f"{path}: a result must be of the format {FORMAT}. Received: {what['input']}, of another version of "
                "this program: measure again, or compare with that version"
            ) from error
        where = ".".join(map(str, what["loc"])) or "the file"
        raise ResultError(
            f"{path}: a result must be of the format {FORMAT}. Received: {where}: {what['msg']}"
        ) from error


def schema() -> str:
    """The JSON Schema of a result, as ``schema.json`` holds it."""
    return json.dumps(Result.model_json_schema(), indent=1) + "\n"
