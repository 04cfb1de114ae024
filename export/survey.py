"""``python -m export.survey``: every variant from every backend in every precision, exported, verified, run elsewhere.

Each file is made as ``to_onnx.py`` makes it, with its verification, of a variant with random weights, and then run by
OpenVINO where that is installed, whose logits must be as near as two files of the same verification can be apart.
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
from itertools import groupby
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
from export.onnx_file import Exported, Form, export
from export.reference import BackendFailed, Host
from export.source import Request, resolve, trials
from export.verify import VerificationError
from spec import Spec, SpecError, load, names

BACKENDS = tuple(name for name in NAMES if name != "onnx")
PRECISIONS: tuple[Precision, ...] = ("float32", "float16", "int8")
"""Those that ONNX Runtime runs on a CPU."""
_ENGINE = """
import sys, numpy
sys.modules["openvino_telemetry"] = None  # it reports its use over the network, from a fork that may not return
import openvino
core = openvino.Core()
for line in sys.stdin:
    try:
        folder = line.rstrip("\\n")
        model = core.read_model(folder + "/model.onnx")
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        numpy.save(folder + "/logits.npy", compiled({"input": numpy.load(folder + "/images.npy")})["logits"])
        print("done", flush=True)
    except Exception as error:
        print(" ".join(str(error).split())[:300], flush=True)
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


def examine(case: Case, reference: str, folder: Path, host: Host, engine: Engine | None) -> Exported:
    """Export `case`, whose specification is called `reference`, to `folder`, and ask another engine.

    Raises VerificationError, BackendFailed, ElsewhereFailed or Unsupported.
    """
    request = Request(case.backend, spec=reference)
    source = resolve(request)
    data = data_for(source, None) if case.precision == "int8" else None
    path = folder / "model.onnx"
    made = export(request, source, path, Form(precision=case.precision, data=data), ask=host)
    if engine is not None:
        images = trials(source, case.precision, data.pictures if data else None)[0].images
        (own,) = session(path).run([LOGITS], {INPUT: images})
        distance, allowed = np.abs(engine(folder, images) - own), 2 * made.agreement.bound
        if not (distance <= allowed).all():
            raise ElsewhereFailed(f"OpenVINO's logits must be within {allowed.max():.3g} of ONNX Runtime's. "
                                  f"Received: {distance.max():.3g} away")  # fmt: skip
    return made


class Engine:
    """OpenVINO, in a process of its own, in float32 where it would choose."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _ENGINE], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def __call__(self, folder: Path, images: Array) -> Array:
        """The logits of the model in `folder`, float64. Raises ElsewhereFailed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        np.save(folder / "images.npy", images)
        print(folder, file=self._process.stdin, flush=True)
        if (said := self._process.stdout.readline().strip()) != "done":
            raise ElsewhereFailed(f"OpenVINO must run the file. Received: {said or 'its process has ended'}")
        return np.load(folder / "logits.npy").astype(np.float64)  # type: ignore[no-any-return]

    def close(self) -> None:
        """End the process."""
        with self._process:
            self._process.kill()


def _written(stated: Spec, folder: Path) -> str:
    """`stated` as a file that another process can load, its weights drawn so that the signal keeps its size.

    As many variants were initialised, narrow networks let nothing of an image through, and everything would agree.
    """
    values = stated.statement()
    values.pop("provenance", None)  # of initial values that are not there any more
    values["init"] = {
        "weight": {"kind": "variance_scaling", "scale": 2, "fan": "fan_in", "distribution": "normal"},
        "bias": {"kind": "normal", "std": 0.1},
    }
    path = folder / f"{stated.name}.yaml"
    path.write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML
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
    engine = Engine() if importlib.util.find_spec("openvino") is not None else None
    ordered = sorted(chosen, key=lambda case: BACKENDS.index(case.backend))
    try:
        with tempfile.TemporaryDirectory(prefix="alexnet-survey-") as name:
            for _, of_backend in groupby(ordered, key=lambda case: case.backend):
                with Host() as host:
                    failed += sum(not _one(case, size, Path(name), host, engine) for case in of_backend)
    finally:
        if engine is not None:
            engine.close()
    elsewhere = " and OpenVINO" if engine is not None else "; OpenVINO, which is not installed, was not asked"
    print(f"{len(chosen) - failed} of {len(chosen)} files exported, verified, and run by ONNX Runtime{elsewhere}: "
          f"{time.monotonic() - started:.0f} s")  # fmt: skip
    return 1 if failed else 0


def _one(case: Case, size: str, folder: Path, host: Host, engine: Engine | None) -> bool:
    """Whether `case` passes; says so."""
    whole = load(case.variant)
    reference = _written(slim(whole) if size == "slim" else whole, folder)
    try:
        made = examine(case, reference, folder, host, engine)
    except (VerificationError, BackendFailed, ElsewhereFailed, Unsupported) as error:
        print(f"FAILED {case}: {error}", flush=True)
        return False
    agreement = made.agreement
    print(f"ok     {case}: {agreement.error:.2g}, {agreement.of_bound:.0%} of its bound; images differ by "
          f"{agreement.seen:.2g} bounds of float32", flush=True)  # fmt: skip
    return True


if __name__ == "__main__":
    sys.exit(main())
