"""Asking a backend in another process: :class:`Worker` is the process, :class:`Remote` a backend in it.

Whatever happens to the process is said in words and by its time limit: that it died, of what and at what, that it did
not answer, that it answered something else. The others live on.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_rooms import ROOT
from backends.base import Array, Arrays, Backend, Gradients, Masks, Metrics, Unsupported
from conformance import data_answers, file_answers
from conformance.exchange import new_folder, read_arrays, write_arrays
from conformance.meaning import Asks
from spec import Settings, Spec

START_LIMIT = 240.0
"""Seconds for a framework to be imported: TensorFlow takes ten on an idle core, and the core may not be idle."""
LIMIT = 180.0
"""Seconds for any other request: a full network compiled and run on one busy core."""
MEMORY_SHARE = 0.8
"""Of the machine's memory: what a worker may take unless another limit is given."""
PRINTED_LIMIT = 64 << 20
"""Bytes that a worker may print, its warnings and chatter included."""
GRACE = 5.0
"""Seconds for a process to end whose work is done, or whose pipe is closed."""
_LOOK = 0.2
"""Seconds between looks at a process that is being waited for."""
_STDERR_LINES, _STDERR_BYTES = 12, 1 << 16


class WorkerFailed(RuntimeError):
    """The worker, or the backend in it, did not do what was asked. The message says what happened, while doing what."""


class NotThere(WorkerFailed):
    """There is no backend of that name: no such class, or none that is a backend."""


class NotInstalled(NotThere):
    """The backend's framework, called ``library``, is not installed in this environment."""

    def __init__(self, message: str, library: str) -> None:
        super().__init__(message)
        self.library = library


class Worker:
    """One process that runs the backend `name`. Close it, or use it as a context.

    limit: seconds for any request but the first, which has start_limit. memory: bytes that the process may take, by
    default a share of the machine's; watched on Linux, where it can be seen.
    """

    def __init__(
        self,
        name: str,
        *,
        limit: float = LIMIT,
        start_limit: float = START_LIMIT,
        memory: float | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.limit = name, limit
        self.memory = MEMORY_SHARE * machine_memory() if memory is None else memory
        self.folder = new_folder()
        self._serial = 0
        self._errors = (self.folder / "stderr.txt").open("w+", encoding="utf-8", errors="replace")
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "conformance.worker", name, str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": path, **(environment or {})},
            start_new_session=os.name == "posix",  # a group of its own, so that what it forks can be ended with it
        )
        self._answers: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            self.description = self.ask("describe", "starting", limit=start_limit)
        except BaseException:
            self.close()
            raise

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(None)

    @property
    def dtypes(self) -> tuple[str, ...]:
        """What the backend can compute in."""
        return tuple(self.description["dtypes"])

    @property
    def trains(self) -> bool:
        """Whether it is a Backend, or an Inference only."""
        return bool(self.description["trains"])

    @property
    def running_sum_lrn(self) -> bool:
        """Whether it says that it sums the window of LRN by adding its head and subtracting its tail."""
        return bool(self.description["running_sum_lrn"])

    @property
    def process(self) -> int:
        """Its number."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, do: str, doing: str, *, limit: float | None = None, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer. doing: in words, what to say that failed.

        Raises WorkerFailed, NotInstalled or Unsupported.
        """
        seconds = self.limit if limit is None else limit
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._process.stdin.flush()
            line = self._answer(seconds, doing)
        except (BrokenPipeError, ValueError):
            line = None
        if line is None:
            raise WorkerFailed(f"{self.name} {self._end()} while {doing}{self._last_words()}")
        try:
            answer: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            self.kill()
            raise WorkerFailed(f"{self.name} answered {line[:80]!r}, not a line of JSON, while {doing}") from None
        if "unsupported" in answer:
            raise Unsupported(answer["unsupported"])
        if "missing" in answer:
            raise NotInstalled(f"{self.name} needs {answer['missing']}, which is not installed", answer["missing"])
        if "not_there" in answer:
            raise NotThere(f"{self.name}: {answer['not_there']}")
        if "broken" in answer:
            raise WorkerFailed(f"{self.name}: {answer['broken']}, while {doing}")
        if "error" in answer:
            raise WorkerFailed(f"{self.name} raised {answer['error']} while {doing}")
        return answer

    def _answer(self, seconds: float, doing: str) -> str | None:
        """The next line of the worker, None if it has ended. Raises WorkerFailed if it takes too long or too much."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self._answers.get(timeout=max(0.0, min(_LOOK, deadline - time.monotonic())))
            except queue.Empty:
                pass
            if not self.alive and self._answers.empty():
                return None  # though the pipe is open: something that it forked holds it
            self._require(time.monotonic() < deadline, f"no answer within {seconds:g} s while {doing}")
            taken, printed = _memory_of(self._process.pid), (self.folder / "stderr.txt").stat().st_size
            most = f"took {taken / 2**30:.1f} GiB of memory, more than the limit of {self.memory / 2**30:.1f} GiB,"
            self._require(taken <= self.memory, f"{most} while {doing}")
            self._require(printed <= PRINTED_LIMIT, f"printed more than {PRINTED_LIMIT >> 20} MiB while {doing}")

    def _require(self, fine: bool, otherwise: str) -> None:
        """Raise WorkerFailed unless all is fine, and end the process."""
        if not fine:
            self.kill()
            raise WorkerFailed(f"{self.name}: {otherwise}")

    def _end(self) -> str:
        """How the process ended. One that has closed its pipe and lives on is ended."""
        try:
            code = self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.kill()
            return "closed the pipe that its answers go through"
        if code >= 0:
            return f"exited with code {code}"
        name = next((s.name for s in signal.Signals if s.value == -code), "unknown")
        return f"died with signal {-code} ({name})"

    def _last_words(self) -> str:
        self._errors.flush()
        with (self.folder / "stderr.txt").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _STDERR_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
        return "; its last words:\n" + "\n".join(lines[-_STDERR_LINES:]) if lines else ""

    def kill(self) -> None:
        """End the process at once, and whatever it forked."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.name == "posix":
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()

    def place(self) -> Path:
        """A path for a folder that does not exist yet."""
        self._serial += 1
        return self.folder / str(self._serial)

    def close(self) -> None:
        """End the process, by its own will or not, and remove what it wrote."""
        with contextlib.suppress(OSError, ValueError):
            if self._process.stdin is not None:
                self._process.stdin.write(json.dumps({"do": "dismiss"}) + "\n")
                self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE)
        self.kill()
        self._process.wait()
        self._errors.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def machine_memory() -> float:
    """Bytes of memory that the machine has, infinity where it does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return math.inf


def _memory_of(process: int) -> float:
    """Bytes of memory that a process has taken, 0 where that cannot be seen."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return 0.0
    return float(pages * os.sysconf("SC_PAGE_SIZE"))


class Remote(Asks, data_answers.Asks, file_answers.Asks, Backend):
    """A backend in a worker, behind the same contract; what it returns is mapped from files and must not be written to.

    Making one lets go of the worker's backend before. Raises Unsupported if the backend lacks the dtype, the device or
    anything in the specification; its methods raise WorkerFailed.
    """

    def __init__(self, worker: Worker, spec: Spec, *, dtype: str = "float32", device: str = "auto") -> None:
        self.worker, self.spec, self.dtype = worker, spec, dtype
        answer = worker.ask(
            "create", self._say("building"), spec={**spec.statement(), "provenance": {}}, dtype=dtype, device=device
        )
        self.device = answer["device"]

    def _say(self, what: str) -> str:
        return f"{what} {self.spec.name} in {self.dtype}"

    def _ask(self, do: str, what: str, arrays: Mapping[str, Arrays] | None = None, **request: Any) -> dict[str, Any]:
        """Ask with arrays as named folders, which are gone when the answer is there."""
        folders: dict[str, Any] = {}
        for key, group in (arrays or {}).items():
            folder = self.worker.place()
            folders[key] = (str(folder), write_arrays(folder, group))
        try:
            return self.worker.ask(do, self._say(what), **folders, **request)
        finally:
            for folder_name, _ in folders.values():
                shutil.rmtree(folder_name, ignore_errors=True)

    def _fetch(
        self, do: str, what: str, arrays: Mapping[str, Arrays] | None = None, **request: Any
    ) -> dict[str, Array]:
        """Ask for arrays. Their files are unlinked at once: the maps keep what they hold, and memory follows them."""
        folder = self.worker.place()
        answer = self._ask(do, what, arrays, answer=str(folder), **request)
        found = read_arrays(folder, answer["arrays"])
        if os.name == "posix":
            shutil.rmtree(folder)
        return found

    def load(self, parameters: Arrays, velocities: Arrays | None = None) -> None:
        arrays = {"parameters": parameters} | ({} if velocities is None else {"velocities": velocities})
        self._ask("load", "loading parameters into", arrays)

    def parameters(self) -> dict[str, Array]:
        return self._fetch("parameters", "reading the parameters of")

    def velocities(self) -> dict[str, Array]:
        return self._fetch("velocities", "reading the velocities of")

    def outputs(self, images: Array, masks: Masks | None = None) -> dict[str, Array]:
        return self._fetch("outputs", "computing the outputs of", _inputs(masks, images=images))

    def predict(self, images: Array) -> Array:
        return self._fetch("predict", "predicting with", _inputs(None, images=images))["logits"]

    def gradients(self, images: Array, cotangent: Array, masks: Masks | None = None) -> Gradients:
        inputs = _inputs(masks, images=images, cotangent=cotangent)
        found = self._fetch("gradients", "computing the gradients of", inputs)
        logits, by_input = found.pop("logits"), found.pop("input")
        return Gradients(logits, found, by_input)

    def loss(self, images: Array, labels: Array, masks: Masks | None = None) -> float:
        answer = self._ask("loss", "computing the loss of", _inputs(masks, images=images, labels=labels))
        return float.fromhex(answer["loss"])

    def accumulate(self, pieces: int) -> None:
        self._ask("accumulate", "taking batches in pieces with", pieces=pieces)

    def step(self, images: Array, labels: Array, settings: Mapping[str, Settings], masks: Masks) -> None:
        chosen = {name: (one.learning_rate, one.weight_decay) for name, one in settings.items()}
        self._ask("step", "training", _inputs(masks, images=images, labels=labels), settings=chosen)

    def metrics(self) -> Metrics:
        answer = self._ask("metrics", "reading the metrics of")
        images, correct1, correct5 = answer["counts"]
        losses = tuple(map(float.fromhex, answer["losses"]))
        return Metrics(images, float.fromhex(answer["loss"]), correct1, correct5, losses)

    def release(self) -> None:
        """Let the worker's backend go."""
        self.worker.ask("release", self._say("letting go of"))


def _inputs(masks: Masks | None, **inputs: Array) -> dict[str, Arrays]:
    groups: dict[str, Arrays] = {"inputs": {name: np.asarray(array) for name, array in inputs.items()}}
    return groups if masks is None else groups | {"masks": masks}
