"""Export checkpoints, or initialised specifications, to ONNX files that have been run against their backend.

    python export/to_onnx.py                                            the newest checkpoints of torch and of Keras
    python export/to_onnx.py --checkpoint runs/NAME/last.safetensors    this one
    python export/to_onnx.py --spec source-2012 --output a.onnx         a variant with its initial parameters
    python export/to_onnx.py --exporter torch                           by PyTorch's own exporter, as any other verified

Exit code 0: every file was verified and kept; 1: one was not; 2: asked wrongly.
"""

from __future__ import annotations

import argparse
import importlib.util
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if __package__ in (None, ""):  # run by path: make the rooms importable, and the modules of this one not
    _ROOM = Path(__file__).resolve().parent
    sys.path[:] = [str(_ROOM.parent), *(path for path in sys.path if Path(path or ".").resolve() != _ROOM)]

from backends import NAMES, Unsupported, checkpoint
from backends.starting import DEFAULT_SPEC, RUNS
from data import DataError
from export import exporters
from export.source import BATCHES, Request, Source, resolve
from spec import SpecError

if TYPE_CHECKING:
    from export.calibration import Data

EXPORTERS = ("spec", "torch", "keras")
"""Who writes the graph: this project, node by node from the specification, or a framework's own exporter."""
FAMILIES = {"torch": "torch", "keras": "keras-tensorflow"}
"""Whose newest checkpoints are exported by default, and the backend that stands in where there is none."""
PACKAGES = {
    "torch": ("torch",),
    "keras-tensorflow": ("keras", "tensorflow"),
    "keras-jax": ("keras", "jax"),
    "keras-torch": ("keras", "torch"),
}
"""What a backend needs to be installed."""
PRECISIONS = ("float32", "float16", "bfloat16", "int8")
PRECISION_HELP = """float32 (default); float16: weights and layers, half the size; int8: a quarter of the size and the
fastest on a CPU, calibrated on training images, its cost in accuracy measured on those held out; bfloat16 where ONNX
Runtime can run it. Images, scores and normalisation stay float32 in all"""
LITTLE = 30.0
"""Times the bound: below it a note says that images hardly matter, as with the initial parameters of some variants."""
BACKENDS = tuple(name for name in NAMES if name != "onnx")
"""What a file can be verified against: everything but itself."""


_EPILOG = """examples:
  to_onnx.py                                                the newest checkpoint of torch and of Keras
  to_onnx.py --checkpoint runs/NAME/best.safetensors        this one: model.onnx beside it
  to_onnx.py --spec source-2012 --backend numpy             a variant, untrained, verified with the oracle
  to_onnx.py --checkpoint FILE --precision int8             model-int8.onnx, calibrated on what it was trained on
  to_onnx.py --checkpoint FILE --pixels --softmax           bytes in, probabilities out
  to_onnx.py --checkpoint FILE --outputs fc7                features of a layer too

What a file takes, gives and says of itself, and what each precision is checked for: export/README.md.
"""


class Wrong(ValueError):
    """Something was asked that cannot be; one line."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without repeating its usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (--help lists the options)\n")


@dataclass(frozen=True)
class Job:
    """One file to make."""

    request: Request
    output: Path


def missing(backend: str, exporter: str) -> list[str]:
    """The packages that `backend`, or its own exporter, needs and this Python lacks."""
    packages = PACKAGES.get(backend, ()) if exporter == "spec" else exporters.PACKAGES.get(backend, ())
    return [package for package in packages if importlib.util.find_spec(package) is None]


def default_jobs(runs: Path, exporter: str, name: str = "model.onnx") -> list[Job]:
    """The newest checkpoint of each family in `runs`, or the initialised default. Says what it chose and why.

    exporter: only the family that has it; that of the specification is for all. name: of the files.
    """
    jobs = []
    for family, standing_in in FAMILIES.items():
        if exporter not in ("spec", family):
            continue
        path = checkpoint.newest(runs, family)
        if path is not None:
            request, output = Request(checkpoint.header(path)["backend"], path), path.with_name(name)
        else:
            request = Request(standing_in, spec=DEFAULT_SPEC)
            output = _initial_place(runs, request, name)
            print(f"no checkpoint of {family} in {runs}: exporting {DEFAULT_SPEC} with its initial parameters")
        if lacking := missing(request.backend, exporter):
            print(f"{request.backend} is left out: {', '.join(lacking)} not installed")
        else:
            jobs.append(Job(request, output))
    if not jobs:
        raise Wrong(f"at least one of {', '.join(FAMILIES)} must be installed. Received: neither")
    return jobs


def stated_job(arguments: argparse.Namespace) -> Job:
    """The one file that the options describe."""
    path: Path | None = arguments.checkpoint
    exporter: str = arguments.exporter
    if path is not None:
        backend = arguments.backend or _exporting(exporter, checkpoint.header(path)["backend"])
        if backend not in BACKENDS:
            raise Wrong(f"{path}: the backend must be one of {', '.join(BACKENDS)}. Received: {backend}")
        request, place = Request(backend, path), path.with_name(_file_name(arguments.precision))
    else:
        request = Request(
            arguments.backend or _exporting(arguments.exporter, "torch"), spec=arguments.spec, seed=arguments.seed or 0
        )
        place = _initial_place(arguments.runs, request, _file_name(arguments.precision))
    if exporter not in ("spec", request.backend.partition("-")[0]):
        raise Wrong(f"--exporter {exporter} must go with a --backend of its own. Received: {request.backend}")
    if lacking := missing(request.backend, exporter):
        raise Wrong(f"{request.backend} needs what is not installed: {', '.join(lacking)}")
    return Job(request, arguments.output or place)


def _exporting(exporter: str, backend: str) -> str:
    """`backend`, or the one that `exporter` belongs to if it is of another family."""
    return backend if exporter in ("spec", backend.partition("-")[0]) else FAMILIES[exporter]


def _initial_place(runs: Path, request: Request, name: str) -> Path:
    return runs / f"{request.backend}-{Path(request.spec).name.removesuffix('.yaml')}-initial" / name


def _file_name(precision: str) -> str:
    return "model.onnx" if precision == "float32" else f"model-{precision}.onnx"


def run(arguments: argparse.Namespace) -> int:
    """Export what `arguments` ask for. Returns the exit code."""
    stated = arguments.checkpoint is not None or arguments.spec is not None
    for option in ("seed", "backend", "output"):
        if getattr(arguments, option) is not None and not stated:
            raise Wrong(f"--{option} must come with --checkpoint or --spec")
    if arguments.seed is not None and arguments.checkpoint is not None:
        raise Wrong("--seed is of initial parameters and must come with --spec, not with --checkpoint")
    if arguments.exporter != "spec":
        for option, value in (("lrn", arguments.lrn), ("precision", arguments.precision)):
            if value is not None:
                raise Wrong(f"--{option} must come with --exporter spec: others choose. "
                            f"Received: --exporter {arguments.exporter}")  # fmt: skip
    arguments.precision = arguments.precision or "float32"
    if arguments.data is not None and arguments.precision != "int8":
        raise Wrong(f"--data calibrates and must come with --precision int8. Received: {arguments.precision}")
    if arguments.precision == "bfloat16":
        _require_bfloat16()
    name = _file_name(arguments.precision)
    jobs = [stated_job(arguments)] if stated else default_jobs(arguments.runs, arguments.exporter, name)
    sources = [resolve(job.request) for job in jobs]
    for job, source in zip(jobs, sources, strict=True):
        if arguments.pixels and source.statistics is None and source.spec.data.mean.kind in ("image", "channel"):
            raise Wrong(f"--pixels needs the mean of training images, which {source.origin} does not have: "
                        f"export a checkpoint")  # fmt: skip
        _check_output(job.output)
        _check_layers(arguments.outputs, source)
    found = [_data(source, arguments) for source in sources]
    return max([_export(*one, arguments) for one in zip(jobs, sources, found, strict=True)])


def _data(source: Source, arguments: argparse.Namespace) -> Data | None:
    if arguments.precision != "int8":
        return None
    from export.calibration import data_for

    return data_for(source, arguments.data)


def _require_bfloat16() -> None:
    """What no ONNX Runtime here can run cannot be verified either, and is refused before anything is built."""
    from backends.onnx.backend import PROVIDERS, runs_bfloat16
    from export.verify import DEVICES

    if not runs_bfloat16(DEVICES["bfloat16"]):
        raise Wrong(
            "a bfloat16 file must be run before it is kept, and this ONNX Runtime has no bfloat16 convolution "
            f"({PROVIDERS[DEVICES['bfloat16']]} may; the CPU's has none). Engines that compute in bfloat16 round a "
            "float32 file themselves"
        )


def _export(job: Job, source: Source, data: Data | None, arguments: argparse.Namespace) -> int:
    from export.framework import ExporterFailed
    from export.onnx_file import Form, export
    from export.reference import BackendFailed
    from export.verify import VerificationError

    outputs = [layer.name for layer in source.spec.layers] if arguments.outputs == ["all"] else arguments.outputs
    by_framework = arguments.exporter != "spec"
    form = Form(lrn=arguments.lrn or "ops", outputs=outputs, pixels=arguments.pixels, softmax=arguments.softmax,
                by_framework=by_framework, precision=arguments.precision, data=data)  # fmt: skip
    try:
        made = export(job.request, source, job.output, form)
    except ExporterFailed as error:
        print(f"error: {job.output} is not kept: {error}", file=sys.stderr)
        return 1
    except VerificationError as error:
        print(f"error: {job.output} is not kept: {error}{_known(job, source) if by_framework else ''}", file=sys.stderr)
        return 1
    except BackendFailed as error:
        print(f"error: {job.output} is not kept: {job.request.backend} could not be asked: {error}", file=sys.stderr)
        return 1
    how = f"by {exporters.described(job.request.backend)}" if by_framework else f"LRN as {form.lrn}"
    *others, last = BATCHES
    batches = f"{', '.join(map(str, others))} and {last}"
    print(
        f"{made.path}: {source.spec.name}, {source.origin}\n"
        f"  {made.bytes / 1e6:.1f} MB, {arguments.precision}, opset {made.opset}, IR {made.ir_version}, {how}; "
        f"agrees with {job.request.backend} on batches of {batches} to {made.agreement.error:.2g}, "
        f"{made.agreement.of_bound:.0%} of what rounding allows"
    )
    if made.agreement.seen < LITTLE:
        print(
            f"  note: the logits of different images differ by {made.agreement.seen:.2g} times what rounding allows; "
            "these parameters let little of an image through, so that agreement says little"
        )
    if made.calibration:
        print(f"  calibrated on {made.calibration}")
    if made.cost:
        print(f"  {made.cost.line()}")
    elif made.calibration:
        print("  what integers cost in accuracy is not known without images that were held out")
    return 0


def _known(job: Job, source: Source) -> str:
    """What the exporter is known to get wrong of this network."""
    known = exporters.KNOWN.get(job.request.backend, {})
    wrong = [f"{reason} ({link})" for op, (reason, link) in known.items() if op in {x.op for x in source.spec.layers}]
    return f". It is known that {'; '.join(wrong)}" if wrong else ""


def _check_output(output: Path) -> None:
    if output.suffix != ".onnx" or output.is_dir():
        raise Wrong(f"the output must be a file that ends in .onnx. Received: {output}")


def _check_layers(outputs: list[str], source: Source) -> None:
    known = [layer.name for layer in source.spec.layers]
    unknown = [name for name in outputs if name not in known] if outputs != ["all"] else []
    if unknown:
        raise Wrong(
            f"--outputs must be all or layers of {source.spec.name}: {', '.join(known)}. Received: {unknown[0]}"
        )


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) > 2**32 - 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 2**32 - 1. Received: {text}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="to_onnx.py",
        description="Export to ONNX; every file is run against its backend before it is kept.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="export this; default: the newest of each backend"
    )
    what.add_argument("--spec", metavar="NAME", help="export this specification with its initial parameters")
    parser.add_argument("--seed", type=_seed, metavar="N", help="of the initial parameters (default 0)")
    parser.add_argument("--backend", choices=BACKENDS, help="verify against this (default: the checkpoint's; torch)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: model.onnx beside the checkpoint")
    parser.add_argument(
        "--exporter", choices=EXPORTERS, default="spec",
        help="who writes the graph: this project from the specification (default), or the framework's own exporter",
    )  # fmt: skip
    parser.add_argument("--lrn", choices=("ops", "node"), help="LRN as operators (default) or as its node")
    parser.add_argument("--precision", choices=PRECISIONS, help=PRECISION_HELP)
    parser.add_argument("--data", metavar="NAME|DIR", help="images that calibrate int8 (default: the checkpoint's own)")
    parser.add_argument(
        "--outputs", type=lambda text: text.split(","), default=[], metavar="LAYERS",
        help="also return these layers, as in fc7,pool5, or all",
    )  # fmt: skip
    parser.add_argument("--pixels", action="store_true", help="take stored bytes (N, S, S, C), prepare them inside")
    parser.add_argument("--softmax", action="store_true", help="also return probabilities")
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="DIR", help=f"where runs are (default: {RUNS})")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`. Returns its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        if lacking := [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]:
            raise Wrong(f"exporting needs what is not installed: {', '.join(lacking)}")
        return run(arguments)
    except (Wrong, SpecError, checkpoint.CheckpointError, DataError, Unsupported) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: the output must be writable. Received: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that processes are ended and files removed on the way
    raise SystemExit(main())
