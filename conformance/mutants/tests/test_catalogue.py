"""The catalogue as a whole: names, counts, coverage, and that applying a mutant leaves nothing behind."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from conformance import checks
from conformance.mutants import CATALOGUE, CHECKS, find
from conformance.mutants.__main__ import main
from conformance.mutants.mutant import Live
from conformance.mutants.observation import WITHOUT_BACKEND
from conformance.mutants.restating import CLASSES
from conformance.mutants.witnesses import WITNESSES

FRAMEWORKS = [mutant for mutant in CATALOGUE if mutant.target in ("torch", "keras", "onnx")]
SIZES = ("out_channels", "out_features")
"""Attributes that are the shape of a parameter: a wrong one cannot even be loaded."""


def test_names_are_unique_kebab_case_and_begin_with_the_target() -> None:
    assert [name for name, times in Counter(m.name for m in CATALOGUE).items() if times > 1] == []
    for mutant in CATALOGUE:
        assert re.fullmatch(rf"{mutant.target}(-[a-z0-9]+)+", mutant.name), mutant.name


def test_there_are_as_many_as_there_must_be() -> None:
    assert len(FRAMEWORKS) >= 80
    assert sum(mutant.kind == "shipped" for mutant in FRAMEWORKS) >= 40


def test_every_mutant_says_what_is_wrong_and_who_must_notice() -> None:
    for mutant in CATALOGUE:
        assert mutant.expected_check in CHECKS, mutant.name
        assert mutant.witness in WITNESSES, mutant.name
        assert not mutant.what.endswith("."), mutant.name
        assert mutant.link is None or mutant.link.startswith("https://github.com/"), mutant.name


def test_the_checks_are_those_of_the_suite() -> None:
    """But for what no backend is asked for."""
    assert set(CHECKS) - set(WITHOUT_BACKEND) <= checks.CHECKS.keys()


def test_one_link_is_one_mistake_in_one_framework() -> None:
    seen = Counter((mutant.target, mutant.link) for mutant in CATALOGUE if mutant.link)
    assert [link for link, times in seen.items() if times > 1] == []


def test_every_witness_is_of_use() -> None:
    assert WITNESSES.keys() == {mutant.witness for mutant in CATALOGUE}


@pytest.mark.parametrize("op", CLASSES)
def test_every_attribute_of_every_op_is_got_wrong_by_somebody(op: str) -> None:
    wrong = {concern for mutant in CATALOGUE for concern in mutant.concerns}
    attributes = [name for name in CLASSES[op].model_fields if name not in ("name", "op", *SIZES)]
    missing = [f"{op}.{name}" for name in attributes if f"{op}.{name}" not in wrong]
    assert missing == [] if attributes else op in wrong


@pytest.mark.parametrize(
    "concern",
    [
        "optimizer.momentum",
        "optimizer.learning_rate_in_velocity",
        "optimizer.decay",
        "learning_rate",
        "weight_decay",
        "loss",
        "order",
        "metrics",
        "draws.dropout",
        *(f"schedule.{kind}" for kind in ("stages", "step", "exponential_steps", "plateau")),
        *(f"init.{kind}" for kind in ("normal", "truncated_normal", "uniform", "variance_scaling")),
    ],
)
def test_training_is_got_wrong_too(concern: str) -> None:
    assert any(concern in mutant.concerns for mutant in CATALOGUE)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a mutant must be one of .* Received: torch-nothing"):
        find("torch-nothing")


def test_live_undoes_in_reverse_and_refuses_what_is_not_there() -> None:
    class Owner:
        value = 1

    class Heir(Owner):
        pass

    live, table = Live("spec"), {"key": 1}
    live.set(Heir, "value", 2)
    live.set(Heir, "value", 3)
    assert live.put(table, "key", 2) == 1
    assert (Heir.value, Owner.value, table) == (3, 1, {"key": 2})
    with pytest.raises(AttributeError, match="no longer there"):
        live.set(Owner, "valeu", 2)
    with pytest.raises(KeyError):
        live.put(table, "other", 2)
    live.undo()
    assert (Heir.value, "value" in vars(Heir), table) == (1, False, {"key": 1})


def test_list_prints_every_mutant_and_the_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    assert all(f"{mutant.name}: " in printed for mutant in CATALOGUE)
    assert f"in all: {len(CATALOGUE)} mutants" in printed


def test_a_mutant_of_another_backend_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["countable", "--backend", "onnx", "torch-lrn-k-lost"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
