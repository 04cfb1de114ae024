"""``python -m spec why``: one value, where it comes from, and what the other variants have in its place."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from typing import Any

from spec.describe import number
from spec.errors import Problem, SpecError, shown
from spec.items import Item, items, plain
from spec.language import Origin, Spec
from spec.sources import SOURCES

ABSENT = "absent"
DEFAULT = "the language's default; no file states it"


def find(spec: Spec, path: str) -> dict[str, Item]:
    """The values of `spec` at or below `path`. Raises SpecError, naming the nearest, if there are none.

    Besides the paths of :mod:`spec.items`, those of what the files state (``init.weight.std``) and removed are known.
    """
    known = items(spec)
    if path in known:
        return {path: known[path]}
    stated = {at: Item(_value(spec, at), (origin,)) for at, origin in spec.origins.items()}
    if path in stated:
        return {path: stated[path]}
    head, _, last = path.rpartition(".")
    whole = known.get(head)
    if whole is not None and hasattr(whole.value, last):
        return {path: Item(getattr(whole.value, last), whole.origins)}
    below = {at: item for at, item in known.items() if at.startswith(f"{path}.")}
    if below:
        return below
    near = difflib.get_close_matches(path, [*known, *stated], 3, 0.6)
    hint = f"; nearest: {', '.join(near)}" if near else ""
    required = f"must be the path of a value of {spec.name}, such as layers.conv1.kernel{hint}"
    raise SpecError([Problem("spec why", None, "PATH", required, shown(path))])


def _value(spec: Spec, path: str) -> Any:
    """The value stated at a path of a file; None for what was removed."""
    value: Any = spec.statement()
    for step in (quoted or bare for quoted, bare in re.findall(r'"([^"]*)"|([^."]+)', path)):
        if not isinstance(value, dict) or step not in value:
            return None
        value = value[step]
    return value


def _in(spec: Spec, path: str) -> Item:
    """What `spec` has at `path`; an item without value if it has nothing there."""
    try:
        found = find(spec, path)
    except SpecError:
        layer = ".".join(path.split(".")[:2])
        return Item(ABSENT, (spec.origins[layer],) if layer in spec.origins else ())
    return found.get(path, Item(ABSENT))


def elsewhere(specs: Iterable[Spec], path: str) -> list[tuple[Any, str | None, list[str]]]:
    """What `specs` have at `path`: (value as JSON has it, source, names), equals together, the most frequent first."""
    groups: dict[str, tuple[Any, str | None, list[str]]] = {}
    for spec in specs:
        item = _in(spec, path)
        key = json.dumps([item.plain, item.source], sort_keys=True)
        groups.setdefault(key, (item.plain, item.source, []))[2].append(spec.name)
    return sorted(groups.values(), key=lambda group: -len(group[2]))


def text(spec: Spec, path: str, others: Iterable[Spec]) -> str:
    """The answer for people. Raises SpecError if `spec` has nothing at `path`."""
    found = find(spec, path)
    lines: list[str] = []
    for at, item in found.items():
        lines += [f"{at} = {said(item.value)}", *(f"  {line}" for line in _origins(item.origins))]
    if len(found) == 1:
        lines += ["", "elsewhere"]
        for value, source, names in elsewhere(others, next(iter(found))):
            lines += [f"  {said(value)}: {', '.join(names)}", *([f"    {source}"] if source else [])]
    return "\n".join(lines)


def values(spec: Spec, path: str, others: Iterable[Spec]) -> dict[str, Any]:
    """The answer for programs. Raises SpecError if `spec` has nothing at `path`."""
    others = list(others)
    return {
        "name": spec.name,
        "values": [
            {
                "path": at,
                "value": item.plain,
                "origins": [{"name": o.name, "file": o.file, "line": o.line, "source": o.source} for o in item.origins],
                "elsewhere": [
                    {"value": value, "source": source, "names": names} for value, source, names in elsewhere(others, at)
                ],
            }
            for at, item in find(spec, path).items()
        ],
    }


def said(value: Any) -> str:
    """A value in one line: ``0.0001``, ``height 3, width 5``, ``absent``."""
    value = plain(value)
    if value is None:
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {said(item)}" for key, item in value.items() if item is not None)
    if isinstance(value, list | tuple):
        return "; ".join(map(said, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, float) else str(value)


def _origins(origins: tuple[Origin, ...]) -> list[str]:
    if not origins:
        return [DEFAULT]
    lines = []
    for origin in dict.fromkeys(origins):
        place = f"{origin.file}:{origin.line}" if origin.line else origin.file
        lines.append(f"stated by {origin.name} ({place})")
        lines.append(f"source: {origin.source or 'none given'}")
        for name in re.findall(r"\b([A-Z][A-Z0-9]+)(?=@| )", origin.source or ""):
            if name in SOURCES:
                lines.append(f"  {name}: {SOURCES[name].title}, {SOURCES[name].place}")
    return list(dict.fromkeys(lines))
