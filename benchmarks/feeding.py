"""The suite ``data``: images on their way to the network.

    python benchmarks/run.py --suite data                          streaming, waiting and preparation
    python benchmarks/run.py --suite data --parts waiting --spec source-2012 --data DIR --steps 5
    python benchmarks/run.py --suite data --parts preparation --photographs DIR --files 240

``streaming``: shuffled batches against plain copies; ``waiting``: what of a training step is waiting for its batch;
``preparation``: photographs made ready, against the plain Pillow pipeline. See streaming.py and preparation.py.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from backends import Backend, create
from backends.registry import NAMES
from backends.reporting import Reporter
from backends.starting import DEFAULT_SPEC
from benchmarks import preparation, streaming
from benchmarks.command import Parser, Wrong, among, specification
from benchmarks.engines import PACKAGES
from benchmarks.environment import environment
from benchmarks.figures import case
from benchmarks.results import FORMAT, Case, Result, Settings
from data import EMBEDDED, open_source
from data.parallel import cores
from spec import geometry, load, with_classes

PARTS = ("streaming", "waiting", "preparation")


def _at_least(low: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {low}. Received: {text!r}")
        return int(text)

    return read


def parser() -> Parser:
    """The options."""
    made = Parser("run.py --suite data", "Measure images on their way to the network.")
    made.add_argument(
        "--parts", type=among(PARTS), default=PARTS, metavar="NAMES", help=f"of {', '.join(PARTS)} (default: all)"
    )
    made.add_argument("--rounds", type=_at_least(1), default=7, metavar="N", help="turns of all ways (default: 7)")
    made.add_argument(
        "--images", type=_at_least(streaming.BATCH), default=4096, metavar="N", help="that are streamed, 256 x 256"
    )
    made.add_argument(
        "--spec", type=specification, default=DEFAULT_SPEC, metavar="NAME", help="what is trained meanwhile"
    )
    made.add_argument("--data", default=EMBEDDED, metavar="NAME|DIR", help="the images that it is trained on")
    made.add_argument("--backend", default="torch", choices=[name for name in NAMES if name != "onnx"])
    made.add_argument("--steps", type=_at_least(1), default=60, metavar="N", help="steps that are measured")
    made.add_argument(
        "--workers", type=_at_least(1), default=max(1, cores() // 2), metavar="N", help="threads for them"
    )
    made.add_argument("--photographs", type=Path, metavar="DIR", help="to cut from (default: made-up ones)")
    made.add_argument(
        "--files", type=_at_least(2), default=120, metavar="N", help="in a set that is prepared (default: 120)"
    )
    made.add_argument("--sets", type=among(preparation.SETS), default=tuple(preparation.SETS), metavar="NAMES",
                      help=f"of {', '.join(preparation.SETS)} (default: all)")  # fmt: skip
    return made


def _streaming(arguments: argparse.Namespace) -> list[Case]:
    count = arguments.images
    where = f"{count} images of {streaming.SIDE} x {streaming.SIDE}"
    found = [("", streaming.streaming(count, arguments.rounds))]
    if (told := streaming.past_caches(count, arguments.rounds)) is not None:
        found.append(("past the caches", told))
    told_by = {"": "", "past the caches": f", GLIBC_TUNABLES={streaming.PAST_CACHES}"}
    size = streaming.SIDE**2 * streaming.CHANNELS
    return [
        case(
            "streaming", where, name, seconds, count, what=streaming.WAYS[name] + told_by[detail], detail=detail,
            batch=streaming.BATCH, device="cpu", precision="uint8", baseline="copied",
            gbytes_per_second=1e-9 * count * size / sorted(seconds)[len(seconds) // 2],
        )
        for detail, ways in found
        for name, seconds in ways.items()
    ]  # fmt: skip


def _waiting(arguments: argparse.Namespace) -> list[Case]:
    spec = load(arguments.spec)
    found = open_source(arguments.data, storage=spec.data.storage, channels=spec.input.channels, seed=0)
    classes = len(found.train.classes)
    if geometry(spec).output_shape != (classes,):
        spec = with_classes(spec, classes)
    try:
        backend = create(arguments.backend, spec)
    except ModuleNotFoundError as error:
        raise Wrong(f"{arguments.backend} needs what is not installed: {error.name}") from error
    assert isinstance(backend, Backend)
    size = min(spec.training.batch_size, len(found.train))
    seconds, share = streaming.waiting(spec, found.train, backend, arguments.steps, arguments.workers)
    what = f"a training step and its batch, {arguments.workers} threads for batches"
    return [case("waiting", f"{spec.name} on {arguments.data}", backend.name, seconds, size, what=what, batch=size,
                 device=backend.device, precision=backend.dtype, values={"waiting": share})]  # fmt: skip


def _preparation(arguments: argparse.Namespace) -> list[Case]:
    pictures, made = preparation.photographs(arguments.photographs), []
    count = arguments.files * preparation.LINKS
    for name in arguments.sets:
        with tempfile.TemporaryDirectory() as folder:
            preparation.write(Path(folder), preparation.SETS[name], arguments.files, pictures)
            found, differences = preparation.compared(Path(folder), arguments.rounds)
        for way, times in found.items():
            cpu = sorted(core for core, _ in times)[len(times) // 2]
            values = {"core_ms_per_image": 1e3 * cpu / count}
            if way == "reading":
                values |= {f"difference_{key}": value for key, value in differences.items()}
            made.append(
                case(
                    "preparation",
                    f"{count} files, {name}",
                    way,
                    [took for _, took in times],
                    count,
                    what=preparation.WAYS[way],
                    batch=count,
                    device="cpu",
                    precision="uint8",
                    baseline="plain",
                    values=values,
                )
            )
    return made


def run(arguments: argparse.Namespace, reporter: Reporter, created: str) -> Result:
    """Measure what `arguments` ask for."""
    where, cases = environment(cores(), PACKAGES), list[Case]()
    measures = {"streaming": _streaming, "waiting": _waiting, "preparation": _preparation}
    with reporter.work("measuring", len(arguments.parts)) as say:
        for number, part in enumerate(arguments.parts):
            say(number, part)
            cases += measures[part](arguments)
    settings = Settings(suite="data", batches=(), rounds=arguments.rounds, seconds=0.0)
    return Result(format=FORMAT, created=created, environment=where, settings=settings, cases=tuple(cases))
