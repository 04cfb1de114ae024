"""Keras models are known by their configuration: every variant, other people's models, weights, and broken files.

The files are written by ``keras_files.py`` in a process of its own, every name in them replaced.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import spec
from alexnet_rooms import ROOT
from export.read_keras import MAX_CONFIG
from export.reading import read
from export.tests.test_identify_onnx import departures, small
from spec.departures import Found
from spec.errors import SpecError
from spec.identification import Network, Weights, identify, text

pytest.importorskip("keras")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("keras")
    script = ROOT / "export" / "tests" / "keras_files.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script), str(made)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return made


@pytest.mark.parametrize("name", spec.names())
def test_every_variants_model_is_known(folder, name):
    found = identify(folder / f"{name}.keras")
    assert isinstance(found, Network)
    assert found.names == (name,)
    assert found.notes == ()


def test_a_saved_model_and_its_weights_alone(folder):
    assert identify(folder / "saved.keras").names == ("fashion-mini",)
    weights = identify(folder / "mini.weights.h5")
    assert isinstance(weights, Weights)
    assert weights.names == ("fashion-mini",)
    assert "kernels are kept as (rows, columns, in, out)" in text(weights)


@pytest.mark.parametrize("name", ["small", "channels-first"])
def test_a_model_of_keras_own_layers_and_operations(folder, name):
    """Padding apart, activations inside layers, groups by slicing, response normalisation by keras.ops."""
    path = folder / f"{name}.keras"
    assert departures(path, small()) == ["drop4: more: dropout behind relu (relu4)"]
    found = read(path)
    assert isinstance(found, Found)
    assert found.structure.input == (3, 19, 19)
    assert found.flatten == "hwc"
    assert "probabilities" in found.notes[0]


def test_what_is_code_is_said_to_be_code(folder):
    found = read(folder / "strange.keras")
    assert isinstance(found, Found)
    assert [step.op for step in found.structure.steps] == [
        "conv",
        "tanh",
        "Lambda (code, which is not read)",
        "BatchNormalization",
    ]
    assert found.notes == (
        "the graph begins with preparation of its own: it multiplies the input by constants",
        "code, which is not read, makes up 1 of its steps: what is missing may be what it computes",
    )


def test_a_whole_model_in_hdf5_and_weights_in_hdf5(folder):
    found = read(folder / "whole.h5")
    assert isinstance(found, Found)
    assert [step.op for step in found.structure.steps] == ["conv", "avg_pool"]
    weights = identify(folder / "plain.weights.h5")
    assert isinstance(weights, Weights)
    assert (weights.arrays, weights.names) == (2, ())


@pytest.mark.parametrize("name", ["fashion-mini", "cifar-11pct", "lenet-5"])
def test_a_variants_model_in_hdf5_is_known(folder, name):
    """There a class is written as package>class."""
    assert identify(folder / f"{name}.h5").names == (name,)


def test_towers_and_spatial_norm_in_hdf5_are_known(folder):
    found = identify(folder / "narrow.h5")
    assert isinstance(found, Network)
    assert found.candidates[0].name == "source-2012-nocomm"
    assert [str(d) for d in found.candidates[0].departures] == [
        "fc6: out_features: 16 instead of 8192",
        "fc7: out_features: 16 instead of 4096",
    ]


@pytest.mark.parametrize("name", ["foreign.keras", "foreign.h5"])
def test_other_peoples_classes_of_known_names_are_code(folder, name):
    found = read(folder / name)
    assert isinstance(found, Found)
    assert [(step.name, step.op) for step in found.structure.steps] == [
        ("conv1", "conv"),
        ("relu1", "relu"),
        ("localresponsenormali1", "LocalResponseNormalization (code, which is not read)"),
        ("conv_d1", "Conv2D (code, which is not read)"),
    ]
    assert found.notes == ("code, which is not read, makes up 2 of its steps: what is missing may be what it computes",)


def test_tensorflows_normalisation_in_a_model_of_keras_2(tmp_path):
    """The format of Keras 2: calls as triples with options, functions of TensorFlow as layers."""

    def layer(name: str, kind: str, config: dict[str, Any], *inputs: str, **options: Any) -> dict[str, Any]:
        nodes = [[[source, 0, 0, options] for source in inputs]] if inputs else []
        return {"class_name": kind, "name": name, "config": {"name": name, **config}, "inbound_nodes": nodes}

    lrn = {"function": "nn.local_response_normalization"}
    options = {"depth_radius": 2, "alpha": 2e-05, "beta": 0.75, "bias": 1.0}
    layers = [
        layer("i", "InputLayer", {"batch_input_shape": [None, 227, 227, 3]}),
        layer("a", "Conv2D", {"filters": 96, "kernel_size": [11, 11], "strides": [4, 4], "activation": "relu"}, "i"),
        layer("b", "TFOpLambda", lrn, "a", **options),
        layer("c", "MaxPooling2D", {"pool_size": [3, 3], "strides": [2, 2]}, "b"),
    ]
    config = {"layers": layers, "input_layers": [["i", 0, 0]], "output_layers": [["c", 0, 0]]}
    path = tmp_path / "old.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps({"class_name": "Functional", "config": config}))
    found = read(path)
    assert isinstance(found, Found)
    expected = spec.load("caffe-alexnet")
    assert [step.op for step in found.structure.steps] == [layer.op for layer in expected.layers[:4]]
    facts = found.structure.steps[2].facts
    assert (facts["before"], facts["after"], facts["k"], facts["groups"]) == (2, 2, 1.0, 1)
    assert facts["coefficient"] == expected.layer("norm1").coefficient


# --- broken files -----------------------------------------------------------------------------------------------------


def archive(path: Path, content: bytes, name: str = "config.json") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "must be JSON"),
        (b"[" * 200_000, "must be JSON"),
        (b"[]", "functional or sequential"),
        (b'{"class_name": "Subclassed"}', "functional or sequential"),
        (b'{"class_name": "Sequential", "config": {"layers": []}}', "one to"),
        (b'{"class_name": "Sequential", "config": 3}', "one to"),
        (b'{"class_name": "Sequential", "config": {"layers": [3]}}', "configured as Keras does"),
        (b" " * (MAX_CONFIG + 1), "at most"),
        (b"0" * 200_000_000, "at most"),
    ],
)
def test_broken_models_are_refused_in_one_line(tmp_path, content, words):
    with pytest.raises(SpecError, match=words) as caught:
        identify(archive(tmp_path / "broken.keras", content))
    assert "\n" not in str(caught.value)


def test_no_damaged_byte_of_a_zip_ends_in_a_traceback(folder, tmp_path):
    raw = (folder / "small.keras").read_bytes()
    path = tmp_path / "damaged.keras"
    for at in range(10, len(raw), len(raw) // 60):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 0xFF]) + raw[at + 1 :])
        with contextlib.suppress(SpecError):
            identify(path)


def test_a_zip_of_something_else_is_refused(tmp_path):
    with pytest.raises(SpecError, match="must"):
        identify(archive(tmp_path / "other.zip", b"text", "readme"))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_ends_in_a_traceback(folder, tmp_path, data):
    """One to three values somewhere in a configuration replaced by something else."""
    with zipfile.ZipFile(folder / "small.keras") as file:
        config = json.loads(file.read("config.json"))
    for _ in range(data.draw(st.integers(1, 3))):
        at: Any = config
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            key = data.draw(st.sampled_from(keys))
            inner = at[key]
            if not isinstance(inner, dict | list) or not inner or data.draw(st.integers(0, 9)) == 0:
                break
            at = inner
        at[key] = data.draw(st.sampled_from([None, -1, 0, 7, 2**70, 0.5, "x", [], [3], {}, True, "valid", [[1, 2], 3]]))
    path = archive(tmp_path / "damaged.keras", json.dumps(config).encode())
    with contextlib.suppress(SpecError):
        identify(path)
