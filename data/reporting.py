"""What long work says: lines, and a progress bar where there is a terminal to draw it on."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

_PLAIN_EVERY_S = 30.0
"""How often long work says where it is when there is no terminal to draw a bar on."""
_WIDTH = 120
"""Columns of a table where there is no terminal to ask."""


class Advance(Protocol):
    """Called with how much is done, a few words on it, and how much there is where that was not known before."""

    def __call__(self, done: int, words: str = "", total: int | None = None) -> None: ...


class Reporter:
    """Writes to `stream`; draws bars only if that is a terminal."""

    def __init__(self, stream: TextIO | None = None) -> None:
        stream = stream or sys.stdout
        self.live = stream.isatty()
        self._console = Console(
            file=stream,
            width=None if self.live else _WIDTH,
            force_terminal=self.live,
            highlight=False,
            markup=False,
            soft_wrap=True,
        )

    def line(self, text: str) -> None:
        """One line, at once."""
        self._console.print(text)
        self._console.file.flush()

    def table(self, table: Table) -> None:
        """A table, at once."""
        self._console.print(table)
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
