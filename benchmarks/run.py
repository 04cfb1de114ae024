"""Measure exported networks with ONNX Runtime and, beside it, with the backend that they come from.

    python benchmarks/run.py                                  the newest exported models in runs/
    python benchmarks/run.py --model a.onnx --batch 1,16      this one
    python benchmarks/run.py --spec source-2012 --engines onnxruntime-lrn-ops,onnxruntime-lrn-node --batch 16

Exit code 0: everything was measured; 1: something could not be; 2: asked wrongly.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):  # run by path: make the rooms importable, and the modules of this one not
    _ROOM = Path(__file__).resolve().parent
    sys.path[:] = [str(_ROOM.parent), *(path for path in sys.path if Path(path or ".").resolve() != _ROOM)]

from backends import Unsupported
from backends.pages import write_text
from backends.reporting import Reporter
from backends.starting import DEFAULT_SPEC, RUNS
from benchmarks.command import Parser, Wrong, require_suffix
from data.parallel import cores
from spec import SpecError

if TYPE_CHECKING:
    from benchmarks.models import Chosen

NEEDED = ("onnx", "onnxruntime")
PACKAGES = ("numpy", "onnx", "onnxruntime", "torch", "keras", "tensorflow", "tensorflow-cpu", "jax")
"""Whose versions the result records, as pip knows them."""
MAX_BATCH = 65536
WIDTH = 110
"""Columns that the table needs; a narrower terminal breaks its lines rather than lose their ends."""


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high}. Received: {text!r}")
        return int(text)

    return read


def _batches(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(map(_whole(1, MAX_BATCH), text.split(","))))


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"must be a number above 0, at most 3600. Received: {text!r}")
    return value


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = Parser(
        "run.py", "Measure exported networks: latency and throughput, engines in turns, each in its own process."
    )
    what = made.add_mutually_exclusive_group()
    what.add_argument("--model", type=Path, action="append", metavar="FILE", help="an ONNX file; may be repeated")
    what.add_argument("--spec", metavar="NAME", help="this specification with its initial parameters")
    made.add_argument("--runs", type=Path, default=RUNS, metavar="DIR", help=f"where models are (default: {RUNS})")
    made.add_argument(
        "--engines",
        type=lambda text: tuple(dict.fromkeys(text.split(","))),
        metavar="NAMES",
        help="default: onnxruntime and the backend that the model comes from; NAMES unknown lists them",
    )
    made.add_argument("--batch", type=_batches, default=(1, 16, 64), metavar="N,...", help="default: 1,16,64")
    made.add_argument(
        "--seconds",
        type=_seconds,
        default=0.5,
        metavar="S",
        help="of measuring for each engine and batch (default: 0.5)",
    )
    made.add_argument("--rounds", type=_whole(1, 1000), default=5, metavar="N", help="turns these take (default: 5)")
    made.add_argument("--threads", type=_whole(1, 4096), default=cores(), metavar="N", help="default: one per core")
    made.add_argument("--output", type=Path, metavar="FILE", help="the result as JSON (default: a new one in runs/)")
    made.add_argument("--page", type=Path, metavar="FILE", help="and as an HTML page (default: beside a new one)")
    return made


def missing(packages: Sequence[str]) -> list[str]:
    """Those of `packages` that this Python lacks."""
    return [package for package in packages if importlib.util.find_spec(package) is None]


def chosen_models(arguments: argparse.Namespace, folder: Path, reporter: Reporter) -> list[Chosen]:
    """The files that the options ask for; those that must be made first are made in `folder`."""
    from benchmarks.models import describe, initialised, newest

    if arguments.model:
        return [describe(path) for path in arguments.model]
    if arguments.spec:
        return [initialised(arguments.spec, folder)]
    if found := newest(arguments.runs):
        return [describe(path) for path in found]
    reporter.line(
        f"no exported model in {arguments.runs} (export/to_onnx.py makes them): "
        f"measuring {DEFAULT_SPEC} with its initial parameters"
    )
    return [initialised(DEFAULT_SPEC, folder)]


def chosen_engines(wanted: Sequence[str] | None, source: str, reporter: Reporter) -> list[str]:
    """The engines that were asked for; by default ONNX Runtime and `source`, the backend that the file comes from."""
    from benchmarks.engines import ENGINES

    if wanted is not None:
        for engine in wanted:
            if engine not in ENGINES:
                raise Wrong(f"an engine must be one of {', '.join(ENGINES)}. Received: {engine!r}")
            if lacking := missing(ENGINES[engine].packages):
                raise Wrong(f"the engine {engine} needs what is not installed: {', '.join(lacking)}")
        return list(wanted)
    beside = [source] if source in ENGINES else []
    for engine in list(beside):
        if lacking := missing(ENGINES[engine].packages):
            reporter.line(f"{engine} is left out: {', '.join(lacking)} not installed")
            beside.remove(engine)
    return ["onnxruntime", *beside]


def run(arguments: argparse.Namespace) -> int:
    """Measure what `arguments` ask for. Returns the exit code."""
    from rich.console import Console

    from benchmarks.environment import environment
    from benchmarks.measure import Entry, measure, turns
    from benchmarks.models import unique
    from benchmarks.page import page
    from benchmarks.report import show
    from benchmarks.results import FORMAT, Result, Settings, write

    reporter, now = Reporter(), datetime.now(UTC)
    output: Path = arguments.output or arguments.runs / "benchmarks" / f"{now:%Y%m%d-%H%M%S}.json"
    require_suffix(output, ".json")
    page_at: Path | None = arguments.page or (None if arguments.output else output.with_suffix(".html"))
    if page_at is not None:
        require_suffix(page_at, ".html")
    where = environment(arguments.threads, PACKAGES)
    settings = Settings(batches=arguments.batch, rounds=arguments.rounds, seconds=arguments.seconds)
    with tempfile.TemporaryDirectory(prefix="alexnet-benchmark-") as folder:
        models = chosen_models(arguments, Path(folder), reporter)
        entries = [
            Entry(i, engine, chosen.path, chosen.model.macs, chosen.expected)
            for i, chosen in enumerate(models)
            for engine in chosen_engines(arguments.engines, chosen.source, reporter)
        ]
        with reporter.work("measuring", turns(entries, settings)) as say:
            outcome = measure(entries, settings, arguments.threads, say)
    names = unique(chosen.model.name for chosen in models)
    result = Result(
        format=FORMAT,
        created=now.isoformat(timespec="seconds"),
        environment=where,
        settings=settings,
        models=tuple(
            chosen.model.model_copy(update={"name": name}) for chosen, name in zip(models, names, strict=True)
        ),
        engines=tuple(outcome.engines),
        measurements=tuple(outcome.measurements),
        failures=tuple(outcome.failures),
    )
    write(output, result)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.width = max(console.width, WIDTH)
    show(result, console)
    if page_at is not None:
        write_text(page_at, page(result))
    reporter.line(f"written to {output}" + (f" and {page_at}" if page_at else ""))
    return 1 if result.failures else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`. Returns its exit code."""
    arguments = parser().parse_args(argv)
    try:
        if lacking := missing(NEEDED):
            raise Wrong(f"measuring needs what is not installed: {', '.join(lacking)}")
        from benchmarks.engines import EngineError

        try:
            return run(arguments)
        except EngineError as error:
            raise Wrong(str(error)) from error
    except (Wrong, SpecError, Unsupported) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: the output must be writable. Received: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that processes are ended and files removed on the way
    raise SystemExit(main())
