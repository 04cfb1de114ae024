"""Measure how fast stored images reach the network: shuffled batches against plain copies, and what training waits for.

    python benchmarks/streaming.py                        both, on made-up shards and on fashion-mini
    python benchmarks/streaming.py --spec source-2012 --data DIR --steps 5 --json streaming.json

Copies and shuffled batches are taken by turns from the same mapped files, one thread each, and medians are compared.
NumPy's copies, in the order in which images lie, are of as many as a batch at once, and one by one. Shuffled batches
are what training takes: on x86-64 with Numba written past the caches, which glibc's memcpy does only above a threshold
that is larger than an image, and on some machines than a batch. Where it is glibc on x86, the same is measured again in
a process that is started with a lower one (PAST_CACHES): NumPy's copies are then all that the machine can do.
Waiting is the time that the training loop spends between asking for a batch and having it. Exit code 0: measured; 2:
asked wrongly.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

if __package__ in (None, ""):  # run by path: make the rooms importable, and the modules of this one not
    _ROOM = Path(__file__).resolve().parent
    sys.path[:] = [str(_ROOM.parent), *(path for path in sys.path if Path(path or ".").resolve() != _ROOM)]

import numpy as np

from alexnet_rooms import ROOT
from backends import Backend, create
from backends.pages import write_text
from backends.registry import NAMES
from backends.starting import DEFAULT_SPEC
from benchmarks.command import Parser, Wrong, exit_code, require_suffix
from data import EMBEDDED, dataset_statistics, epoch_order, open_source, training_batches
from data.dataset import Dataset
from data.parallel import cores
from data.shards import Shards, taken
from spec import Place, Spec, dropout_shapes, geometry, initial_parameters, load, settings, with_classes
from spec.draws import dropout_mask

SIDE, CHANNELS, BATCH = 256, 3, 128
"""Of the images that are streamed: the 2012 source's."""
SHARD = 1024
"""Images in a made-up shard."""
PAST_CACHES = "glibc.cpu.x86_non_temporal_threshold=0x20000"
"""In the environment variable GLIBC_TUNABLES when a process starts: copies of 128 KiB or more go past the caches."""
WARM = 2
"""Steps before the measured ones, in which frameworks choose their kernels."""


def streaming(images: int, rounds: int) -> dict[str, Any]:
    """Images a second of one thread, copied in their order and in shuffled batches, by turns; medians of `rounds`."""
    with tempfile.TemporaryDirectory() as folder:
        shards = Shards([_shard(Path(folder), start, min(SHARD, images - start)) for start in range(0, images, SHARD)])
        out = np.empty((BATCH, SIDE, SIDE, CHANNELS), np.uint8)

        def copy(number: int) -> None:
            for part in shards.parts:
                for start in range(0, len(part), BATCH):
                    piece = part[start : start + BATCH]
                    np.copyto(out[: len(piece)], piece)

        def copy_one_by_one(number: int) -> None:
            for part in shards.parts:
                for place, image in enumerate(part):
                    out[place % BATCH] = image

        def shuffle(number: int) -> None:
            order = epoch_order(0, number, images)
            for start in range(0, images, BATCH):
                taken(shards, order[start : start + BATCH])

        ways = {"copied": copy, "copied_one_by_one": copy_one_by_one, "shuffled": shuffle}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds + 1):  # the first brings the files into memory
            for name, way in ways.items():
                took = _timed(way, number)
                if number:
                    seconds[name].append(took)
    speed = {name: images / median(took) for name, took in seconds.items()}
    return {"images": images, "rounds": rounds, **speed, "share": speed["shuffled"] / speed["copied"],
            "share_one_by_one": speed["shuffled"] / speed["copied_one_by_one"],
            "bytes_per_second": speed["shuffled"] * SIDE * SIDE * CHANNELS}  # fmt: skip


def past_caches(images: int, rounds: int) -> dict[str, Any] | None:
    """:func:`streaming` in a process that writes single images past the caches; None where there is no such setting."""
    if platform.libc_ver()[0] != "glibc" or platform.machine() not in ("x86_64", "AMD64"):
        return None
    program = f"import json; from benchmarks.streaming import *; print(json.dumps(streaming({images}, {rounds})))"
    environment = {**os.environ, "GLIBC_TUNABLES": PAST_CACHES, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _shard(folder: Path, start: int, count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    path = folder / f"{start}.npy"
    np.save(path, np.random.default_rng(start).integers(0, 256, (count, SIDE, SIDE, CHANNELS), np.uint8))
    return np.load(path, mmap_mode="r").view(np.ndarray)  # type: ignore[no-any-return]


def _timed(way: Callable[[int], None], number: int) -> float:
    began = time.perf_counter()
    way(number)
    return time.perf_counter() - began


def waiting(spec: Spec, dataset: Dataset, backend: Backend, steps: int, workers: int) -> dict[str, Any]:
    """Of `steps` training steps as the trainer does them: the seconds of a step, and the share of it spent waiting."""
    statistics = dataset_statistics(dataset)
    backend.load(initial_parameters(spec, 0))
    shapes, size = dropout_shapes(spec), min(spec.training.batch_size, len(dataset))
    waited: list[float] = []
    took: list[float] = []
    epoch = done = 0
    while done < steps + WARM:
        batches = training_batches(
            dataset, spec, statistics, seed=0, epoch=epoch, batch_size=size, workers=workers,
            apply=backend.apply_training,
        )  # fmt: skip
        began = time.perf_counter()
        for batch in batches:
            ready = time.perf_counter()
            masks = {
                name: dropout_mask(0, name, spec.layer(name).rate, shape, images=batch.indices, epoch=epoch)
                for name, shape in shapes.items()
            }
            backend.step(batch.images, batch.labels, settings(spec, Place(epoch, done, 10**6, 10**6), ()), masks)
            backend.metrics()
            end = time.perf_counter()
            if batch.step:  # the first of an epoch waits for the threads to begin
                waited.append(ready - began)
                took.append(end - began)
            began, done = end, done + 1
            if done >= steps + WARM:
                break
        batches.close()  # type: ignore[attr-defined]
        epoch += 1
    waited, took = waited[-steps:], took[-steps:]
    return {"spec": spec.name, "backend": backend.name, "device": backend.device, "batch_size": size,
            "workers": workers, "steps": len(took), "step_seconds": median(took),
            "waiting": sum(waited) / sum(took)}  # fmt: skip


def _whole(low: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {low}. Received: {text!r}")
        return int(text)

    return read


def _parser() -> Parser:
    parser = Parser("streaming.py", "Measure how fast stored images reach the network.")
    parser.add_argument("--spec", default=DEFAULT_SPEC, metavar="NAME", help="what is trained meanwhile")
    parser.add_argument("--data", default=EMBEDDED, metavar="NAME|DIR", help="the images that it is trained on")
    parser.add_argument("--backend", default="torch", choices=[name for name in NAMES if name != "onnx"])
    parser.add_argument("--steps", type=_whole(1), default=60, metavar="N", help="steps that are measured")
    parser.add_argument("--workers", type=_whole(1), default=max(1, cores() // 2), metavar="N", help="threads for them")
    parser.add_argument("--images", type=_whole(BATCH), default=4096, metavar="N", help="that are streamed, 256 x 256")
    parser.add_argument("--rounds", type=_whole(1), default=7, metavar="N", help="of copies and batches by turns")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also keep the result here")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Measure what `arguments` ask for, and say it. Returns the exit code."""
    if arguments.json is not None:
        require_suffix(arguments.json, ".json")
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
    fast = streaming(arguments.images, arguments.rounds)
    print(
        f"streaming, one thread: {fast['shuffled']:,.0f} images of {SIDE} x {SIDE} a second in shuffled batches, "
        f"{fast['bytes_per_second'] / 1e9:.1f} GB/s\n"
        f"  {fast['share']:.0%} of the {fast['copied']:,.0f} that are copied in their order, {BATCH} at once\n"
        f"  {fast['share_one_by_one']:.0%} of the {fast['copied_one_by_one']:,.0f} that are copied in their order, "
        "one by one"
    )
    told = past_caches(arguments.images, arguments.rounds)
    if told is not None:
        print(f"  {told['share']:.0%} of {told['copied']:,.0f} with GLIBC_TUNABLES={PAST_CACHES}")
    slow = waiting(spec, found.train, backend, arguments.steps, arguments.workers)
    print(
        f"training {spec.name} with {slow['backend']} on {slow['device']}, batches of {slow['batch_size']}: "
        f"{1000 * slow['step_seconds']:.1f} ms a step, {slow['waiting']:.2%} of it waiting for data "
        f"({slow['workers']} thread{'s' if slow['workers'] > 1 else ''})"
    )
    if arguments.json is not None:
        write_text(
            arguments.json, json.dumps({"streaming": fast, "past_caches": told, "waiting": slow}, indent=1) + "\n"
        )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`. Returns its exit code."""
    return exit_code(lambda: run(_parser().parse_args(argv)))


if __name__ == "__main__":
    raise SystemExit(main())
