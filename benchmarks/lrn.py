"""The suite ``lrn``: response normalisation alone, in all its forms.

    python benchmarks/run.py --suite lrn                          the shapes of paper-2012 at batch 64: minutes
    python benchmarks/run.py --suite lrn --spec caffenet --batches 16 --rounds 20 --no-compile

Every response normalisation over channels of the specification is measured on maps of its input's shape. The forms
take turns, one call each, and medians are compared with those of the usual one. Beside the times stands what a form
reaches of the memory traffic that no form can avoid: forward reads x and writes y, backward reads x and its output's
cotangent and writes the gradient, five maps in all.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import spec as specifications
from backends.reporting import Reporter
from benchmarks.command import Parser, Wrong, add_batches, specification, whole
from benchmarks.engines import PACKAGES, missing
from benchmarks.environment import environment
from benchmarks.lrn_forms import LAYOUTS, USUAL, places
from benchmarks.process import EngineFailed, EngineProcess, limit_of
from benchmarks.results import FORMAT, Case, Failure, Result, Roof, Settings
from data.parallel import cores


def parser() -> Parser:
    """The options."""
    made = Parser(
        "run.py --suite lrn", "Measure response normalisation: its forms in PyTorch and ONNX Runtime, in turns."
    )
    made.add_argument(
        "--spec",
        type=specification,
        default="paper-2012",
        metavar="NAME|FILE",
        help="whose shapes (default: paper-2012)",
    )
    add_batches(made, (64,), "images of a call")
    made.add_argument("--rounds", type=whole, default=9, metavar="N", help="calls of each form (default: 9)")
    made.add_argument("--threads", type=whole, default=cores(), metavar="N", help="default: one per core")
    made.add_argument("--no-compile", action="store_true", help="leave out what torch.compile makes")
    return made


def ask(
    process: EngineProcess, section: str, spec: str, layer: str, *, left: float | None = None, **options: Any
) -> tuple[list[Case], list[Failure]]:
    """Cases of a section at one layer, measured by `process`. left: seconds until nothing more is begun."""
    try:
        until = None if left is None else time.monotonic() + left
        limit = limit_of(until)
        said = process.ask("cases", limit=limit, section=section, spec=spec, layer=layer, left=left, **options)
    except EngineFailed as error:
        values = {"section": section, "model": None, "engine": layer, "batch": options["batch"], "reason": str(error)}
        return [], [Failure.model_validate({**values, "kind": error.kind})]
    cases = [Case.model_validate(_tuples(one)) for one in said["cases"]]
    return cases, [Failure.model_validate(one) for one in said["failures"]]


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {**values, "seconds": tuple(values["seconds"])}


def under(roof: Roof | None, cases: list[Case]) -> list[Case]:
    """`cases` with what they reached of the roof: of its memory, or of its products."""
    if roof is None:
        return cases
    found = []
    for one in cases:
        peak = roof.gflops.get(one.precision)
        share = None
        if one.gbytes_per_second is not None:
            share = one.gbytes_per_second / roof.gbytes_per_second
        elif one.gflops is not None and peak:
            share = one.gflops / peak
        found.append(one.model_copy(update={"of_roof": share}))
    return found


def run(arguments: argparse.Namespace, reporter: Reporter, created: str) -> Result:
    """Measure what `arguments` ask for."""
    chosen = specifications.load(arguments.spec)
    where = places(chosen)
    if not where:
        raise Wrong(f"{chosen.name} must have a layer of lrn. Received: none")
    if lacks := missing(["torch"]):
        raise Wrong(f"this measures PyTorch, which is not installed: {', '.join(lacks)}")
    found, cases, failures = environment(arguments.threads, PACKAGES), list[Case](), list[Failure]()
    total = 1 + len(where) * len(arguments.batches)
    with EngineProcess(arguments.threads) as process, reporter.work("measuring", total) as say:
        say(0, "the roof of this machine")
        roof = Roof.model_validate(process.ask("roof", device="cpu", precisions=["float32"], seconds=0.3))
        for number, (place, batch) in enumerate((place, batch) for place in where for batch in arguments.batches):
            say(1 + number, f"{place.name}, batch {batch}")
            made, failed = ask(
                process, "lrn", arguments.spec, place.name, batch=batch, device="cpu", precisions=["float32"],
                layouts=LAYOUTS,
                compiled=[] if arguments.no_compile else [USUAL, "ours"], rounds=arguments.rounds,
            )  # fmt: skip
            cases += under(roof, made)
            failures += failed
    settings = Settings(suite="lrn", batches=arguments.batches, rounds=arguments.rounds, seconds=0.0)
    return Result(format=FORMAT, created=created, environment=found, settings=settings, roofs=(roof,),
                  cases=tuple(cases), failures=tuple(failures))  # fmt: skip
