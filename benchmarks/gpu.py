"""The suite ``gpu``: all that one NVIDIA GPU is asked for, unattended, within a budget, in one JSON.

    python benchmarks/run.py --suite gpu                            eight minutes
    python benchmarks/run.py --suite gpu --minutes 5 --sections training,inference
    python benchmarks/run.py --suite gpu --device cpu --quick       the same code on a CPU: a rehearsal of a minute

Sections have shares of the budget; what one leaves over goes to the next, and what there is no time for is said. A way
that needs more memory than there is, or a package that is not installed, is a line of the result and ends nothing.

A GPU computes in milliseconds what a compiler needs half a minute for. So what torch.compile makes is made first, on
all cores of the host at once, in a cache on disk; and while one way is measured, the process of the next imports its
framework.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import spec as specifications
from backends.reporting import Reporter
from benchmarks import grouped, lrn, lrn_forms, training
from benchmarks.ahead import Compiling, Processes, caches, forget_choices
from benchmarks.command import Parser, Wrong, among, specification, whole
from benchmarks.engines import ENGINES, PACKAGES, EngineError, lacking, missing, require_one_runtime
from benchmarks.environment import environment
from benchmarks.figures import scenarios
from benchmarks.inference import PRECISIONS, available_providers
from benchmarks.measure import Entry, Outcome, measure
from benchmarks.models import Chosen, untrained
from benchmarks.process import EngineFailed
from benchmarks.results import FORMAT, Case, Environment, Failure, Model, Result, Roof, Settings
from benchmarks.subjects import GPU_SUBJECTS, Subject
from data.parallel import cores
from spec import LayerGeometry

SHARES = {"lrn": 0.14, "grouped": 0.1, "training": 0.46, "inference": 0.3}
"""Of the budget that compiling ahead has left, in order."""
AHEAD = 0.2
"""Of the budget, for compiling ahead at most."""
MINUTES, RESERVE = 8, 30.0
"""The budget, and what of it, in seconds, is kept for what was begun before it was up."""


@dataclass(frozen=True)
class Plan:
    """What is measured, at full length or as a rehearsal."""

    spec: str
    kernels: str
    """Whose response normalisations and grouped convolutions are measured alone."""
    kernel_batch: int
    training_batches: tuple[int, ...]
    inference_batches: tuple[int, ...]
    rounds: int
    steps: int
    """Training steps of a turn."""
    seconds: float
    """Of inference for each engine and batch."""
    roof_seconds: float
    queries: int
    layers: int
    """Of each kind, at most."""
    layouts: tuple[str, ...] = ("NCHW", "NHWC")
    normalised_in: tuple[str, ...] = ("float32", "bfloat16")
    compiled: tuple[str, ...] = ("usual", "ours")
    """Forms of response normalisation."""


FULL = Plan("paper-2012", "paper-2012", 256, (128, 512, 2048, 256, 1024), (1, 32, 1024), 3, 5, 0.5, 0.5, 200, 3)
QUICK = Plan("fashion-mini", "paper-2012", 1, (2,), (1,), 1, 1, 0.02, 0.02, 4, 1, ("NCHW",), ("float32",), ("ours",))
REHEARSED = ("torch-tf32", "torch-module-compiled-bf16", "usual-torch-tf32", "keras-jax-tf32")
"""Of GPU_SUBJECTS in a rehearsal: one of each kind of code. Keras on TensorFlow goes the way of Keras on JAX."""
CPU_ENGINES = ("onnxruntime", "onnxruntime-bound", "openvino", "torch", "keras-jax")
"""In place of the GPU's in a rehearsal."""
GPU_ENGINES = (
    "onnxruntime-cuda", "onnxruntime-cuda-bound", "onnxruntime-cuda-graph", "onnxruntime-cuda-bound-lrn-node",
    "onnxruntime-cuda-float32", "onnxruntime-tensorrt-bound", "onnxruntime-tensorrt-float16", "torch-cuda-tf32",
    "torch-cuda-bfloat16", "torch-cuda-float16", "keras-jax-cuda-tf32", "keras-tensorflow-cuda-tf32",
    "torch-cuda-compiled-tf32", "torch-cuda-compiled-bfloat16", "torch-cuda-graph-bfloat16",
)  # fmt: skip
"""Every way to infer; what compiles comes last."""
COMPILED = ("compiled", "torch-cuda-graph")
"""What is in the names of ways and engines that torch.compile makes anew for every size of a batch."""
WEIGHTS = {"compiled": 2, "keras-jax": 4}
"""How many times the share of others such a way to train has: with what was compiled ahead, and without."""
EAGER = "PyTorch, eager"


def parser() -> Parser:
    """The options."""
    made = Parser(
        "run.py --suite gpu", "Measure one NVIDIA GPU: training, normalisation, grouped convolution, inference."
    )
    made.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu rehearses (default: cuda)")
    made.add_argument("--quick", action="store_true", help="a small network and small batches")
    made.add_argument("--minutes", type=whole, default=MINUTES, metavar="N", help=f"the budget (default: {MINUTES})")
    made.add_argument("--spec", type=specification, metavar="NAME|FILE", help="default: paper-2012")
    made.add_argument("--sections", type=among(SHARES), default=tuple(SHARES), metavar="NAMES",
                      help=f"of {', '.join(SHARES)} (default: all)")  # fmt: skip
    made.add_argument("--threads", type=whole, default=cores(), metavar="N", help="of the host (default: one per core)")
    return made


@dataclass
class _Run:
    """What is under way."""

    plan: Plan
    reference: str
    kernels: str
    device: str
    threads: int
    until: float
    say: Callable[[str], None]
    environment: Environment
    folder: Path
    """For what is only needed while it lasts."""
    processes: Processes = field(init=False)
    roof: Roof | None = None
    cases: list[Case] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    model: Model | None = None
    inferred: Outcome = field(default_factory=Outcome)

    @cached_property
    def network(self) -> Chosen:
        """What engines infer with."""
        return untrained(self.reference, self.folder)

    def left(self, share: float, of: float) -> float:
        """Seconds that a section has which may take `share` of what the sections from it on may, `of`."""
        return max(0.0, (self.until - time.monotonic()) * share / of)


def _roof(run: _Run) -> None:
    with run.processes.turn("roof") as process:
        try:
            said = process.ask("roof", device=run.device, precisions=PRECISIONS, seconds=run.plan.roof_seconds)
            run.roof = Roof.model_validate(said)
        except EngineFailed as error:
            kind = "absent" if missing(["torch"]) or "no CUDA device" in str(error) else "failed"
            run.failures.append(Failure.model_validate(
                {"section": "roof", "model": None, "engine": run.device, "batch": None, "reason": str(error),
                 "kind": kind}))  # fmt: skip


def _layers(run: _Run, section: str) -> list[LayerGeometry]:
    """Those that a section measures."""
    places = lrn_forms.places if section == "lrn" else grouped.places
    return places(specifications.load(run.kernels))[: run.plan.layers]


def _kernels(run: _Run, section: str, seconds: float) -> None:
    """Response normalisation or grouped convolution, one layer after another, each with its share of the time."""
    layers = _layers(run, section)
    if not layers or missing(["torch"]):
        reason = "torch is not installed" if layers else f"{run.kernels} has no such layer"
        run.failures.append(
            Failure(section=section, model=None, engine="all", batch=None, reason=reason, kind="absent")
        )
        return
    until = time.monotonic() + seconds
    for i, place in enumerate(layers):
        with run.processes.turn(_turn(section, place.name)) as process:
            left = (until - time.monotonic()) / (len(layers) - i)
            options: dict[str, Any] = {"precisions": ["tf32", "bfloat16"]}
            if section == "lrn":
                options = {"precisions": run.plan.normalised_in, "compiled": run.plan.compiled}
            cases, failures = lrn.ask(
                process, section, run.kernels, place.name, left=left, batch=run.plan.kernel_batch, device=run.device,
                layouts=run.plan.layouts, rounds=run.plan.rounds, **options,
            )  # fmt: skip
            run.cases += lrn.under(run.roof, cases)
            run.failures += failures


def _compile(run: _Run, sections: Sequence[str], seconds: float) -> None:
    """Compile what `sections` will need."""
    with Compiling(run.threads, seconds) as compiling:
        if "lrn" in sections and not missing(["torch"]):
            for place in _layers(run, "lrn"):
                options = {"section": "lrn", "spec": run.kernels, "left": seconds, "layer": place.name, "rounds": 1,
                           "batch": run.plan.kernel_batch, "device": run.device, "layouts": run.plan.layouts,
                           "precisions": run.plan.normalised_in, "compiled": run.plan.compiled}  # fmt: skip
                compiling.submit([("cases", options)])
        for batch in run.plan.training_batches if "training" in sections else ():
            for name in filter(_compiled, _ways(run)):
                request = {"name": name, "spec": run.reference, "batch": batch, "device": run.device}
                compiling.submit([("subject", request)])
        if "inference" in sections:
            for engine in [name for name, why in _engines(run).items() if why is None and _compiled(name)]:
                first, *others = run.plan.inference_batches
                loaded = ("load", {"engine": engine, "path": str(run.network.path), "batch": first})
                again = [("measure", {"batch": size, "seconds": 0.0, "calls": 1, "warm": True}) for size in others]
                compiling.submit([loaded, *again])
    forget_choices(run.folder)


def _compiled(name: str) -> bool:
    return any(word in name for word in COMPILED)


def _processes(run: _Run, sections: Sequence[str]) -> Processes:
    """Those of the roof, of sections, of ways to train and of engines, by name in the order of their turns.

    What PyTorch does eagerly shares one, and so do response normalisation and grouped convolution. A way to train that
    is compiled has one of its own, because a compiler has limits to what it makes in one process; and so has an engine,
    whose memory is counted.
    """
    kinds = {"roof": EAGER}
    modules = {EAGER: [] if missing(["torch"]) else ["torch", "benchmarks.subjects"]}

    def alone(name: str, packages: Sequence[str], of: str) -> None:
        kinds[name] = name
        # Keras is left to the backend, which tells it first what to run on.
        modules[name] = [of, *(package for package in packages if package != "keras")]

    for section in sections:
        if section == "training":
            for name, way in _ways(run).items():
                if way.packages == ("torch",) and not _compiled(name):
                    kinds[_turn(section, name)] = EAGER
                else:
                    alone(_turn(section, name), way.packages, "benchmarks.subjects")
        elif section == "inference":
            for name in [name for name, why in _engines(run).items() if why is None]:
                alone(_turn(section, name), ENGINES[name].packages, "benchmarks.engines")
        else:
            kinds |= {_turn(section, place.name): EAGER for place in _layers(run, section)}
    return Processes(kinds, modules, run.threads)


def _turn(section: str, name: str) -> str:
    return f"{section}, {name}"


def _ways(run: _Run) -> dict[str, Subject]:
    """The ways to train that are measured, and can be."""
    chosen = {name: way for name, way in GPU_SUBJECTS.items() if run.plan is FULL or name in REHEARSED}
    return {name: way for name, way in chosen.items() if not missing(way.packages)}


def _training(run: _Run, seconds: float) -> None:
    """One way after another, because several at once would share the GPU's memory; each at all batch sizes."""
    until = time.monotonic() + seconds
    for name, subject in GPU_SUBJECTS.items():
        if (absent := missing(subject.packages)) and (run.plan is FULL or name in REHEARSED):
            reason = f"{', '.join(absent)} not installed"
            run.failures.append(
                Failure(section="training", model=None, engine=name, batch=None, reason=reason, kind="absent")
            )
    chosen = _ways(run)
    for number, (name, subject) in enumerate(chosen.items()):
        run.say(_turn("training", name))
        now, left = time.monotonic(), sum(map(_weight, list(chosen)[number:]))
        share = now + 1.5 * max(0.0, until - now) * _weight(name) / left  # a slow one takes not all
        outcome = training.measure(
            run.reference, {name: subject}, run.plan.training_batches, device=run.device, rounds=run.plan.rounds,
            steps=run.plan.steps, threads=run.threads, until=min(until, share), roof=run.roof,
            start=lambda way: run.processes.turn(_turn("training", way)),
        )  # fmt: skip
        run.cases += outcome.cases
        run.failures += outcome.failures


def _weight(name: str) -> int:
    return next((weight for word, weight in WEIGHTS.items() if word in name), 1)


def _engines(run: _Run) -> dict[str, str | None]:
    """The engines that are asked, and for those that cannot be here, why."""
    if missing(["onnx", "onnxruntime"]):
        return {}
    names, providers = GPU_ENGINES if run.device == "cuda" else CPU_ENGINES, available_providers()
    return {name: lacking(name, run.environment.accelerators, providers) for name in names}


def _inference(run: _Run, seconds: float) -> None:
    """Every engine of the device, one after another, because all at once would share the GPU's memory."""
    until = time.monotonic() + seconds
    if absent := missing(["onnx", "onnxruntime"]):
        run.failures.append(Failure(section="inference", model=None, engine="all", batch=None, kind="absent",
                                    reason=f"{', '.join(absent)} not installed"))  # fmt: skip
        return
    chosen, engines = run.network, _engines(run)
    run.model = chosen.model
    run.failures += [Failure(model=0, engine=name, batch=None, reason=why, kind="absent")
                     for name, why in engines.items() if why is not None]  # fmt: skip
    there = [name for name, why in engines.items() if why is None]
    settings = Settings(
        suite="gpu", batches=run.plan.inference_batches, rounds=run.plan.rounds, seconds=run.plan.seconds,
        queries=run.plan.queries,
    )  # fmt: skip
    roofs = {run.device: run.roof} if run.roof else {}
    for number, name in enumerate(there):
        now = time.monotonic()
        share = now + 2 * max(0.0, until - now) / (len(there) - number)
        run.say(_turn("inference", name))
        found = measure(
            [Entry(0, name, chosen.path, chosen.model, chosen.checked)], settings, run.threads,
            roofs=lambda wanted: roofs, until=min(until, share),
            start=lambda engine: run.processes.turn(_turn("inference", engine)),
        )  # fmt: skip
        run.failures += found.failures
        run.inferred.add(found)


def run(arguments: argparse.Namespace, reporter: Reporter, created: str) -> Result:
    """Measure what `arguments` ask for."""
    plan = QUICK if arguments.quick else FULL
    reference = arguments.spec or plan.spec
    specifications.load(reference)
    where = environment(arguments.threads, PACKAGES)
    if arguments.device == "cuda" and not where.accelerators:
        raise Wrong("--device cuda must have an NVIDIA GPU that nvidia-smi lists. Received: none "
                    "(--device cpu --quick rehearses)")  # fmt: skip
    try:
        require_one_runtime()
    except EngineError as error:
        raise Wrong(str(error)) from error
    budget = 60.0 * arguments.minutes - RESERVE
    measures: dict[str, Callable[[_Run, float], None]] = {
        "lrn": lambda run, seconds: _kernels(run, "lrn", seconds),
        "grouped": lambda run, seconds: _kernels(run, "grouped", seconds),
        "training": _training,
        "inference": _inference,
    }
    with (
        reporter.work("measuring", len(arguments.sections) + 2) as say,
        # A compiler's own processes may still write when the process that began them is ended.
        tempfile.TemporaryDirectory(prefix="alexnet-benchmark-", ignore_cleanup_errors=True) as name,
        caches(Path(name)),
    ):
        under_way = _Run(
            plan,
            reference,
            arguments.spec or plan.kernels,
            arguments.device,
            arguments.threads,
            time.monotonic() + budget,
            partial(say, 0),
            where,
            Path(name),
        )
        with _processes(under_way, arguments.sections) as under_way.processes:
            say(0, "the roof of this machine")
            _roof(under_way)
            say(1, "compiling ahead")
            _compile(under_way, arguments.sections, AHEAD * budget)
            for number, section in enumerate(arguments.sections):
                under_way.say = partial(say, 2 + number)
                under_way.say(section)
                later = arguments.sections[number:]
                seconds = under_way.left(SHARES[section], sum(SHARES[name] for name in later))
                measures[section](under_way, seconds)
    settings = Settings(
        suite="gpu", batches=plan.inference_batches, rounds=plan.rounds, seconds=plan.seconds, queries=plan.queries,
        budget_seconds=budget,
    )  # fmt: skip
    inferred = under_way.inferred
    return Result(
        format=FORMAT,
        created=created,
        environment=where,
        settings=settings,
        roofs=() if under_way.roof is None else (under_way.roof,),
        models=() if under_way.model is None else (under_way.model,),
        engines=tuple(inferred.engines),
        measurements=tuple(inferred.measurements),
        scenarios=scenarios(inferred.measurements),
        cases=tuple(under_way.cases),
        failures=tuple(under_way.failures),
    )
