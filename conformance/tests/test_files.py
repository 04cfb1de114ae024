"""Files that are exported and weights that are imported: every variant passes; who else is asked says why not."""

from __future__ import annotations

import pytest

import spec
from conformance.checks import Examination, Job
from conformance.file_answers import ASKED
from conformance.file_checks import EXPORT, IMPORT
from conformance.filed import cases
from conformance.specs import slim
from conformance.tests.conftest import require
from conformance.tests.test_backends import DEEP
from spec import geometry

READ = ("cifar-11pct", "source-2012", "zfnet")
"""With local layers, with towers, with neither."""


@pytest.mark.parametrize("name", cases())
def test_the_small_cases_pass(pool, name):
    case = cases()[name]
    require(pool.ask(ASKED, Examination(case.job), case.only))


@pytest.mark.parametrize("variant", [name for name in spec.names() if name not in DEEP])
def test_a_file_of_every_variant(pool, variant):
    """Its outputs on stored bytes, its probabilities, its parameters, what it says, and the same with LRN's node."""
    result = pool.ask(ASKED, Examination(Job(slim(spec.load(variant)))), (EXPORT,))
    require(result)
    compared = {finding.tensor for finding in result.findings}
    for file in ("pixels", "node"):
        assert {f"the output {layer.name} of the file with {file}" for layer in result.job.spec.layers} <= compared
    assert "the probabilities of the file with pixels" in compared
    assert "whether classes of the file with pixels is said rightly" in compared


@pytest.mark.parametrize("variant", READ)
def test_weights_that_others_keep(pool, variant):
    result = pool.ask(ASKED, Examination(Job(slim(spec.load(variant)))), (IMPORT,))
    require(result)
    compared = {finding.tensor for finding in result.findings}
    names = geometry(result.job.spec).parameters
    assert {f"the parameter {name} from Keras' weights" for name in names} <= compared


def test_other_backends_are_not_asked(pool):
    result = pool.ask("numpy", Examination(cases()["filed"].job), (EXPORT, IMPORT))
    assert result.inapplicable.keys() == {EXPORT, IMPORT}
    assert all("asked of onnx" in reason for reason in result.inapplicable.values())
