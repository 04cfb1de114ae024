"""What is listed as equivalent is equal on its domain, to rounding in float64."""

from __future__ import annotations

import pytest

from conformance.mutants.equivalent import EQUIVALENT, Equivalent, inert, same
from conformance.mutants.witnesses import WITNESSES


@pytest.mark.parametrize("entry", EQUIVALENT, ids=lambda entry: entry.name)
def test_the_two_are_the_same_on_the_domain(entry: Equivalent) -> None:
    assert entry.demonstrate() < 1e-12, f"{entry.what}, where {entry.domain}: {entry.proof}"


def test_names_are_unique_and_proofs_are_given() -> None:
    assert len({entry.name for entry in EQUIVALENT}) == len(EQUIVALENT)
    for entry in EQUIVALENT:
        assert min(map(len, (entry.what, entry.domain, entry.proof))) > 5, entry.name


def test_the_demonstrations_could_fail() -> None:
    outputs = ("evaluation-outputs",)
    assert inert("torch-max-pool-zero-padding", WITNESSES["max-pool"], outputs) > 1e-3
    assert same(WITNESSES["lrn-undivided"], WITNESSES["lrn"], outputs, seen=lambda name: name == "fc") < 1e-12
    assert same(WITNESSES["lrn-even"], WITNESSES["lrn"], outputs, seen=lambda name: name == "fc") > 1e-3
