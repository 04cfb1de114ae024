"""``python -m conformance.mutants``: the catalogue, the proof that its mutants count, and what public checks notice.

Exit codes: 0 all is well, 1 a mutant does not count, 2 the command is wrong.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from conformance.mutants import CATALOGUE, Mutant, Target, find

BACKENDS = {
    "torch": ("torch",),
    "keras": ("keras-tensorflow", "keras-jax", "keras-torch"),
    "onnx": ("onnx",),
    "numpy": ("numpy",),
    "spec": ("numpy",),
    "data": ("numpy",),
    "evaluation": ("numpy",),
    "export": ("onnx",),
}
"""On which backends the mutants of a target can run."""
KILLED_ON = ("torch", "keras-torch", "onnx", "numpy")
"""Every mutant once: Keras on the framework that compiles nothing."""


def _listed(arguments: argparse.Namespace) -> int:
    for mutant in CATALOGUE:
        print(f"{mutant.name}: {mutant.what}.")
        print(
            f"    {', '.join(mutant.concerns)}; caught by {mutant.expected_check}"
            + f"; {mutant.link}" * bool(mutant.link)
        )
    counted = Counter((mutant.target, mutant.kind) for mutant in CATALOGUE)
    for target in get_args(Target):
        shipped, systematic = counted[target, "shipped"], counted[target, "systematic"]
        print(f"{target}: {shipped + systematic} mutants, {shipped} of them shipped")
    print(f"in all: {len(CATALOGUE)} mutants, {sum(m.kind == 'shipped' for m in CATALOGUE)} of them shipped")
    return 0


def _countable(arguments: argparse.Namespace) -> int:
    from conformance.mutants.countable import prove

    counts = True
    for mutant in _chosen(arguments.names, arguments.backend):
        proof = prove(mutant, arguments.backend)
        counts &= proof.countable
        values = dataclasses.asdict(proof) | {"countable": proof.countable}
        print(json.dumps({k: str(v) if v == math.inf else v for k, v in values.items()}), flush=True)
    return 0 if counts else 1


def _public(arguments: argparse.Namespace) -> int:
    from conformance.mutants.public_checks import report, survivals
    from conformance.runner import evidence

    _require_place(arguments.evidence)
    chosen = _chosen(arguments.names, arguments.backend)
    found = survivals(chosen, arguments.backend, model=not arguments.no_model)
    print(report(found))
    if arguments.evidence is not None:
        _write(arguments.evidence, evidence([], {}) | {"public": [found.record()]})
    return 0


def _require_place(path: Path | None) -> None:
    if path is not None and not path.absolute().parent.is_dir():
        raise ValueError(f"--evidence must be a file in a folder that exists. Received: {path}")


def _write(path: Path, record: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _kill(arguments: argparse.Namespace) -> int:
    from conformance.killing import Cases, kills
    from conformance.recipes import every
    from conformance.runner import Pool, evidence

    _require_place(arguments.evidence)
    table, given = [], Cases(every())
    with Pool() as pool:
        for backend in arguments.backend or KILLED_ON:
            for kill in kills(pool, backend, _chosen(arguments.names, backend), given):
                table.append(kill)
                end = f"killed by {kill.mutant.expected_check} of {kill.case}" if kill.case else "SURVIVES"
                print(f"{kill.mutant.name} on {backend}: {end}", flush=True)
        found = evidence([], pool.versions()) | {"mutants": [kill.record() for kill in table]}
    if arguments.evidence is not None:
        _write(arguments.evidence, found)
    killed = sum(kill.case is not None for kill in table)
    print(f"{killed} of {len(table)} mutants killed, each by the check that it names")
    return 0 if killed == len(table) else 1


def _chosen(names: Sequence[str], backend: str) -> list[Mutant]:
    """The mutants that are named, or all that run on `backend`. Raises ValueError for one that does not."""
    fitting = [mutant for mutant in CATALOGUE if backend in BACKENDS[mutant.target]]
    chosen = [find(name) for name in names] or fitting
    strangers = [mutant.name for mutant in chosen if mutant not in fitting]
    if strangers:
        raise ValueError(f"a mutant must be one of the backend {backend}. Received: {', '.join(strangers)}")
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m conformance.mutants", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listed = commands.add_parser("list", help="print the catalogue")
    listed.set_defaults(run=_listed)
    names = sorted({name for some in BACKENDS.values() for name in some})
    for name, run, text in (
        ("countable", _countable, "prove that mutants differ from the oracle, one JSON object a line"),
        ("public", _public, "how many mutants ONNX's own tests and a check of shapes let through"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("names", nargs="*", metavar="NAME", help="mutants (default: all of the backend)")
        command.add_argument("--backend", required=True, choices=names)
        command.set_defaults(run=run)
        if name == "public":
            command.add_argument("--no-model", action="store_true", help="leave the model test out: it takes minutes")
            command.add_argument("--evidence", type=Path, metavar="FILE", help="write who survives to this JSON file")
    command = commands.add_parser("kill", help="the kill table: the suite asked of every mutant")
    command.add_argument("names", nargs="*", metavar="NAME", help="mutants (default: all of the backends)")
    some = f"repeatable (default: {', '.join(KILLED_ON)})"
    command.add_argument("--backend", action="append", choices=names, help=some)
    command.add_argument("--evidence", type=Path, metavar="FILE", help="write the table to this JSON file")
    command.set_defaults(run=_kill)
    chosen = parser.parse_args(arguments)
    try:
        return int(chosen.run(chosen))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
