"""The gate: could every attribute and every term of a formula be wrong without a case noticing?

    python -m conformance.sensitivity --evidence FILE

Each attribute of every layer, distribution, schedule and optimizer of the language, and of what it says of images and
of evaluation, is changed: numbers by a hundredth, whole numbers by one, sides exchanged, the other word for a word.
Each term of a formula is left out. A correct backend of what was changed is asked the suite's small cases as if nothing
had been, until one is GATE bounds away.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from backends.numpy import NumpyBackend
from conformance.checks import CHECKS, examine, first_fault
from conformance.killing import Cases
from conformance.suite import cases
from conformance.terms import TERMS
from spec import Spec, SpecError, from_values, language

GATE = 10.0
"""How many bounds away from what is right a change must be."""
STEP = 0.01
"""By which share a number is changed."""

Values = dict[str, Any]
Changed = tuple[Spec, AbstractContextManager[None]]
"""What a backend is made for instead, and the formulas that it then computes by."""


@dataclass(frozen=True)
class Move:
    """One change, and how to make it of a specification; nothing where that has no such thing."""

    name: str
    of: Callable[[Spec], Iterator[Changed]]


@dataclass(frozen=True)
class Moved:
    """The case that a change moves, and by how much."""

    move: str
    case: str | None
    """None: no case notices."""
    check: str | None = None
    tensor: str | None = None
    ratio: float = 0.0
    """In bounds; infinite if names or shapes change, or what is compared bit for bit."""
    error: float = 0.0
    bound: float = 0.0

    @property
    def passed(self) -> bool:
        return self.ratio >= GATE

    def record(self) -> Values:
        """For the evidence file."""
        numbers = {name: getattr(self, name) for name in ("ratio", "error", "bound")}
        finite = {name: value if math.isfinite(value) else str(value) for name, value in numbers.items()}
        return {"move": self.move, "case": self.case, "check": self.check, "tensor": self.tensor, **finite}


# --- attributes -----------------------------------------------------------------------------------------------------


def _exchanged(value: Values) -> Iterator[Values]:
    """Sides: rows for columns, then one more on each; of padding also one moved to the other side."""
    if "top" in value:
        yield {"top": value["left"], "bottom": value["right"], "left": value["top"], "right": value["bottom"]}
        for one, other in (("top", "bottom"), ("bottom", "top")):
            if value[one]:
                yield value | {one: value[one] - 1, other: value[other] + 1}
    elif "height" in value:
        yield {"height": value["width"], "width": value["height"]}
        yield {name: extent + 1 for name, extent in value.items()}


def other_values(kind: type[BaseModel], attribute: str, value: Any) -> Iterator[Any]:
    """What an attribute can be changed to, the smallest change first."""
    words = _words(kind.model_fields[attribute].annotation)
    if words:
        yield from (word for word in words if word != value)
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, value - 1, value + 2, value - 2)
    elif isinstance(value, float):
        yield value * (1 + STEP) if value else STEP
    elif isinstance(value, dict):
        yield from _exchanged(value)
    elif isinstance(value, list | tuple):
        yield from ([*value[:-1], one] for one in _last(value[-1]))
    elif value is None and attribute == "before":
        yield 0


def _last(value: Any) -> Iterator[Any]:
    """Changes of the last of several: of one of its values, or of itself."""
    if isinstance(value, dict):
        yield from (value | {key: one} for key in value for one in _numbers(value[key]))
    else:
        yield from _numbers(value)


def _numbers(value: float) -> Iterator[float]:
    yield value + 1 if isinstance(value, int) else value * (1 + STEP) if value else STEP


def _words(annotation: Any) -> tuple[str, ...]:
    found: tuple[str, ...] = get_args(annotation) if get_origin(annotation) is Literal else ()
    return found


SAID_BY: dict[str, tuple[Any, str, Callable[[Values], Iterable[Values]]]] = {
    "layer": (language.Layer, "op", lambda values: values["layers"].values()),
    "init": (language.Distribution, "kind", lambda values: [values["init"][which] for which in ("weight", "bias")]),
    "schedule": (language.Schedule, "kind", lambda values: values["training"]["learning_rate"].values()),
    "optimizer": (language.Optimizer, "kind", lambda values: [values["training"]["optimizer"]]),
}
"""The parts of a specification whose attributes are changed: their classes, what tells them apart, and where they are
in its statement."""
SECTIONS: dict[str, tuple[type[BaseModel], Callable[[Values], Values | None]]] = {
    "data": (language.Data, lambda values: values["data"]),
    "data.storage": (language.Storage, lambda values: values["data"]["storage"]),
    "data.mean": (language.Mean, lambda values: values["data"]["mean"]),
    "data.crop": (language.Crop, lambda values: values["data"]["crop"]),
    "data.flip": (language.Flip, lambda values: values["data"]["flip"]),
    "data.color_noise": (language.ColorNoise, lambda values: values["data"]["color_noise"]),
    "evaluation": (language.Evaluation, lambda values: values["evaluation"]),
}
"""What is said of images and of evaluation: the classes, and where each is."""


def kinds(part: Any) -> list[type[BaseModel]]:
    """The classes of a union of the language, however it is annotated."""
    if isinstance(part, type):
        return [part]
    return [kind for one in get_args(part) if not isinstance(one, str) for kind in kinds(one) if _is_part(kind)]


def _is_part(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def attributes() -> Iterator[Move]:
    """A change of every attribute that the language has."""
    for part, (union, tag, places) in SAID_BY.items():
        for kind in kinds(union):
            word = _words(kind.model_fields[tag].annotation)[0]
            for attribute in [name for name in kind.model_fields if name not in (tag, "name")]:
                yield Move(f"{part} {word}: {attribute}", _restating(kind, tag, word, attribute, places))


def _restating(kind: Any, tag: str, word: str, attribute: str, places: Any) -> Callable[[Spec], Iterator[Changed]]:
    def of(spec: Spec) -> Iterator[Changed]:
        values = spec.statement() | {"expect": {}, "provenance": {}}
        for place in places(values):
            if place[tag] != word:
                continue
            yield from _each(values, place, kind, attribute)

    return of


def of_images() -> Iterator[Move]:
    """A change of every attribute of what is said of images and of evaluation."""
    for name, (kind, place) in SECTIONS.items():
        for attribute, field in kind.model_fields.items():
            if not any(map(_is_part, kinds(field.annotation))):
                yield Move(f"{name}: {attribute}", _rewriting(kind, attribute, place))


def _rewriting(kind: type[BaseModel], attribute: str, place: Any) -> Callable[[Spec], Iterator[Changed]]:
    def of(spec: Spec) -> Iterator[Changed]:
        values = spec.statement() | {"expect": {}, "provenance": {}}
        section = place(values)
        yield from () if section is None else _each(values, section, kind, attribute)

    return of


def _each(values: Values, section: Values, kind: type[BaseModel], attribute: str) -> Iterator[Changed]:
    """The specification `values` with every other value of an attribute of a part of it."""
    right = section[attribute]
    for wrong in other_values(kind, attribute, right):
        section[attribute] = wrong
        try:
            made = from_values(values)
        except SpecError:
            continue  # that change makes no specification
        finally:
            section[attribute] = right
        yield made, nullcontext()


def patterns() -> Iterator[Move]:
    """Which parameters a rate and a decay are for."""

    def of(spec: Spec) -> Iterator[Changed]:
        values = spec.statement() | {"expect": {}, "provenance": {}}
        for what in ("learning_rate", "weight_decay"):
            for pattern in list(values["training"][what])[1:]:
                left = {name: one for name, one in values["training"][what].items() if name != pattern}
                yield from_values(values | {"training": values["training"] | {what: left}}), nullcontext()

    yield Move("training: patterns", of)


def terms() -> Iterator[Move]:
    """Every term of a formula, left out."""
    for name, (ops, patch) in TERMS.items():

        def of(spec: Spec, ops: frozenset[str] = ops, patch: Any = patch) -> Iterator[Changed]:
            if not ops or ops & {layer.op for layer in spec.layers}:
                yield spec, _patched(patch)

        yield Move(f"term {name}", of)


@contextmanager
def _patched(patch: Any) -> Iterator[None]:
    from conformance.mutants import Live

    live = Live("numpy")
    try:
        patch(live)
        yield
    finally:
        live.undo()


def moves() -> list[Move]:
    return [*attributes(), *of_images(), *patterns(), *terms()]


# --- the gate -------------------------------------------------------------------------------------------------------


class Gate:
    """The cases that are admitted: those on which the unchanged formulas, in float32, pass."""

    def __init__(self, given: Cases | None = None) -> None:
        self.given = given or Cases(cases())
        self._admitted: set[str] = set()

    def admit(self, name: str) -> Any:
        """The examination of a case, everything in it worked out before anything is changed. Raises ValueError."""
        e, only = self.given.examination(name), self.given.small[name].only
        if name not in self._admitted:
            fault = first_fault(examine(e, NumpyBackend(e.spec, dtype="float32"), trains=True, only=only))
            if fault is not None:
                raise ValueError(f"{name} is no case: what is right fails {fault.check}: {fault.tensor} {fault.fault}")
            self._admitted.add(name)
        return e

    def moved(self, move: Move) -> Moved:
        """The first case that `move` moves far enough, else the one that it moves furthest."""
        furthest = Moved(move.name, None)
        for name, small in self.given.small.items():
            for spec, patched in move.of(small.job.spec):
                e = self.admit(name)
                with patched:
                    found = _asked(e, spec, small.only)
                seen = Moved(move.name, name, *found)
                if seen.ratio > furthest.ratio:
                    furthest = seen
                if furthest.passed:
                    return furthest
        return furthest


def _asked(e: Any, spec: Spec, only: tuple[str, ...] | None) -> tuple[str, str, float, float, float]:
    """The finding that is furthest out, of the first check that finds one far enough."""
    backend = NumpyBackend(spec, dtype="float32")
    worst = ("", "", 0.0, 0.0, 0.0)
    for check in only or tuple(name for name, one in CHECKS.items() if not one.named):
        try:
            findings = examine(e, backend, trains=True, only=(check,))
        except ValueError as error:  # parameters have other shapes
            return check, str(error), math.inf, math.inf, 0.0
        for one in findings:
            if one.ratio > worst[2]:
                worst = (one.check, one.tensor, one.ratio, one.error, one.bound)
        if worst[2] >= GATE:
            break
    return worst


def table(chosen: Sequence[Move] | None = None, gate: Gate | None = None) -> Iterator[Moved]:
    """What every move moves."""
    made = gate or Gate()
    for move in moves() if chosen is None else chosen:
        yield made.moved(move)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    from conformance.runner import evidence

    parser = argparse.ArgumentParser(
        prog="python -m conformance.sensitivity", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--evidence", type=Path, metavar="FILE", help="write the table to this JSON file")
    chosen = parser.parse_args(argv)
    if chosen.evidence is not None and not chosen.evidence.absolute().parent.is_dir():
        print(f"--evidence must be a file in a folder that exists. Received: {chosen.evidence}", file=sys.stderr)
        return 2
    found = []
    for one in table():
        found.append(one)
        words = f"{one.ratio:.3g} bounds, {one.case}, {one.check}: {one.tensor}" if one.case else "by nothing"
        print(f"{'' if one.passed else 'NOT '}moved: {one.move}: {words}", flush=True)
    if chosen.evidence is not None:
        record: Mapping[str, Any] = evidence([], {}) | {"sensitivity": [one.record() for one in found]}
        chosen.evidence.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    passed = sum(one.passed for one in found)
    print(f"{passed} of {len(found)} attributes and terms moved by {GATE:g} bounds or more")
    return 0 if passed == len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
