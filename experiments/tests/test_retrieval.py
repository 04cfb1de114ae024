"""``neighbours`` and ``hashing`` as commands, on images so few that both take seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import checkpoint, create
from data import Statistics, evaluation_batch, open_source
from experiments import hashing
from experiments.__main__ import main
from experiments.activations import feature_layer
from experiments.search import BLAS, FLAT
from experiments.tests.small import run, values
from spec import from_values, load, names

FEATURES = {"lenet-5": "tanh6", "cifar-13pct": "relu4", "cifar-11pct": "relu4", "fashion-mini": "relu7"}
"""Where the vector is not that of the networks of 2012, or worth saying."""


@pytest.mark.parametrize("name", names())
def test_the_features_are_what_the_classifier_is_given(name: str) -> None:
    assert feature_layer(load(name)) == FEATURES.get(name, "relu7")


@pytest.fixture(scope="module")
def trained(small: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run on the small images, and where these are."""
    from backends.cli import main as train

    folder = tmp_path_factory.mktemp("trained") / "run"
    assert train("torch", [*small, "--output-dir", str(folder)]) == 0
    return folder, small[-1]


def test_neighbours_of_a_checkpoint(trained: tuple[Path, str], tmp_path: Path) -> None:
    """The numbers are those of sorting all distances between the outputs that the backend gives."""
    folder, source = trained
    result = run(tmp_path / "a", "neighbours", "--checkpoint", str(folder))
    found = checkpoint.load(folder / "last.safetensors")
    backend = create("torch", found.spec)
    backend.load(found.parameters)
    splits = open_source(source, storage=found.spec.data.storage, channels=3, seed=0)
    statistics = Statistics.from_arrays(found.statistics)

    def vectors(dataset: Any, layer: str | None) -> Any:
        stored = np.asarray(dataset.images)
        views = evaluation_batch(stored, data=found.spec.data, input=found.spec.input, statistics=statistics)[:, 0]
        rows = views if layer is None else backend.outputs(views)[layer]
        return rows.reshape(len(rows), -1).astype(np.float64)

    numbers = result["numbers"]
    assert numbers["layer"] == "relu6"
    assert (numbers["items"], numbers["queries"]) == (48, 18)
    for name, layer in (("features", "relu6"), ("pixels", None)):
        items, queries = vectors(splits.train, layer), vectors(splits.validation, layer)
        order = ((queries[:, None] - items[None]) ** 2).sum(axis=2).argsort(axis=1, kind="stable")
        right = splits.train.labels[order] == splits.validation.labels[:, None]
        assert [row["k"] for row in numbers["precision"]] == [1, 5, 10]
        for row in numbers["precision"]:
            assert row[name]["mean"] == pytest.approx(right[:, : row["k"]].mean())
            assert row[name]["low"] <= row[name]["mean"] <= row[name]["high"]
    assert numbers["chance"] == pytest.approx(1 / 3)
    assert result["specs"][0]["hash"] == found.spec.hash


def test_neighbours_of_trainings_come_out_again(small: list[str], tmp_path: Path) -> None:
    first, again = (run(tmp_path / name, "neighbours", *small, "--seeds", "2", "--queries", "7") for name in "ab")
    assert first["numbers"] == again["numbers"]
    assert len(first["numbers"]["networks"]) == 2
    assert first["numbers"]["queries"] == 7
    assert (tmp_path / "a" / "neighbours.png").read_bytes() != b""


def test_hashing_of_a_checkpoint(trained: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every training image is shown 4 times, and the library's search finds what sorting finds."""
    monkeypatch.setattr(hashing, "ITEMS", 200)
    monkeypatch.setattr(hashing, "LENGTHS", (8, 128))
    result = run(tmp_path / "a", "hashing", "--checkpoint", str(trained[0]))
    numbers = result["numbers"]
    assert numbers["search"]["items"] == 200
    assert "48 training images, each 4 times (8 of them once more)" in numbers["search"]["made_of"]
    assert numbers["search"]["float"]["seconds"].keys() == {FLAT, BLAS}
    rows = {row["vectors"]: row["precision"]["mean"] for row in numbers["precision"]}
    assert rows.keys() == {"features", "pixels"} | {
        f"{k}-{b}" for k in ("features", "random", "pixels") for b in (8, 128)
    }
    assert rows["features-128"] > 0.8 * rows["features"]
    for one in numbers["search"]["codes"]:
        brute = min(seconds["single"] for seconds in numbers["search"]["float"]["seconds"].values())
        assert one["times_faster"]["single"] == pytest.approx(brute / one["seconds"]["single"])
    again = run(tmp_path / "b", "hashing", "--checkpoint", str(trained[0]))["numbers"]
    assert again["precision"] == numbers["precision"]
    assert [one["precision"] for one in again["search"]["codes"]] == [
        one["precision"] for one in numbers["search"]["codes"]
    ]


def _refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    return said[0]


def test_what_cannot_be_looked_into_is_one_line(
    trained: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--output-dir", str(tmp_path / "out")]
    other = ["--checkpoint", str(trained[0]), "--data", "photo-patches"]
    assert "must have the classes of" in _refused(capsys, "neighbours", *other, *out)
    assert "no such file" in _refused(capsys, "hashing", "--checkpoint", str(tmp_path / "none.safetensors"), *out)
    bare = values()
    bare["layers"] = {"flatten": {"op": "flatten"}, "fc": {"op": "dense", "out_features": 3}}
    (tmp_path / "bare.json").write_text(json.dumps({**from_values(bare).statement(), "name": "bare"}))
    (tmp_path / "bare.json").rename(tmp_path / "bare.yaml")
    asked = ["--spec", str(tmp_path / "bare.yaml"), "--data", trained[1], *out]
    assert "must have a layer before its classifier" in _refused(capsys, "neighbours", *asked)
    assert not (tmp_path / "out").exists()
