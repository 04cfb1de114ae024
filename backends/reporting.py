"""What a run says: lines and a progress bar for people, one JSON object a line for programs."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

METRICS = "metrics.jsonl"
_PLAIN_EVERY_S = 30.0
"""How often long work says where it is when there is no terminal to draw a bar on."""


class Advance(Protocol):
    """Called with how much is done, a few words on it, and how much there is where that was not known before."""

    def __call__(self, done: int, words: str = "", total: int | None = None) -> None: ...


class Reporter:
    """Writes to `stream`; draws bars only if that is a terminal."""

    def __init__(self, stream: TextIO | None = None) -> None:
        stream = stream or sys.stdout
        self.live = stream.isatty()
        self._console = Console(file=stream, force_terminal=self.live, highlight=False, markup=False, soft_wrap=True)

    def line(self, text: str) -> None:
        """One line, at once."""
        self._console.print(text)
        self._console.file.flush()

    @contextmanager
    def work(self, what: str, total: int | None = None) -> Iterator[Advance]:
        """A bar for `total` pieces of work, gone when it is done; without a terminal a line now and then."""
        if not self.live:
            yield self._plain(what, total)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[words]}"),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task(what, total=total, words="")

            def advance(done: int, words: str = "", total: int | None = None) -> None:
                progress.update(task, completed=done, total=total, words=words)

            yield advance

    def _plain(self, what: str, known: int | None) -> Advance:
        said = time.monotonic()

        def advance(done: int, words: str = "", total: int | None = None) -> None:
            nonlocal said
            if time.monotonic() - said >= _PLAIN_EVERY_S:
                said = time.monotonic()
                self.line(f"{what} {done}/{total or known} {words}".rstrip())

        return advance


class MetricsLog:
    """``metrics.jsonl``: what happened, in order. Kept in memory until :meth:`flush`.

    Every object has an `event`: ``run`` (a process began or went on), ``step`` (`epoch`, `step`, `loss`,
    `learning_rate`) or ``epoch`` (the line of the epoch).
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / METRICS
        self._pending: list[str] = []

    def rewind(self, epoch: int, step: int) -> None:
        """Forget what was written after a checkpoint that had finished `epoch` epochs and `step` steps."""
        if not self.path.exists():
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
        self._pending.append(json.dumps({"event": event, **values}))

    def flush(self) -> None:
        """Append what was added since, and wait until the disk has it."""
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in self._pending)
            file.flush()
            os.fsync(file.fileno())
        self._pending.clear()
