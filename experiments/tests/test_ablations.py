"""What each ablation removes, and the run as a whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import spec
from experiments.__main__ import MODELS
from experiments.ablations import ABLATIONS, recorded, removed
from experiments.intervals import difference
from experiments.tests.small import run
from spec import Spec, geometry

BY_NAME = {ablation.name: ablation for ablation in ABLATIONS}
TOUCHED = {
    "response normalisation": {"layers"},
    "overlapping pools": {"layers"},
    "dropout": {"layers"},
    "crops": {"data"},
    "flips": {"data"},
    "colour noise": {"data"},
    "crops, flips, colour noise": {"data"},
    "the second tower": {"layers"},
    "the towers' separation": {"layers"},
    "weight decay": {"training"},
}


def without(base: Spec, name: str) -> Spec:
    made = removed(base, BY_NAME[name])
    assert made is not None
    return made


@pytest.mark.parametrize("base", ["source-2012", "grey-mini", "photo-mini"])
@pytest.mark.parametrize("name", TOUCHED)
def test_one_thing_is_removed_and_nothing_else(base: str, name: str) -> None:
    own = MODELS / f"{base}.yaml"
    before = spec.load(own if own.is_file() else base)
    after = without(before, name)
    a, b = before.statement(), after.statement()
    assert {section for section in Spec.SECTIONS if a[section] != b[section]} == TOUCHED[name]
    assert removed(after, BY_NAME[name]) is None  # it is gone


def test_normalisations_and_dropout_are_gone() -> None:
    base = spec.load("source-2012")
    assert not {"lrn", "spatial_norm"} & {layer.op for layer in without(base, "response normalisation").layers}
    assert "dropout" not in {layer.op for layer in without(base, "dropout").layers}


def test_pools_do_not_overlap_and_their_outputs_keep_their_sizes() -> None:
    base = spec.load("source-2012")
    made = without(base, "overlapping pools")
    for layer in made.layers:
        if layer.op == "max_pool":
            assert layer.kernel == layer.stride
    assert [one.output_shape for one in geometry(made).layers] == [one.output_shape for one in geometry(base).layers]


def test_half_the_kernels_are_the_source_s_own_half() -> None:
    made, own = without(spec.load("source-2012"), "the second tower"), spec.load("source-2012-half")
    assert geometry(made).parameters == geometry(own).parameters
    assert geometry(made).macs == geometry(own).macs
    assert made.statement()["layers"] == own.statement()["layers"]


def test_the_source_s_own_network_without_normalisation() -> None:
    made, own = without(spec.load("source-2012"), "response normalisation"), spec.load("source-2012-nolrn")
    assert made.statement()["layers"] == own.statement()["layers"]


def test_what_is_not_there_is_not_removed() -> None:
    torchvision = spec.load("torchvision")
    for name in ("response normalisation", "colour noise", "the second tower", "the towers' separation"):
        assert removed(torchvision, BY_NAME[name]) is None


@pytest.mark.parametrize(
    ("name", "points"),
    [("response normalisation", 1.4), ("overlapping pools", 0.4), ("the second tower", 1.7)],
)
def test_the_source_s_records_are_the_paper_s_numbers(name: str, points: float) -> None:
    """The paper, sections 3.2, 3.3 and 3.4."""
    found = recorded(BY_NAME[name])
    assert found is not None
    assert round(100 * found[0], 1) == points


def test_a_run(small: list[str], tmp_path: Path) -> None:
    result = run(tmp_path / "run", "ablations", *small, "--seeds", "2")
    numbers = result["numbers"]
    errors = numbers["validation_error"]
    assert len(errors) == 1 + len(ABLATIONS)
    assert len(result["specs"]) == 1 + len(ABLATIONS)
    for name, found in numbers["validation_difference"].items():
        assert found == difference(errors[f"without {name}"], errors["everything"]).numbers()
    assert np.shape(list(errors.values())) == (11, 2)
    page = (tmp_path / "run" / "report.html").read_text()
    unseen = [name for name, found in numbers["validation_difference"].items() if found["low"] <= 0 <= found["high"]]
    assert unseen
    assert page.count("no effect shown") >= len(unseen)
