"""What the command lines of this room share: one line for what was asked wrongly."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from backends import Unsupported
from data import DataError
from spec import SpecError


class Wrong(ValueError):
    """Something was asked that cannot be; one line."""


def exit_code(run: Callable[[], int]) -> int:
    """What `run` returns; 2 if it was asked wrongly, 1 if a file could not be written, 130 if it was interrupted."""
    try:
        return run()
    except (Wrong, SpecError, DataError, Unsupported) as error:
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


def require_suffix(path: Path, suffix: str) -> None:
    """Raise Wrong unless `path` can be a file that ends in `suffix`."""
    if path.suffix != suffix or path.is_dir():
        raise Wrong(f"the output must be a file that ends in {suffix}. Received: {path}")
