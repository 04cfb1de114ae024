"""``python -m spec why`` and ``diff``: what a value is and whose, and where two specifications disagree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import spec
from spec import SpecError
from spec.__main__ import main
from spec.differences import Difference, differences
from spec.items import items
from spec.why import elsewhere, find


def asked(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(argv) == 0
    return capsys.readouterr().out


def test_why_answers_with_value_source_and_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    shown = asked(capsys, "why", "source-2012", "layers.norm1.alpha_over")
    head, others = shown.split("\nelsewhere\n")
    assert head.startswith("layers.norm1.alpha_over = size\n")
    assert "stated by source-2012" in head
    assert "source: CHM@2f8b81f layer.py \"dic['scale'] /= dic['size']" in head
    assert "\n  CHM: The 2012 source of AlexNet, computerhistory/AlexNet-Source-Code" in others
    lines = others.splitlines()
    paper = next(i for i, line in enumerate(lines) if "paper-2012" in line)
    assert lines[paper].startswith("  one: ")
    assert lines[paper + 1].strip() == "PAPER §3.3 s4"
    assert any(line.startswith("  absent: ") and "torchvision" in line for line in lines)


@pytest.mark.parametrize(
    ("name", "path", "value", "owner"),
    [
        ("source-2012", "layers.norm1.k", 2.0, "paper-2012"),
        ("source-2012", "layers.conv1.kernel", 11, "paper-2012"),
        ("source-2012", "layers.conv1.kernel.height", 11, "paper-2012"),
        ("source-2012", "layers.relu1.after", "pool1", "source-2012"),
        ("source-2012-nolrn", "layers.norm1", None, "source-2012-nolrn"),
        ("source-2012", "init.conv3.weight", {"kind": "normal", "std": 0.03}, "source-2012"),
        ("source-2012", "init.weight.std", 0.01, "paper-2012"),
        ("source-2012", "training.weight_decay.conv1.bias", 0.0, "source-2012"),
        ("source-2012", "training.learning_rate.fc8.bias", {"kind": "constant", "rate": 0.02}, "source-2012"),
        ("source-2012", 'training.learning_rate."*.bias".rate', 0.02, "source-2012"),
        ("caffe-alexnet", "data.color_noise", None, "caffe-alexnet"),
        ("owt-384", "data.crop.shared_by", 1, "owt-2014"),
    ],
)
def test_a_value_is_found_with_its_owner(name: str, path: str, value: Any, owner: str) -> None:
    found = find(spec.load(name), path)
    item = found[path]
    assert item.plain == value
    assert item.origins
    assert {origin.name for origin in item.origins} == {owner}
    assert item.source


def test_a_path_of_a_mapping_answers_for_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    found = find(spec.load("paper-2012"), "layers.norm1")
    assert [path.split(".")[2] for path in found][:3] == ["after", "op", "size"]
    assert "layers.norm1.beta = 0.75" in asked(capsys, "why", "paper-2012", "layers.norm1")


def test_a_default_is_called_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    statement = spec.load("lenet-5").statement()
    del statement["layers"]["conv1"]["groups"]
    statement.pop("provenance")
    item = find(spec.from_values(statement), "layers.conv1.groups")["layers.conv1.groups"]
    assert item.value == 1
    assert item.origins == ()


def test_parameters_that_are_alike_are_answered_together(capsys: pytest.CaptureFixture[str]) -> None:
    lines = asked(capsys, "why", "source-2012", "training.learning_rate").splitlines()
    heads = [line for line in lines if line.startswith("training.")]
    assert heads[0] == (
        "training.learning_rate.conv1.weight = 0.01, from epoch 25 0.001, from epoch 51 0.0001, "
        "from epoch 67 0.00001, from epoch 72 0"
    )
    assert len(heads) == 4
    biases = "{conv2.bias, conv3.bias, conv4.bias, conv5.bias, fc6.bias, fc7.bias, fc8.bias}"
    assert heads[3] == f"training.learning_rate.{biases} = 0.02"
    assert lines[-2:] == ["sources", "  CHM: The 2012 source of AlexNet, computerhistory/AlexNet-Source-Code"]


def test_every_pointer_of_a_value_has_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = asked(capsys, "why", "cifar-11pct", "training.learning_rate.conv1.weight").splitlines()
    head = lines[: lines.index("elsewhere")]
    assert [line.split()[1] for line in head if line.startswith("  source: ")] == [
        "CC1@e4ac0c1",
        "chosen",
        "CC1@e4ac0c1",
    ]
    assert [line.split()[2] for line in head if line.startswith("  stated ")] == ["cifar-13pct", "cifar-11pct"]
    both = lines[next(i for i, line in enumerate(lines) if line.endswith(": cifar-13pct")) + 1 :]
    assert [line.split()[0] for line in both[:2]] == ["CC1@e4ac0c1", "chosen"]


def test_an_unknown_path_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["why", "paper-2012", "layers.norm1.alhpa"]) == 2
    error = capsys.readouterr().err
    assert "nearest: layers.norm1.alpha" in error
    assert error.count("layers.norm1.alpha,") == 1
    assert len(error.splitlines()) == 1
    with pytest.raises(SpecError):
        find(spec.load("paper-2012"), "")


def test_why_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(asked(capsys, "why", "caffenet", "layers.norm1.k", "--json"))
    (value,) = found["values"]
    assert (value["path"], value["value"]) == ("layers.norm1.k", 1.0)
    assert value["origins"][0]["name"] == "caffe-alexnet"
    names = [name for group in value["elsewhere"] for name in group["names"]]
    assert sorted([*names, "caffenet"]) == sorted(spec.names())


def test_elsewhere_groups_equal_values_with_equal_sources() -> None:
    groups = elsewhere([spec.load(name) for name in ("paper-2012", "source-2012", "caffenet")], "layers.norm1.k")
    assert [(item.value, names) for item, names in groups] == [
        (2.0, ["paper-2012", "source-2012"]),
        (1.0, ["caffenet"]),
    ]


# --- diff -------------------------------------------------------------------------------------------------------------


def between(a: str, b: str) -> dict[str, Difference]:
    return {one.title: one for one in differences(spec.load(a), spec.load(b))}


def test_paper_and_source_disagree_here() -> None:
    """The machine-readable list of where the text and the code that won part."""
    found = between("paper-2012", "source-2012")
    weights = "{conv2.weight, conv3.weight, conv4.weight, conv5.weight, fc6.weight, fc7.weight, fc8.weight}"
    biases = weights.replace("weight", "bias")
    assert list(found) == [
        "layers.norm1.alpha_over",
        "layers.norm1.groups",
        "layers.relu1.after",
        "layers.norm2.alpha_over",
        "layers.norm2.groups",
        "layers.cnorm2",
        "layers.relu5.after",
        "init.conv3.weight",
        "init.conv4.weight",
        "init.conv5.weight",
        "training.epochs",
        "training.learning_rate.conv1.weight",
        "training.learning_rate.conv1.bias",
        f"training.learning_rate.{weights}",
        f"training.learning_rate.{biases}",
        f"training.weight_decay.{{conv1.bias, {biases[1:]}",
        "data.crop.shared_by",
        "data.flip.shared_by",
        "data.color_noise.scale",
        "data.color_noise.divide_by",
        "data.color_noise.until_epoch",
    ]
    assert found["layers.relu1.after"].a_words == "after conv1"
    assert found["layers.relu1.after"].b_words == "after pool1"
    assert found["init.conv3.weight"].b_source == "CHM@2f8b81f layers/layers-145.cfg [conv3a] initW=0.03,0.03"
    assert "from epoch 72 0" in found["training.learning_rate.conv1.weight"].b_words
    assert found["layers.cnorm2"].a_words == "absent"
    assert all(one.b_source for one in found.values())


def test_a_variant_does_not_differ_from_itself() -> None:
    for name in spec.names():
        assert differences(spec.load(name), spec.load(name)) == []


def test_a_difference_turns_round() -> None:
    there, back = between("caffenet", "torchvision"), between("torchvision", "caffenet")
    turned = {frozenset(one.paths): (one.b, one.a, one.b_source, one.a_source) for one in back.values()}
    straight = {frozenset(one.paths): (one.a, one.b, one.a_source, one.b_source) for one in there.values()}
    assert straight.keys() == turned.keys()
    assert straight == turned


@pytest.mark.parametrize("name", [name for name in spec.names() if name != "paper-2012"])
def test_what_diff_does_not_mention_is_equal(name: str) -> None:
    """Undo nothing, forget nothing: paths that no difference names have the same value in both."""
    a, b = spec.load("paper-2012"), spec.load(name)
    named = {path for one in differences(a, b) for path in one.paths}
    mine, theirs = items(a), items(b)
    for path in mine.keys() & theirs.keys():
        layer = ".".join(path.split(".")[:2])
        if path not in named and layer not in named and not path.endswith(".after"):
            assert mine[path].plain == theirs[path].plain, path
    assert (a.hash == b.hash) == (not named)


def test_moved_layers_are_said_once() -> None:
    assert [title for title in between("caffe-alexnet", "caffenet") if title.startswith("layers.")] == [
        "layers.norm1.after",
        "layers.norm2.after",
    ]


def test_removed_layers_carry_the_source_of_their_removal() -> None:
    found = between("source-2012", "source-2012-nolrn")
    assert found["layers.norm1"].b_words == "absent"
    assert found["layers.norm1"].b_source == "CHM@2f8b81f layers/layers-148.cfg [pool1a] inputs=conv1a"


def test_diff_says_what_follows(capsys: pytest.CaptureFixture[str]) -> None:
    shown = asked(capsys, "diff", "paper-2012", "single-stream")
    assert "parameters: 60,965,224 and 62,378,344" in shown
    assert "macs: 724,406,816 and 1,135,256,096" in shown
    assert asked(capsys, "diff", "paper-2012", "paper-2012") == "paper-2012 and paper-2012 say the same\n"


def test_diff_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(asked(capsys, "diff", "paper-2012", "caffenet", "--json"))
    assert (found["a"], found["b"]) == ("paper-2012", "caffenet")
    k = next(one for one in found["differences"] if one["paths"] == ["layers.norm1.k"])
    assert k["a"] == {"value": 2.0, "source": "PAPER §3.3 s7"}
    assert k["b"]["value"] == 1.0
