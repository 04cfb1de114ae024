"""Kills training at random instants, goes on with it, and compares what comes of it with runs that nobody disturbed.

    python -m backends.tests.kill [--kills 100] [--seed 0] [--backends torch,keras-jax]

Half of the kills (SIGKILL) hit chains in which the first backend alone goes on after every kill: they must end bit by
bit as the undisturbed run, with the same steps in the log. The others hit chains in which the backends take turns: they
must end at the same place, with the same steps in the log and parameters that differ by rounding. A kill comes at a
moment drawn from the time in which an undisturbed process trains, one in five from the time before. When a run gets
through, the next begins in a new folder.
Every step is followed by a checkpoint, so that kills find one being written. No run may ever fail to go on, or go back
behind a checkpoint that was there.

Frameworks are imported once, by a process for each backend that forks the processes that train: kills hit training, and
not imports. Exit code 0: nothing was lost; 1: something was.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_rooms import ROOT
from backends.checkpoint import LAST, PREVIOUS, load
from backends.reporting import METRICS
from backends.tests import small

EPOCHS = 8
EARLY = 0.2
"""Share of the kills that may come before the first step of a process."""
BACKENDS = ("torch", "keras-jax")
TOLERANCE = 1e-4
"""Between backends: the largest difference of a parameter, by the largest parameter of its array. In a hundred kills it
was 6.8e-07 at most; a wrong layout, a lost velocity or a lost step change parameters by percents."""


@dataclass
class Outcome:
    """What came of it."""

    kills: int = 0
    within: int = 0
    """So many of them hit when the run had a checkpoint and was not finished."""
    finished: int = 0
    """Runs that got through in spite of kills."""
    lost: list[str] = field(default_factory=list)
    """What was lost: runs that failed, went back, or ended elsewhere."""
    difference: float = 0.0
    """The largest between chains of several backends and the undisturbed run, as TOLERANCE counts."""


class Server:
    """A process that has imported a backend and forks others that train."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-m", "backends.tests.kill", "--serve", backend]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process that serves {self.backend} ended")
        return line

    @contextmanager
    def training(self, options: Sequence[str]) -> Iterator[int]:
        """A process that trains; its number. On leaving, `self.code` is its exit code, -9 if it was killed."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(options) + "\n")
        self.process.stdin.flush()
        yield int(self._line())
        self.code = int(self._line())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


def serve(backend: str) -> None:
    """Import `backend`; then train, in a fork of this process, with the options of every line of standard input."""
    from backends.cli import main
    from backends.registry import backend_class

    backend_class(backend)
    family, _, framework = backend.partition("-")
    for line in sys.stdin:
        options = json.loads(line) + (["--backend", framework] if framework else [])
        number = os.fork()
        if number == 0:
            said = os.open(os.devnull, os.O_RDWR)
            os.dup2(said, 0)
            os.dup2(2, 1)  # what it says is shown beside what goes wrong
            os._exit(main(family, options))
        print(number, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]), flush=True)


class Chains:
    """Runs in the empty folder `work`, each by its own chain of backends."""

    def __init__(self, work: Path, servers: Sequence[Server], seed: int) -> None:
        self.work, self.servers, self.draw = work, servers, random.Random(seed)
        self.spec = small.write_spec(work, epochs=EPOCHS)
        self.images = small.write_images(work / "images")
        self.outcome = Outcome()
        self.takes = {server.backend: self._undisturbed(server) for server in servers}
        self.expected = self._end(work / servers[0].backend)

    def options(self, folder: Path) -> list[str]:
        shared = ["--spec", str(self.spec), "--data", str(self.images), "--device", "cpu", "--checkpoint-every", "0"]
        return [*shared, "--resume", "--output-dir", str(folder)]

    def _undisturbed(self, server: Server) -> tuple[float, float]:
        """Seconds to the first step and from there to the end."""
        began, folder = time.monotonic(), self.work / server.backend
        with server.training(self.options(folder)) as process:
            _wait_for_a_step(process, folder)
            stepped = time.monotonic()
        if server.code:
            raise RuntimeError(f"an undisturbed run of {server.backend} must end with code 0. Received: {server.code}")
        return stepped - began, time.monotonic() - stepped

    def _end(self, folder: Path) -> tuple[Any, list[tuple[int, int]]]:
        log = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
        return load(folder / LAST), [(line["epoch"], line["step"]) for line in log if line["event"] == "step"]

    def run(self, kills: int, *, taking_turns: bool) -> None:
        """Kill until it has been done `kills` times, and let the last run get through."""
        chain, until = 0, self.outcome.kills + kills
        while self.outcome.kills < until:
            chain += 1
            self._chain(self.work / f"{'turns' if taking_turns else 'alone'}-{chain}", until, taking_turns)

    def _chain(self, folder: Path, until: int, taking_turns: bool) -> None:
        outcome, step = self.outcome, -1
        for turn in range(10_000):
            server = self.servers[turn % len(self.servers)] if taking_turns else self.servers[0]
            with server.training(self.options(folder)) as process:
                if outcome.kills < until:
                    self._kill(process, folder, *self.takes[server.backend])
            if server.code not in (0, -9):
                outcome.lost.append(f"{folder.name}: {server.backend} ended with code {server.code} on turn {turn + 1}")
                return
            there = (folder / LAST).exists()
            reached = load(folder / LAST).progress.step if there else -1
            if reached < step:
                outcome.lost.append(f"{folder.name}: went from step {step} back to {reached} on turn {turn + 1}")
            step = reached
            if server.code == 0:
                break
            outcome.kills += 1
            outcome.within += there
        outcome.finished += 1
        self._compare(folder, taking_turns)

    def _kill(self, process: int, folder: Path, preparing: float, training: float) -> None:
        if self.draw.random() < EARLY:
            time.sleep(self.draw.uniform(0, preparing))
        else:
            _wait_for_a_step(process, folder)
            time.sleep(self.draw.uniform(0, 0.8 * training))
        with suppress(ProcessLookupError):
            os.kill(process, 9)

    def _compare(self, folder: Path, taking_turns: bool) -> None:
        (expected, steps), (found, logged) = self.expected, self._end(folder)
        if logged != steps:
            self.outcome.lost.append(f"{folder.name}: {len(logged)} steps in the log, of {len(steps)}")
        if (found.progress.step, found.progress.epoch) != (expected.progress.step, expected.progress.epoch):
            self.outcome.lost.append(f"{folder.name}: ends at step {found.progress.step}")
        for name, array in expected.parameters.items():
            difference = float(np.abs(found.parameters[name] - array).max() / np.abs(array).max())
            alike = np.array_equal(found.velocities[name], expected.velocities[name]) and difference == 0.0
            if taking_turns:
                self.outcome.difference = max(self.outcome.difference, difference)
            if not (difference <= TOLERANCE if taking_turns else alike):
                self.outcome.lost.append(f"{folder.name}: {name} differs by {difference:.2g}")
        if not taking_turns and found.progress != expected.progress:
            self.outcome.lost.append(f"{folder.name}: another progress")


def _wait_for_a_step(process: int, folder: Path) -> None:
    """Until the process has written a checkpoint of a step of its own, or has ended."""

    def written() -> int:
        path = folder / PREVIOUS
        return path.stat().st_mtime_ns if path.exists() else 0

    before = written()
    with suppress(ProcessLookupError):
        while written() == before:
            os.kill(process, 0)
            time.sleep(0.002)


def killed(work: Path, *, kills: int, seed: int, backends: Sequence[str] = BACKENDS) -> Outcome:
    """Do all of it in the empty folder `work`."""
    with ExitStack() as stack:
        servers = []
        for backend in backends:
            servers.append(Server(backend))
            stack.callback(servers[-1].close)
        chains = Chains(work, servers, seed)
        chains.run(kills - kills // 2, taking_turns=False)
        chains.run(kills // 2, taking_turns=True)
    return chains.outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backends", default=",".join(BACKENDS), help="the first of them also goes on alone")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return 0
    with tempfile.TemporaryDirectory() as work:
        backends = options.backends.split(",")
        outcome = killed(Path(work), kills=options.kills, seed=options.seed, backends=backends)
    print(
        f"{outcome.kills} kills, {outcome.within} of them of runs that had begun; {outcome.finished} runs got through; "
        f"largest difference between backends {outcome.difference:.2g} of the largest parameter; "
        f"lost: {'; '.join(outcome.lost) or 'nothing'}"
    )
    return 1 if outcome.lost else 0


if __name__ == "__main__":
    sys.exit(main())
