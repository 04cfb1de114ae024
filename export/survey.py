"""``python -m export.survey``: every variant from every backend in every precision, exported, verified, run elsewhere.

Each file is made as ``to_onnx.py`` makes it, with its verification, of a variant's initial parameters, and then loaded
in OpenVINO where that is installed, whose logits must be as near as two files of the same verification can be apart.
Exit code 0: all were; 1: one was not; 2: asked wrongly.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet_rooms import ROOT
from backends import NAMES
from backends.base import Array, Unsupported
from backends.onnx import session
from backends.onnx.graph import INPUT, LOGITS
from backends.onnx.nodes import Precision
from backends.options import Parser
from backends.starting import RequestError
from conformance.specs import slim
from export.calibration import data_for
from export.onnx_file import Exported, export
from export.reference import BackendFailed
from export.source import Request, resolve, trials
from export.verify import VerificationError
from spec import Spec, SpecError, load, names

BACKENDS = tuple(name for name in NAMES if name != "onnx")
PRECISIONS: tuple[Precision, ...] = ("float32", "float16", "int8")
"""Those that ONNX Runtime runs on a CPU."""
_CHILD = """
import sys, numpy, openvino
core = openvino.Core()
compiled = core.compile_model(core.read_model(sys.argv[1]), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
numpy.save(sys.argv[3], compiled({"input": numpy.load(sys.argv[2])})["logits"])
"""


class ElsewhereFailed(RuntimeError):
    """Another engine does not run the file, or answers otherwise."""


@dataclass(frozen=True)
class Case:
    """One file to make."""

    variant: str
    backend: str
    precision: Precision

    def __str__(self) -> str:
        return f"{self.variant} {self.backend} {self.precision}"


def cases(variants: Sequence[str], backends: Sequence[str], precisions: Sequence[Precision]) -> Iterator[Case]:
    """All of them; precisions other than float32 from the first backend alone, because what a file rounds is the same
    whoever trained it."""
    for variant in variants:
        for backend in backends:
            for precision in precisions:
                if precision == "float32" or backend == backends[0]:
                    yield Case(variant, backend, precision)


def examine(case: Case, reference: str, folder: Path) -> Exported:
    """Export `case`, whose specification is called `reference`, to `folder`, and ask OpenVINO.

    Raises VerificationError, BackendFailed, ElsewhereFailed or Unsupported.
    """
    request = Request(case.backend, spec=reference)
    source = resolve(request)
    data = data_for(source, None) if case.precision == "int8" else None
    path = folder / "model.onnx"
    made = export(request, source, path, precision=case.precision, data=data)
    if importlib.util.find_spec("openvino") is not None:
        images = trials(source, case.precision, data.pictures if data else None)[0].images
        _elsewhere(path, images, 2 * made.agreement.bound, folder)
    return made


def _elsewhere(path: Path, images: Array, allowed: Array, folder: Path) -> None:
    """OpenVINO's logits beside ONNX Runtime's; each may be as far from the backend's as the file's bound says."""
    (own,) = session(path).run([LOGITS], {INPUT: images})
    given, answered = folder / "images.npy", folder / "logits.npy"
    np.save(given, images)
    command = [sys.executable, "-c", _CHILD, *map(str, (path, given, answered))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace")
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise ElsewhereFailed(f"OpenVINO must run the file. Received: {(said or [str(done.returncode)])[-1][:300]}")
    distance = np.abs(np.load(answered).astype(np.float64) - own)
    if not (distance <= allowed).all():
        raise ElsewhereFailed(f"OpenVINO's logits must be within {allowed.max():.3g} of ONNX Runtime's. "
                              f"Received: {distance.max():.3g} away")  # fmt: skip


def _written(stated: Spec, folder: Path) -> str:
    """`stated` as a file that another process can load."""
    path = folder / f"{stated.name}.yaml"
    path.write_text(json.dumps(stated.statement()), encoding="utf-8")  # JSON is YAML
    return str(path)


def _list(known: Sequence[str], what: str, text: str | None) -> list[str]:
    chosen = list(dict.fromkeys(text.split(","))) if text else list(known)
    for name in chosen:
        if name not in known:
            raise RequestError(f"{what} must be among {', '.join(known)}. Received: {name}")
    return chosen


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`. Returns its exit code."""
    parser = Parser(prog="python -m export.survey", description=__doc__)
    parser.option("--spec", "NAMES", "variants (default: all)")
    parser.option("--backend", "NAMES", f"default: {','.join(BACKENDS)}")
    parser.option("--precision", "NAMES", f"default: {','.join(PRECISIONS)}, all but float32 from the first backend")
    parser.option("--size", "slim|full", "narrow networks of the same layers (default) or the real ones",
                  choices=("slim", "full"), default="slim")  # fmt: skip
    try:
        asked = parser.parse_args(argv)
        precisions: list[Precision] = [p for p in PRECISIONS if p in _list(PRECISIONS, "--precision", asked.precision)]
        backends = _list(BACKENDS, "--backend", asked.backend)
        chosen = list(cases(_list(names(), "--spec", asked.spec), backends, precisions))
    except (RequestError, SpecError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return _survey(chosen, asked.size)


def _survey(chosen: Sequence[Case], size: str) -> int:
    failed, started = 0, time.monotonic()
    elsewhere = "OpenVINO" if importlib.util.find_spec("openvino") is not None else "nothing else (no OpenVINO here)"
    with tempfile.TemporaryDirectory(prefix="alexnet-survey-") as name:
        folder = Path(name)
        for case in chosen:
            whole = load(case.variant)
            reference = _written(slim(whole), folder) if size == "slim" else case.variant
            try:
                made = examine(case, reference, folder)
            except (VerificationError, BackendFailed, ElsewhereFailed, Unsupported) as error:
                failed += 1
                print(f"FAILED {case}: {error}", flush=True)
                continue
            print(f"ok     {case}: {made.agreement.error:.2g}, {made.agreement.of_bound:.0%} of its bound", flush=True)
    print(f"{len(chosen) - failed} of {len(chosen)} files exported, verified and run by ONNX Runtime and {elsewhere}, "
          f"{time.monotonic() - started:.0f} s")  # fmt: skip
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
