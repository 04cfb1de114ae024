"""Kills a preparation at random instants until it has been killed often enough, and compares what comes of it.

    python -m data.tests.kill [--kills 30] [--images 600] [--seed 0]

A preparation is begun, killed (SIGKILL) at an instant drawn from the time that an undisturbed one takes, begun again,
killed again, and so on. Whenever one gets through, its folder is compared file by file with that of an undisturbed
preparation, and the next begins in a new folder. Exit code 0: all were the same bytes; 1: some were not.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from alexnet_rooms import ROOT
from data.tests.archives import jpeg

OPTIONS = ("--size", "64", "--shard-mb", "1", "--workers", "2")
"""Shards of 85 images."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it."""

    kills: int
    while_working: int
    """So many of them hit after the first shard was begun and before the folder was finished."""
    finished: int
    """Preparations that got through in spite of kills."""
    different: list[str]
    """Files that were not those of the undisturbed run."""


def photographs(root: Path, count: int) -> Path:
    """Class folders with `count` JPEGs, one in twenty of them damaged."""
    for i in range(count):
        path = root / ("train" if i % 8 else "val") / "abc"[i % 3] / f"{i:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = jpeg(150 + i % 90, 200, seed=i)
        path.write_bytes(content[: 500 if i % 20 == 7 else None])
    return root


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file in `folder`, by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def begin(source: Path, folder: Path) -> subprocess.Popen[bytes]:
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "data.prepare",
        "--data",
        source,
        "--output-dir",
        folder,
        *OPTIONS,
    ]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def killed(work: Path, *, kills: int, images: int, seed: int) -> Outcome:
    """Do all of it in the empty folder `work`."""
    source = photographs(work / "photographs", images)
    began = time.monotonic()
    _finish(begin(source, work / "undisturbed"))
    takes = time.monotonic() - began
    expected = digests(work / "undisturbed")
    draw = random.Random(seed)
    done, hits, finished, different = 0, 0, 0, set[str]()
    folder = work / "killed"
    while True:
        process = begin(source, folder)
        try:
            if done >= kills:
                raise subprocess.TimeoutExpired("", 0)
            process.wait(draw.uniform(0, 1.1 * takes))
        except subprocess.TimeoutExpired:
            if done < kills:
                process.kill()
                process.communicate()
                done += 1
                hits += (folder / "train-00000.npy.partial").exists() or (
                    (folder / "train-00000.npy").exists() and not (folder / "index.json").exists()
                )
                continue
        _finish(process)
        finished += 1
        received = digests(folder)
        different |= {name for name in {*received, *expected} if received.get(name) != expected.get(name)}
        shutil.rmtree(folder)
        if done >= kills:
            return Outcome(done, hits, finished, sorted(different))


def _finish(process: subprocess.Popen[bytes]) -> None:
    _, said = process.communicate()
    if process.returncode:
        raise RuntimeError(f"a preparation failed: {said.decode()}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        outcome = killed(Path(work), kills=options.kills, images=options.images, seed=options.seed)
    print(f"{outcome.kills} kills, {outcome.while_working} of them while shards were written; "
          f"{outcome.finished} preparations got through; files that differ: {outcome.different or 'none'}")  # fmt: skip
    return 1 if outcome.different else 0


if __name__ == "__main__":
    sys.exit(main())
