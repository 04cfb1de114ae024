"""What may be wrong with a backend: an attribute taken for another, a term left out, a habit of ``habits.py``.

Only what can move the tensor that diverged first is guessed at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from conformance import habits, habits_training
from conformance.changes import SAID_BY, Changed, Values, kinds, other_values, patched, words_of
from conformance.mutants.mutant import Live, Patch
from conformance.terms import TERMS
from spec import Spec, SpecError, from_values

OUTPUT = "the output of "
HABITS = habits.HABITS | habits_training.HABITS


@dataclass(frozen=True)
class Guess:
    """One thing that may be wrong, in words that follow "as if", and what the oracle then is."""

    words: str
    make: Callable[[], Changed | None]
    """None: it makes no specification."""


@dataclass(frozen=True)
class Family:
    """A number that may be wrong: which is right, and what the oracle is with another, None if there is no such."""

    words: Callable[[float], str]
    right: float
    make: Callable[[float], Changed | None]


_NETWORK = ("images", "forward")
_GRADIENTS = ("backward", *_NETWORK)
_TRAINING = ("step", "loss", *_GRADIENTS)
ABOUT: dict[str, tuple[str, ...]] = {
    "evaluation-outputs": _NETWORK,
    "prediction": _NETWORK,
    "training-outputs": _NETWORK,
    "training-gradients": _GRADIENTS,
    "evaluation-gradients": _GRADIENTS,
    "loss": ("loss", *_NETWORK),
    "one-step": _TRAINING,
    "training-steps": _TRAINING,
    "trajectory": _TRAINING,
}
"""What can be wrong where a check fails; first what no check before it would have noticed."""
_STAGES = {"outputs": "forward", "cross_entropy": "loss", "cross_entropy_backward": "loss", "gradients": "backward"}


def stage_of(name: str) -> str:
    """What a formula of the tables is about, by its name: ``lrn, forward: k``, ``update: the decay``."""
    head = name.partition(":")[0]
    direction = head.partition(", ")[2]
    return direction or (head if head in ("images", "loss") else _STAGES.get(head, "step"))


def guesses(spec: Spec, check: str, tensor: str) -> Iterator[Guess | Family]:
    """What may be wrong with a backend whose `tensor` is the first in `check` to diverge, the simplest first."""
    about = ABOUT.get(check, ())
    ops: set[str] = {layer.op for layer in spec.layers}
    at = tensor.removeprefix(OUTPUT) if tensor.startswith(OUTPUT) else None
    if at is not None:  # what comes before that layer is right
        about = about if at == spec.layers[0].name else tuple(stage for stage in about if stage != "images")
        ops = {layer.op for layer in spec.layers if layer.name == at}
    for stage in about:
        for table, form in ((HABITS, _habit), (TERMS, _missing)):
            for name, (concerned, patch) in table.items():
                if stage_of(name) == stage and (not concerned or concerned & ops):
                    yield Guess(form(name), partial(_patched, spec, patch))
                    if at is not None and concerned and _others_before(spec, at):
                        yield Guess(f"from {at} on, {form(name)}", partial(_patched, spec, _from(spec, at, patch)))
        restated = list(_restated(spec, stage, ops, at))
        yield from (guess for guess in restated if isinstance(guess, Guess))
        yield from (guess for guess in restated if isinstance(guess, Family))
        for number in habits_training.NUMBERS.get(stage, ()):
            of = partial(_numbered, spec, number.patch)
            yield Family(number.words.format, number.right, of)


def _patched(spec: Spec, patch: Patch) -> Changed:
    return spec, patched(patch)


def _others_before(spec: Spec, at: str) -> bool:
    """Whether layers before this one have its op: they are right."""
    names = [layer.name for layer in spec.layers]
    before = spec.layers[: names.index(at)]
    return any(layer.op == spec.layers[names.index(at)].op for layer in before)


def _from(spec: Spec, at: str, patch: Patch) -> Patch:
    """The patch to formulas of layers from `at` on, without those before."""
    names = [layer.name for layer in spec.layers]
    concerned = set(names[names.index(at) :])

    def later(live: Live) -> None:
        right = dict(live.ops.FORWARD)
        patch(live)
        for op, wrong in list(live.ops.FORWARD.items()):
            if wrong is not right[op]:
                live.put(live.ops.FORWARD, op, partial(_chosen, concerned, wrong, right[op]))

    return later


def _chosen(concerned: set[str], wrong: Any, right: Any, call: Any) -> Any:
    return (wrong if call.geometry.name in concerned else right)(call)


def _numbered(spec: Spec, patch: Callable[[float], Patch], value: float) -> Changed:
    return spec, patched(patch(value))


def _habit(name: str) -> str:
    """``lrn, forward: ...``, ``update: ...``"""
    head, _, words = name.partition(": ")
    op, _, direction = head.partition(", ")
    return f"in {op} {direction} {words}" if direction else words


def _missing(name: str) -> str:
    head, _, what = name.partition(": ")
    return f"{what} were left out of {head.replace(', ', ' ')}"


# --- attributes -------------------------------------------------------------------------------------------------------


def _restated(spec: Spec, stage: str, ops: set[str], at: str | None) -> Iterator[Guess | Family]:
    """Attributes of layers and of the optimizer: of all that have one value, and of each alone."""
    values = spec.statement() | {"expect": {}, "provenance": {}}
    for part in {"forward": ("layer",), "step": ("optimizer",)}.get(stage, ()):
        union, tag, _ = SAID_BY[part]
        named = values["layers"] if part == "layer" else {"the optimizer": values["training"]["optimizer"]}
        for kind in kinds(union):
            word = words_of(kind.model_fields[tag].annotation)[0]
            found = {name: place for name, place in named.items() if place[tag] == word}
            if not found or (part == "layer" and word not in ops):
                continue
            for attribute in [name for name in kind.model_fields if name not in (tag, "name")]:
                yield from _of_attribute(values, kind, attribute, found, at)


def _of_attribute(values: Values, kind: Any, attribute: str, found: Values, at: str | None) -> Iterator[Guess | Family]:
    same = all(place[attribute] == next(iter(found.values()))[attribute] for place in found.values())
    every = f"every {next(iter(found.values()))['op']}" if len(found) > 1 else ""
    groups = [(every, list(found.values()))] if every and same else []
    groups += [(name, [place]) for name, place in found.items() if at in (None, name)]
    for whose, places in groups:
        right = places[0][attribute]
        if isinstance(right, float) and not isinstance(right, bool):
            words = partial("{} of {} were {:g}".format, attribute, whose)
            yield Family(words, right, partial(_set, values, places, attribute))
            continue
        for wrong in _others(kind, attribute, right):
            said = f"{attribute} of {whose} were {_said(wrong)}, not {_said(right)}"
            yield Guess(said, partial(_set, values, places, attribute, wrong))


def _others(kind: Any, attribute: str, right: Any) -> Iterator[Any]:
    yield from other_values(kind, attribute, right)
    if isinstance(right, int) and not isinstance(right, bool):
        yield from (1, 2 * right, 2 * right + 1, right // 2)


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return " and ".join(f"{one} {name}" for name, one in value.items())
    return "unset" if value is None else str(value).lower()


def _set(values: Values, places: list[Values], attribute: str, value: Any) -> Changed | None:
    """The specification with another value there; None if that makes none."""
    kept = [place[attribute] for place in places]
    try:
        for place in places:
            place[attribute] = value
        return from_values(values), nullcontext()
    except SpecError:
        return None
    finally:
        for place, old in zip(places, kept, strict=True):
            place[attribute] = old
