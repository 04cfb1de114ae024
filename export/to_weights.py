"""Write the weights of a checkpoint as others keep them.

    python export/to_weights.py runs/NAME/best.safetensors --to torchvision --output alexnet.pth
    python export/to_weights.py runs/NAME/best.safetensors --to keras --output alexnet.weights.h5
    python export/to_weights.py runs/NAME/best.safetensors --to safetensors --output alexnet.safetensors

``from_weights.py`` reads each of them back to the same bits. Exit code 0: written; 2: asked wrongly or refused, nothing
written.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run by path: make the rooms importable, and the modules of this one not
    _ROOM = Path(__file__).resolve().parent
    sys.path[:] = [str(_ROOM.parent), *(path for path in sys.path if Path(path or ".").resolve() != _ROOM)]

from backends import checkpoint
from backends.checkpoint import LAST
from backends.options import Parser
from export.command import exit_code
from export.conversions import Refused
from export.exporting import FORMATS, export_weights


def _parser() -> Parser:
    made = Parser(prog="to_weights.py", description="Write the weights of a checkpoint as others keep them.")
    made.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a checkpoint, or a run's folder")
    add = made.option
    add("--to", "FORMAT", ", ".join(FORMATS), choices=tuple(FORMATS), required=True)
    add("--output", "FILE", "a new file: .safetensors, .pth, .weights.h5 or .keras", type=Path, required=True)
    add("--channel-order", "ORDER", "of the images that the file is to take: rgb or bgr", choices=("rgb", "bgr"))
    return made


def run(asked: argparse.Namespace) -> int:
    """Write what `asked` names. Returns the exit code."""
    path = asked.checkpoint / LAST if asked.checkpoint.is_dir() else asked.checkpoint
    found = checkpoint.load(path)
    try:
        lines = export_weights(found.spec, found.parameters, asked.output, to=asked.to, classes=found.classes,
                               channel_order=asked.channel_order)  # fmt: skip
    except OSError as error:
        raise Refused(f"--output must be writable. Received: {error}") from None
    print("\n".join([f"{path}: {found.spec.name}", *lines, f"{asked.output}: written"]))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`. Returns its exit code."""
    return exit_code(lambda: run(_parser().parse_args(argv)))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that files half written are removed on the way
    raise SystemExit(main())
