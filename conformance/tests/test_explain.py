"""A wrong backend is told what is wrong with it, whatever kind of mistake it is; and what is not known is not said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import spec
from backends.numpy import NumpyBackend
from conformance.changes import patched
from conformance.checks import CHECKS, Examination, Held, examine, first_fault
from conformance.explain import Heard, explanation
from conformance.guesses import ABOUT, HABITS, Family, guesses, stage_of
from conformance.habits_training import NUMBERS
from conformance.suite import cases
from conformance.terms import TERMS
from conformance.tests.altered import restated
from spec import Spec

SMALL = cases()


@pytest.fixture(scope="module")
def examination() -> Callable[[str], Examination]:
    """The small cases, everything in them worked out before anything is patched."""
    known: dict[str, Examination] = {}

    def of(name: str) -> Examination:
        if name not in known:
            e = known[name] = Examination(SMALL[name].job)
            right, only = NumpyBackend(e.spec, dtype="float32"), SMALL[name].only or tuple(ABOUT)
            assert first_fault(examine(e, right, trains=True, only=only)) is None
        return known[name]

    return of


def said(e: Examination, check: str, backend: Any) -> str | None:
    """What is said of a backend that must fail this check."""
    heard = Heard(Held(backend))
    findings = list(CHECKS[check].run(e, heard))
    assert first_fault(findings) is not None, "the mistake lives"
    return explanation(e, check, heard.answers, findings)


HABITUAL = {
    "lrn, forward: alpha were divided by how much of the window there is": ("square", "evaluation-outputs"),
    "images: the channels of images came in the opposite order (BGR for RGB)": ("square", "evaluation-outputs"),
    "load: velocities were forgotten when they are loaded": ("momentum-0.9-inside-coupled", "training-steps"),
    "conv, forward: the groups of the bias came in the opposite order": ("oblong-conv", "evaluation-outputs"),
    "update: momentum were Nesterov's": ("momentum-0.9-outside-coupled", "training-steps"),
    "max_pool, backward: every one of equal numbers got the gradient": ("ties", "evaluation-gradients"),
    "loss: the softmax went over images, not classes": ("square", "loss"),
}


@pytest.mark.parametrize("habit", HABITUAL)
def test_a_habit_is_recognised(examination, habit):
    name, check = HABITUAL[habit]
    e = examination(name)
    with patched(HABITS[habit][1]):
        heard = Heard(Held(NumpyBackend(e.spec, dtype="float32")))
        findings = list(CHECKS[check].run(e, heard))
    assert first_fault(findings) is not None
    found = explanation(e, check, heard.answers, findings)
    assert found is not None
    assert found.endswith(f" {habit.partition(': ')[2]}."), found


RESTATED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "k of norm1 were 1.3.": ("square", "evaluation-outputs", {"layers": {"norm1": {"k": 1.3}}}),
    "alpha_over of norm1 were one, not size.": (
        "square",
        "evaluation-outputs",
        {"layers": {"norm1": {"alpha_over": "one"}}},
    ),
    "momentum of the optimizer were 0.85.": (
        "momentum-0.9-inside-coupled",
        "training-steps",
        {"training": {"optimizer": {"momentum": 0.85}}},
    ),
}


@pytest.mark.parametrize("words", RESTATED)
def test_an_attribute_taken_for_another_is_said_with_its_value(examination, words):
    name, check, sections = RESTATED[words]
    e = examination(name)
    assert said(e, check, NumpyBackend(restated(e.spec, **sections), dtype="float32")) == f"It is as if {words}"


def test_a_term_left_out_and_a_number_that_the_language_has_not(examination):
    e = examination("square")
    for name, check, words in (
        ("conv, forward: bias", "evaluation-outputs", "bias were left out of conv forward"),
        ("lrn, backward: through the sums", "training-gradients", "through the sums were left out of lrn backward"),
    ):
        with patched(TERMS[name][1]):
            heard = Heard(Held(NumpyBackend(e.spec, dtype="float32")))
            findings = list(CHECKS[check].run(e, heard))
        assert explanation(e, check, heard.answers, findings) == f"It is as if {words}."
    smoothed = NUMBERS["loss"][-1]
    with patched(smoothed.patch(0.1)):
        heard = Heard(Held(NumpyBackend(e.spec, dtype="float32")))
        findings = list(CHECKS["loss"].run(e, heard))
    assert explanation(e, "loss", heard.answers, findings) == "It is as if labels were smoothed by 0.1."


class Odd(NumpyBackend):
    """Its losses follow no formula."""

    def loss(self, images: Any, labels: Any, masks: Any = None) -> float:
        return super().loss(images, labels, masks) + (0.1 if masks is None else 0.3)


def test_a_number_that_fits_one_number_alone_is_no_explanation(examination):
    e = examination("smooth")
    assert said(e, "loss", Odd(e.spec, dtype="float32")) is None


class Noisy(NumpyBackend):
    """Wrong in a way that nobody thinks of."""

    def outputs(self, images: Any, masks: Any = None) -> dict[str, Any]:
        draw = np.random.default_rng(0)
        return {
            n: y + y.dtype.type(1e-3) * draw.standard_normal(y.shape, y.dtype)
            for n, y in super().outputs(images, masks).items()
        }


def test_what_nothing_explains_is_not_explained(examination):
    e = examination("square")
    assert said(e, "evaluation-outputs", Noisy(e.spec, dtype="float32")) is None


class Biased(NumpyBackend):
    """One known mistake, and behind it one that nobody knows."""

    def outputs(self, images: Any, masks: Any = None) -> dict[str, Any]:
        found = super().outputs(images[:, ::-1], masks)
        return {name: y + np.float32(0.5) * (name == "fc4") for name, y in found.items()}


def test_of_two_mistakes_the_first_is_said_and_that_it_is_not_all(examination):
    e = examination("square")
    found = said(e, "evaluation-outputs", Biased(e.spec, dtype="float32"))
    assert found is not None
    assert found.startswith("Up to there it is as if the channels of images came in the opposite order")
    assert found.endswith("; but that is not all.")


def every_guess(network: Spec) -> list[str]:
    return [
        guess.words(guess.right) if isinstance(guess, Family) else guess.words
        for check in ABOUT
        for guess in guesses(network, check, "")
    ]


def test_nothing_is_guessed_that_a_network_has_not():
    words = every_guess(spec.load("torchvision"))
    assert any("groups" in one and "conv" in one for one in words)
    assert not any("lrn" in one or "local" in one for one in words)


DIFFERING = (
    *("square", "ties", "oblong-conv", "ceil-avg_pool-window", "momentum-0.9-inside-coupled", "smooth"),
    *("generated-69", "generated-5", "generated-7"),
)
"""Cases on one of which every habit can be seen."""


@pytest.mark.parametrize("habit", HABITS)
def test_every_habit_can_be_had_and_seen(examination, habit):
    """Else it could not be recognised."""
    ops, patch = HABITS[habit]
    checks = tuple(check for check, about in ABOUT.items() if stage_of(habit) in about)
    for name in DIFFERING:
        small = SMALL[name]
        asked = tuple(check for check in checks if small.only is None or check in small.only)
        if not asked or (ops and not ops & {layer.op for layer in small.job.spec.layers}):
            continue
        e = examination(name)
        with patched(patch):
            if first_fault(examine(e, NumpyBackend(e.spec, dtype="float32"), trains=True, only=asked)):
                return
    pytest.fail("no case differs")
