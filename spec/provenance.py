"""Where every value comes from: ``provenance`` in a file, and which pointers can be checked.

A key of ``provenance`` is the path of a value stated in the same file, ``layers.norm1.alpha_over``; names in braces
stand for several paths, ``layers.conv1.{kernel,stride}``. What an extending file restates loses the parent's source.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

from spec.errors import Problem, shown
from spec.language import SHORTHANDS
from spec.reader import Node, Path_, dotted

_STEP = re.compile(r'"((?:[^"\\]|\\.)*)"|\{([^{}]*)\}|([^."{}]+)')


def paths(key: str) -> tuple[Path_, ...]:
    """The paths that a key stands for: ``a."*.b".{c,d}`` is ``a, *.b, c`` and ``a, *.b, d``. Raises ValueError if it is
    not one."""
    steps: list[tuple[str, ...]] = []
    position = 0
    while True:
        found = _STEP.match(key, position)
        if found is None or len(steps) > 12:
            raise ValueError("must be names joined by dots, as in layers.conv1.{kernel,stride}")
        quoted, braced, plain = found.groups()
        if braced is not None:
            steps.append(tuple(name.strip() for name in braced.split(",")))
        else:
            steps.append((quoted if quoted is not None else plain,))
        position = found.end()
        if position == len(key):
            return tuple(itertools.islice(itertools.product(*steps), 10_000))
        if key[position] != ".":
            raise ValueError("must be names joined by dots, as in layers.conv1.{kernel,stride}")
        position += 1


def attached(node: Node, problems: list[Problem]) -> Node:
    """A file's node with the sources of its ``provenance`` at the values they speak of, and without that section.

    Whatever is wrong with the section is added to `problems`: a source for what the file does not state (stale), for
    more than one value, twice for the same, or no text at all.
    """
    stated = node.value.get("provenance")
    if stated is None:
        return node
    bare = replace(node, value={key: item for key, item in node.value.items() if key != "provenance"})

    def refuse(at: Node, key: str, required: str, received: str) -> None:
        problems.append(Problem(at.file, at.line, dotted(("provenance", key)), required, received))

    if not isinstance(stated.value, dict):
        problems.append(
            Problem(
                stated.file, stated.line, "provenance", "must be a mapping of paths to sources", shown(stated.plain())
            )
        )
        return bare
    sources: dict[Path_, str] = {}
    for key, source in stated.value.items():
        if not isinstance(source.value, str) or not source.value.strip():
            refuse(source, key, "a source must be text", shown(source.plain()))
            continue
        try:
            expanded = paths(key)
        except ValueError as error:
            refuse(source, key, str(error), shown(key))
            continue
        for path in expanded:
            fault = _fault(bare, path)
            if path in sources:
                fault = "must be given one source"
            if fault:
                refuse(source, key, fault, dotted(path))
            sources[path] = " ".join(source.value.split())
    return _with_sources(bare, sources, ())


def _fault(node: Node, path: Path_) -> str | None:
    """Why `path` is nothing that a source can be given for; None if it is."""
    for step in path:
        if not isinstance(node.value, dict) or step not in node.value:
            return "must be the path of a value stated in this file"
        node = node.value[step]
    if isinstance(node.value, dict) and not _is_shorthand(path, node):
        return f"must be the path of one value; name them, as {{{','.join(itertools.islice(node.value, 3))}}}"
    return None


def _is_shorthand(path: Path_, node: Node) -> bool:
    return bool(path) and path[-1] in SHORTHANDS and set(node.value) <= set(SHORTHANDS[str(path[-1])])


def _with_sources(node: Node, sources: dict[Path_, str], path: Path_) -> Node:
    if isinstance(node.value, dict):
        source = sources.get(path)
        inner = sources if source is None else sources | {(*path, key): source for key in node.value}
        fields = {key: _with_sources(child, inner, (*path, key)) for key, child in node.value.items()}
        return replace(node, value=fields)
    return replace(node, source=sources.get(path, node.source))
