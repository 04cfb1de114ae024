"""How far a network of some file is from each variant, and in what.

What a reader found (:class:`Found`) is laid beside the structure of every variant, step by step, so that the whole
distance is least. The distance is the sum of these, and nothing else:

======================================================================================  ==========================
a step that only one of the two has                                                     :data:`PRESENCE`, by its op
a step of another kind in the same place (an average for a maximum, tanh for relu)      2
a step that both have, elsewhere                                                        1
... where that changes no value: relu or tanh on the other side of maximum pools        0.1
a fact of a step, by its name                                                           :data:`FACTS`
the size of the input                                                                   1
======================================================================================  ==========================

What a file cannot show is not compared: initialisation, training and data never, dropout only where the file has it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
WIDTH = "out_features"
FACTS = {"out_channels": 1.0, "kernel": 1.0, "stride": 1.0, "groups": 1.0, WIDTH: 1.0}
"""Cost of a fact that differs; of any other it is :data:`FACT`, of the number of classes :data:`CLASSES`."""
FACT, CLASSES, INPUT = 0.5, 0.25, 1.0
CLOSE = 1e-5
"""Numbers that differ relatively by less are one number that was kept as float32."""


@dataclass(frozen=True)
class Found:
    """What a reader made of a file that holds a network."""

    kind: str
    """``ONNX graph``, ``Keras model``."""
    structure: Structure
    flatten: str = ""
    """The order in which maps become a vector: ``chw``, ``hwc``; empty where it makes no difference."""
    notes: tuple[str, ...] = ()
    keeps_dropout: bool = True
    """Whether such a file has the dropout that scales in training; graphs for inference leave it out."""


@dataclass(frozen=True)
class Departure:
    """One way in which a file departs from a variant. `found` and `expected` are words; one of them may be empty."""

    step: str
    fact: str
    found: str
    expected: str
    cost: float

    def __str__(self) -> str:
        said = " instead of ".join(word for word in (self.found, self.expected) if word)
        return ": ".join(word for word in (self.step, self.fact, said) if word)


@dataclass(frozen=True)
class Candidate:
    """A variant, how far the file is from it, and in what."""

    name: str
    distance: float
    departures: tuple[Departure, ...]


def structures() -> dict[str, Structure]:
    """The structure of every variant."""
    return {name: _structure(name) for name in names()}


@cache
def _structure(name: str) -> Structure:
    return of_spec(load(name))


def against(found: Found, variants: Mapping[str, Structure]) -> tuple[Candidate, ...]:
    """`found` laid beside every one of `variants`; the nearest first, and in alphabetical order."""
    steps = normalised(found.structure.steps)
    mine = replace(found.structure, steps=steps)
    candidates = []
    for name, variant in variants.items():
        visible = tuple(step for step in variant.steps if found.keeps_dropout or not _inverted(step))
        departures = tuple(_compared(mine, replace(variant, steps=visible)))
        candidates.append(Candidate(name, round(sum(item.cost for item in departures), 6), departures))
    return tuple(sorted(candidates, key=lambda candidate: (candidate.distance, candidate.name)))


def _inverted(step: Step) -> bool:
    return step.op == "dropout" and step.facts["scale"] == "train"


# --- two structures side by side --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Pair:
    """A step of the file and one of the variant that are taken for each other; one of them may be missing."""

    found: Step | None
    expected: Step | None
    displaced: float | None = None
    """The cost of their standing in different places, if they do."""


def _compared(found: Structure, variant: Structure) -> Iterable[Departure]:
    if found.input != variant.input:
        yield Departure("input", "", _shape(found.input), _shape(variant.input), INPUT)
    last = {id(step) for steps in (found.steps, variant.steps) for step in [s for s in steps if s.op == "dense"][-1:]}
    for pair in _moved(_aligned(found.steps, variant.steps)):
        one, other = pair.found, pair.expected
        if one is None:
            assert other is not None
            there = f"{_said(other)} behind {_behind(other, variant.steps)}"
            yield Departure(other.name, "missing", "", there, _presence(other))
        elif other is None:
            yield Departure(one.name, "more", f"{_said(one)} behind {_behind(one, found.steps)}", "", _presence(one))
        elif one.op != other.op:
            yield Departure(one.name, "", _said(one), _said(other), REPLACED)
        else:
            if pair.displaced is not None:
                here, there = _behind(one, found.steps), _behind(other, variant.steps)
                same = " (it gives the same values)" if pair.displaced == COMMUTED else ""
                yield Departure(one.name, f"place{same}", f"{one.op} behind {here}", f"behind {there}", pair.displaced)
            for key, cost in _differing(one, other):
                word, price = ("classes", CLASSES) if {id(one), id(other)} <= last and key == WIDTH else (key, cost)
                yield Departure(one.name, word, _value(key, one, other), _value(key, other, one), price)


def _differing(one: Step, other: Step) -> Iterator[tuple[str, float]]:
    """(fact, cost) of the facts in which two steps of one op differ."""
    for key in dict.fromkeys((*one.facts, *other.facts)):
        mine, theirs = one.facts.get(key), other.facts.get(key)
        if not _equal(mine, theirs):
            yield key, FACTS.get(key, FACT)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float | int):
        return abs(one - other) <= CLOSE * max(abs(one), abs(other))
    return bool(one == other)


def _presence(step: Step) -> float:
    return PRESENCE.get(step.op, OTHERWISE)


def _apart(one: Step, other: Step) -> float:
    """The cost of taking two steps for each other."""
    if one.op == other.op:
        return sum(cost for _, cost in _differing(one, other))
    return REPLACED if any({one.op, other.op} <= group for group in ALIKE) else float("inf")


def _aligned(found: Sequence[Step], expected: Sequence[Step]) -> list[_Pair]:
    """The pairs of least cost that keep both orders (edit distance)."""
    costs = [[0.0] * (len(expected) + 1) for _ in range(len(found) + 1)]
    best: dict[tuple[int, int], _Pair] = {}
    for i, j in itertools.product(range(len(found) + 1), range(len(expected) + 1)):
        options: list[tuple[float, _Pair]] = []
        if i and j:
            apart = _apart(found[i - 1], expected[j - 1])
            options.append((costs[i - 1][j - 1] + apart, _Pair(found[i - 1], expected[j - 1])))
        if i:
            options.append((costs[i - 1][j] + _presence(found[i - 1]), _Pair(found[i - 1], None)))
        if j:
            options.append((costs[i][j - 1] + _presence(expected[j - 1]), _Pair(None, expected[j - 1])))
        if options:
            costs[i][j], best[i, j] = min(options, key=lambda option: option[0])
    pairs = []
    i, j = len(found), len(expected)
    while i or j:
        pair = best[i, j]
        i, j = i - (pair.found is not None), j - (pair.expected is not None)
        pairs.append(pair)
    return pairs[::-1]


def _moved(pairs: list[_Pair]) -> list[_Pair]:
    """The same, with steps that the file has here and the variant there as one displaced pair each."""
    result = list(pairs)
    lacking = [pair for pair in pairs if pair.found is None]
    for mine in [pair for pair in pairs if pair.expected is None]:
        assert mine.found is not None
        alike = [pair for pair in lacking if pair.expected is not None and pair.expected.op == mine.found.op]
        for theirs in sorted(alike, key=lambda pair: _apart(*_both(mine, pair))):
            one, other = _both(mine, theirs)
            cost = COMMUTED if _commutes(one, pairs, mine, theirs) else MOVED
            if cost + _apart(one, other) < _presence(one) + _presence(other):
                result[result.index(mine)] = _Pair(one, other, cost)
                result.remove(theirs)
                lacking.remove(theirs)
                break
    return result


def _both(mine: _Pair, theirs: _Pair) -> tuple[Step, Step]:
    assert mine.found is not None
    assert theirs.expected is not None
    return mine.found, theirs.expected


def _commutes(step: Step, pairs: list[_Pair], mine: _Pair, theirs: _Pair) -> bool:
    """Whether only maximum pools, which both have, lie between the two places of a function that never falls."""
    first, last = sorted((pairs.index(mine), pairs.index(theirs)))
    ops = {step.op if step else "" for pair in pairs[first + 1 : last] for step in (pair.found, pair.expected)}
    return step.op in ("relu", "tanh") and ops <= {"max_pool"}


# --- words ------------------------------------------------------------------------------------------------------------


def _behind(step: Step, steps: Sequence[Step]) -> str:
    place = next(i for i, item in enumerate(steps) if item is step)
    return f"{steps[place - 1].op} ({steps[place - 1].name})" if place else "the input"


def _shape(shape: Shape) -> str:
    return " x ".join(map(str, shape))


def _said(step: Step) -> str:
    shown = (
        f"{key} {_plain(value)}"
        for key, value in step.facts.items()
        if key in ("out_channels", "out_features", "kernel")
    )
    return ", ".join([step.op, *shown])


def _value(key: str, step: Step, beside: Step) -> str:
    """A fact of `step` in words, `beside` having another value in its place."""
    value = step.facts.get(key)
    if value is None:
        return "nothing"
    said = _plain(value)
    if key == "coefficient" and step.op == "lrn":
        size, other = step.facts["before"] + 1 + step.facts["after"], beside.facts[key]
        if _equal(value, other * size):
            return f"{said} (alpha not divided by the {size} channels of the window)"
        if _equal(value * size, other):
            return f"{said} (alpha divided by the {size} channels of the window)"
    if key == "padding":
        below = "; below 0: rows and columns that no window sees" if min(value) < 0 else ""
        return f"{said} (top, bottom, left, right{below}; maps of {_shape(step.output[1:])})"
    return said


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ("x" if len(value) == 2 else ", ").join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


__all__ = ["Candidate", "Departure", "Found", "against", "structures"]
