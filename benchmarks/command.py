"""What the command lines of this room share: one line for what was asked wrongly."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NoReturn

from backends import Unsupported
from backends.evaluation.models import ModelError
from data import DataError
from spec import SpecError


class Wrong(ValueError):
    """Something was asked that cannot be; one line."""


def exit_code(run: Callable[[], int]) -> int:
    """What `run` returns; 2 if it was asked wrongly, 1 if a file could not be written, 130 if it was interrupted."""
    try:
        return run()
    except (Wrong, SpecError, DataError, ModelError, Unsupported) as error:
        return _said(error, 2)
    except OSError as error:
        return _said(error, 1)
    except KeyboardInterrupt:
        return 130


def _said(error: Exception, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without repeating its usage; options are not abbreviated."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (--help lists the options)\n")


def whole(text: str) -> int:
    """A number of images, rounds or threads."""
    if not text.isdecimal() or not 1 <= int(text) <= 65536:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to 65536. Received: {text!r}")
    return int(text)


def batch_sizes(text: str) -> tuple[int, ...]:
    """Batch sizes with commas between them, each once."""
    return tuple(dict.fromkeys(map(whole, text.split(","))))


def add_batches(parser: argparse.ArgumentParser, default: tuple[int, ...], what: str) -> None:
    """``--batches``, which may be typed ``--batch`` where it is one."""
    words = f"{what} (default: {','.join(map(str, default))})"
    parser.add_argument("--batches", "--batch", type=batch_sizes, default=default, metavar="N,...", help=words)


def seconds(text: str) -> float:
    """A time of measuring."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"must be a number above 0, at most 3600. Received: {text!r}")
    return value


def specification(text: str) -> str:
    """The name of a variant, or a file, as processes that run elsewhere find it."""
    path = Path(text).expanduser()
    return str(path.resolve()) if path.suffix and path.is_file() else text


def among(names: Collection[str]) -> Callable[[str], tuple[str, ...]]:
    """A reader of names with commas between them, each of which must be one of `names`."""

    def read(text: str) -> tuple[str, ...]:
        chosen = tuple(dict.fromkeys(text.split(",")))
        for name in chosen:
            if name not in names:
                raise argparse.ArgumentTypeError(f"must be among {', '.join(names)}. Received: {name!r}")
        return chosen

    return read


def require_suffix(path: Path, suffix: str) -> None:
    """Raise Wrong unless `path` can be a file that ends in `suffix`."""
    if path.suffix != suffix or path.is_dir():
        raise Wrong(f"the output must be a file that ends in {suffix}. Received: {path}")
