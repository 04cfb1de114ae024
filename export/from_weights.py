"""Make a checkpoint of weights that others trained, or say in one line why that cannot be.

    python export/from_weights.py alexnet.pth                     torchvision's state dictionary
    python export/from_weights.py alexnet.onnx --mean 123,117,104    Caffe's AlexNet or CaffeNet, ONNX' model zoo
    python export/from_weights.py model.keras                     Keras, or weights alone: model.weights.h5
    python export/from_weights.py weights.safetensors --spec my.yaml

The checkpoint is for evaluate, predict and to_onnx.py; no run can be resumed from it. Exit code 0: written; 2: asked
wrongly or refused, nothing written.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run by path: make the rooms importable, and the modules of this one not
    _ROOM = Path(__file__).resolve().parent
    sys.path[:] = [str(_ROOM.parent), *(path for path in sys.path if Path(path or ".").resolve() != _ROOM)]

import numpy as np

import spec
from backends import checkpoint
from backends.options import Parser
from backends.registry import NAMES
from backends.starting import RUNS
from export.command import exit_code
from export.conversions import Refused
from export.importing import Imported, Stated, import_weights

FILE = "imported.safetensors"
"""Not ``last``: no run is to be continued from it."""
BACKENDS = tuple(name for name in NAMES if name != "onnx")


def save(found: Imported, path: Path, origin: str, backend: str) -> None:
    """Write `found` to `path` as a checkpoint that no run began with: velocities are zero, no image was seen. Raises
    OSError."""
    progress = checkpoint.Progress(seed=0, source=f"imported from {origin}", fingerprint=checkpoint.IMPORTED)
    zero = {name: np.zeros_like(value) for name, value in found.parameters.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(
        path,
        checkpoint.Checkpoint(found.spec, found.parameters, zero, found.statistics, found.classes, progress, backend,
                              checkpoint.versions()),
    )  # fmt: skip


def _place(output: Path | None, name: str) -> Path:
    path = RUNS / f"imported-{name}" / FILE if output is None else output
    path = path if path.suffix == ".safetensors" else path / FILE
    if path.exists():
        raise Refused(f"--output must be a new file. Received: {path}, which exists")
    return path


def _classes(path: Path) -> tuple[str, ...]:
    """Names in a file: a JSON list, or one a line."""
    try:
        text = path.read_text("utf-8")
        names = json.loads(text) if text.lstrip().startswith("[") else text.splitlines()
    except (OSError, ValueError, RecursionError) as error:
        raise Refused(f"--classes must be a readable file of names. Received: {path}: {error}") from None
    if not names or not all(isinstance(name, str) and name for name in names):
        raise Refused(f"--classes must be a JSON list of names, or one a line. Received: {path}")
    return tuple(names)


def _mean(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not np.isfinite(values).all():
        raise argparse.ArgumentTypeError(f"must be numbers such as 123,117,104. Received: {text!r}")
    return values


def _parser() -> Parser:
    made = Parser(prog="from_weights.py", description="Make a checkpoint of weights that others trained.")
    made.add_argument("file", type=Path, metavar="FILE", help=".pth, .safetensors, .onnx, .keras or .weights.h5")
    add = made.option
    add("--spec", "NAME|FILE", "whose weights these are (default: what the file shows)")
    add("--output", "DIR|FILE", f"a new checkpoint (default: {RUNS}/imported-NAME/{FILE})", type=Path)
    add("--backend", "NAME", "what the checkpoint runs on unless told (default: torch)", choices=BACKENDS)
    add("--channel-order", "ORDER", "of the images that the file's network takes", choices=("rgb", "bgr"))
    add("--dropout", "WHEN", "when the dropout of its training scaled: train or test", choices=("train", "test"))
    add("--flatten", "ORDER", "how the file's network makes maps a vector: chw or hwc", choices=("chw", "hwc"))
    add("--classes", "FILE", "names in the order of the scores: a JSON list, or one a line", type=Path)
    add("--mean", "R,G,B", "of the training images, in scaled pixels, for files that lack it", type=_mean)
    return made


def run(asked: argparse.Namespace) -> int:
    """Import what `asked` names. Returns the exit code."""
    stated = Stated(
        spec.load(asked.spec) if asked.spec else None, asked.channel_order, asked.dropout, asked.flatten,
        _classes(asked.classes) if asked.classes else None, asked.mean,
    )  # fmt: skip
    try:
        found = import_weights(asked.file, stated)
    except Refused as error:
        raise Refused(f"{asked.file}: {error}") from None
    path = _place(asked.output, found.spec.name)
    keras = found.kind in ("Keras model", "HDF5 file of weights")
    backend = asked.backend or (f"keras-{os.environ.get('KERAS_BACKEND', 'tensorflow')}" if keras else "torch")
    if backend not in BACKENDS:
        raise Refused(f"the backend must be one of {', '.join(BACKENDS)}. Received: {backend}")
    try:
        save(found, path, asked.file.name, backend)
    except OSError as error:
        raise Refused(f"--output must be writable. Received: {error}") from None
    print("\n".join(found.lines))
    print(f"{path}: {found.spec.name}, for {backend}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`. Returns its exit code."""
    return exit_code(lambda: run(_parser().parse_args(argv)))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that files half written are removed on the way
    raise SystemExit(main())
