"""Data parallel, asked as any backend: ``torch*2`` is two processes, ``keras-jax*2`` two devices of one process.

Every question goes to all processes, each of which takes its part of a batch; what they answer is one backend's answer,
for all must hold the same parameters, bit for bit.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from conformance.client import Worker, WorkerFailed
from conformance.exchange import read_arrays

REPLICATED = ("parameters", "velocities")
"""What every process must hold alike."""


def in_processes(name: str) -> int:
    """In how many processes the backend `name` is asked: ``torch*2``, two; all others, one."""
    base, _, count = name.partition("*")
    return int(count) if base == "torch" and count else 1


class Ranks(Worker):
    """As many workers as the name says, which find one another through the environment, as under ``torchrun``."""

    def __init__(self, name: str, *, limit: float, memory: float | None = None) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        ranks = in_processes(name)
        common = {"WORLD_SIZE": f"{ranks}", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
        self.name, self.limit, self.workers = name, limit, list[Worker]()
        try:
            for rank in range(ranks):
                place = {**common, "RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "OMP_NUM_THREADS": "1"}
                self.workers.append(Worker(name, limit=limit, memory=memory, environment=place))
        except BaseException:
            self.close()
            raise
        self.description = self.workers[0].description
        self._threads = ThreadPoolExecutor(ranks)

    def ask(self, do: str, doing: str, *, limit: float | None = None, **request: Any) -> dict[str, Any]:
        """Ask all at once, each for an answer in a folder of its own. Raises as one worker does."""

        def one(rank: int) -> dict[str, Any]:
            own = {**request, "answer": f"{request['answer']}-{rank}"} if rank and "answer" in request else request
            return self.workers[rank].ask(do, f"{doing} in process {rank}", limit=limit, **own)

        asked = [self._threads.submit(one, rank) for rank in range(len(self.workers))]
        errors = [error for error in (answer.exception() for answer in asked) if error is not None]
        if errors:
            raise errors[0]
        first, *others = [answer.result() for answer in asked]
        for rank, _ in enumerate(others, 1):
            if "answer" in request:
                folder = Path(f"{request['answer']}-{rank}")
                theirs = read_arrays(folder, first["arrays"])
                if do in REPLICATED:
                    self._require_alike(do, read_arrays(Path(request["answer"]), first["arrays"]), theirs, rank)
        return first

    def _require_alike(self, do: str, ours: Mapping[str, Any], theirs: Mapping[str, Any], rank: int) -> None:
        different = [name for name, array in ours.items() if array.tobytes() != theirs[name].tobytes()]
        if different:
            raise WorkerFailed(f"{self.name}: process {rank} has {do} of its own: {', '.join(different[:3])}")

    @property
    def process(self) -> int:
        return self.workers[0].process

    @property
    def alive(self) -> bool:
        return all(worker.alive for worker in self.workers)

    def place(self) -> Path:
        return self.workers[0].place()

    def kill(self) -> None:
        for worker in self.workers:
            worker.kill()

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()  # none would wait for another
            with contextlib.suppress(OSError):
                worker.close()
