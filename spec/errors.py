"""What can be wrong with a specification, said once and completely."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where, what was required, what was received."""

    file: str
    line: int | None
    field: str
    required: str
    received: str
    extended_by: str = ""
    """The file being read, if the fault shows in one that it extends."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        place += f" (extended by {self.extended_by})" if self.extended_by else ""
        field = f" {self.field}:" if self.field else ""
        received = f" Received: {self.received}." if self.received else ""
        return f"{place}:{field} {self.required}.{received}"


class SpecError(ValueError):
    """A specification, or a request about one, is wrong. ``problems`` holds every problem found, not only the first."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def shown(value: object, limit: int = 80) -> str:
    """`value` as a person can read it in one line of an error."""
    text = (
        repr(value) if not isinstance(value, dict | tuple) or value else ("an empty mapping" if value == {} else "()")
    )
    return text if len(text) <= limit else text[: limit - 1] + "…"
