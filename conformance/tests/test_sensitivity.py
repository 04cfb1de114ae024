"""The gate: every attribute and every term moves some case by ten of its bounds; and what moves none is seen."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any

import pytest

from conformance.changes import SAID_BY, Move, kinds, moves
from conformance.checks import Job
from conformance.killing import Cases
from conformance.sensitivity import GATE, Gate, Moved
from conformance.suite import Small, square
from conformance.terms import TERMS
from spec import language

MOVES = {move.name: move for move in moves()}


@pytest.fixture(scope="module")
def gate() -> Gate:
    return Gate()


@pytest.mark.parametrize("name", MOVES)
def test_every_attribute_and_term_moves_a_case(gate: Gate, name: str) -> None:
    moved = gate.moved(MOVES[name])
    assert moved.passed, moved
    assert moved.ratio >= GATE


def test_every_attribute_of_every_op_is_among_them() -> None:
    ops = kinds(SAID_BY["layer"][0])
    assert {kind.__name__ for kind in ops} == {
        "Conv", "Local", "MaxPool", "AvgPool", "Lrn", "SpatialNorm", "Relu", "Tanh", "Dropout", "Flatten", "Dense"
    }  # fmt: skip
    every: list[Any] = [*ops, *kinds(SAID_BY["schedule"][0]), *kinds(SAID_BY["init"][0]), language.Optimizer]
    for kind in every:
        tag = "op" if "op" in kind.model_fields else "kind"
        word = kind.model_fields[tag].annotation.__args__[0]
        for attribute in kind.model_fields.keys() - {tag, "name"}:
            assert any(name.endswith(f" {word}: {attribute}") for name in MOVES)
    assert {f"term {name}" for name in TERMS} <= MOVES.keys()


def test_what_changes_nothing_is_seen() -> None:
    gate = Gate(Cases({"square": Small(Job(square()))}))
    found = gate.moved(Move("nothing", lambda spec: iter([(spec, nullcontext())])))
    assert not found.passed
    assert 0 < found.ratio < 1
    assert json.loads(json.dumps(found.record()))["move"] == "nothing"
    assert not gate.moved(MOVES["layer dropout: rate"]).passed, "a network without dropout"
    assert Moved("x", "y", ratio=GATE).passed
