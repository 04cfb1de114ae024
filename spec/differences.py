"""``python -m spec diff``: where two specifications disagree, in the order of the network, with both sources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from spec.arithmetic import geometry
from spec.describe import attributes, maps
from spec.items import Item, items, under
from spec.language import Spec
from spec.why import ABSENT, BY_PARAMETER, DEFAULT, sources, title, words


@dataclass(frozen=True, slots=True)
class Difference:
    """Values that two specifications have in the same places; None: nothing is there."""

    paths: tuple[str, ...]
    a: Any
    b: Any
    a_words: str
    b_words: str
    a_source: str | None
    b_source: str | None

    @property
    def title(self) -> str:
        """The place, or for several parameters their section and names."""
        return title(self.paths)


def differences(a: Spec, b: Spec) -> list[Difference]:
    """Every value that differs. A layer that one of them lacks is one difference, and so is a layer that moved."""
    mine, theirs = items(a), items(b)
    ours = [layer.name for layer in a.layers]
    other = [layer.name for layer in b.layers]
    placed = {x for x in {*ours, *other} if a.origins.get(f"layers.{x}.after") != b.origins.get(f"layers.{x}.after")}
    stay = set(_longest_common([x for x in ours if x not in placed], [x for x in other if x not in placed]))
    found: list[Difference] = []
    for path in _in_order(list(mine), list(theirs), _layers_in_order(ours, other)):
        layer = path.split(".")[1] if path.startswith("layers.") else None
        if layer is not None and (layer not in ours or layer not in other):
            if path.endswith(".op"):
                found.append(_layer(a, b, layer))
            continue
        if layer is not None and path.endswith(".after") and layer in stay:
            continue
        x, y = mine.get(path, Item(None)), theirs.get(path, Item(None))
        if (path in mine, x.plain) != (path in theirs, y.plain) and not (x.plain is None and y.plain is None):
            x_words, y_words = (words(path, i) if path in all_ else ABSENT for i, all_ in ((x, mine), (y, theirs)))
            values = x.plain, y.plain, x_words, y_words
            found.append(Difference((path,), *values, _source(a, path, x), _source(b, path, y)))
    return _grouped(found)


def _source(spec: Spec, path: str, item: Item) -> str | None:
    """The source of a value, or of its removal."""
    return item.source or Item(None, under(spec, path) if path in spec.origins else ()).source


def _layer(a: Spec, b: Spec, name: str) -> Difference:
    def side(spec: Spec) -> tuple[Any, str, str | None]:
        layer = next((layer for layer in spec.layers if layer.name == name), None)
        if layer is None:
            removal = Item(None, under(spec, f"layers.{name}"))
            return None, ABSENT, removal.source
        before = [x.name for x in spec.layers][: [x.name for x in spec.layers].index(name)]
        place = f"after {before[-1]}" if before else "first"
        stated = Item(layer, tuple(o for path, o in spec.origins.items() if path.startswith(f"layers.{name}.")))
        return layer.model_dump(mode="json", exclude={"name"}), f"{attributes(layer)}, {place}", stated.source

    (x, x_words, x_source), (y, y_words, y_source) = side(a), side(b)
    return Difference((f"layers.{name}",), x, y, x_words, y_words, x_source, y_source)


def _grouped(found: list[Difference]) -> list[Difference]:
    """Differences of parameters of one section that are alike in everything but the parameter as one."""
    groups: dict[Any, list[Difference]] = {}
    for one in found:
        section = next((s for s in BY_PARAMETER if one.paths[0].startswith(f"{s}.")), None)
        key = (section, one.a_words, one.b_words, one.a_source, one.b_source) if section else one.paths
        groups.setdefault(key, []).append(one)
    return [
        Difference(
            tuple(path for one in group for path in one.paths),
            *(getattr(group[0], name) for name in ("a", "b", "a_words", "b_words", "a_source", "b_source")),
        )
        for group in groups.values()
    ]


def _longest_common(a: Sequence[str], b: Sequence[str]) -> list[str]:
    """The longest common subsequence: the layers that did not move."""
    best: list[list[list[str]]] = [[[] for _ in range(len(b) + 1)] for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            longer = max(best[i][j + 1], best[i + 1][j], key=len)
            best[i + 1][j + 1] = [*best[i][j], x] if x == y else longer
    return best[-1][-1]


def _layers_in_order(a: Sequence[str], b: Sequence[str]) -> list[str]:
    """The layers of both: those of `b`, and those that `a` alone has behind the layer they follow there."""
    order = list(b)
    for number, name in enumerate(a):
        if name not in order:
            before = next((n for n in reversed(a[:number]) if n in order), None)
            order.insert(order.index(before) + 1 if before else 0, name)
    return order


def _in_order(a: Sequence[str], b: Sequence[str], layers: Sequence[str]) -> Iterator[str]:
    """The paths of both, each once: the input, the layers in order, the other sections in order."""
    every = list(dict.fromkeys((*b, *a)))
    yield from (path for path in every if path.startswith("input."))
    for layer in layers:
        yield from (path for path in every if path.startswith(f"layers.{layer}."))
    for section in ("init", "training", "data", "evaluation"):
        yield from (path for path in every if path.startswith(f"{section}."))


def derived(a: Spec, b: Spec) -> list[tuple[str, Any, Any]]:
    """What follows from the differences: parameters, MACs and the shapes of layers that both have."""
    x, y = geometry(a), geometry(b)
    shapes = {layer.name: layer.output_shape for layer in y.layers}
    found: list[tuple[str, Any, Any]] = [
        ("parameters", x.parameter_count, y.parameter_count),
        ("macs", x.macs, y.macs),
        *((layer.name, layer.output_shape, shapes[layer.name]) for layer in x.layers if layer.name in shapes),
    ]
    return [(what, mine, theirs) for what, mine, theirs in found if mine != theirs]


def text(a: Spec, b: Spec) -> str:
    """The differences for people."""
    found = differences(a, b)
    lines = [f"{a.name} and {b.name}: {len(found)} differences" if found else f"{a.name} and {b.name} say the same"]
    width = max(len(a.name), len(b.name))
    for one in found:
        lines += ["", one.title]
        for name, value, source in ((a.name, one.a_words, one.a_source), (b.name, one.b_words, one.b_source)):
            lines.append(f"  {name.ljust(width)}  {value}")
            unsourced = [] if value == ABSENT else [DEFAULT]
            lines += [f"  {' ' * width}    {pointer}" for pointer in sources(source) or unsourced]
    numbers = derived(a, b)
    if numbers:
        lines += ["", f"what follows from that, in {a.name} and in {b.name}"]
        for what, mine, theirs in numbers:
            shown = [maps(n) if isinstance(n, tuple) else f"{n:,}" for n in (mine, theirs)]
            lines.append(f"  {what}: {shown[0]} and {shown[1]}")
    return "\n".join(lines)


def values(a: Spec, b: Spec) -> dict[str, Any]:
    """The differences for programs."""
    return {
        "a": a.name,
        "b": b.name,
        "differences": [
            {
                "paths": list(one.paths),
                "a": {"value": one.a, "source": one.a_source},
                "b": {"value": one.b, "source": one.b_source},
            }
            for one in differences(a, b)
        ],
        "derived": {what: {"a": mine, "b": theirs} for what, mine, theirs in derived(a, b)},
    }
