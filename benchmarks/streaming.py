"""How fast stored images reach the network: shuffled batches against plain copies, and what training waits for.

Copies and shuffled batches are taken by turns from the same mapped files, one thread each, and medians are compared.
NumPy's copies, in the order in which images lie, are of as many as a batch at once, and one by one. Shuffled batches
are what training takes: on x86-64 with Numba written past the caches, which glibc's memcpy does only above a threshold
that is larger than an image, and on some machines than a batch. Where it is glibc on x86, the same is measured again in
a process that is started with a lower one (PAST_CACHES): NumPy's copies are then all that the machine can do.
Waiting is the time that the training loop spends between asking for a batch and having it.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_rooms import ROOT
from backends import Backend
from data import dataset_statistics, epoch_order, training_batches
from data.dataset import Dataset
from data.shards import Shards, taken
from spec import Place, Spec, dropout_shapes, initial_parameters, settings
from spec.draws import dropout_mask

SIDE, CHANNELS, BATCH = 256, 3, 128
"""Of the images that are streamed: the 2012 source's."""
SHARD = 1024
"""Images in a made-up shard."""
PAST_CACHES = "glibc.cpu.x86_non_temporal_threshold=0x20000"
"""In the environment variable GLIBC_TUNABLES when a process starts: copies of 128 KiB or more go past the caches."""
WARM = 2
"""Steps before the measured ones, in which frameworks choose their kernels."""


WAYS = {
    "copied": f"in their order, {BATCH} at once",
    "copied one by one": "in their order, one by one",
    "shuffled": "batches in the order of an epoch",
}


def streaming(images: int, rounds: int) -> dict[str, list[float]]:
    """The seconds that one thread takes for `images`, by way, in turns."""
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

        calls = (copy, copy_one_by_one, shuffle)
        seconds: dict[str, list[float]] = {name: [] for name in WAYS}
        for number in range(rounds + 1):  # the first brings the files into memory
            for name, way in zip(WAYS, calls, strict=True):
                took = _timed(way, number)
                if number:
                    seconds[name].append(took)
    return seconds


def past_caches(images: int, rounds: int) -> dict[str, list[float]] | None:
    """:func:`streaming` in a process that writes single images past the caches; None where there is no such setting."""
    if platform.libc_ver()[0] != "glibc" or platform.machine() not in ("x86_64", "AMD64"):
        return None
    program = f"import json; from benchmarks.streaming import *; print(json.dumps(streaming({images}, {rounds})))"
    environment = {**os.environ, "GLIBC_TUNABLES": PAST_CACHES, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found


def _shard(folder: Path, start: int, count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    path = folder / f"{start}.npy"
    np.save(path, np.random.default_rng(start).integers(0, 256, (count, SIDE, SIDE, CHANNELS), np.uint8))
    return np.load(path, mmap_mode="r").view(np.ndarray)  # type: ignore[no-any-return]


def _timed(way: Callable[[int], None], number: int) -> float:
    began = time.perf_counter()
    way(number)
    return time.perf_counter() - began


def waiting(spec: Spec, dataset: Dataset, backend: Backend, steps: int, workers: int) -> tuple[list[float], float]:
    """Of `steps` training steps as the trainer does them: the seconds of each, and the share of them spent waiting."""
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
    return took, sum(waited) / sum(took)
