"""Other specifications and other formulas: every attribute of the language changed, every term of a formula left out.

By them the gate (``sensitivity.py``) sees what the suite would notice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from conformance.mutants.mutant import Live, Patch
from conformance.terms import TERMS
from spec import Spec, SpecError, from_values, language

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
    words = words_of(kind.model_fields[attribute].annotation)
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


def words_of(annotation: Any) -> tuple[str, ...]:
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
            word = words_of(kind.model_fields[tag].annotation)[0]
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

        def of(spec: Spec, ops: frozenset[str] = ops, patch: Patch = patch) -> Iterator[Changed]:
            if not ops or ops & {layer.op for layer in spec.layers}:
                yield spec, patched(patch)

        yield Move(f"term {name}", of)


@contextmanager
def patched(patch: Patch) -> Iterator[None]:
    """The oracle with other formulas in this process, while it lasts."""
    live = Live("numpy")
    try:
        patch(live)
        yield
    finally:
        live.undo()


def moves() -> list[Move]:
    """Everything that is changed, one thing at a time."""
    return [*attributes(), *of_images(), *patterns(), *terms()]
