"""The preparation of images against the plain Pillow pipeline: images per core-second, scaling, difference.

The plain pipeline is Image.open, convert("RGB"), resize (bilinear), crop to the centre, np.asarray, and keeps nothing.
The preparation is all of python -m data.prepare: besides, statistics, checksums, shards on the disk. Both work on the
same files, by turns. Every file is there LINKS times, so that what a preparation costs once (some 25 times the disk is
waited for) is shared by about as many images as a shard has. What the preparation says to the allocator is said before
all of it. Core-seconds are user and system time of the process. Three sets are measured: 500x375 alone,
which is the commonest size of ImageNet's photographs; a mix of that size with others (MIX, an assumption, since
ImageNet cannot be handed out); and 1600x1200 alone.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from data import DataError
from data.allocator import keep_freed_blocks
from data.dataset import U8
from data.images import read_image
from data.preparation import prepare
from data.sources import recognise
from spec.language import Storage

STORAGE = Storage(size=256, fit="short_side")
MIX = {
    (500, 375): 10, (375, 500): 4, (500, 333): 3, (333, 500): 1, (640, 480): 1, (400, 300): 2, (240, 180): 1,
    (1024, 768): 1, (1600, 1200): 1,
}  # fmt: skip
"""(width, height) to how many of 24."""
SETS = {"500x375": {(500, 375): 1}, "mix": MIX, "1600x1200": {(1600, 1200): 1}}
LINKS = 4
BYTES_A_PIXEL = 0.55
"""What the quality of the files is chosen for: about 100 kB for 500x375, as ImageNet's have."""


def plain(path: Path) -> U8:
    """The plain pipeline."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    scale = 256 / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - 256) // 2, (height - 256) // 2
    return np.asarray(image.crop((left, top, left + 256, top + 256)))


def made_up(seed: int, side: int = 1600) -> Image.Image:
    """Coloured noise whose amplitude falls as 1 / frequency, as that of photographs does."""
    draw = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]) + 1 / side
    planes = np.stack([np.fft.irfft2(np.fft.rfft2(draw.standard_normal((side, side))) / frequency) for _ in range(3)])
    planes = np.einsum("ij,jyx->yxi", [[1, 0.3, 0.1], [1, 0, -0.1], [1, -0.3, 0.2]], planes)
    return Image.fromarray(np.clip(128 + 50 * (planes - planes.mean()) / planes.std(), 0, 255).astype(np.uint8))


def write(folder: Path, sizes: dict[tuple[int, int], int], count: int, photographs: Sequence[Image.Image]) -> int:
    """`count` JPEGs of `sizes`, LINKS times each, in two class folders of `folder`. Returns the bytes of all files."""
    of = [size for size, times in sizes.items() for _ in range(times)]
    draw, total = np.random.default_rng(0), 0
    for name in "ab":
        (folder / name).mkdir(parents=True)
    for i in range(count):
        content = _encoded(photographs[i % len(photographs)], of[i % len(of)], draw)
        path = folder / "ab"[i % 2] / f"{i:05}.jpg"
        path.write_bytes(content)
        for link in range(1, LINKS):
            path.with_stem(f"{path.stem}-{link}").hardlink_to(path)
        total += len(content)
    return total


def _encoded(photograph: Image.Image, size: tuple[int, int], draw: np.random.Generator) -> bytes:
    """A random cutting of `photograph`, at `size`, in the best quality that keeps to BYTES_A_PIXEL."""
    part = draw.uniform(0.6, 1) * min(photograph.width / size[0], photograph.height / size[1])
    width, height = size[0] * part, size[1] * part
    left, top = draw.uniform(0, photograph.width - width), draw.uniform(0, photograph.height - height)
    image = photograph.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
    for quality in (96, 93, 90, 85, 80, 70, 60):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= BYTES_A_PIXEL * size[0] * size[1]:
            break
    return buffer.getvalue()


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """(core-seconds, seconds) that `work` takes."""
    began, used = time.perf_counter(), time.process_time()
    work()
    return time.process_time() - used, time.perf_counter() - began


@contextmanager
def bound_to(count: int) -> Iterator[None]:
    """Keep this thread, and those that it starts inside, to `count` cores, where the system can do that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[-count:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


WAYS = {
    "plain": "Pillow alone, nothing kept",
    "reading": "read as preparation does",
    "preparation": "all of python -m data.prepare, on one core",
    "preparation on 2 cores": "the same on two",
}


def compared(folder: Path, rounds: int) -> tuple[dict[str, list[tuple[float, float]]], dict[str, float]]:
    """(core-seconds, seconds) of every way on the images in `folder`, by turns; and how their images differ.

    The differences, of bytes: ``mean``, ``largest``, and ``over_1``, the share that is above 1.
    """
    paths = sorted(folder.rglob("*.jpg"))
    source = recognise(str(folder), 0)
    keep_freed_blocks()

    def prepared(workers: int) -> None:
        with tempfile.TemporaryDirectory() as made, bound_to(workers):
            prepare(source, Path(made), storage=STORAGE, channels=3, leave_out=False, workers=workers)

    calls: tuple[Callable[[], object], ...] = (
        lambda: [plain(path) for path in paths],
        lambda: [read_image(path, STORAGE, 3) for path in paths],
        lambda: prepared(1),
        lambda: prepared(2),
    )
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, call in zip(WAYS, calls, strict=True):
            found[name].append(measured(call))
    differences = np.stack([np.abs(plain(path).astype(int) - read_image(path, STORAGE, 3)) for path in paths[::LINKS]])
    return found, {
        "mean": float(differences.mean()),
        "largest": float(differences.max()),
        "over_1": float((differences > 1).mean()),
    }


def photographs(folder: Path | None) -> list[Image.Image]:
    """Those in `folder`, or made-up ones. Raises DataError if it has none."""
    if folder is None:
        return [made_up(seed) for seed in range(4)]
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    chosen = [path for path in found if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
    if not chosen:
        raise DataError(f"--photographs must be a folder of JPEG or PNG files. Received: none in {folder}")
    return [Image.open(path).convert("RGB") for path in chosen]
