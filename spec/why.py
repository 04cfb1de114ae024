"""``python -m spec why``: one value, where it comes from, and what the other variants have in its place."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, get_args

from spec.describe import distribution_words, number, schedule_words
from spec.errors import Problem, SpecError, shown
from spec.items import Item, items, plain
from spec.language import Constant, Distribution, Origin, Schedule, Spec
from spec.sources import SOURCES, parts

ABSENT = "absent"
DEFAULT = "the language's default; no file states it"
BY_PARAMETER = ("init", "training.learning_rate", "training.weight_decay")
"""Sections whose values hold for one parameter each."""


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
    near = difflib.get_close_matches(path, list(known | stated), 3, 0.6)
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


def elsewhere(specs: Iterable[Spec], path: str) -> list[tuple[Item, list[str]]]:
    """What `specs` have at `path`, equals with equal sources together, and who they are; the most frequent first."""
    groups: dict[str, tuple[Item, list[str]]] = {}
    for spec in specs:
        item = _in(spec, path)
        groups.setdefault(json.dumps([item.plain, item.source], sort_keys=True), (item, []))[1].append(spec.name)
    return sorted(groups.values(), key=lambda group: -len(group[1]))


def text(spec: Spec, path: str, others: Iterable[Spec]) -> str:
    """The answer for people. Raises SpecError if `spec` has nothing at `path`."""
    found = find(spec, path)
    groups: dict[tuple[Any, ...], tuple[Item, list[str]]] = {}
    for at, item in found.items():
        section = next((s for s in BY_PARAMETER if at.startswith(f"{s}.")), None)
        key = (section, words(at, item), item.origins) if section else (at,)
        groups.setdefault(key, (item, []))[1].append(at)
    lines: list[str] = []
    for item, paths in groups.values():
        lines += [f"{title(paths)} = {words(paths[0], item)}", *(f"  {line}" for line in _origins(item.origins))]
    if len(found) == 1:
        (at,) = found
        lines += ["", "elsewhere"]
        for item, names in elsewhere(others, at):
            lines += [f"  {words(at, item)}: {', '.join(names)}", *(f"    {line}" for line in sources(item.source))]
    named = dict.fromkeys(re.findall(r"^ +(?:source: )?([A-Z][A-Z0-9]+)[@ ]", "\n".join(lines), re.MULTILINE))
    stand = [f"  {key}: {SOURCES[key].title}, {SOURCES[key].place}" for key in named if key in SOURCES]
    return "\n".join([*lines, *(["", "sources", *stand] if stand else [])])


def title(paths: Sequence[str]) -> str:
    """The place, or for several parameters their section and names."""
    section = next((s for s in BY_PARAMETER if paths[0].startswith(f"{s}.")), None)
    if section is None or len(paths) == 1:
        return paths[0]
    return f"{section}.{{{', '.join(path.removeprefix(f'{section}.') for path in paths)}}}"


def sources(source: str | None) -> list[str]:
    """The pointers of a source, for a line each."""
    return list(parts(source)) if source else []


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
                    {"value": other.plain, "source": other.source, "names": names}
                    for other, names in elsewhere(others, at)
                ],
            }
            for at, item in find(spec, path).items()
        ],
    }


def words(path: str, item: Item) -> str:
    """The value at a path in one line, as a reader would say it."""
    if path.endswith(".after") and item.value != ABSENT:
        return f"after {item.value}" if item.value else "first"
    if isinstance(item.value, get_args(Distribution)[0]):
        return f"{'constant ' * isinstance(item.value, Constant)}{distribution_words(item.value)}"
    if isinstance(item.value, get_args(Schedule)[0]):
        return schedule_words(item.value)
    return said(item.value)


def said(value: Any) -> str:
    """A value in one line: ``0.0001``, ``height 3, width 5``, ``not set``."""
    value = plain(value)
    if value is None:
        return "not set"
    if isinstance(value, dict):
        return ", ".join(f"{key} {said(item)}" for key, item in value.items() if item is not None)
    if isinstance(value, list | tuple):
        return "; ".join(map(said, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, float) else str(value)


def _origins(origins: tuple[Origin, ...]) -> list[str]:
    """Who states a value and where, each once with its source."""
    if not origins:
        return [DEFAULT]
    places: dict[tuple[str, str], list[Origin]] = {}
    for origin in dict.fromkeys(origins):
        places.setdefault((origin.name, origin.file), []).append(origin)
    lines: list[str] = []
    for (name, file), stated in places.items():
        at = ", ".join(str(line) for line in dict.fromkeys(origin.line for origin in stated) if line)
        lines.append(f"stated by {name} ({file}:{at})" if at else f"stated by {name} ({file})")
        lines += [f"source: {pointer}" for pointer in sources(Item(None, tuple(stated)).source or "none given")]
    return lines
