"""What a benchmark says: the shape of its JSON (``schema.json`` beside this file), and the statistics in it.

A file is one :class:`Result`. Every number of a measurement follows from the times of single calls; a *round* is one
turn of an engine at one batch size, and engines take turns, so that whatever else the machine did falls on all of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from backends.pages import write_text

FORMAT: Literal["executable-alexnet-benchmark/1"] = "executable-alexnet-benchmark/1"
SCHEMA = Path(__file__).with_name("schema.json")


class ResultError(ValueError):
    """A file is no result of a benchmark. One line: required, received, where."""


class Part(BaseModel):
    """Base of everything in a result: frozen, strict, closed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


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


class Settings(Part):
    """How long and in which turns."""

    batches: tuple[int, ...]
    rounds: int
    seconds: float
    """Of measurement for one engine at one batch size, over all rounds; a call that was begun is finished."""


class Model(Part):
    """One network that was measured."""

    name: str
    origin: str
    """A file, or a specification and how its parameters were made."""
    spec_hash: str | None
    lrn: str | None
    parameters: int | None
    macs: int | None
    """Multiply-accumulates of one image."""
    bytes: int


class Engine(Part):
    """One process that ran one model."""

    model: int
    """Its place in `models`."""
    name: str
    what: str
    """What computed, in words: provider, compilation, precision."""
    precision: str
    versions: dict[str, str]
    load_seconds: float
    """From the start of the process to the first answer."""
    peak_memory_mib: float | None
    error: float | None
    """The largest difference of a logit from the float64 oracle's, divided by the largest logit; null for a network
    without a specification, and for one that takes bytes."""


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


class Failure(Part):
    """What was to be measured and could not be."""

    model: int
    engine: str
    batch: int | None
    reason: str


class Result(Part):
    """One run of ``benchmarks/run.py``."""

    format: Literal["executable-alexnet-benchmark/1"]
    created: str
    """UTC, ISO 8601."""
    environment: Environment
    settings: Settings
    models: tuple[Model, ...]
    engines: tuple[Engine, ...]
    measurements: tuple[Measurement, ...]
    failures: tuple[Failure, ...] = ()


def measurement(
    engine: int, batch: int, rounds: Sequence[tuple[Sequence[float], float]], macs: int | None
) -> Measurement:
    """A measurement from its rounds: the seconds of every call, and the CPU seconds of the round."""
    rates = np.array([batch * len(times) / sum(times) for times, _ in rounds])
    every = 1e3 * np.concatenate([np.asarray(times, np.float64) for times, _ in rounds])
    images = batch * len(every)
    median = float(np.median(rates))
    return Measurement(
        engine=engine,
        batch=batch,
        rounds=tuple(Round(calls=len(times), seconds=sum(times), cpu_seconds=cpu) for times, cpu in rounds),
        images_per_second=Throughput(median=median, low=float(rates.min()), high=float(rates.max())),
        latency_ms=Latency(**{f"p{p}": float(np.percentile(every, p)) for p in (50, 90, 99)}, max=float(every.max())),
        cpu_ms_per_image=1e3 * sum(cpu for _, cpu in rounds) / images,
        gflops=None if macs is None else 2e-9 * macs * median,
    )


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
        where = ".".join(map(str, what["loc"])) or "the file"
        raise ResultError(
            f"{path}: a result must be of the format {FORMAT}. Received: {where}: {what['msg']}"
        ) from error


def schema() -> str:
    """The JSON Schema of a result, as ``schema.json`` holds it."""
    return json.dumps(Result.model_json_schema(), indent=1) + "\n"
