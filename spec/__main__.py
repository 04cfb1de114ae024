"""``python -m spec``: show, list and check specifications. Exit code 0: fine, 2: asked wrongly or a wrong one."""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

if __package__ in (None, ""):  # run by path: make the rooms importable, and the modules of this one not
    _ROOM = Path(__file__).resolve().parent
    sys.path[:] = [str(_ROOM.parent), *(path for path in sys.path if Path(path or ".").resolve() != _ROOM)]

from spec import describe, schema
from spec.arithmetic import geometry
from spec.errors import Problem, SpecError
from spec.loading import load, names


def _show(arguments: argparse.Namespace) -> int:
    shown = load(arguments.name)
    print(json.dumps(describe.values(shown), indent=2) if arguments.json else describe.text(shown))
    return 0


def _list(arguments: argparse.Namespace) -> int:
    table = [("name", "parameters", "MACs", "title")]
    for name in fnmatch.filter(names(), arguments.glob):
        found = load(name)
        network = geometry(found)
        table.append((name, f"{network.parameter_count:,}", f"{network.macs:,}", found.title))
    if len(table) == 1:
        known = f"must match one of {', '.join(names())}"
        raise SpecError([Problem("spec list", None, "GLOB", known, arguments.glob)])
    print("\n".join(describe.aligned(table, right=(1, 2))))
    return 0


def _check(arguments: argparse.Namespace) -> int:
    problems: list[Problem] = []
    for file in arguments.files:
        try:
            network = geometry(load(file))
            print(f"{file}: fine, {network.parameter_count:,} parameters, {network.macs:,} MACs")
        except SpecError as error:
            problems += error.problems
    if problems:
        raise SpecError(problems)
    return 0


def _why(arguments: argparse.Namespace) -> int:
    from spec import why

    asked = load(arguments.name)
    others = [load(name) for name in names() if name != asked.name]
    if arguments.json:
        print(json.dumps(why.values(asked, arguments.path, others), indent=2))
    else:
        print(why.text(asked, arguments.path, others))
    return 0


def _diff(arguments: argparse.Namespace) -> int:
    from spec import differences

    a, b = load(arguments.a), load(arguments.b)
    print(json.dumps(differences.values(a, b), indent=2) if arguments.json else differences.text(a, b))
    return 0


def _import(arguments: argparse.Namespace) -> int:
    from spec import importers

    imported = importers.import_files([Path(file) for file in arguments.files], arguments.input)
    text = importers.yaml_text(imported.values)
    if arguments.output is None:
        print(text, end="", flush=True)
        print(importers.report(imported), file=sys.stderr)
    else:
        importers.write_new(Path(arguments.output), text)
        print(f"written: {arguments.output}\n{importers.report(imported)}")
    return 0


def _identify(arguments: argparse.Namespace) -> int:
    from spec import identification

    found = [identification.identify(Path(file)) for file in arguments.files]
    if arguments.json:
        print(json.dumps([identification.values(one) for one in found], indent=2))
    else:
        print("\n\n".join(map(identification.text, found)))
    return 0


def _shape(text: str) -> tuple[int, int, int]:
    """3x32x32 as (3, 32, 32). Raises argparse.ArgumentTypeError."""
    sizes = text.split("x")
    if len(sizes) != 3 or not all(size.isascii() and size.isdigit() and 0 < int(size) < 2**16 for size in sizes):
        raise argparse.ArgumentTypeError(f"must be channels, height and width as in 3x224x224. Received: {text[:40]}")
    return int(sizes[0]), int(sizes[1]), int(sizes[2])


def _schema(arguments: argparse.Namespace) -> int:
    schema.FILE.write_text(schema.text(), encoding="utf-8")
    print(f"written: {schema.FILE}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m spec", description="The specification of AlexNet and its variants."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], words: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=words, description=words)
        added.set_defaults(run=run)
        return added

    show = command("show", _show, "The layers of a specification, its numbers and its recipe.")
    show.add_argument("name", metavar="NAME", help="a variant, or the path of a .yaml file")
    show.add_argument("--json", action="store_true", help="plain values for programs instead of a table")
    listing = command("list", _list, "The variants and their sizes.")
    listing.add_argument("glob", metavar="GLOB", nargs="?", default="*", help="only names like this, as in 'caffe*'")
    check = command("check", _check, "Whether specifications are right; every problem on a line of its own.")
    check.add_argument("files", metavar="FILE", nargs="+", help="the path of a .yaml file, or a variant")
    why = command("why", _why, "One value: its source, and what the other variants have in its place.")
    why.add_argument("name", metavar="NAME", help="a variant, or the path of a .yaml file")
    why.add_argument("path", metavar="PATH", help="such as layers.norm1.k, init.conv2.bias, data.color_noise.scale")
    why.add_argument("--json", action="store_true", help="plain values for programs")
    diff = command("diff", _diff, "Where two specifications disagree, with the sources of both.")
    diff.add_argument("a", metavar="A", help="a variant, or the path of a .yaml file")
    diff.add_argument("b", metavar="B", help="another")
    diff.add_argument("--json", action="store_true", help="plain values for programs")
    importing = command("import", _import, "A specification from cuda-convnet's pair of files, or from Caffe's.")
    importing.add_argument("files", metavar="FILE", nargs=2, help="layers and parameters (.cfg), or net and solver")
    importing.add_argument("-o", "--output", metavar="OUT.yaml", help="a new file; without it, the text is printed")
    importing.add_argument("--input", type=_shape, metavar="CxHxW", help="the input, where the files do not state it")
    identify = command("identify", _identify, "Which variant a file of a network, or of weights alone, is or is near.")
    identify.add_argument("files", metavar="FILE", nargs="+", help="ONNX, Keras, safetensors, PyTorch state dictionary")
    identify.add_argument("--json", action="store_true", help="a list of plain values for programs")
    command("schema", _schema, "Rewrite schema.json, the JSON Schema of a file, from the language.")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except SpecError as error:
        sys.stdout.flush()
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader has seen enough; nothing is left to tell it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    raise SystemExit(main())
