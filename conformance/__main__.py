"""``python -m conformance run``: examine backends, print what was found, leave an evidence file.

Exit code 0 if everything passed, 1 if something did not, 2 if the question was wrong.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from backends import NAMES
from conformance.checks import CHECKS, Job
from conformance.comparison import Finding
from conformance.runner import Pool, Result, evidence
from conformance.specs import chooser, generate, slim
from spec import Spec, SpecError, load, names

SIZES = ("slim", "full")
DTYPES = ("float32", "float64")
GENERATED = "generated:"


class Refused(ValueError):
    """The command line asks for something that is not there."""


def _parser() -> argparse.ArgumentParser:
    description = "Does a backend realise a specification?"
    parser = argparse.ArgumentParser(prog="python -m conformance", description=description)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="examine backends against the float64 oracle")
    run.add_argument(
        "--backend",
        action="append",
        metavar="NAME",
        help=f"{', '.join(NAMES)}, or package.module:Class; repeatable (default: all of this repository's)",
    )
    run.add_argument(
        "--spec",
        action="append",
        metavar="SPEC",
        help="a variant, a .yaml file, or generated:N for a small network; repeatable (default: all variants)",
    )
    run.add_argument("--size", choices=SIZES, action="append", help="narrow networks or the real ones (default: slim)")
    run.add_argument("--dtype", choices=DTYPES, action="append", help="repeatable (default: float32)")
    run.add_argument("--only", choices=tuple(CHECKS), action="append", metavar="CHECK", help=", ".join(CHECKS))
    run.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (default: auto)")
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--images", type=int, default=2, help="images in a batch (default: 2)")
    run.add_argument("--limit", type=float, default=None, metavar="SECONDS", help="for one request to a backend")
    run.add_argument("--evidence", type=Path, metavar="FILE", help="write everything found to this JSON file")
    run.add_argument("--verbose", action="store_true", help="one line for every tensor")
    return parser


def _specs(references: Sequence[str], sizes: Sequence[str]) -> Iterator[tuple[Spec, bool]]:
    """The networks asked for, and whether each is at full size. Raises Refused or SpecError."""
    for reference in references:
        if reference.startswith(GENERATED):
            number = reference.removeprefix(GENERATED)
            if not number.isdecimal():
                raise Refused(f"--spec {GENERATED}N needs a whole number N. Received: {reference!r}")
            yield generate(chooser(int(number)), f"generated-{number}"), False
            continue
        loaded = load(reference)
        for size in sizes:
            yield (loaded, True) if size == "full" else (slim(loaded), False)


def _words(value: float) -> str:
    return "exact" if value == math.inf else f"{value:.1f}"


def _worst(findings: list[Finding]) -> dict[str, Finding]:
    """Of every check, the finding that comes nearest to its bound, or goes furthest beyond."""
    worst: dict[str, Finding] = {}
    for finding in findings:
        if finding.check not in worst or finding.ratio > worst[finding.check].ratio:
            worst[finding.check] = finding
    return worst


def _rows(result: Result, verbose: bool) -> Iterator[tuple[str, ...]]:
    head = (result.backend, result.job.spec.name, result.job.dtype)
    if not result.findings:
        said = result.failure or result.unsupported or f"{result.missing} is not installed"
        yield (*head, "", said.splitlines()[0], "", "", "", "", "FAIL" if result.failure else "n/a")
        return
    shown = result.findings if verbose else _worst(result.findings).values()
    for finding in shown:
        numbers = (f"{finding.error:.1e}", f"{finding.bound:.1e}", f"{finding.ratio:.2f}", _words(finding.digits))
        yield (*head, finding.check, finding.tensor, *numbers, "pass" if finding.passed else "FAIL")


def _table(results: Sequence[Result], verbose: bool) -> Table:
    table = Table(title="error and bound of the tensor nearest to its bound" if not verbose else None)
    for column in ("backend", "spec", "dtype", "check", "tensor"):
        table.add_column(column, overflow="fold")
    for column in ("error", "bound", "error / bound", "digits", ""):
        table.add_column(column, justify="right")
    for result in results:
        for row in _rows(result, verbose):
            table.add_row(*row)
    return table


def run(arguments: argparse.Namespace) -> int:
    """The command ``run``."""
    if arguments.images < 1:
        raise Refused(f"--images must be 1 or more. Received: {arguments.images}")
    backends = arguments.backend or list(NAMES)
    for name in backends:
        if name not in NAMES and ":" not in name:
            raise Refused(f"--backend must be one of {', '.join(NAMES)}, or package.module:Class. Received: {name!r}")
    if arguments.evidence is not None and not arguments.evidence.absolute().parent.is_dir():
        raise Refused(f"--evidence must lie in a folder that exists. Received: {arguments.evidence}")
    networks = list(_specs(arguments.spec or names(), arguments.size or ["slim"]))
    only = tuple(arguments.only) if arguments.only else None
    results: list[Result] = []
    with Pool(arguments.limit, arguments.device) as pool:
        for spec, full in networks:
            for dtype in arguments.dtype or ["float32"]:
                results += pool.run(backends, Job(spec, dtype, full, arguments.seed, arguments.images), only)
        console = Console(width=None if sys.stdout.isatty() else 200)
        console.print(_table(results, arguments.verbose))
        if arguments.evidence is not None:
            arguments.evidence.write_text(json.dumps(evidence(results, pool), indent=1) + "\n", encoding="utf-8")
    faults = [result.fault for result in results if result.fault is not None]
    for fault in faults:
        print(fault, file=sys.stderr)
    passed = sum(result.passed for result in results)
    rest = len(results) - passed - len(faults)
    print(f"{passed} of {len(results)} examinations passed, {len(faults)} failed, {rest} could not be made")
    return 1 if faults or not passed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return run(arguments)
    except (Refused, SpecError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
