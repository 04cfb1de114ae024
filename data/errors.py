"""What can be wrong with a data source."""

from __future__ import annotations

from collections.abc import Sequence

_NAMED = 10
"""How many of many are named in one message."""


class DataError(ValueError):
    """A source, an image, a cache or recorded statistics cannot be used. One line: required, received, where."""


def some(things: Sequence[str]) -> str:
    """The first ten of `things` in one line, and how many more there are."""
    more = len(things) - _NAMED
    return "; ".join(things[:_NAMED]) + (f"; and {more} more" if more > 0 else "")
