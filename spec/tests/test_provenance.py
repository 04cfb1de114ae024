"""README, "Provenance": paths, sources, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

import spec
from spec import SpecError
from spec.provenance import paths

HEAD = "extends: paper-2012\ntitle: t\nlayers:\n  norm1: {k: 1, size: 3}\n  conv2: {kernel: {height: 3}}\n"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("data.scale", [("data", "scale")]),
        ("layers.conv1.{kernel, stride}", [("layers", "conv1", "kernel"), ("layers", "conv1", "stride")]),
        ('a."*.bias".b', [("a", "*.bias", "b")]),
        ("a.{b,c}.{d,e}", [("a", "b", "d"), ("a", "b", "e"), ("a", "c", "d"), ("a", "c", "e")]),
        ("training.weight_decay.*", [("training", "weight_decay", "*")]),
    ],
)
def test_a_key_stands_for_paths(key: str, expected: list[tuple[str, ...]]) -> None:
    assert list(paths(key)) == expected


@pytest.mark.parametrize("key", ["", ".", "a.", "a..b", "a.{b", "a}b", '"a', 'a."b"c', "a." * 20 + "a"])
def test_a_key_that_is_no_path_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="must be names joined by dots"):
        paths(key)


@pytest.mark.parametrize(
    ("provenance", "field", "required"),
    [
        (
            "layers.norm1.beta: PAPER",
            'provenance."layers.norm1.beta"',
            "must be the path of a value stated in this file",
        ),
        ("layers.norm9.k: PAPER", 'provenance."layers.norm9.k"', "must be the path of a value stated in this file"),
        ("layers.norm1: PAPER", 'provenance."layers.norm1"', "must be the path of one value; name them, as {k,size}"),
        ("layers.norm1.k: 5", 'provenance."layers.norm1.k"', "a source must be text"),
        ("layers.norm1.k: ' '", 'provenance."layers.norm1.k"', "a source must be text"),
        ("layers..k: PAPER", 'provenance."layers..k"', "must be names joined by dots"),
        ("layers.norm1.{k,k}: PAPER", 'provenance."layers.norm1.{k,k}"', "must be given one source"),
    ],
)
def test_what_is_wrong_with_a_source(provenance: str, field: str, required: str, tmp_path: Path) -> None:
    path = tmp_path / "child.yaml"
    path.write_text(f"{HEAD}provenance:\n  {provenance}\n")
    with pytest.raises(SpecError) as caught:
        spec.load(path)
    (problem,) = caught.value.problems
    assert (problem.line, problem.field) == (7, field)
    assert required in problem.required


def test_the_section_must_be_a_mapping(tmp_path: Path) -> None:
    path = tmp_path / "child.yaml"
    path.write_text(HEAD + "provenance: PAPER\n")
    with pytest.raises(SpecError, match="must be a mapping of paths to sources"):
        spec.load(path)


def test_the_sides_of_a_kernel_are_one_value(tmp_path: Path) -> None:
    path = tmp_path / "child.yaml"
    path.write_text(HEAD + 'provenance:\n  layers.conv2.kernel: "chosen here: x"\n')
    found = spec.load(path)
    assert found.origins["layers.conv2.kernel.height"].source == "chosen here: x"
    assert found.origins["layers.conv2.kernel.width"].name == "paper-2012"
