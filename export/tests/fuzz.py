"""``python -m export.tests.fuzz --seconds 600``: damage whole files of every kind, and read them as the commands do.

Whatever is done to a file, each reader must end by an exit code and at most one line, in bounded time and memory, and
write nowhere but into its output's folder. The reading process must live. Every case has a number, from which it is
made again: ``--first N --cases 1``.

Exit code 0: nothing was found; 1: something was; it is printed with its number.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from alexnet_rooms import ROOT
from export.tests.damage import NARROW, damaged, whole

SECONDS = 90.0
"""For one file and all of its readers, beyond which a case is a finding: HDF5's process alone may take a minute."""
MEMORY = 2 << 30
"""Bytes that the reading process may have taken at any time: two frameworks have about one gigabyte."""


class Reader:
    """The process that reads, started anew when it has ended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()

    def _start(self) -> subprocess.Popen[str]:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        own = {"PYTHONPATH": path, "TMPDIR": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-m", "export.tests.fuzz_child", str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **own},
            cwd=self.folder,
        )
        self._lines = queue.Queue()
        lines = self._lines

        def listen() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                lines.put(line)
            lines.put(None)

        threading.Thread(target=listen, daemon=True).start()
        return process

    def read(self, path: Path) -> tuple[dict[str, Any], list[str]]:
        """What the readers made of a file, by name, and what is wrong."""
        if self._process is None:
            self._process = self._start()
        assert self._process.stdin is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        deadline, doing = time.monotonic() + SECONDS, "starting"
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                self.close()
                return {}, [f"{doing}: no end within {SECONDS:g} s"]
            if line is None:
                code = self._process.wait()
                self._process = None
                return {}, [f"{doing}: the process ended with exit code {code}"]
            answer = json.loads(line)
            if "reading" in answer:
                doing = answer["reading"]
                continue
            wrong = [f"{reader}: {one['wrong']}" for reader, one in answer["found"].items() if one["wrong"]]
            if answer["memory"] > MEMORY:
                wrong.append(f"the process took {answer['memory'] / 2**30:.1f} GiB of memory")
                self.close()  # so that the next case starts from little again
            return answer["found"], wrong

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def numbers(first: int, cases: int | None, seconds: float) -> Iterator[int]:
    """From `first` on, so many or as long as there is time."""
    started, number = time.monotonic(), first
    while (cases is None or number < first + cases) and (cases is not None or time.monotonic() - started < seconds):
        yield number
        number += 1


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Sizes and times of what lies around a file, the outputs apart."""
    files = (path for path in folder.rglob("*") if path.is_file() and "out" not in path.parts)
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def fuzz(
    files: dict[str, bytes], folder: Path, chosen: Iterator[int], keep: Path | None = None
) -> tuple[Counter[str], list[str]]:
    """Read the damaged files of `chosen` cases in `folder`. Returns how often what came of them, and the findings."""
    counts: Counter[str] = Counter()
    findings: list[str] = []
    place = folder / "in"
    place.mkdir()
    (folder / "out").mkdir()
    (folder / "secret.bin").write_bytes(bytes(1 << 16))
    (place / "link.bin").symlink_to(folder / "secret.bin")
    (folder / "narrow.yaml").write_text(NARROW)
    reader = Reader(folder)
    try:
        for kind, raw in files.items():
            _require_taken(reader, place / kind, raw)
        for number in chosen:
            kind, how, raw = damaged(files, number)
            path = place / kind
            path.write_bytes(raw)
            before = state(folder)
            found, wrong = reader.read(path)
            if state(folder) != before:
                wrong.append("files beside the one that was read are not as they were")
            counts[f"{kind}: files"] += 1
            for name, one in found.items():
                counts[f"{kind}: {name} {'took it' if one['code'] == 0 else 'refused it'}"] += 1
            for one in wrong:
                findings.append(f"case {number}, {kind}, {how}: {one}")
                print(findings[-1], flush=True)
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{number}-{kind}").write_bytes(raw)
            path.unlink()
    finally:
        reader.close()
    return counts, findings


def _require_taken(reader: Reader, path: Path, raw: bytes) -> None:
    """Raise RuntimeError unless a whole file is taken by all that read such files: else damage would prove nothing."""
    path.write_bytes(raw)
    found, wrong = reader.read(path)
    own = {name: one for name, one in found.items() if name != "checkpoint" or path.name == "checkpoint.safetensors"}
    refused = [f"{name}: {one['said']}" for name, one in own.items() if one["code"] != 0]
    if wrong or refused:
        raise RuntimeError(f"a whole {path.name} must be taken. Received: {'; '.join([*wrong, *refused])}")
    path.unlink()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m export.tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (default: 60)")
    parser.add_argument("--first", type=int, help="the number of the first case (default: drawn)")
    parser.add_argument("--cases", type=int, help="how many, instead of how long")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the files of findings here")
    asked = parser.parse_args(argv)
    first = time.time_ns() % 2**40 if asked.first is None else asked.first
    with tempfile.TemporaryDirectory(prefix="alexnet-fuzz-") as name:
        made = Path(name) / "whole"
        made.mkdir()
        files = whole(made)
        work = Path(name) / "work"
        work.mkdir()
        print(f"damaging {', '.join(files)}; cases from {first} on", flush=True)
        counts, findings = fuzz(files, work, numbers(first, asked.cases, asked.seconds), asked.keep)
    for what, count in sorted(counts.items()):
        print(f"{count:7d}  {what}")
    total = sum(count for what, count in counts.items() if what.endswith(": files"))
    print(f"{total} files from case {first} on, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
