"""The command ``python -m experiments``.

Exit code 0: done. 1: it failed. 2: asked wrongly; one line says what, and nothing was touched. 130: Ctrl-C.
"""

from __future__ import annotations

import argparse
import difflib
import importlib.util
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from backends import memory
from backends.allocator import keep_freed_memory
from backends.options import Parser, backend, count, fail, not_installed
from backends.reporting import Reporter
from backends.starting import RUNS, WRONGLY_ASKED, RequestError, new_folder
from experiments import results
from experiments.catalogue import NAMES, find
from experiments.experiment import Experiment
from experiments.work import Work
from spec import load
from spec.describe import aligned

MODELS = Path(__file__).resolve().parent / "models"
_COMMAND = "python -m experiments"
_EPILOG = """The result is a folder with result.json, the pictures, and report.html: one page that needs nothing else.
examples:
  {command} --quick
  {command} --seeds 10 --output-dir {name}-10
  {command} --data DIR --spec source-2012      on your own photographs, with the network of 2012
"""


def parser(experiment: Experiment) -> Parser:
    """The options of `experiment`."""
    command = f"{_COMMAND} {experiment.name}"
    made = Parser(
        prog=command,
        description=f"{experiment.question}\n\n{experiment.method}",
        epilog=_EPILOG.format(command=command, name=experiment.name),
    )
    add = made.option
    add("--data", "NAME|PATH", f"images, as train.py takes them (default: {experiment.data})")
    add("--spec", "NAME|FILE", f"the network and its recipe (default: {experiment.spec})", default=experiment.spec)
    add("--seeds", "N", f"repetitions (default: {experiment.size.seeds}, quick {experiment.quick.seeds})", type=count)
    add("--backend", "NAME", "torch, keras-tensorflow, keras-jax or keras-torch (default: torch)", type=backend)
    add("--device", "NAME", "auto, cpu, or a GPU such as cuda or mps (default: auto)", default="auto")
    made.add_argument("--quick", action="store_true", help="less of everything: a few minutes on two cores")
    where = f"{RUNS}/experiments/{experiment.name}"
    add("--output-dir", "DIR", f"the result's folder (default: a new one, {where}, -2, -3 ...)", type=Path)
    made.set_defaults(backend="torch")
    experiment.options(made)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`. Returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if not arguments or arguments[0] in ("--list", "-h", "--help"):
            return _list()
        experiment = _named(arguments[0])
        if importlib.util.find_spec("matplotlib") is None:
            raise RequestError("experiments need matplotlib, which is not installed: pip install -e '.[experiments]'")
        keep_freed_memory()
        return _run(experiment, parser(experiment).parse_args(arguments[1:]), arguments)
    except WRONGLY_ASKED as error:
        return fail(error, 2)
    except ModuleNotFoundError as error:
        return fail(not_installed(error), 2)
    except (OSError, memory.OutOfMemory) as error:
        return fail(error, 1)
    except KeyboardInterrupt:
        return 130


def _list() -> int:
    lines = aligned([(name, find(name).question) for name in NAMES])
    print("Experiments on what AlexNet is made of and what it learns. Each has --help and --quick.\n")
    print("\n".join(f"  {_COMMAND} {line}" for line in lines))
    return 0


def _named(name: str) -> Experiment:
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, 1)
        meant = f". Did you mean {near[0]}?" if near else ""
        raise RequestError(f"an experiment must be one of {', '.join(NAMES)}. Received: {name!r}{meant}")
    return find(name)


def _run(experiment: Experiment, options: argparse.Namespace, arguments: Sequence[str]) -> int:
    began, reporter = time.monotonic(), Reporter()
    given = experiment.quick if options.quick else experiment.size
    size = replace(given, seeds=options.seeds or given.seeds)
    own = MODELS / f"{options.spec}.yaml"
    spec = load(own if own.is_file() else options.spec)
    own_folder = options.output_dir is None or not options.output_dir.exists()
    folder = _folder(experiment, options.output_dir)
    command = shlex.join(["python", "-m", "experiments", *arguments])
    seeds = tuple(range(size.seeds))
    source = options.data or experiment.data
    work = Work(command, spec, source, seeds, size, options.backend, options.device, options, folder, reporter)
    try:
        reporter.line(experiment.question)
        finding = experiment.run(work)
        result = results.record(experiment, work, finding, time.monotonic() - began)
        report = results.write(folder, experiment, finding, result)
    finally:
        if own_folder and not any(folder.iterdir()):
            folder.rmdir()
    reporter.line(finding.sentence)
    reporter.line(f"the page: {report}")
    return 0


def _folder(experiment: Experiment, wanted: Path | None) -> Path:
    """A new folder, or the empty one that was named. Raises RequestError."""
    try:
        if wanted is None:
            return new_folder(RUNS / "experiments" / experiment.name)
        wanted.mkdir(parents=True, exist_ok=True)
        if any(wanted.iterdir()):
            raise RequestError(f"--output-dir must be a new or an empty folder. Received: {wanted}, which holds files")
    except OSError as error:
        raise RequestError(f"--output-dir must be a folder that can be made. Received: {error}") from error
    return wanted


if __name__ == "__main__":
    sys.exit(main())
