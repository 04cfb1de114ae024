"""``python -m conformance``: ``run`` examines backends, ``vectors`` and ``check`` do so by files, ``report`` makes a
page of what was found, ``trajectory`` follows backends through training on real images.

Exit code 0 if everything passed, 1 if something did not, 2 if the question was wrong: then one line says what.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

if __package__ in (None, ""):  # run by path: make the rooms importable, and the modules of this one not
    _ROOM = Path(__file__).resolve().parent
    sys.path[:] = [str(_ROOM.parent), *(path for path in sys.path if Path(path or ".").resolve() != _ROOM)]

from rich.console import Console
from rich.table import Table

from backends import NAMES, Unsupported
from backends.pages import write_text
from conformance import judging, vectors
from conformance.bounds import Arithmetic
from conformance.checks import CHECKS, Job
from conformance.client import LIMIT, NotInstalled, NotThere, Remote, WorkerFailed
from conformance.columns import COLUMNS, known_failures
from conformance.comparison import Finding
from conformance.manifest import VectorsError
from conformance.page import page
from conformance.report import EvidenceError, Summary, markdown, sentences
from conformance.report import read as read_evidence
from conformance.runner import BUILDING, Pool, Result, evidence, excuse, key_of
from conformance.specs import chooser, generate, slim
from conformance.trajectory import Course, Envelope, parting
from conformance.xfails import Asked, Entry, XfailsError
from conformance.xfails import read as read_xfails
from conformance.xfails import stale as stale_xfails
from data import EMBEDDED, DataError
from spec import Spec, SpecError, load, names

SIZES = ("slim", "full")
DTYPES = ("float32", "float64", "bfloat16", "mixed_bfloat16")
GENERATED = "generated:"
ALL = (*NAMES, *COLUMNS)
TRAINERS = tuple(name for name in NAMES if name not in ("numpy", "onnx"))


class Refused(ValueError):
    """The command line asks for something that is not there."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Refused(f"{message} (--help lists the options)")


def _whole(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least}. Received: {text!r}")
        return int(text)

    return read


def _positive(unit: str) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"must be a number of {unit} above 0. Received: {text!r}")
        return value

    return read


def _backend(text: str) -> str:
    if text not in ALL and ":" not in text:
        raise argparse.ArgumentTypeError(
            f"must be one of {', '.join(ALL)}, or package.module:Class. Received: {text!r}"
        )
    return text


def _file(text: str) -> Path:
    path = Path(text)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"must be a file in a folder that exists. Received: {text!r}")
    return path


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m conformance", description="Does a backend realise a specification?")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)

    def command(name: str, act: Callable[[argparse.Namespace], int], words: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=words, description=words, allow_abbrev=False)
        made.set_defaults(act=act)
        return made

    def asking(command: argparse.ArgumentParser) -> None:
        some = "repeatable (default: all of this repository's)"
        command.add_argument(
            "--backend", action="append", type=_backend, metavar="NAME", help=f"{', '.join(ALL)}; {some}"
        )
        command.add_argument(
            "--limit", type=_positive("seconds"), default=LIMIT, metavar="SECONDS", help="for one request to a backend"
        )

    def choosing(command: argparse.ArgumentParser) -> None:
        some = "a variant, a .yaml file, or generated:N for a small network; repeatable (default: all variants)"
        command.add_argument("--spec", action="append", metavar="SPEC", help=some)
        sizes = "narrow networks or the real ones (default: slim)"
        command.add_argument("--size", choices=SIZES, action="append", help=sizes)
        command.add_argument("--dtype", choices=DTYPES, action="append", help="repeatable (default: float32)")
        command.add_argument("--images", type=_whole(1), default=2, help="images in a batch (default: 2)")
        command.add_argument("--seed", type=_whole(0), default=0)
        long = "of the checks trajectory and free-run; 0: they are not asked (default)"
        command.add_argument("--steps", type=_whole(0), default=0, help=long)
        narrowing(command)

    def narrowing(command: argparse.ArgumentParser) -> None:
        command.add_argument("--only", choices=tuple(CHECKS), action="append", metavar="CHECK", help=", ".join(CHECKS))

    def telling(command: argparse.ArgumentParser) -> None:
        known = "a file of failures that are known: see conformance/CONTRACT.md"
        command.add_argument("--xfails", type=Path, metavar="FILE", help=known)
        command.add_argument("--evidence", type=_file, metavar="FILE", help="write everything found to this JSON file")
        command.add_argument("--verbose", action="store_true", help="one line for every tensor")

    run = command("run", _run, "examine backends against the float64 oracle; NAME may be package.module:Class")
    asking(run)
    choosing(run)
    run.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (default: auto)")
    most = "what a backend's process may take (default: 0.8 of the machine's memory; Linux)"
    run.add_argument("--memory", type=_positive("GiB"), metavar="GIB", help=most)
    telling(run)

    ask = command("vectors", _vectors, "write inputs and weights for a backend elsewhere: see conformance/VECTORS.md")
    ask.add_argument("folder", type=Path, metavar="OUT", help="new or empty")
    choosing(ask)

    check = command("check", _check, "judge the results of a backend elsewhere: see conformance/VECTORS.md")
    check.add_argument("folder", type=Path, metavar="RESULTS", help="with the manifest that was answered")
    narrowing(check)
    telling(check)

    tell = command("report", _report, "make one page, and a table in Markdown, of evidence files")
    tell.add_argument("evidence", nargs="+", type=Path, metavar="EVIDENCE.json")
    where = "the page; the table stands beside it, in .md (default: conformance.html)"
    tell.add_argument("--output", type=Path, default=Path("conformance.html"), metavar="FILE.html", help=where)

    follow = command("trajectory", _trajectory, "train backends side by side and say where rounding parts them")
    asking(follow)
    follow.add_argument("--seed", type=_whole(0), default=0)
    follow.add_argument("--spec", default="fashion-mini", metavar="SPEC", help="a variant or a .yaml file")
    follow.add_argument(
        "--data", default=EMBEDDED, metavar="DIR", help="a folder of images (default: the embedded ones)"
    )
    follow.add_argument("--steps", type=_whole(1), default=20, help="of training (default: 20)")
    follow.add_argument("--batch-size", type=_whole(1), help="instead of the specification's")
    follow.add_argument("--replicas", type=_whole(2), default=3, help="perturbed runs of the oracle (default: 3)")
    return parser


# --- run ------------------------------------------------------------------------------------------------------------


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


def _start(pool: Pool, backends: Sequence[str] | None) -> None:
    """Start the backends that were named. Raises Refused if one is not there: nobody named it for nothing."""
    for name in backends or ():
        try:
            pool.worker(name)
        except NotThere as error:
            raise Refused(f"--backend must name one that is there. Received: {error}") from error
        except WorkerFailed:
            continue  # it is there and goes wrong: that is a result


def _words(digits: float) -> str:
    return "exact" if digits == math.inf else f"{digits:.1f}"


def _worst(findings: list[Finding]) -> list[Finding]:
    """Of every check, the finding that comes nearest to its bound, or goes furthest beyond."""
    worst: dict[str, Finding] = {}
    for finding in findings:
        if finding.check not in worst or finding.ratio > worst[finding.check].ratio:
            worst[finding.check] = finding
    return list(worst.values())


def _rows(result: Result, verbose: bool) -> Iterator[tuple[str, ...]]:
    head, nothing = (result.backend, result.job.spec.name, result.job.dtype), ("", "", "", "")
    said = result.unsupported or (result.missing and f"{result.missing} is not installed")
    if said:
        yield (*head, "", said.splitlines()[0], *nothing, "n/a")
    for finding in result.findings if verbose else _worst(result.findings):
        numbers = (f"{finding.error:.1e}", f"{finding.bound:.1e}", f"{finding.ratio:.2f}", _words(finding.digits))
        word = "pass" if finding.passed else _failed(result, key_of(finding.check, finding.tensor))
        yield (*head, finding.check, finding.tensor, *numbers, word)
    for check, failure in result.failures.items():
        yield (*head, check, failure.splitlines()[0], *nothing, _failed(result, key_of(check)))
    for reason in dict.fromkeys(result.inapplicable.values()):
        checks = ", ".join(check for check, said in result.inapplicable.items() if said == reason)
        yield (*head, "", f"{reason.splitlines()[0]}: {checks}", *nothing, "n/a")


def _failed(result: Result, key: str) -> str:
    return "xfail" if key in result.expected else "FAIL"


def _print(rows: Sequence[Sequence[str]], left: Sequence[str], right: Sequence[str], title: str | None) -> None:
    table = Table(title=title)
    for column in left:
        table.add_column(column, overflow="fold")
    for column in right:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 200, markup=False).print(table)


def _jobs(arguments: argparse.Namespace) -> Iterator[Job]:
    """What is asked for, the specifications read at once. Raises Refused or SpecError."""
    networks = list(_specs(arguments.spec or names(), arguments.size or ["slim"]))
    return (
        Job(spec, dtype, full, arguments.seed, arguments.images, steps=arguments.steps)
        for spec, full in networks
        for dtype in arguments.dtype or ["float32"]
    )


def _only(arguments: argparse.Namespace) -> tuple[str, ...] | None:
    return tuple(arguments.only) if arguments.only else None


def _run(arguments: argparse.Namespace) -> int:
    xfails, jobs = _known(arguments.xfails), _jobs(arguments)
    memory = None if arguments.memory is None else arguments.memory * 2**30
    with Pool(arguments.limit, arguments.device, memory) as pool:
        _start(pool, arguments.backend)
        chosen = arguments.backend or ALL
        results = [result for job in jobs for result in pool.run(chosen, job, _only(arguments))]
        versions = pool.versions()
    return _told(results, versions, xfails, arguments)


def _vectors(arguments: argparse.Namespace) -> int:
    try:
        manifest = vectors.write(arguments.folder, _jobs(arguments), _only(arguments))
    except OSError as error:
        raise Refused(f"the folder for vectors must be writable. Received: {error}") from error
    asked = sum(len(question.requests) for case in manifest.cases for question in case.questions)
    print(f"{arguments.folder}: {len(manifest.cases)} cases, {asked} requests, {len(manifest.files)} arrays")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    xfails = _known(arguments.xfails)
    judgement = judging.judge(arguments.folder, _only(arguments))
    for problem in judgement.problems:
        print(problem, file=sys.stderr)
    versions = {judgement.results[0].backend: judgement.about.versions} if judgement.results else {}
    return max(_told(judgement.results, versions, xfails, arguments), int(bool(judgement.problems)))


def _report(arguments: argparse.Namespace) -> int:
    output: Path = arguments.output
    if output.suffix != ".html" or output.is_dir():
        raise Refused(f"--output must be a file that ends in .html. Received: {output}")
    summary = Summary(tuple(read_evidence(path) for path in arguments.evidence))
    try:
        write_text(output, page(summary))
        write_text(output.with_suffix(".md"), markdown(summary))
    except OSError as error:
        raise Refused(f"--output must be a file that can be written. Received: {error}") from error
    print(f"{' '.join(sentences(summary))}\nwritten to {output} and {output.with_suffix('.md')}")
    return 0


def _known(file: Path | None) -> list[Entry]:
    return [] if file is None else read_xfails(file, (*CHECKS, BUILDING), DTYPES)


def _warn(xfails: Sequence[Entry], asked: Sequence[Asked]) -> None:
    """Of entries that are no longer true."""
    passed, unasked = stale_xfails(xfails, asked)
    for entry in passed:
        print(f"warning: {entry.place} is stale: it expects a failure of {entry.check} that did not come. "
              f"Its reason: {entry.reason}", file=sys.stderr)  # fmt: skip
    if unasked:
        places = ", ".join(entry.place for entry in unasked)
        print(f"note: nothing was asked of what these expect to fail: {places}", file=sys.stderr)


def _told(
    results: Sequence[Result],
    versions: Mapping[str, Mapping[str, str]],
    xfails: Sequence[Entry],
    arguments: argparse.Namespace,
) -> int:
    """Write and print what came of `results`. Returns the exit code."""
    xfails = [*xfails, *(entry for result in results for entry in known_failures(result))]
    asked = excuse(results, xfails)
    if arguments.evidence is not None:
        found = evidence(results, versions)
        write_text(arguments.evidence, json.dumps(found, indent=1) + "\n")
    _warn(xfails, asked)
    verbose: bool = arguments.verbose
    rows = [row for result in results for row in _rows(result, verbose)]
    title = None if verbose else "of every check, the tensor nearest to its bound"
    _print(
        rows, ("backend", "spec", "dtype", "check", "tensor"), ("error", "bound", "error/bound", "digits", ""), title
    )
    faults = [result.fault for result in results if result.fault is not None]
    for fault in faults:
        print(fault, file=sys.stderr)
    passed = sum(result.passed for result in results)
    expected = sum(bool(result.expected) for result in results if result.passed)
    rest = len(results) - passed - len(faults)
    as_expected = f" ({expected} with failures that were expected)" if expected else ""
    print(
        f"{passed} of {len(results)} examinations passed{as_expected}, {len(faults)} failed, {rest} could not be made"
    )
    return 1 if faults or not passed else 0


# --- trajectory -----------------------------------------------------------------------------------------------------


def _shown(steps: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... and the last."""
    round_numbers = (digit * 10**power for power in range(7) for digit in (1, 2, 5))
    return [number for number in round_numbers if number < steps] + [steps]


def _trajectory(arguments: argparse.Namespace) -> int:
    changes: dict[str, Any] = {"training": {"batch_size": arguments.batch_size}} if arguments.batch_size else {}
    spec = load(arguments.spec, changes)
    course = Course(spec, steps=arguments.steps, seed=arguments.seed, data=arguments.data)
    envelope = Envelope(spec, Arithmetic("float32"), replicas=arguments.replicas)
    with Pool(arguments.limit) as pool:
        _start(pool, arguments.backend)
        oracle = course.follow(envelope)
        logs = {}
        for name in arguments.backend or TRAINERS:
            try:
                logs[name] = course.follow(Remote(pool.worker(name), spec))
            except NotInstalled as error:
                print(f"{name}: {error.library} is not installed")
    steps = len(envelope.expected)
    rows = []
    for number in _shown(steps):
        one = envelope.expected[number - 1]
        apart = [f"{log.losses[number - 1] - float(one.value):+.1e}" for log in logs.values()]
        rows.append([str(number), f"{float(one.value):.6f}", f"{float(one.bound):.1e}", *apart])
    title = "loss of the oracle, how far float32 may be from it, and how far it is"
    _print(rows, (), ("step", "oracle", "envelope", *logs), title)
    wrong = False
    for name, log in logs.items():
        same = (log.initial, log.seen) == (oracle.initial, oracle.seen)
        left = parting(log, envelope.expected)
        wrong |= not same or left is not None
        sees = (
            "sees the oracle's weights, images, masks and settings" if same else "SEES SOMETHING ELSE than the oracle"
        )
        stays = (
            f"stays in the envelope for all {steps} steps" if left is None else f"LEAVES the envelope at step {left}"
        )
        print(f"{name} {sees} and {stays}")
    return 1 if wrong or not logs else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    try:
        arguments = _parser().parse_args(argv)
        code: int = arguments.act(arguments)
    except (Refused, SpecError, DataError, Unsupported, XfailsError, VectorsError, EvidenceError) as error:
        print(error, file=sys.stderr)
        return 2
    except WorkerFailed as error:
        print(error, file=sys.stderr)
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
