"""README, "Files": what extending, patching, moving and removing mean, and what is reported where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import spec
from spec import SpecError
from spec.loading import MAX_ANCESTORS


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str, name: str = "child.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def problems(path: str | Path) -> list[str]:
    with pytest.raises(SpecError) as caught:
        spec.load(path)
    return [str(problem) for problem in caught.value.problems]


HEAD = "extends: paper-2012\ntitle: t\n"


def test_every_variant_loads_and_round_trips() -> None:
    assert {"paper-2012", "source-2012", "caffenet", "single-stream", "torchvision", "fashion-mini"} <= set(
        spec.names()
    )
    for name in spec.names():
        loaded = spec.load(name)
        again = spec.from_values(loaded.statement())
        assert again.hash == loaded.hash
        assert again.statement() == loaded.statement()
        assert loaded.name == name


def test_a_file_takes_its_name_from_its_path(write: Any) -> None:
    child = spec.load(write(HEAD, "my-net.yaml"))
    assert child.name == "my-net"
    assert child.hash == spec.load("paper-2012").hash


def test_what_speaks_of_one_file_is_not_inherited(write: Any) -> None:
    child = spec.load(write(HEAD))
    assert child.title == "t"
    assert child.expect == spec.language.Expect()
    assert [p for p in problems(write("extends: paper-2012\n")) if "title" in p] == [
        f"{write('extends: paper-2012' + chr(10))}:1: title: is required. Received: nothing."
    ]


def test_fields_are_patched_one_by_one(write: Any) -> None:
    child = spec.load(write(HEAD + "layers:\n  norm1: {k: 1}\n"))
    parent = spec.load("paper-2012")
    assert child.layer("norm1") == parent.layer("norm1").model_copy(update={"k": 1.0})
    assert [layer for layer in child.layers if layer.name != "norm1"] == [
        layer for layer in parent.layers if layer.name != "norm1"
    ]


def test_a_shorthand_is_patched_side_by_side(write: Any) -> None:
    child = spec.load(write(HEAD + "layers:\n  conv1: {kernel: {height: 9}}\n  conv2: {padding: {top: 1}}\n"))
    assert child.layer("conv1").kernel == spec.language.Size(height=9, width=11)
    assert child.layer("conv2").padding == spec.language.Padding(top=1, bottom=2, left=2, right=2)


def test_another_op_or_kind_replaces_the_whole(write: Any) -> None:
    child = spec.load(write(HEAD + "layers:\n  relu1: {op: tanh, slope: 2}\ndata:\n  mean: {kind: none}\n"))
    assert child.layer("relu1") == spec.language.Tanh(op="tanh", name="relu1", slope=2.0)
    assert [layer.name for layer in child.layers] == [layer.name for layer in spec.load("paper-2012").layers]
    (problem,) = problems(write(HEAD + "init:\n  weight: {kind: uniform, low: 0}\n"))
    assert "init.weight.high: is required" in problem
    assert "child.yaml:4" in problem


def order(path: Path) -> list[str]:
    return [layer.name for layer in spec.load(path).layers][:8]


def test_layers_are_removed_inserted_and_moved(write: Any) -> None:
    assert order(write(HEAD)) == ["conv1", "relu1", "norm1", "pool1", "conv2", "relu2", "norm2", "pool2"]
    removed = order(write(HEAD + "layers:\n  norm1: null\n"))
    assert removed[:4] == ["conv1", "relu1", "pool1", "conv2"]
    moved = order(write(HEAD + "layers:\n  relu1: {after: pool1}\n"))
    assert moved[:5] == ["conv1", "norm1", "pool1", "relu1", "conv2"]
    inserted = order(write(HEAD + "layers:\n  extra: {op: relu, after: conv1}\n"))
    assert inserted[:3] == ["conv1", "extra", "relu1"]
    assert spec.load(write(HEAD + "layers:\n  last: {op: relu}\n")).layers[-1].name == "last"


def test_null_gives_an_optional_field_its_default(write: Any) -> None:
    child = spec.load(write(HEAD + "layers:\n  conv2: {groups: null}\ndata:\n  color_noise: null\n  std: null\n"))
    assert child.layer("conv2").groups == 1
    assert child.data.color_noise is None
    (problem,) = problems(write(HEAD + "layers:\n  relu2: {slope: null}\n"))
    assert "layers.relu2.slope: null removes what the extended specification states" in problem
    (problem,) = problems(write(HEAD + "training:\n  epochs: null\n"))
    assert "child.yaml:4: training.epochs: is required" in problem


def test_what_is_restated_is_no_longer_removed(write: Any) -> None:
    write(HEAD + "layers: {norm1: null}\n", "one.yaml")
    again = "{op: lrn, after: relu1, size: 3, alpha: 1, alpha_over: one, beta: 1, k: 1}"
    two = spec.load(write(f"extends: one.yaml\ntitle: two\nlayers: {{norm1: {again}}}\n", "two.yaml"))
    assert two.layer("norm1").size == 3
    assert "layers.norm1" not in two.origins
    assert "layers.norm1" in spec.load(write("extends: one.yaml\ntitle: three\n", "three.yaml")).origins


def test_patterns_keep_their_place_and_can_be_removed(write: Any) -> None:
    text = HEAD + 'training:\n  weight_decay: {"*.bias": 0, "*": 0.1}\n'
    assert spec.load(write(text)).training.weight_decay == {"*": 0.1, "*.bias": 0}
    assert list(spec.load(write(text)).training.weight_decay) == ["*", "*.bias"]
    text = HEAD + 'training:\n  weight_decay: {"*": null, "*.bias": 0}\n'
    (problem,) = [p for p in problems(write(text)) if "conv1.weight" in p]
    assert "training.weight_decay: a pattern must match conv1.weight" in problem


def test_sequences_are_replaced_whole(write: Any) -> None:
    stages = "{kind: stages, stages: [{epoch: 0, rate: 1}]}"
    child = spec.load(write(f'extends: source-2012\ntitle: t\ntraining:\n  learning_rate: {{"*.weight": {stages}}}\n'))
    assert len(child.training.learning_rate["*.weight"].stages) == 1  # type: ignore[union-attr]


def test_a_file_may_extend_a_file_beside_it(write: Any) -> None:
    write(HEAD + "layers:\n  norm1: {k: 3}\n", "one.yaml")
    assert spec.load(write("extends: one.yaml\ntitle: two\n", "two.yaml")).layer("norm1").k == 3


def test_cycles_and_long_chains_are_refused(write: Any) -> None:
    itself = write("extends: self.yaml\ntitle: t\n", "self.yaml")
    assert problems(itself) == [f"{itself}:1: extends: must not come back to the file itself. Received: self -> self."]
    write("extends: b.yaml\ntitle: t\n", "a.yaml")
    b = write("extends: a.yaml\ntitle: t\n", "b.yaml")
    assert "must not come back to the file itself. Received: b -> a -> b" in problems(b)[0]
    for n in range(MAX_ANCESTORS + 1):
        long = write(f"extends: {'paper-2012' if n == 0 else f'n{n - 1}.yaml'}\ntitle: t\n", f"n{n}.yaml")
    assert f"must not go through more than {MAX_ANCESTORS} files" in problems(long)[0]


def test_all_problems_are_reported_at_once_with_their_lines(write: Any) -> None:
    text = HEAD + "layers:\n  conv1: {kernel: -3, paddin: 3}\n  norm1: {alpha: x}\ntraining: {epochs: 0}\n"
    found = problems(write(text))
    assert [problem.split("child.yaml", 1)[1] for problem in found] == [
        ":4: layers.conv1.kernel: must be greater than 0. Received: -3.",
        ":4: layers.conv1.paddin: is not a field here; nearest: padding. Received: 3.",
        ":5: layers.norm1.alpha: must be a number. Received: 'x'.",
        ":6: training.epochs: must be greater than 0. Received: 0.",
    ]


def test_a_fault_that_shows_in_the_parent_names_both_files(write: Any) -> None:
    child = write(HEAD + "input: {height: 20, width: 20}\n")
    (problem,) = problems(child)
    assert "paper-2012.yaml:" in problem
    assert f"(extended by {child})" in problem
    assert "layers.pool2.kernel: the kernel must fit into the padded map of 2x2" in problem


def test_expectations_are_checked(write: Any) -> None:
    (problem,) = problems(write(HEAD + "expect: {macs: 1}\n"))
    assert "child.yaml:3: expect.macs: must be what the layers give, 724406816. Received: 1." in problem
    assert "must be what the layers give, (96, 55, 55)" in problems(write(HEAD + "expect: {shapes: {conv1: [1]}}\n"))[0]
    assert "must name a layer" in problems(write(HEAD + "expect: {shapes: {conv9: [1]}}\n"))[0]


def test_overrides_are_laid_over_and_drop_what_was_expected_of_the_network() -> None:
    shorter = spec.load("source-2012", {"training": {"epochs": 3}})
    assert shorter.training.epochs == 3
    assert shorter.expect == spec.load("source-2012").expect
    other = spec.load("source-2012", {"layers": {"fc8": {"out_features": 10}}})
    assert other.expect.parameters is None
    assert spec.geometry(other).output_shape == (10,)
    with pytest.raises(SpecError, match=r"<overrides> .*training.epochs: must be greater than 0|<overrides>: training"):
        spec.load("source-2012", {"training": {"epochs": 0}})


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    (problem,) = problems("cafenet")
    assert "nearest: caffenet" in problem
    assert "no such file or name" in problem


def test_a_wrong_extends_is_reported_where_it_is_written(write: Any) -> None:
    assert "child.yaml:2: extends: A specification must be" in problems(write("title: t\nextends: nothing\n"))[0]
    assert "must be the name of a variant or the path" in problems(write("title: t\nextends: [a]\n"))[0]
    assert "no such file or name" in problems(write(f"title: t\nextends: {'x' * 5000}.yaml\n"))[0]


def test_origins_say_who_states_a_value(write: Any) -> None:
    text = "layers:\n  norm1: {k: 1}\n  norm2: null\n  relu1: {after: pool1}\n"
    child = spec.load(write(HEAD + text + 'provenance:\n  layers.norm1.k: "chosen here: x"\n'))
    assert child.origins["layers.norm1.k"].name == "child"
    assert child.origins["layers.norm1.k"].line == 4
    assert child.origins["layers.norm1.k"].source == "chosen here: x"
    assert child.origins["layers.norm1.size"].name == "paper-2012"
    assert child.origins["layers.norm2"].line == 5
    assert child.origins["layers.relu1.after"].line == 6
    assert child.provenance["layers.norm1.k"] == "chosen here: x"


def test_a_restated_value_does_not_inherit_its_parent_s_source(write: Any) -> None:
    write(HEAD + 'layers: {norm1: {k: 2}}\nprovenance: {layers.norm1.k: "PAPER"}\n', "one.yaml")
    two = spec.load(write("extends: one.yaml\ntitle: two\nlayers: {norm1: {k: 2}}\n", "two.yaml"))
    assert "layers.norm1.k" not in two.provenance
    same = spec.load(write("extends: one.yaml\ntitle: two\n", "three.yaml"))
    assert same.provenance["layers.norm1.k"] == "PAPER"


def test_loaded_specifications_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        spec.load("paper-2012").title = "x"  # type: ignore[misc]


def test_the_hash_is_of_the_meaning() -> None:
    paper = spec.load("paper-2012")
    assert paper.model_copy(update={"title": "x", "notes": "y"}).hash == paper.hash
    assert spec.load("paper-2012", {"layers": {"norm1": {"k": 1}}}).hash != paper.hash
    assert spec.load("paper-2012", {"layers": {"relu1": {"after": "norm1"}}}).hash != paper.hash
