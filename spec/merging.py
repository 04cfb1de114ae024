"""How a file is laid over the one it extends: field by field, child over parent.

- A scalar or a sequence replaces the parent's. A mapping is laid over the parent's mapping, unless its `op` or `kind`
  changes: then it replaces it whole.
- null on a field that may be absent says that it is absent; on a layer, a pattern or any other field it removes what
  the parent states, and the parent must state it. What a removed field then has is its default.
- A layer with `after` is inserted behind that layer, or moved there if it exists; a new one without it stands at the
  end. A pattern that is restated keeps its place in the order of patterns.
- ``kernel: 11`` is laid under ``kernel: {height: 5}`` as ``{height: 11, width: 11}``; so are `stride` and `padding`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from spec.errors import Problem, SpecError, shown
from spec.language import SHORTHANDS, Origin
from spec.reader import MAX_DEPTH, Node, Path_, dotted

DISCRIMINATORS = ("op", "kind")
NULLABLE = frozenset({"std", "color_noise", "until_epoch", "before", "values", "top1_error", "top5_error", "loss"})
"""Fields that may be absent, for which null is a value."""
STATING = ("input", "layers", "init", "training", "data", "evaluation")
"""Sections whose values have sources."""


def node_of(value: Any, file: str, depth: int = 0) -> Node:
    """Plain values as nodes of `file`. Raises SpecError for keys that are not text and for nesting without end."""
    if depth > MAX_DEPTH + 1:
        raise SpecError([Problem(file, None, "", f"Values must nest at most {MAX_DEPTH} deep", "deeper nesting")])
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise SpecError([Problem(file, None, "", "A field name must be text", shown(key))])
        return Node({key: node_of(item, file, depth + 1) for key, item in value.items()}, file, None)
    if isinstance(value, list | tuple):
        return Node(tuple(node_of(item, file, depth + 1) for item in value), file, None)
    return Node(value, file, None)


class Merger:
    """Lays nodes over nodes, and remembers what no value shows: what was removed, and who placed which layer."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.removed: dict[Path_, Node] = {}
        self.placed: dict[str, Node] = {}

    def merge(self, old: Node, new: Node, path: Path_ = ()) -> Node:
        """The mapping `new`, stated at `path`, laid over the mapping `old`."""
        fields = dict(old.value)
        for key, stated in new.value.items():
            here = (*path, key)
            if path == ("layers",):
                self._put_layer(fields, key, stated, here)
            else:
                self._put(fields, key, stated, here)
        return Node(fields, new.file, new.line)

    def origins(self, node: Node) -> dict[str, Origin]:
        """Who states each value of `node`, each place of a moved layer, and each removal; by dotted path."""
        found = {dotted(path): _origin(leaf) for path, leaf in _leaves(node)}
        layers = node.value["layers"].value if "layers" in node.value else ()
        found |= {f"layers.{name}.after": _origin(at) for name, at in self.placed.items() if name in layers}
        return found | {dotted(path): _origin(at) for path, at in self.removed.items()}

    def provenance(self, node: Node) -> dict[str, str]:
        """The source of each value of `node` that has one; of a kernel's sides as one, if it is the same."""
        sides: dict[Path_, dict[str, str | None]] = {}
        found: dict[Path_, str | None] = {}
        for path, leaf in _leaves(node):
            if len(path) > 1 and path[-2] in SHORTHANDS:
                sides.setdefault(path[:-1], {})[str(path[-1])] = leaf.source
                found.setdefault(path[:-1], None)
            found[path] = leaf.source
        for path, sources in sides.items():
            if len(set(sources.values())) == 1:
                found[path] = next(iter(sources.values()))
                for side in sources:
                    del found[(*path, side)]
        return {dotted(path): source for path, source in found.items() if source is not None}

    def _refuse(self, at: Node, path: Path_, required: str, received: str) -> None:
        self.problems.append(Problem(at.file, at.line, dotted(path), required, received))

    def _put(self, fields: dict[str, Node], key: str, stated: Node, here: Path_) -> None:
        under = _under(key, fields.get(key), stated)
        if stated.value is None and key not in NULLABLE:
            self._remove(fields, key, stated, here)
            return
        self.removed.pop(here, None)
        if isinstance(stated.value, dict) and (under is not None or here == ("layers",)):
            fields[key] = self.merge(under or Node({}, stated.file, stated.line), stated, here)
        else:
            fields[key] = stated

    def _remove(self, fields: dict[str, Node], key: str, stated: Node, here: Path_) -> None:
        if key in fields:
            del fields[key]
            self.removed[here] = stated
        else:
            required = "null removes what the extended specification states, and it must state it"
            self._refuse(stated, here, required, "nothing to remove")

    def _put_layer(self, layers: dict[str, Node], name: str, stated: Node, here: Path_) -> None:
        if not isinstance(stated.value, dict):
            self._put(layers, name, stated, here)
            return
        after = stated.value.get("after")
        fields = replace(stated, value={key: item for key, item in stated.value.items() if key != "after"})
        if name not in layers and "op" not in fields.value:
            near = difflib.get_close_matches(name, list(layers), 1, 0.5)
            hint = f"; nearest: {near[0]}" if near else ""
            self._refuse(
                stated, here, f"a layer that is patched must exist, and a new one must state its op{hint}", shown(name)
            )
            return
        self._put(layers, name, fields, here)
        if after is not None:
            self._place(layers, name, after, here)

    def _place(self, layers: dict[str, Node], name: str, after: Node, here: Path_) -> None:
        if not isinstance(after.value, str) or after.value not in layers or after.value == name:
            self._refuse(after, (*here, "after"), "must name another layer of the network", shown(after.plain()))
            return
        moved = layers.pop(name)
        order = list(layers.items())
        layers.clear()
        for key, layer in order:
            layers[key] = layer
            if key == after.value:
                layers[name] = moved
        self.placed[name] = after


def _under(key: str, old: Node | None, new: Node) -> Node | None:
    """The mapping that `new` is laid over, if `old` is one, or stands for one, and `new` does not replace it."""
    if old is None or not isinstance(new.value, dict):
        return None
    if key in SHORTHANDS and isinstance(old.value, int):
        return replace(old, value=dict.fromkeys(SHORTHANDS[key], old), source=None)
    if not isinstance(old.value, dict):
        return None
    changes = any(word in new.value and not _same(new.value[word], old.value.get(word)) for word in DISCRIMINATORS)
    return None if changes else old


def _same(new: Node, old: Node | None) -> bool:
    return old is not None and new.plain() == old.plain()


def _leaves(node: Node) -> Iterator[tuple[Path_, Node]]:
    """Every value of the stating sections: scalars and whole sequences."""

    def below(path: Path_, node: Node) -> Iterator[tuple[Path_, Node]]:
        if not isinstance(node.value, dict):
            yield path, node
            return
        for key, child in node.value.items():
            yield from below((*path, key), child)

    for section in STATING:
        if section in node.value:
            yield from below((section,), node.value[section])


def _origin(node: Node) -> Origin:
    return Origin(Path(node.file).stem, node.file, node.line, node.source)
