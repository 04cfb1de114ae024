"""The process that reads damaged files: ``python -m export.tests.fuzz_child FOLDER``, a path on each line of input.

Answers a line of JSON: for every reader how it ended, and how much memory the process took by then. An error that is
not documented, a write outside FOLDER and more than one line on stderr are told; what ends the process ends it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

MEMORY = 8 << 30
"""Bytes that the process may map at most: a guard for the machine, far beyond what is allowed."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")


def watch(allowed: Path) -> list[str]:
    """Note what this process writes elsewhere than in `allowed`. Returns the list of notes."""
    outside: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool(flags & WRITING)
            paths = [path] if writes else []
        elif event in CHANGES:
            paths = [one for one in arguments if isinstance(one, str | bytes | os.PathLike)]
        else:
            return
        for path in paths:
            if isinstance(path, int):
                continue
            place = os.path.abspath(os.fsdecode(path))  # noqa: PTH100, a Path would be slow here
            if place != os.devnull and not place.startswith(f"{allowed}{os.sep}"):
                outside.append(f"{event} {place}")

    sys.addaudithook(hook)
    return outside


def _identify(path: Path, folder: Path) -> int:
    from spec.__main__ import main

    return main(["identify", str(path)])


def _from_weights(path: Path, folder: Path) -> int:
    from export import from_weights

    stated = folder / "narrow.yaml" if path.name == "zoo.onnx" else "fashion-mini"
    output = folder / "out" / "imported.safetensors"
    output.unlink(missing_ok=True)
    code = from_weights.main([str(path), "--spec", str(stated), "--output", str(output)])
    if code and output.exists():
        raise AssertionError("what was refused was written")
    return code


def _checkpoint(path: Path, folder: Path) -> int:
    from backends import checkpoint

    try:
        checkpoint.load(path)
    except checkpoint.CheckpointError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _evaluate(path: Path, folder: Path) -> int:
    """As ``python -m backends.evaluate`` reads a model, with two images instead of a data set."""
    from backends.evaluation.command import exit_code
    from backends.evaluation.models import load_model
    from spec import load

    stated = load(str(folder / "narrow.yaml") if path.name == "zoo.onnx" else "fashion-mini")

    def run() -> int:
        size = stated.input
        model = load_model(str(path), device="cpu", stated=stated)
        model.predict(np.zeros((2, size.channels, size.height, size.width), np.float32))
        return 0

    return exit_code(run)


READERS: dict[str, tuple[Callable[[Path, Path], int], tuple[str, ...]]] = {
    "identify": (_identify, (".onnx", ".safetensors", ".pth", ".h5", ".keras")),
    "from_weights": (_from_weights, (".onnx", ".safetensors", ".pth", ".h5", ".keras")),
    "checkpoint": (_checkpoint, (".safetensors", ".pth")),
    "evaluate": (_evaluate, (".onnx",)),
}
"""By name: how a file is read, and which files are."""


def read(reader: str, path: Path, folder: Path) -> dict[str, Any]:
    """How it ended: the exit code, and what is wrong with that."""
    out, err = io.StringIO(), io.StringIO()
    wrong, code = "", -1
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = READERS[reader][0](path, folder)
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 1
        except Exception:
            wrong = traceback.format_exc()
    lines = [line for line in err.getvalue().splitlines() if line.strip()]
    if not wrong and code not in (0, 1, 2):
        wrong = f"exit code {code}"
    if not wrong and code == 2 and len(lines) != 1:
        wrong = f"{len(lines)} lines: {err.getvalue()[:500]}"
    return {"code": code, "wrong": wrong, "said": lines[0][:200] if lines else ""}


def _own_peak() -> int:
    """KiB in memory at most, of this program alone; on Linux, getrusage begins with what its parent had before exec."""
    status = Path("/proc/self/status")
    held = [line.split()[1] for line in status.read_text().splitlines() if "VmHWM" in line] if status.exists() else []
    return int(held[0]) if held else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(folder: Path) -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    outside = watch(folder.resolve())
    for line in sys.stdin:
        path = Path(line.rstrip("\n"))
        found: dict[str, Any] = {}
        for reader, (_, endings) in READERS.items():
            if path.suffix in endings:
                answers.write(json.dumps({"reading": reader}) + "\n")
                answers.flush()
                found[reader] = read(reader, path, folder)
        if outside:
            found["outside"] = {"code": -1, "wrong": "; ".join(outside), "said": ""}
            outside.clear()
        kilobytes = max(_own_peak(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
        answers.write(json.dumps({"found": found, "memory": kilobytes << 10}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
