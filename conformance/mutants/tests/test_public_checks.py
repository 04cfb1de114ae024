"""The baseline is honest: right backends pass the public tests as translated, and what survives them survives."""

from __future__ import annotations

import numpy as np
import pytest

from conformance.mutants import find
from conformance.mutants.public_checks import (
    CASES,
    Survival,
    Vector,
    model_vector,
    node_vectors,
    report,
    survival,
    survivals,
)


@pytest.mark.parametrize("backend", ["numpy", "torch", "onnx"])
def test_a_right_backend_passes_every_node_test(backend: str) -> None:
    vectors, _ = node_vectors()
    assert [vector.name for vector in vectors if not vector.passed_by(backend)] == []


def test_every_operator_of_the_language_has_node_tests() -> None:
    """All that ONNX has of them are either said or listed with the reason."""
    vectors, others = node_vectors()
    ops = {vector.spec.layer(vector.layer).op for vector in vectors}
    assert ops == {"conv", "dense", "max_pool", "avg_pool", "lrn", "relu", "tanh", "dropout", "flatten"}
    assert len(CASES) == len(ops)
    assert not {vector.name for vector in vectors} & others.keys()
    assert all(others.values())


def test_the_vectors_could_be_failed() -> None:
    vector = next(v for v in node_vectors()[0] if v.name == "test_basic_conv_with_padding")
    moved = Vector(**{**vars(vector), "expected": vector.expected * 1.01})
    wider = Vector(**{**vars(vector), "expected": np.zeros((1, 1, 9, 9))})
    assert (vector.passed_by("torch"), moved.passed_by("torch"), wider.passed_by("torch")) == (True, False, False)


def survived(name: str, backend: str) -> Survival:
    return survival(find(name), backend)


def test_lrn_node_tests_let_wrong_neighbour_sums_through() -> None:
    """N = C = 5 and alpha = 2e-4: the sum hardly matters. Only losing k, the sign or everything is noticed."""
    for name in ("onnx-lrn-without-neighbours", "onnx-lrn-radius-plus-one-for-size", "onnx-lrn-cyclic"):
        assert survived(name, "onnx").node_tests_failed == (), name
    assert survived("torch-lrn-loops-over-batch", "torch").node_tests_failed == ()
    assert survived("torch-lrn-k-lost", "torch").node_tests_failed == ("test_lrn",)
    assert len(survived("onnx-lrn-removed", "onnx").node_tests_failed) == 1


def test_a_check_of_shapes_sees_the_order_of_layers_and_little_else() -> None:
    assert not survived("torch-pool-before-lrn", "torch").shapes_kept
    assert survived("torch-conv-padding-unnoticed", "torch").shapes_kept
    assert survived("onnx-flatten-channels-last", "onnx").shapes_kept


def test_the_model_test_lets_everything_through() -> None:
    """Every parameter is 0.02, so that all scores tie and every probability is 0.001."""
    model = model_vector()
    assert (model.expected == np.float32(0.001)).all()
    assert model.passed_by("torch")
    for name in ("torch-pool-before-lrn", "torch-flatten-columns-first"):
        assert survival(find(name), "torch", model=model).model_passed, name


def test_the_report_counts() -> None:
    mutants = [find(name) for name in ("torch-lrn-loops-over-batch", "torch-lrn-k-lost", "torch-loss-summed")]
    found = survivals(mutants, "torch", model=False)
    lines = report(found).splitlines()
    assert "torch-lrn-k-lost: node tests failed: test_lrn; model not run; shapes kept" in lines
    assert lines[-4:] == [
        "of 2 mutants of the outputs in evaluation survive:",
        "    node tests: 1",
        "    shapes: 2",
        "1 mutants of anything else all survive: no public check looks there",
    ]
    record = found.record()
    assert (record["backend"], record["model_test"], record["mutants_of_other_things"]) == ("torch", False, 1)
    assert record["mutants"][1] == {
        "mutant": "torch-lrn-k-lost",
        "node_tests_failed": ["test_lrn"],
        "model_passed": None,
        "shapes_kept": True,
    }
