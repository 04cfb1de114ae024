"""Measure: one command for everything that is measured here, on any machine.

    python benchmarks/run.py                                  inference of the newest exported models in runs/
    python benchmarks/run.py --model a.onnx --batches 1,16    of this one
    python benchmarks/run.py --spec source-2012 --engines onnxruntime-lrn-ops,onnxruntime-lrn-node --batches 16
    python benchmarks/run.py --suite training                 training steps beside the usual ways
    python benchmarks/run.py --suite lrn                      response normalisation alone
    python benchmarks/run.py --suite data                     images on their way to the network
    python benchmarks/run.py --suite gpu                      all that an NVIDIA GPU is asked for, in eight minutes

--suite NAME --help lists the options of a suite. Exit code 0: everything was measured; 1: something could not be; 2:
asked wrongly.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

if __package__ in (None, ""):  # run by path: make the rooms importable, and the modules of this one not
    _ROOM = Path(__file__).resolve().parent
    sys.path[:] = [str(_ROOM.parent), *(path for path in sys.path if Path(path or ".").resolve() != _ROOM)]

from backends.pages import write_text
from backends.reporting import Reporter
from backends.starting import RUNS
from benchmarks.command import Parser, Wrong, exit_code, require_suffix

SUITES = {"inference": "inference", "training": "training", "lrn": "lrn", "data": "feeding", "gpu": "gpu"}
"""Each is a module of this room with `parser()`, and `run(arguments, reporter, created)` that returns a result."""
WIDTH = 130
"""Columns that the tables need; a narrower terminal breaks their lines rather than lose their ends."""


def chosen_suite(argv: Sequence[str]) -> tuple[str, list[str]]:
    """The suite that `argv` names, and what else is there for it."""
    made = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    made.add_argument("--suite", nargs="?", default="inference", const="")
    known, rest = made.parse_known_args(argv)
    if known.suite not in SUITES:
        raise Wrong(f"--suite must be one of {', '.join(SUITES)}. Received: {known.suite!r}")
    return known.suite, rest


def add_outputs(parser: Parser) -> None:
    """The options that all suites have."""
    parser.add_argument(
        "--suite", choices=tuple(SUITES), default="inference", help="what is measured (default: inference)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="the result as JSON (default: a new one in runs/)")
    parser.add_argument("--page", type=Path, metavar="FILE", help="and as an HTML page (default: beside a new one)")


def run(argv: Sequence[str]) -> int:
    """Measure what `argv` asks for. Returns the exit code."""
    name, rest = chosen_suite(argv)
    suite = importlib.import_module(f"benchmarks.{SUITES[name]}")
    parser = suite.parser()
    add_outputs(parser)
    arguments = parser.parse_args(rest)
    reporter, now = Reporter(), datetime.now(UTC)
    runs: Path = getattr(arguments, "runs", RUNS)
    output: Path = arguments.output or runs / "benchmarks" / f"{name}-{now:%Y%m%d-%H%M%S}.json"
    require_suffix(output, ".json")
    page_at: Path | None = arguments.page or (None if arguments.output else output.with_suffix(".html"))
    if page_at is not None:
        require_suffix(page_at, ".html")
    result = suite.run(arguments, reporter, now.isoformat(timespec="seconds"))

    from rich.console import Console

    from benchmarks.page import page
    from benchmarks.report import show
    from benchmarks.results import write

    write(output, result)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.width = max(console.width, WIDTH)
    show(result, console)
    if page_at is not None:
        write_text(page_at, page(result))
    reporter.line(f"written to {output}" + (f" and {page_at}" if page_at else ""))
    return 1 if any(failure.kind == "failed" for failure in result.failures) else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`. Returns its exit code."""
    return exit_code(lambda: run(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that processes are ended and files removed on the way
    raise SystemExit(main())
