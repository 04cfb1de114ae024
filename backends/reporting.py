"""What a run says: lines and a progress bar for people, one JSON object a line for programs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from backends.tensorboard import EventFile
from data.reporting import Advance, Reporter

__all__ = ["METRICS", "Advance", "MetricsLog", "Reporter"]

METRICS = "metrics.jsonl"


class MetricsLog:
    """``metrics.jsonl``: what happened, in order. Kept in memory until :meth:`flush`.

    Every object has an `event`: ``run`` (a process began or went on), ``step`` (`epoch`, `step`, `loss`,
    `learning_rate`) or ``epoch`` (the line of the epoch).
    """

    def __init__(self, folder: Path, *, unwritten: bool = False) -> None:
        """unwritten: forget everything; another process writes the same."""
        self.path = folder / METRICS
        self._unwritten = unwritten
        self._pending: list[dict[str, Any]] = []
        self._events: EventFile | None = None

    def show_in_tensorboard(self, step: int) -> None:
        """Write what comes, from `step` on, for TensorBoard too. Raises ModuleNotFoundError, OSError."""
        self._events = None if self._unwritten else EventFile(self.path.parent, step)

    def rewind(self, epoch: int, step: int) -> None:
        """Forget what was written after a checkpoint that had finished `epoch` epochs and `step` steps."""
        if self._unwritten or not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                break  # torn by the kill that made this necessary; nothing whole follows
            if event.get("epoch", -1) < epoch or (event["event"] == "step" and event["step"] < step):
                kept.append(line)
        partial = self.path.with_name(f".{self.path.name}.partial")
        partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        partial.replace(self.path)

    def add(self, event: str, **values: Any) -> None:
        self._pending.append({"event": event, **values})

    def flush(self) -> None:
        """Append what was added since, and wait until the disk has it."""
        if self._unwritten:
            self._pending.clear()
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(line)}\n" for line in self._pending)
            file.flush()
            os.fsync(file.fileno())
        if self._events is not None:
            self._events.add(self._pending)
        self._pending.clear()
