"""The command line: what it makes by default and on request, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

from alexnet_rooms import ROOT
from export import to_onnx
from export.tests.checkpoints import write

SCRIPT = ROOT / "export" / "to_onnx.py"


def metadata(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def test_by_path_from_elsewhere_the_newest_checkpoints_or_what_stands_in(tmp_path):
    """In a process of its own, as users run it: no PYTHONPATH, another folder, a foreign `export` beside it."""
    write(tmp_path / "runs", backend="torch")
    (tmp_path / "spec.py").write_text("raise SystemExit('a foreign spec')")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "no checkpoint of keras in runs: exporting fashion-mini with its initial parameters" in done.stdout
    trained = metadata(tmp_path / "runs" / "run-torch" / "model.onnx")
    assert (trained["source.backend"], trained["source"]) == ("torch", "runs/run-torch/last.safetensors")
    initial = metadata(tmp_path / "runs" / "keras-tensorflow-fashion-mini-initial" / "model.onnx")
    assert (initial["source.backend"], initial["source"]) == ("keras-tensorflow", "initial parameters, seed 0")


def test_one_checkpoint_with_options(tmp_path, capsys):
    path, output = write(tmp_path), tmp_path / "fc7.onnx"
    options = ["--backend", "numpy", "--lrn", "node", "--outputs", "fc7,pool5", "--output", str(output)]
    assert to_onnx.main(["--checkpoint", str(path), *options]) == 0
    model = onnx.load(output)
    assert [value.name for value in model.graph.output] == ["pool5", "fc7", "logits"]
    assert metadata(output)["lrn"] == "node"
    assert "agrees with numpy on batches of 1, 2 and 5" in capsys.readouterr().out


def test_a_specification_by_its_path_and_all_outputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("extends: fashion-mini\ntitle: mine\nlayers: {fc8: {out_features: 3}}\n")
    arguments = ["--spec", "mine.yaml", "--seed", "4", "--backend", "numpy", "--outputs", "all"]
    assert to_onnx.main(arguments) == 0
    model = onnx.load(tmp_path / "runs" / "numpy-mine-initial" / "model.onnx")
    assert len(model.graph.output) == 23
    assert model.graph.output[-1].type.tensor_type.shape.dim[1].dim_value == 3


@pytest.mark.parametrize(("std", "noted"), [(0.01, True), (0.2, False)])
def test_it_is_noted_if_the_parameters_let_nothing_of_an_image_through(tmp_path, monkeypatch, capsys, std, noted):
    monkeypatch.chdir(tmp_path)
    weight = f"weight: {{kind: normal, std: {std}}}, bias: {{kind: constant, value: 1}}"
    Path("weak.yaml").write_text(f"extends: fashion-mini\ntitle: weak\ninit: {{{weight}}}\n")
    assert to_onnx.main(["--spec", "weak.yaml", "--backend", "numpy"]) == 0
    assert ("agreement says little" in capsys.readouterr().out) is noted


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--checkpoint", "absent.safetensors"], "no such file"),
        (["--checkpoint", "damaged.safetensors"], "damaged.safetensors: a checkpoint must be"),
        (["--spec", "source-2013"], "nearest: source-2012"),
        (["--spec", "fashion-mini", "--output", "model.safetensors"], "must be a file that ends in .onnx"),
        (["--spec", "fashion-mini", "--output", "folder.onnx"], "must be a file that ends in .onnx"),
        (
            ["--spec", "fashion-mini", "--backend", "numpy", "--output", "damaged.safetensors/m.onnx"],
            "must be writable",
        ),
        (["--spec", "fashion-mini", "--outputs", "fc9"], "Received: fc9"),
        (["--spec", "fashion-mini", "--seed", "-1"], "whole number from 0"),
        (["--spec", "fashion-mini", "--lrn", "both"], "invalid choice: 'both'"),
        (["--spec", "fashion-mini", "--exporter", "jax"], "invalid choice: 'jax'"),
        (["--exporter", "torch", "--lrn", "node"], "--lrn must come with --exporter spec"),
        (["--spec", "fashion-mini", "--exporter", "keras", "--backend", "torch"], "a --backend of its own"),
        (["--spec", "fashion-mini", "--checkpoint", "x"], "not allowed with"),
        (["--spec", "fashion-mini", "--pixels"], "--pixels needs the mean of training images"),
        (["--seed", "1"], "--seed must come with"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_asked_wrongly_is_refused_in_one_line(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    Path("damaged.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{broken")
    Path("folder.onnx").mkdir()
    before = sorted(tmp_path.rglob("*"))
    try:
        code: Any = to_onnx.main(arguments)
    except SystemExit as left:
        code = left.code
    said = capsys.readouterr()
    assert code == 2
    assert words in said.err
    assert len(said.err.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_checkpoint_of_an_unknown_backend_is_refused(tmp_path, capsys):
    path = write(tmp_path, backend="abacus")
    assert to_onnx.main(["--checkpoint", str(path)]) == 2
    assert "Received: abacus" in capsys.readouterr().err
