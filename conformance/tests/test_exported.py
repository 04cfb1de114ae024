"""Files that frameworks' own exporters write, within the bounds of any backend; what is known to be wrong fails."""

from __future__ import annotations

import os

import pytest

import spec
from backends.numpy.ops import FORWARD
from conformance.__main__ import main
from conformance.checks import Job
from conformance.columns import CHECKS, COLUMNS, PREFIX, known_failures
from conformance.runner import excuse
from conformance.specs import chooser, generate, slim
from conformance.tests.conftest import require, without
from export.exporters import KNOWN, missing
from spec import Spec

WITH_EVERY_OP = 69
FULL = bool(os.environ.get("ALEXNET_FULL"))
EXPORTED = tuple(name for name in COLUMNS if name.startswith(PREFIX))


def networks() -> dict[str, Spec]:
    """A network with all ops, and that of the quick start. ``tox -e conformance-full`` asks every variant."""
    names = spec.names() if FULL else ()
    slims = {name: slim(spec.load(name)) for name in names}
    return {"every-op": generate(chooser(WITH_EVERY_OP)), "fashion-mini": spec.load("fashion-mini"), **slims}


@pytest.mark.slow
@pytest.mark.parametrize("network", networks())
@pytest.mark.parametrize("column", EXPORTED)
def test_a_file_of_a_frameworks_exporter(pool, column, network):
    if lacking := missing(column.removeprefix(PREFIX)):
        (without if lacking != ["jax2onnx"] else pytest.skip)(f"{column} needs {', '.join(lacking)}")  # in no extra
    if column == f"{PREFIX}keras-torch" and network != "every-op" and not FULL:
        pytest.skip("the exporter is that of torch, the layers those of keras-tensorflow")
    (result,) = pool.run([column], Job(networks()[network]), CHECKS)
    entries = known_failures(result)
    excuse([result], entries)
    require(result)
    assert bool(result.expected) is bool(entries), "what is known to fail no longer does: take it out of KNOWN"


def test_what_is_known_to_fail_is_of_ops_and_has_its_link():
    for known in KNOWN.values():
        assert known.keys() <= FORWARD.keys()
        assert all(link.startswith("https://github.com/") for _, link in known.values())


def test_columns_are_known_by_name_and_their_expected_failures_come_without_a_file(capsys):
    pytest.importorskip("onnxscript")
    asked = ["run", "--spec", "generated:69", "--only", "prediction"]
    assert main([*asked, "--backend", f"{PREFIX}torch", "--backend", "onnx-lrn-node"]) == 0
    said = capsys.readouterr()
    assert "2 of 2 examinations passed (1 with failures that were expected)" in said.out
    assert said.err == ""
