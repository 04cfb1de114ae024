"""Failures that are known: a file of entries, each saying what fails, why, and where that is discussed.

The file is a YAML list. An entry is a mapping of texts::

    - check: evaluation-outputs          # required: a check, or building for a backend that cannot be built
      backend: mypkg.mymodule:MyBackend  # these four narrow it; * stands for any text, and for all if left out
      spec: caffe*
      dtype: float32
      tensor: the output of norm*
      reason: the kernel divides alpha by nothing    # required
      link: https://example.org/issues/7             # of the discussion

What an entry names may fail; everything else must pass as ever. An entry whose failure does not come though it was
asked for is stale, and said to be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 256 * 1024
ANY = "*"


class XfailsError(ValueError):
    """A file of expected failures is wrong. One line: where, what was required, what was received."""


@dataclass(frozen=True)
class Entry:
    """One expected failure. Names are patterns in which * stands for any text."""

    check: str
    reason: str
    backend: str = ANY
    spec: str = ANY
    dtype: str = ANY
    tensor: str = ANY
    link: str | None = None
    place: str = ""
    """File and line, for warnings."""

    def concerns(self, backend: str, spec: str, dtype: str, check: str) -> bool:
        """Whether the entry speaks of this question."""
        pairs = ((backend, self.backend), (spec, self.spec), (dtype, self.dtype), (check, self.check))
        return all(fnmatchcase(name, pattern) for name, pattern in pairs)

    def covers(self, tensor: str | None) -> bool:
        """Whether it speaks of a tensor; None stands for the question as a whole."""
        return self.tensor == ANY if tensor is None else fnmatchcase(tensor, self.tensor)


_REQUIRED = ("check", "reason")
_FIELDS = tuple(field.name for field in fields(Entry) if field.name != "place")


def read(path: Path, checks: Iterable[str], dtypes: Iterable[str]) -> list[Entry]:
    """The entries of a file. checks, dtypes: those there are, so that a misspelt one is noticed. Raises XfailsError."""

    def wrong(line: int | None, required: str, received: object) -> XfailsError:
        return XfailsError(f"{path}{f':{line}' if line else ''}: {required}. Received: {received}")

    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise wrong(None, f"a file of expected failures must have at most {MAX_BYTES} bytes", "more")
        document: Any = yaml.compose(raw.decode("utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise wrong(None, "a file of expected failures must be readable", error.strerror) from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        said = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise wrong(mark.line + 1 if mark else None, "it must be well-formed YAML in UTF-8", said) from None
    if document is None:
        return []
    if not isinstance(document, yaml.SequenceNode):
        raise wrong(document.start_mark.line + 1, "it must be a list of entries", f"a {document.id}")
    known = {"check": tuple(checks), "dtype": tuple(dtypes)}
    entries = []
    for node in document.value:
        line = node.start_mark.line + 1
        if not isinstance(node, yaml.MappingNode):
            raise wrong(line, "an entry must be a mapping of fields", f"a {node.id}")
        values: dict[str, str] = {}
        for key, value in node.value:
            at = key.start_mark.line + 1
            if key.value not in _FIELDS:
                raise wrong(at, f"a field must be one of {', '.join(_FIELDS)}", key.value)
            if key.value in values:
                raise wrong(at, "a field must be stated once", f"a second {key.value}")
            if not isinstance(value, yaml.ScalarNode) or not value.value.strip():
                raise wrong(at, f"{key.value} must be a text", f"a {value.id}" if value.value else "nothing")
            values[key.value] = value.value.strip()
            names = known.get(key.value, ())
            if names and not any(fnmatchcase(name, values[key.value]) for name in names):
                raise wrong(at, f"{key.value} must be one of {', '.join(names)}, or a pattern of one", value.value)
        missing = [name for name in _REQUIRED if name not in values]
        if missing:
            raise wrong(line, f"an entry must have a {' and a '.join(missing)}", ", ".join(values) or "nothing")
        entries.append(Entry(**values, place=f"{path}:{line}"))
    return entries


@dataclass(frozen=True)
class Asked:
    """A question that was put: which, and what failed in it, None standing for the question as a whole."""

    backend: str
    spec: str
    dtype: str
    check: str
    failed: frozenset[str | None]


def stale(entries: Sequence[Entry], asked: Sequence[Asked]) -> tuple[list[Entry], list[Entry]]:
    """The entries whose failure did not come though it was asked for, and those of which nothing was asked."""
    passed, unasked = [], []
    for entry in entries:
        about = [one for one in asked if entry.concerns(one.backend, one.spec, one.dtype, one.check)]
        if not about:
            unasked.append(entry)
        elif not any(entry.covers(tensor) for one in about for tensor in one.failed):
            passed.append(entry)
    return passed, unasked
