"""Frameworks' own exporters: what they write is named, verified and kept as any file is, or one line says why not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import spec
from alexnet_rooms import ROOT
from backends.onnx.graph import IR_VERSION, OPSET, tensor_names
from conformance.specs import chooser, generate
from export import exporters, framework, to_onnx
from export.framework import Exporter, ExporterFailed, ExporterMissing
from export.onnx_file import Form, export
from export.source import Request, resolve

WITH_EVERY_OP = 69
"""The number of a generated network with all ops of the language."""


def every_op(folder: Path) -> Path:
    path = folder / "every.yaml"
    path.write_text(json.dumps(generate(chooser(WITH_EVERY_OP), "every").statement()))
    return path


def needs(backend: str) -> None:
    for package in exporters.PACKAGES[backend]:
        pytest.importorskip(package)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "keras-tensorflow"])
def test_a_file_of_a_frameworks_exporter_is_verified_and_kept(tmp_path, backend):
    """A file that its exporter had spoilt would not be: ``verify`` is the one of all files."""
    needs(backend)
    path = every_op(tmp_path)
    request = Request(backend, spec="fashion-mini" if backend == "torch" else str(path), seed=3)
    source = resolve(request)
    names = [layer.name for layer in source.spec.layers]
    made = export(request, source, tmp_path / "model.onnx", Form(outputs=names, softmax=True, by_framework=True))
    assert 0 < made.agreement.of_bound <= 1
    assert {file.name for file in tmp_path.iterdir()} == {"model.onnx", "every.yaml"}  # no data outside it
    model = onnx.load(made.path)
    tensors = tensor_names(source.spec)
    assert [value.name for value in model.graph.output] == [*(tensors[name] for name in names), "probabilities"]
    assert [dim.dim_param for dim in model.graph.input[0].type.tensor_type.shape.dim] == ["batch", "", "", ""]
    assert (model.ir_version, [one.version for one in model.opset_import if not one.domain]) == (IR_VERSION, [OPSET])
    stated = {entry.key: entry.value for entry in model.metadata_props}
    assert spec.from_values(json.loads(stated["spec.json"])).hash == stated["spec.hash"] == source.spec.hash
    assert exporters.PROGRAMS[backend] in stated["exporter"]
    assert str(ROOT).encode() not in made.path.read_bytes()  # exporters note where the code lies


STOCK = """
import sys, keras, numpy as np
model = keras.Sequential([keras.Input((9, 9, 4)), keras.layers.Conv2D(4, 3, groups=2)])
model(np.zeros((1, 9, 9, 4), np.float32))
model.export(sys.argv[1], format="onnx", verbose=False, opset_version=18)
"""


@pytest.mark.slow
@pytest.mark.xfail(reason="onnx/tensorflow-onnx#2099: calls of compiled functions are written as they are", strict=True)
def test_kerass_own_grouped_convolution_leaves_tensorflow_as_a_valid_file(tmp_path):
    """Which is why the layers here ask TensorFlow for groups themselves. Once this passes, they need not."""
    needs("keras-tensorflow")
    path = tmp_path / "stock.onnx"
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    subprocess.run([sys.executable, "-c", STOCK, str(path)], check=True, env=environment, capture_output=True)
    onnx.checker.check_model(str(path), full_check=True)


def test_an_exporter_that_fails_or_is_gone_says_so_in_one_line():
    needs("torch")
    mini = spec.load("fashion-mini")
    with Exporter("torch") as exporter:
        with pytest.raises(ExporterFailed, match=r"torch.onnx.export raised KeyError: .*conv1.weight") as caught:
            exporter.export(mini, {"unknown": np.zeros(1, np.float32)})
        assert "\n" not in str(caught.value)
        exporter._process.kill()
        exporter._process.wait()
        with pytest.raises(ExporterFailed, match="its process ended with exit code -9"):
            exporter.export(mini, {})


def test_what_is_not_installed_is_said(monkeypatch, capsys):
    monkeypatch.setitem(exporters.PACKAGES, "torch", ("torch", "absent_exporter"))
    with pytest.raises(ExporterMissing, match="needs absent_exporter, which is not installed"):
        Exporter("torch")
    assert to_onnx.main(["--exporter", "torch", "--spec", "fashion-mini"]) == 2
    assert capsys.readouterr().err == "error: torch needs what is not installed: absent_exporter\n"


def test_a_file_that_its_exporter_spoilt_is_not_kept_and_what_is_known_of_it_said(tmp_path, monkeypatch, capsys):
    """Here it takes one saturating function for another, in a network that torch's exporter is known to get wrong."""

    def spoilt(backend, stated, parameters, outputs=()):
        from backends.onnx import build

        model = build(stated, parameters, outputs=outputs)
        next(node for node in model.graph.node if node.op_type == "Tanh").op_type = "Sigmoid"
        return model

    monkeypatch.setattr(framework, "exported", spoilt)
    monkeypatch.setitem(exporters.PACKAGES, "torch", ("torch",))
    path, output = every_op(tmp_path), tmp_path / "model.onnx"
    assert to_onnx.main(["--exporter", "torch", "--spec", str(path), "--output", str(output)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {output} is not kept: the logits of 1 images must be within")
    assert "the exporter ignores divisor_override" in said
    assert "pytorch/pytorch/issues/105349" in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == [path]
