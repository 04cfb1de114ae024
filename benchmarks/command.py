"""What the command lines of this room share: one line for what was asked wrongly, and files written in one piece."""

from __future__ import annotations

import argparse
import uuid
from pathlib import Path
from typing import NoReturn


class Wrong(ValueError):
    """Something was asked that cannot be; one line."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without repeating its usage; options are not abbreviated."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (--help lists the options)\n")


def require_suffix(path: Path, suffix: str) -> None:
    """Raise Wrong unless `path` can be a file that ends in `suffix`."""
    if path.suffix != suffix or path.is_dir():
        raise Wrong(f"the output must be a file that ends in {suffix}. Received: {path}")


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` in one piece. Raises OSError, and then leaves what is there as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
