"""The command of the scripts that make the embedded samples."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

from data.dataset import U8
from data.errors import DataError
from data.npz import npz


def main(
    what: str | None, selection: Callable[[Path], dict[str, U8]], output: Path, holds: str, source: Path | None = None
) -> int:
    """Write ``selection(source)`` to a file. Returns the exit code: 0, or 2 with one line on stderr.

    what: the help. output: the file, and source: the folder, which `holds` describes, unless the options say others.
    """
    parser = argparse.ArgumentParser(description=what, formatter_class=argparse.RawDescriptionHelpFormatter)
    said = holds if source is None else f"{holds} (default: %(default)s)"
    parser.add_argument("--source", type=Path, default=source, required=source is None, help=said)
    parser.add_argument("--output", type=Path, default=output, help="file to write (default: %(default)s)")
    options = parser.parse_args()
    try:
        content = npz(selection(options.source), compress=True)
        partial = options.output.with_name(options.output.name + ".partial")
        partial.write_bytes(content)
        partial.replace(options.output)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.output}: {len(content):,} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}")
    return 0
