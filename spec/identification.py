"""Which variant a file of a framework is, or which is nearest and every way in which it departs.

What a reader found (:class:`Found`) is laid beside the structure of every variant, step by step, so that the whole
distance is least. The distance is the sum of these, and nothing else:

======================================================================================  ==========================
a step that only one of the two has                                                     :data:`PRESENCE`, by its op
a step of another kind in the same place (an average for a maximum, tanh for relu)      2
a step that both have, elsewhere                                                        1
... where that changes no value: relu or tanh on the other side of maximum pools        0.1
a fact of a step, or the input's size                                                   :data:`FACTS`, by its name
======================================================================================  ==========================

What a file cannot show is not compared: initialisation, training and data never, dropout only where the file has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from spec.arithmetic import Shape
from spec.loading import load, names
from spec.structure import Step, Structure, normalised, of_spec

PRESENCE = {"conv": 4.0, "local": 4.0, "dense": 4.0, "max_pool": 2.0, "avg_pool": 2.0, "dropout": 0.5}
"""Cost of a step that one of the two lacks; for any other op it is :data:`OTHERWISE`."""
OTHERWISE = 1.5
ALIKE = ({"conv", "local"}, {"max_pool", "avg_pool"}, {"relu", "tanh"}, {"lrn", "spatial_norm"})
"""Ops that can stand in each other's place."""
REPLACED, MOVED, COMMUTED = 2.0, 1.0, 0.1
FACTS = {"out_channels": 1.0, "kernel": 1.0, "stride": 1.0, "groups": 1.0, "out_features": 1.0, "classes": 0.25}
"""Cost of a fact that differs; of any other 0.5."""
INPUT = 1.0
CLOSE = 1e-5
"""Numbers that differ relatively by less are one number that was kept as float32."""
NEVER_VISIBLE = "initialisation, training, data and evaluation"


@dataclass(frozen=True)
class Found:
    """What a reader made of a file that holds a network."""

    kind: str
    """``ONNX graph``, ``Keras model``."""
    structure: Structure
    flatten: str = ""
    """The order in which maps become a vector: ``chw``, ``hwc``; empty where it makes no difference."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Departure:
    """One way in which a file departs from a variant. `found` and `expected` are words; one of them may be empty."""

    step: str
    fact: str
    found: str
    expected: str
    cost: float

    def __str__(self) -> str:
        place = f"{self.step}: {self.fact}".strip(": ")
        if not self.expected:
            return f"{place}: {self.found}"
        return f"{place}: {self.found}, there {self.expected}" if self.found else f"{place}: there {self.expected}"


@dataclass(frozen=True)
class Candidate:
    """A variant, how far the file is from it, and in what."""

    name: str
    distance: float
    departures: tuple[Departure, ...]


@dataclass(frozen=True)
class Identification:
    """What a file is. `candidates` are all variants, the nearest first; those at distance 0 it is."""

    file: str
    kind: str
    input: Shape
    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...]
    invisible: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The variants that the file is: more than one where they differ only in what it cannot show."""
        return tuple(candidate.name for candidate in self.candidates if candidate.distance == 0)


def structures() -> dict[str, Structure]:
    """The structure of every variant."""
    return {name: _structure(name) for name in names()}


@cache
def _structure(name: str) -> Structure:
    return of_spec(load(name))


def against(found: Found, variants: Mapping[str, Structure], file: str = "") -> Identification:
    """`found` laid beside every one of `variants`."""
    steps = normalised(found.structure.steps)
    shows_dropout = any(step.op == "dropout" and step.facts["scale"] == "train" for step in steps)
    candidates = []
    for name, variant in variants.items():
        expected = variant.steps if shows_dropout else tuple(step for step in variant.steps if not _inverted(step))
        departures = tuple(_compared(replace(found.structure, steps=steps), replace(variant, steps=expected), name))
        candidates.append(Candidate(name, round(sum(item.cost for item in departures), 6), departures))
    candidates.sort(key=lambda candidate: (candidate.distance, candidate.name))
    invisible = [NEVER_VISIBLE]
    if not shows_dropout:
        invisible.append("dropout that scales in training (a graph for inference leaves it out)")
    notes = list(found.notes)
    if found.flatten not in ("", "chw"):
        notes.append(
            f"maps become a vector in the order {', '.join(found.flatten.upper())}, here C, H, W: "
            "the weights of the first dense layer must be permuted between the two"
        )
    return Identification(file, found.kind, found.structure.input, tuple(candidates), tuple(notes), tuple(invisible))


def _inverted(step: Step) -> bool:
    return step.op == "dropout" and step.facts["scale"] == "train"


# --- two structures side by side --------------------------------------------------------------------------------------


def _compared(found: Structure, variant: Structure, name: str) -> Iterable[Departure]:
    if found.input != variant.input:
        yield Departure("input", "", _shape(found.input), _shape(variant.input), INPUT)
    pairs = _moved(_aligned(found.steps, variant.steps), found.steps, variant.steps)
    last = {id(steps[-1]) for steps in (_dense(found.steps), _dense(variant.steps)) if steps}
    for one, other, cost, word in pairs:
        if word:
            step = one or other
            assert step is not None
            yield _displaced(step, one, other, found.steps, variant.steps, word, cost)
        elif one is None and other is not None:
            yield Departure(other.name, "", "", _said(other), cost)
        elif other is None and one is not None:
            yield Departure(one.name, "", f"{_said(one)}, {name} has none here", "", cost)
        elif one is not None and other is not None and one.op != other.op:
            yield Departure(one.name, "", _said(one), _said(other), REPLACED)
        if one is not None and other is not None:
            yield from _facts(one, other, classes=id(one) in last and id(other) in last)


def _dense(steps: Sequence[Step]) -> list[Step]:
    return [step for step in steps if step.op == "dense"]


def _facts(one: Step, other: Step, classes: bool) -> Iterable[Departure]:
    """The facts in which two steps of one op differ."""
    if one.op != other.op:
        return
    for key in dict.fromkeys((*one.facts, *other.facts)):
        mine, theirs = one.facts.get(key), other.facts.get(key)
        if not _equal(mine, theirs):
            word = "classes" if classes and key == "out_features" else key
            yield Departure(
                one.name, word, _value(key, mine, one, other), _value(key, theirs, other), FACTS.get(word, 0.5)
            )


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float | int):
        return abs(one - other) <= CLOSE * max(abs(one), abs(other))
    return bool(one == other)


Pair = tuple[Step | None, Step | None, float, str]
"""(found, expected, cost of their being a pair, word if displaced): one of the steps is None where there is none."""


def _presence(step: Step) -> float:
    return PRESENCE.get(step.op, OTHERWISE)


def _apart(one: Step, other: Step, classes: bool = False) -> float:
    """The cost of taking two steps for each other."""
    if one.op == other.op:
        return sum(departure.cost for departure in _facts(one, other, classes))
    return REPLACED if any({one.op, other.op} <= group for group in ALIKE) else float("inf")


def _aligned(found: Sequence[Step], expected: Sequence[Step]) -> list[Pair]:
    """The pairs of least cost that keep both orders (edit distance)."""
    rows, columns = len(found), len(expected)
    costs = [[0.0] * (columns + 1) for _ in range(rows + 1)]
    for i in range(rows + 1):
        for j in range(columns + 1):
            options = [0.0] if i == j == 0 else []
            if i:
                options.append(costs[i - 1][j] + _presence(found[i - 1]))
            if j:
                options.append(costs[i][j - 1] + _presence(expected[j - 1]))
            if i and j:
                options.append(costs[i - 1][j - 1] + _apart(found[i - 1], expected[j - 1]))
            costs[i][j] = min(options)
    pairs: list[Pair] = []
    i, j = rows, columns
    while i or j:
        if i and j and costs[i][j] == costs[i - 1][j - 1] + (cost := _apart(found[i - 1], expected[j - 1])):
            i, j = i - 1, j - 1
            pairs.append((found[i], expected[j], cost, ""))
        elif i and costs[i][j] == costs[i - 1][j] + _presence(found[i - 1]):
            i -= 1
            pairs.append((found[i], None, _presence(found[i]), ""))
        else:
            j -= 1
            pairs.append((None, expected[j], _presence(expected[j]), ""))
    return pairs[::-1]


def _moved(pairs: list[Pair], found: Sequence[Step], expected: Sequence[Step]) -> list[Pair]:
    """Steps that one has here and the other there, as pairs."""
    result = list(pairs)
    extra = [pair for pair in pairs if pair[1] is None]
    lacking = [pair for pair in pairs if pair[0] is None]
    for mine in extra:
        matches = [pair for pair in lacking if mine[0] and pair[1] and mine[0].op == pair[1].op]
        matches.sort(key=lambda pair: _apart(mine[0], pair[1]) if mine[0] and pair[1] else 0.0)
        for theirs in matches:
            one, other = mine[0], theirs[1]
            assert one is not None
            assert other is not None
            commutes = _only_pools_between(pairs, mine, theirs) and one.op in ("relu", "tanh")
            cost, word = (COMMUTED, "the same values") if commutes else (MOVED, "elsewhere")
            if cost + _apart(one, other) < mine[2] + theirs[2]:
                result[result.index(mine)] = (one, other, cost, word)
                result.remove(theirs)
                lacking.remove(theirs)
                break
    return result


def _only_pools_between(pairs: list[Pair], mine: Pair, theirs: Pair) -> bool:
    first, last = sorted((pairs.index(mine), pairs.index(theirs)))
    between = pairs[first + 1 : last]
    return all(
        one is not None and other is not None and one.op == other.op == "max_pool" for one, other, _, _ in between
    )


def _displaced(
    step: Step,
    one: Step | None,
    other: Step | None,
    found: Sequence[Step],
    expected: Sequence[Step],
    word: str,
    cost: float,
) -> Departure:
    """A step that stands elsewhere."""
    here, there = _behind(one, found), _behind(other, expected)
    told = "place (the same values: it commutes with maximum pools)" if cost == COMMUTED else "place"
    return Departure(step.name, told, f"{step.op} behind {here}", f"behind {there}", cost)


def _behind(step: Step | None, steps: Sequence[Step]) -> str:
    place = next((i for i, item in enumerate(steps) if item is step), 0)
    return f"{steps[place - 1].op} ({steps[place - 1].name})" if place else "the input"


# --- words ------------------------------------------------------------------------------------------------------------


def _shape(shape: Shape) -> str:
    return " x ".join(map(str, shape))


def _said(step: Step) -> str:
    shown = (
        f"{key} {_plain(value)}"
        for key, value in step.facts.items()
        if key in ("out_channels", "out_features", "kernel")
    )
    return ", ".join([step.op, *shown])


def _value(key: str, value: Any, step: Step, other: Step | None = None) -> str:
    if value is None:
        return "nothing"
    said = _plain(value)
    if key == "coefficient" and step.op == "lrn" and other is not None:
        size = step.facts["before"] + 1 + step.facts["after"]
        theirs = other.facts.get(key, 0.0)
        if _equal(value, theirs * size):
            return f"{said} (alpha not divided by the {size} channels of the window)"
        if _equal(value * size, theirs):
            return f"{said} (alpha divided by the {size} channels of the window)"
    if key == "padding":
        return f"{said} (top, bottom, left, right; maps of {_shape(step.output[1:])})"
    return said


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ("x" if len(value) == 2 else ", ").join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


__all__ = ["Candidate", "Departure", "Found", "Identification", "against", "structures"]
