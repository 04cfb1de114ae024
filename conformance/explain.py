"""Saying what is wrong: of many things that people get wrong, which one gives the very numbers that a backend answered?

What a backend was heard to answer in the check that failed is set beside what the oracle answers to the same questions
when an attribute is taken for another, a term is left out or a formula is another (``guesses.py``). Where the two agree
as closely as right answers must agree with the oracle, that is what is wrong, or looks the same from here.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from backends.base import Unsupported
from backends.numpy import NumpyBackend
from conformance.changes import Changed
from conformance.checks import CHECKS, Examination
from conformance.comparison import Finding
from conformance.guesses import Family, Guess, guesses
from spec import Spec

PATIENCE = 20.0
"""Seconds of work after which no further guess is made about a failure."""
ROOM = 2.0
"""A bound is derived for right formulas; of wrong ones the same bound may be exceeded by this factor."""
FITTED = 2
"""A number that was fitted to one finding must explain as many at least: with one, any formula may be made to agree."""
ATTEMPTS = 12
"""How often a number is corrected until it is the one that was used."""

Answers = list[tuple[str, Any]]
Check = Callable[[Examination, Any], Iterable[Finding]]


class Heard:
    """A backend, and what it has answered: the methods' names and what they returned."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.answers: Answers = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._backend, name)
        if not callable(found):
            return found

        def asked(*given: Any, **named: Any) -> Any:
            answer = found(*given, **named)
            self.answers.append((name, answer))
            return answer

        return asked


class _Guessed:
    """A changed oracle that answers beside what was received: what is right, but as far off as the two are apart."""

    def __init__(self, spec: Spec, oracle: Any, received: Answers, right: Answers) -> None:
        self.spec = spec
        self._oracle, self._known = oracle, iter(zip(received, right, strict=True))

    def __getattr__(self, name: str) -> Any:
        guess = getattr(self._oracle, name)

        def asked(*given: Any, **named: Any) -> Any:
            (said, received), (_, right) = next(self._known)
            if said != name:
                raise ValueError(f"{name} must be asked where it was. Received: {said}")
            return _beside(received, guess(*given, **named), right)

        return asked


class _Enough(Exception):
    """As many answers have been heard as were wanted."""


class _Listened(Heard):
    """Heard as far as is wanted."""

    def __init__(self, backend: Any, wanted: int) -> None:
        super().__init__(backend)
        self._wanted = wanted

    def __getattr__(self, name: str) -> Any:
        if len(self.answers) >= self._wanted:
            raise _Enough
        return super().__getattr__(name)


def _heard(e: Examination, check: Check, changed: Changed, wanted: int = 1 << 30) -> Answers:
    """What the oracle, changed, answers to a check, or the first answers. Raises ValueError if it cannot take the
    parameters."""
    spec, formulas = changed
    with formulas:
        heard = _Listened(NumpyBackend(spec, dtype="float64"), wanted)
        with suppress(_Enough):
            for _ in check(e, heard):
                pass
    return heard.answers


def _beside(received: Any, guessed: Any, right: Any) -> Any:
    """What is right, but as far off as what was received is from what was guessed. Raises ValueError, KeyError."""
    if right is None:
        return None
    if isinstance(right, Mapping):
        return {name: _beside(received[name], guessed[name], one) for name, one in right.items()}
    if isinstance(right, list | tuple):
        return type(right)(_beside(*three) for three in zip(received, guessed, right, strict=True))
    if is_dataclass(right) and not isinstance(right, type):
        names = [field.name for field in fields(right)]
        return type(right)(**{name: _beside(*(getattr(x, name) for x in (received, guessed, right))) for name in names})
    found = _number_beside(np.asarray(received), np.asarray(guessed), np.asarray(right))
    return found if isinstance(right, np.ndarray) else type(right)(found)


def _number_beside(received: Any, guessed: Any, right: Any) -> Any:
    if not received.shape == guessed.shape == right.shape:
        raise ValueError("arrays of other shapes cannot be compared")
    if right.dtype.kind != "f":
        return np.where(received == guessed, right, ~right if right.dtype.kind == "b" else right + 1)
    if received.dtype == right.dtype == np.float32:  # what is compared bit for bit
        return np.where(received == guessed, right, np.nextafter(right, np.float32(np.inf)))
    distance = np.subtract(received, guessed, dtype=np.float64)
    larger = float(np.abs(guessed).max(initial=0.0)) / (float(np.abs(right).max(initial=0.0)) or math.inf)
    return right + distance / (ROOM * max(1.0, larger))


_CANNOT = (ValueError, IndexError, KeyError, TypeError, Unsupported)
"""What a changed oracle raises where it cannot answer, or its answers cannot be set beside others."""


@dataclass(frozen=True)
class _Failure:
    """A check that failed, with what the backend and the oracle answered."""

    e: Examination
    check: Check
    received: Answers
    right: Answers
    wanted: int
    """Answers that were heard until the first fault."""

    def explained(self, changed: Changed) -> float:
        """How many findings a guess explains, infinity if all of them."""
        spec, formulas = changed
        number = 0
        try:
            with np.errstate(all="ignore"), formulas:
                guessed = _Guessed(self.e.spec, NumpyBackend(spec, dtype="float64"), self.received, self.right)
                for number, finding in enumerate(self.check(self.e, guessed)):
                    if not finding.passed:
                        return float(number)
        except _CANNOT:
            return float(number)
        return math.inf

    def answers(self, changed: Changed) -> Answers | None:
        """What the oracle answers when it is changed, as far as the first fault; None if it then cannot."""
        try:
            with np.errstate(all="ignore"):
                return _heard(self.e, self.check, changed, self.wanted)
        except _CANNOT:
            return None


def _until(e: Examination, check: Check, received: Answers, first: int) -> int:
    """How many answers a check has heard when it finds its fault number `first`."""
    left = iter(received)

    class Told:
        spec = e.spec

        def __getattr__(self, name: str) -> Any:
            return lambda *given, **named: next(left)[1]

    for number, _ in enumerate(check(e, Told())):
        if number == first:
            break
    return len(received) - len(list(left))


def explanation(e: Examination, name: str, received: Answers, findings: Sequence[Finding]) -> str | None:
    """What is wrong, in a sentence; None if nothing that was thought of gives what was received.

    name: of the check that failed. received: what the backend was heard to answer in it. findings: what came of that.
    """
    check = CHECKS[name].run
    first = next((number for number, finding in enumerate(findings) if not finding.passed), None)
    if first is None or not math.isfinite(findings[first].error):
        return None
    wide = copy.copy(e)  # all that is expected is shared; answers are compared in float64
    wide.carrier = "float64"
    right = _heard(wide, check, (e.spec, nullcontext()))
    failure = _Failure(wide, check, received, right, _until(e, check, received, first))
    deadline = time.thread_time() + PATIENCE
    best, words = float(first), None
    for guess in guesses(e.spec, name, findings[first].tensor):
        if time.thread_time() > deadline:
            break
        for said, changed in _tries(failure, guess):
            explained = failure.explained(changed)
            if isinstance(guess, Family) and explained < first + FITTED:
                continue
            if explained > best:
                best, words = explained, said
            if best == math.inf:
                return f"It is as if {words}."
    return words and f"Up to there it is as if {words}; but that is not all."


def _tries(failure: _Failure, guess: Guess | Family) -> Iterable[tuple[str, Changed]]:
    if isinstance(guess, Guess):
        changed = guess.make()
        if changed is not None:
            yield guess.words, changed
        return
    value = _fitted(failure, guess)
    if value is not None:
        for digits in (2, 4, 6):
            near = float(f"{value:.{digits}g}")
            changed = guess.make(near)
            if changed is not None and abs(near - guess.right) > 1e-9 * abs(guess.right):
                yield guess.words(near), changed


def _fitted(failure: _Failure, family: Family) -> float | None:
    """The number with which the oracle answers what was received, if there is one: by secants."""
    right = np.concatenate([_flat(answer) for _, answer in failure.right[: failure.wanted]])
    received = np.concatenate([_flat(answer) for _, answer in failure.received[: failure.wanted]])
    if received.shape != right.shape or not np.isfinite(received).all():
        return None
    way = received - right

    def short(value: float) -> float | None:
        """How far what this number gives still is from what was received, along the way there."""
        changed = family.make(value)
        answers = None if changed is None else failure.answers(changed)
        if answers is None:
            return None
        found = np.concatenate([_flat(answer) for _, answer in answers])
        return float(way @ (received - found)) if found.shape == right.shape else None

    old, left = family.right, float(way @ way)
    new = old * 1.01 or 0.01
    for _ in range(ATTEMPTS):
        now = short(new)
        if now is None or not math.isfinite(now) or now == left:
            return None
        step = now * (new - old) / (now - left)
        old, left, new = new, now, new - step
        if abs(step) <= 1e-7 * abs(new):
            return new
    return None


def _flat(answer: Any) -> Any:
    """All numbers of an answer, in order."""
    if answer is None:
        return np.zeros(0)
    if isinstance(answer, Mapping):
        answer = [answer[name] for name in sorted(answer)]
    if is_dataclass(answer) and not isinstance(answer, type):
        answer = [getattr(answer, field.name) for field in fields(answer)]
    if isinstance(answer, list | tuple):
        return np.concatenate([np.zeros(0), *map(_flat, answer)])
    return np.asarray(answer, np.float64).reshape(-1)
