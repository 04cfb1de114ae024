"""Measure training: images per second of whole steps, ours beside the ways in which it is usually written.

    python benchmarks/training.py                             paper-2012, batch 64: a quarter of an hour on two cores
    python benchmarks/training.py --spec fashion-mini --rounds 20
    python benchmarks/training.py --subjects torch,usual-torch --batch 128

Every subject has a process of its own. They take turns, a step each; what is stated is the median and the quartiles.
Exit code 0: everything was measured; 1: something could not be; 2: asked wrongly.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run by path: make the rooms importable, and the modules of this one not
    _ROOM = Path(__file__).resolve().parent
    sys.path[:] = [str(_ROOM.parent), *(path for path in sys.path if Path(path or ".").resolve() != _ROOM)]

import spec as specifications
from backends.pages import write_text
from backends.reporting import Reporter
from benchmarks.command import Parser, exit_code, require_suffix, whole
from benchmarks.environment import environment
from benchmarks.process import EngineFailed, EngineProcess
from benchmarks.subjects import SUBJECTS, UNASKED
from data.parallel import cores

PACKAGES = ("numpy", "torch", "keras", "tensorflow", "tensorflow-cpu", "jax")


def _subjects(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in SUBJECTS:
            raise argparse.ArgumentTypeError(f"must be among {', '.join(SUBJECTS)}. Received: {name!r}")
    return names


_HELP = f"of {', '.join(SUBJECTS)} (default: all but {', '.join(UNASKED)})"


def _default() -> tuple[str, ...]:
    return tuple(name for name in SUBJECTS if name not in UNASKED)


def parser() -> Parser:
    """The options."""
    made = Parser(
        "training.py", "Measure training steps: ours beside the usual ways, in turns, each in its own process."
    )
    made.add_argument("--spec", default="paper-2012", metavar="NAME|FILE", help="what to train (default: paper-2012)")
    made.add_argument("--batch", type=whole, default=64, metavar="N", help="images a step (default: 64)")
    made.add_argument("--rounds", type=whole, default=5, metavar="N", help="steps of each subject (default: 5)")
    made.add_argument("--subjects", type=_subjects, default=_default(), metavar="NAMES", help=_HELP)
    made.add_argument("--threads", type=whole, default=cores(), metavar="N", help="default: one per core")
    made.add_argument("--output", type=Path, metavar="FILE", help="the result as JSON")
    return made


def measure(arguments: argparse.Namespace, reporter: Reporter) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """What was measured of each subject, and why others failed. The first two steps of each do not count."""
    found: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    total = len(arguments.subjects) * (1 + arguments.rounds)
    with ExitStack() as stack, reporter.work("measuring", total) as advance:
        processes: dict[str, EngineProcess] = {}

        def ask(whose: str, do: str, **request: Any) -> dict[str, Any] | None:
            advance(sum(len(one["seconds"]) for one in found.values()) + len(found) + len(failed), whose)
            try:
                return processes[whose].ask(do, **request)
            except EngineFailed as error:
                failed[whose] = str(error)
                found.pop(whose, None)
                return None

        for name in arguments.subjects:
            processes[name] = stack.enter_context(EngineProcess(arguments.threads))
            answer = ask(name, "subject", name=name, spec=arguments.spec, batch=arguments.batch)
            if answer is not None:
                found[name] = {"what": SUBJECTS[name].what, "first_seconds": answer["seconds"], "seconds": []}
        for _ in range(arguments.rounds):
            for name in list(found):
                answer = ask(name, "step")
                if answer is not None:
                    found[name]["seconds"].append(answer["seconds"])
        for name in list(found):
            answer = ask(name, "memory")
            found[name]["peak_mib"] = answer["peak_mib"] if answer is not None else None
    return found, failed


def speeds(seconds: Sequence[float], batch: int) -> tuple[float, float, float]:
    """Images per second: the median, and the quartiles around it."""
    median = statistics.median(seconds)
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else (median,) * 3
    return batch / median, batch / high, batch / low


def print_table(found: dict[str, dict[str, Any]], batch: int, reporter: Reporter) -> None:
    """A line for each subject; beside ours, how many times as fast as the usual way."""
    reporter.line(f"{'subject':26} {'img/s':>7}  {'quartiles':>13}  {'against usual':>13}  {'peak MiB':>8}  what")
    for name, one in found.items():
        middle, low, high = speeds(one["seconds"], batch)
        base = found.get(f"usual-{name.removesuffix('-bf16')}")
        ratio = f"{statistics.median(base['seconds']) / statistics.median(one['seconds']):.2f}x" if base else ""
        peak = "" if one["peak_mib"] is None else f"{one['peak_mib']:.0f}"
        spread = f"{low:.1f}-{high:.1f}"
        reporter.line(f"{name:26} {middle:7.1f}  {spread:>13}  {ratio:>13}  {peak:>8}  {one['what']}")


def run(arguments: argparse.Namespace, reporter: Reporter) -> int:
    """Measure what `arguments` ask for, and say it. Returns the exit code."""
    if arguments.output is not None:
        require_suffix(arguments.output, ".json")
    chosen = specifications.load(arguments.spec)
    found, failed = measure(arguments, reporter)
    reporter.line(f"{chosen.name}, batch {arguments.batch}, float32 but for -bf16, {arguments.threads} threads")
    print_table(found, arguments.batch, reporter)
    for name, why in failed.items():
        reporter.line(f"{name}: {why}")
    if arguments.output is not None:
        result = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "environment": environment(arguments.threads, PACKAGES).model_dump(mode="json"),
            "spec": chosen.name,
            "spec_hash": chosen.hash,
            "batch": arguments.batch,
            "subjects": found,
            "failures": failed,
        }
        write_text(arguments.output, json.dumps(result, indent=2) + "\n")
    return 1 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`. Returns the exit code."""
    return exit_code(lambda: run(parser().parse_args(argv), Reporter()))


if __name__ == "__main__":
    sys.exit(main())
