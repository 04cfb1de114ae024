"""The processes that train one network together, each on its part of every batch.

A step of a group is the step of one process on the whole batch, but for rounding: parameters and velocities are the
same in every process, and gradients are means over all images of the batch. The group's first process (rank 0) writes
and speaks; the others are silent, unless something is wrong that concerns them alone.

Collectives (all methods that say so) are called by every process of the group in the same order, or nobody goes on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
T = TypeVar("T")


class Lost(RuntimeError):
    """Another process of the group has ended, or cannot be reached."""


class Elsewhere(Exception):
    """Another process of the group has said what is wrong; this one has only to end."""


class Group(ABC):
    """Process `rank` of `ranks`; of the `local_ranks` on this machine it is number `local_rank`."""

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0
    local_ranks: int = 1

    @abstractmethod
    def gather(self, array: Array) -> Array:
        """The arrays of all processes, which have one shape and dtype: (ranks, *shape). A collective. Raises Lost."""

    def losing(self) -> AbstractContextManager[object]:
        """Within it, errors that come of another process being gone are raised as Lost."""
        return nullcontext()

    def close(self) -> None:
        """Leave the group; it cannot be entered again."""
        return

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def largest(self, values: Sequence[int]) -> list[int]:
        """Of each value the largest among all processes. A collective."""
        if self.ranks == 1:
            return list(values)
        largest: list[int] = self.gather(np.array(values, np.int64)).max(axis=0).tolist()
        return largest

    def text_of_first(self, text: str) -> str:
        """What the first process gives as `text`. A collective."""
        if self.ranks == 1:
            return text
        content = text.encode()
        (length,) = self.largest([len(content) if self.first else 0])
        padded = np.zeros(length, np.uint8)
        padded[: len(content[:length])] = np.frombuffer(content[:length], np.uint8)
        return bytes(self.gather(padded)[0]).decode()

    def total(self, values: Array) -> Array:
        """The sum of the arrays of all processes, added in their order: the same bits in each. A collective."""
        parts = self.gather(values)
        total: Array = parts[0].copy()
        for part in parts[1:]:
            total += part
        return total

    def together(self, work: Callable[[], T], wrong: tuple[type[Exception], ...]) -> T:
        """``work()`` in every process. If it raises one of `wrong` anywhere, all raise. A collective.

        The first process that failed raises its own error, the others Elsewhere, so that it is said once.
        """
        failed: Exception | None = None
        try:
            result = work()
        except wrong as error:
            if self.ranks == 1:
                raise
            failed = error
        (said_by,) = self.largest([0 if failed is None else self.ranks - self.rank])
        if failed is not None and said_by == self.ranks - self.rank:
            raise failed
        if said_by:
            raise Elsewhere
        return result


class Alone(Group):
    """The group of a process that trains by itself."""

    def gather(self, array: Array) -> Array:
        return array[None]


ALONE = Alone()
