"""``python -m data.prepare``: photographs, however they are handed out, become a folder that training reads.

Exit code 0: done; images that could not be used are in the report. 1: it failed (the disk is full or cannot be
written); the same command goes on where it stopped. 2: asked wrongly (option, source, folder), or what is left after
bad images is no data set; one line says what. 130: stopped by Ctrl-C; the same command goes on.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from alexnet_rooms import require_own_rooms

require_own_rooms("data", "spec")

from data import preparation  # noqa: E402
from data.allocator import keep_freed_blocks  # noqa: E402
from data.compiled import compiled_loops  # noqa: E402
from data.contents import Contents, Source  # noqa: E402
from data.embedded.samples import SAMPLES  # noqa: E402
from data.errors import DataError, some  # noqa: E402
from data.parallel import cores  # noqa: E402
from data.prepared import REPORT, is_prepared, open_prepared  # noqa: E402
from data.reporting import Reporter  # noqa: E402
from data.sharding import NoSpace  # noqa: E402
from data.sources import expanded, recognise  # noqa: E402
from spec import SpecError, load  # noqa: E402
from spec.language import Storage  # noqa: E402

COMMAND = "python -m data.prepare"
SPEC = "source-2012"
"""Whose images are prepared where nothing else is said: 256x256, RGB, short side to size, as in the paper."""
FITS = ("short_side", "stretch")
CHANNELS = {"rgb": 3, "grey": 1}
_MB = 1 << 20

_DESCRIPTION = """Prepare images once, so that training reads them as fast as memory can be copied.

Every image is decoded, turned upright, brought to size (short side to 256, then the central square, as the paper of
2012 did) and kept as bytes in shards: plain .npy files with a JSON index and their SHA-256. In the same pass the mean
image and the covariance of the colours are taken. The folder that this makes is given to training as --data DIR.
"""
_EPILOG = """what --data may be (it is recognised, and the first lines say as what):
  a folder of class folders          cats/1.jpg dogs/2.png; one image in ten is held out for validation
  ... below train/ and val/          or training/; valid/, validation/, test/, eval/
  a tar of either                    photos.tar, read where it lies
  ILSVRC-2012                        ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz;
                                     or train/, a flat val/ and the kit; or Kaggle's archive with LOC_val_solution.csv
  Parquet files                      train-*.parquet and validation-*.parquet, as Hugging Face hands out (needs pyarrow)
  CIFAR-10, CIFAR-100                the folder or archive of their "python version"
  IDX files                          train-images-idx3-ubyte and so on: MNIST, Fashion-MNIST, KMNIST
  {names}   embedded in this repository
Nothing is ever downloaded.

examples:
  {command} --data ~/ILSVRC --output-dir imagenet-256
  python -m backends.torch.train --spec {spec} --data imagenet-256
  {command} --data photos --output-dir small --size 64 --workers 4
  {command} --data mnist --output-dir mnist-28 --spec fashion-mini
  {command} --verify imagenet-256              read every byte again, and compare

what happens to bad images: an image that is truncated, damaged, a decompression bomb, a link to nowhere, or none of
JPEG, PNG, WebP, BMP and GIF, whatever its name says, is left out; CMYK, 16-bit, palette, transparent, animated and
turned ones are dealt with. DIR/{report} names every image that was left out, with the reason, and counts the others.
A class that is left without training images is an error.

stopping: Ctrl-C, a kill or a power cut at any instant costs at most the shard at hand. The same command goes on, and
the bytes are those of an undisturbed run. Until index.json is there, the folder is unfinished and is refused.

exit code: 0 done, 1 it failed (disk), 2 asked wrongly or nothing usable, 130 stopped
"""


class _Asked(Exception):
    """Something was asked for wrongly; one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _Asked(f"{message} (--help lists the options)")


@dataclass(frozen=True, slots=True)
class Request:
    """The command line, read."""

    data: str
    output_dir: Path
    storage: Storage
    channels: int
    seed: int
    workers: int
    shard_bytes: int
    spec: str


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code."""
    reporter = Reporter()
    keep_freed_blocks()
    try:
        options = _parser().parse_args(argv)
        if options.verify is not None:
            _verify(options, reporter)
        else:
            prepare(_request(options), reporter)
    except (_Asked, SpecError, DataError) as error:
        return _fail(error, 1 if isinstance(error, NoSpace) else 2)
    except OSError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        reporter.line("stopped; the same command goes on from here")
        return 130
    return 0


def prepare(request: Request, reporter: Reporter) -> None:
    """Make or finish the folder, and say what came of it. Raises DataError, and OSError if the disk fails."""
    source = _source(request)
    reporter.line(f"found: {source.what}")
    if compiled_loops() is None:
        reporter.line("without Numba on x86-64 this takes longer, and gives the same bytes")
    began, first = time.monotonic(), 0
    with reporter.work("preparing images") as advance:

        def progress(done: int, total: int) -> None:
            nonlocal first
            first = first or max(1, done - 1)
            advance(done, f"{(done - first) / max(1e-9, time.monotonic() - began):,.0f} images/s", total)

        preparation.prepare(
            source,
            request.output_dir,
            storage=request.storage,
            channels=request.channels,
            leave_out=True,
            shard_bytes=request.shard_bytes,
            workers=request.workers,
            progress=progress,
            looked=lambda contents: reporter.line(_words(contents)),
        )
    seconds = time.monotonic() - began
    splits = open_prepared(request.output_dir, named=f"prepared in {request.output_dir}, of ")
    reporter.line(f"{splits.description} ({seconds:.1f} s)")
    for line in _report_lines(request.output_dir):
        reporter.line(line)
    spec = load(request.spec)
    if (request.storage, request.channels) == (spec.data.storage, spec.input.channels):
        options = shlex.join(["--spec", request.spec, "--data", str(request.output_dir)])
        reporter.line(f"train with: python -m backends.torch.train {options}")


def _source(request: Request) -> Source:
    path = expanded(request.data)
    if request.data not in SAMPLES:
        if is_prepared(path):
            raise DataError(f"data must be images that are to be prepared. Received: a prepared folder. In: {path}")
        here, there = request.output_dir.resolve(), path.resolve()
        if there.is_dir() and (here == there or there in here.parents):
            raise DataError(f"--output-dir must lie outside of the images. Received: {here}. In: {there}")
    return recognise(request.data, request.seed)


def _words(contents: Contents) -> str:
    counts = " and ".join(f"{len(part.labels):,} {name}" for name, part in contents.parts.items())
    names = ", ".join(contents.classes[:5]) + (", ..." if len(contents.classes) > 5 else "")
    how = f" ({contents.how})" if contents.how else ""
    return f"{counts} images{how}, {len(contents.classes):,} classes: {names}"


def _report_lines(folder: Path) -> list[str]:
    report: dict[str, Any] = preparation.read_report(folder)
    lines = []
    if handled := report["handled"]:
        counts = ", ".join(f"{what}: {found['images']:,}" for what, found in handled.items())
        lines.append(f"dealt with: {counts}")
    if passed := report["passed_over"]:
        total, endings = sum(passed.values()), ", ".join(name or "without an ending" for name in passed)
        lines.append(f"passed over {total:,} files of other kinds: {endings}")
    if left_out := report["left_out"]:
        named = some([f"{one['image']!r} ({one['reason']})" for one in left_out])
        lines.append(f"left out {len(left_out):,}: {named}; all of them in {folder / REPORT}")
    return lines


def _verify(options: argparse.Namespace, reporter: Reporter) -> None:
    with reporter.work("checking") as advance:
        splits = open_prepared(
            options.verify, verify=True, progress=lambda done, total: advance(done, total=total), named="whole: "
        )
    reporter.line(splits.description)


def _fail(error: Exception, code: int) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return code


# --- options ----------------------------------------------------------------------------------------------------------


def _parser() -> _Parser:
    names = ", ".join(SAMPLES)
    made = _Parser(
        prog=COMMAND,
        description=_DESCRIPTION,
        epilog=_EPILOG.format(command=COMMAND, spec=SPEC, names=names, report=REPORT),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--data", metavar="NAME|PATH", help="the images: any of the forms below")
    add("--output-dir", metavar="DIR", type=Path, help="the folder to make, or to finish")
    add("--spec", metavar="NAME|FILE", default=SPEC,
        help=f"prepare as this specification's data says (default: {SPEC}: 256x256, short side, RGB)")  # fmt: skip
    add("--size", metavar="N", type=_whole(1, 4096), help="side of what is kept, instead of the specification's")
    add("--fit", choices=FITS, help="short_side: short side to size, then the centre; stretch: both sides to size")
    add("--channels", choices=CHANNELS, help="instead of the specification's")
    add("--seed", metavar="N", type=_whole(0, 2**32 - 1), default=0,
        help="of what is held out where there are no validation images; training's own (default: 0)")  # fmt: skip
    add("--workers", metavar="N", type=_whole(1, 1024), help="threads (default: as many as cores)")
    add("--shard-mb", metavar="N", type=_whole(1, 1 << 20), default=preparation.SHARD_BYTES // _MB,
        help="the most that one shard holds, in MiB (default: %(default)s)")  # fmt: skip
    add("--verify", metavar="DIR", type=Path, help="instead of all this: check a prepared folder, every byte of it")
    return made


def _whole(low: int, high: int) -> Any:
    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high}. Received: {text!r}")
        return value

    return read


def _request(options: argparse.Namespace) -> Request:
    if missing := [name for name in ("--data", "--output-dir") if not getattr(options, name[2:].replace("-", "_"))]:
        raise _Asked(f"{' and '.join(missing)} must be stated. Example: {COMMAND} --data photos --output-dir prepared")
    spec = load(options.spec)
    changes = {name: value for name in ("size", "fit") if (value := getattr(options, name)) is not None}
    return Request(
        data=options.data,
        output_dir=expanded(str(options.output_dir)),
        storage=spec.data.storage.model_copy(update=changes),
        channels=CHANNELS[options.channels] if options.channels else spec.input.channels,
        seed=options.seed,
        workers=options.workers or cores(),
        shard_bytes=options.shard_mb * _MB,
        spec=options.spec,
    )


if __name__ == "__main__":
    sys.exit(main())
