"""The suite ``inference``: exported networks, engines in turns, each in its own process."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from backends.reporting import Reporter
from backends.starting import DEFAULT_SPEC, RUNS
from benchmarks.command import Parser, Wrong, add_batches, seconds, whole
from benchmarks.engines import ENGINES, PACKAGES, EngineError, lacking, missing, require_one_runtime
from benchmarks.environment import environment
from benchmarks.figures import scenarios
from benchmarks.measure import Entry, measure, turns
from benchmarks.models import Chosen, describe, newest, unique, untrained, with_references
from benchmarks.process import EngineFailed, EngineProcess
from benchmarks.results import FORMAT, Accelerator, Environment, Failure, Result, Roof, Settings
from benchmarks.roof import merged
from data.parallel import cores

NEEDED = ("onnx", "onnxruntime")
BATCHES = (1, 16, 64)
QUERIES = 100
"""Below so many calls a 99th percentile is the slowest of them. MLPerf asks for 1,024 in ten minutes."""
ROOF_SECONDS = 0.3
PRECISIONS = ("float32", "tf32", "bfloat16", "float16", "int8")
ALL = "all"


def parser() -> Parser:
    """The options."""
    made = Parser(
        "run.py --suite inference",
        "Measure exported networks: latency and throughput, engines in turns, each in its own process.",
    )
    what = made.add_mutually_exclusive_group()
    what.add_argument("--model", type=Path, action="append", metavar="FILE", help="an ONNX file; may be repeated")
    what.add_argument("--spec", metavar="NAME", help="this specification, untrained")
    made.add_argument("--runs", type=Path, default=RUNS, metavar="DIR", help=f"where models are (default: {RUNS})")
    made.add_argument(
        "--engines",
        type=lambda text: tuple(dict.fromkeys(text.split(","))),
        metavar="NAMES",
        help="default: onnxruntime, on a GPU too, OpenVINO, and the backend that the model comes from, of those that "
        "are installed; all: every one that is; NAMES unknown lists them",
    )
    add_batches(made, BATCHES, "images of a call")
    made.add_argument(
        "--seconds", type=seconds, default=0.5, metavar="S",
        help="of measuring for each engine and batch (default: 0.5)",
    )  # fmt: skip
    made.add_argument("--rounds", type=whole, default=5, metavar="N", help="turns these take (default: 5)")
    made.add_argument(
        "--queries", type=whole, default=QUERIES, metavar="N",
        help=f"calls at batch 1, at least: percentiles stand on them (default: {QUERIES})",
    )  # fmt: skip
    made.add_argument("--threads", type=whole, default=cores(), metavar="N", help="default: one per core")
    return made


def chosen_models(arguments: argparse.Namespace, folder: Path, reporter: Reporter) -> list[Chosen]:
    """The files that the options ask for; those that must be made first are made in `folder`."""
    if arguments.model:
        return [describe(path) for path in arguments.model]
    if arguments.spec:
        return [untrained(arguments.spec, folder)]
    if found := newest(arguments.runs):
        return [describe(path) for path in found]
    reporter.line(
        f"no exported model in {arguments.runs} (export/to_onnx.py makes them): measuring {DEFAULT_SPEC}, untrained"
    )
    return [untrained(DEFAULT_SPEC, folder)]


def available_providers() -> tuple[str, ...]:
    """What this ONNX Runtime can run on."""
    import onnxruntime

    return tuple(onnxruntime.get_available_providers())


def chosen_engines(
    wanted: Sequence[str] | None, source: str, accelerators: Sequence[Accelerator], reporter: Reporter
) -> list[str]:
    """The engines that were asked for, or by default those that most want compared and this machine has.

    source: the backend that the file comes from.
    """
    providers = available_providers()
    if wanted == (ALL,):
        return [name for name in ENGINES if lacking(name, accelerators, providers) is None]
    if wanted is not None:
        for engine in wanted:
            if engine not in ENGINES:
                raise Wrong(f"an engine must be one of {', '.join((*ENGINES, ALL))}. Received: {engine!r}")
            if absent := missing(ENGINES[engine].packages):
                raise Wrong(f"the engine {engine} needs what is not installed: {', '.join(absent)}")
        return list(wanted)
    by_default = ["onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "onnxruntime-coreml", "openvino"]
    found = [name for name in by_default if lacking(name, accelerators, providers) is None]
    if source in ENGINES:
        if absent := missing(ENGINES[source].packages):
            reporter.line(f"{source} is left out: {', '.join(absent)} not installed")
        else:
            found.append(source)
    return found


class Roofs:
    """Roofs of the devices that engines ran on, in their precisions; measured twice, and the higher counts."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self.failures: list[Failure] = []

    def __call__(self, wanted: Mapping[str, Collection[str]]) -> Mapping[str, Roof]:
        """By device. wanted: by device, the precisions."""
        found = {}
        for device, precisions in wanted.items():
            request: dict[str, Any] = {"device": device, "precisions": sorted(precisions), "seconds": ROOF_SECONDS}
            with EngineProcess(self._threads) as process:
                try:
                    measured = [Roof.model_validate(process.ask("roof", **request)) for _ in range(2)]
                    found[device] = merged(measured)
                except EngineFailed as error:
                    self.failures.append(
                        Failure(section="roof", model=None, engine=device, batch=None, reason=str(error))
                    )
        return found


def run(arguments: argparse.Namespace, reporter: Reporter, created: str) -> Result:
    """Measure what `arguments` ask for."""
    if lacks := missing(NEEDED):
        raise Wrong(f"measuring needs what is not installed: {', '.join(lacks)}")
    try:
        require_one_runtime()
        return _run(arguments, reporter, created)
    except EngineError as error:
        raise Wrong(str(error)) from error


def _run(arguments: argparse.Namespace, reporter: Reporter, created: str) -> Result:
    where: Environment = environment(arguments.threads, PACKAGES)
    settings = Settings(
        suite="inference",
        batches=arguments.batches,
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        queries=arguments.queries,
    )
    with tempfile.TemporaryDirectory(prefix="alexnet-benchmark-") as folder:
        models = with_references(chosen_models(arguments, Path(folder), reporter))
        names = unique(chosen.model.name for chosen in models)
        described = [chosen.model.model_copy(update={"name": name}) for chosen, name in zip(models, names, strict=True)]
        entries = [
            Entry(i, engine, chosen.path, described[i], chosen.checked)
            for i, chosen in enumerate(models)
            for engine in chosen_engines(arguments.engines, chosen.source, where.accelerators, reporter)
        ]
        with reporter.work("measuring", turns(entries, settings)) as say:
            roofs = Roofs(arguments.threads)
            outcome = measure(entries, settings, arguments.threads, say, roofs)
    return Result(
        format=FORMAT,
        created=created,
        environment=where,
        settings=settings,
        roofs=tuple(outcome.roofs.values()),
        models=tuple(described),
        engines=tuple(outcome.engines),
        measurements=tuple(outcome.measurements),
        scenarios=scenarios(outcome.measurements),
        failures=(*roofs.failures, *outcome.failures),
    )
