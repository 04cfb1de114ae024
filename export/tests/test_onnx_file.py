"""Files are kept if they are what they were made from, and only then."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import export.onnx_file
import spec
from backends.onnx import build, parameters_of, session
from export.onnx_file import Form
from export.onnx_file import export as export_file
from export.reference import BackendFailed, predictions
from export.source import Request, Source, photographs, resolve, trials
from export.tests.checkpoints import CLASSES, write
from export.verify import VerificationError

REQUEST = Request("numpy", spec="fashion-mini", seed=5)


@pytest.fixture(scope="module")
def source() -> Source:
    return resolve(REQUEST)


@pytest.fixture(scope="module")
def answers(source: Source) -> Any:
    return predictions(REQUEST, trials(source))


@pytest.fixture
def asked(monkeypatch, answers):
    """The backend's process is asked once for all tests."""
    monkeypatch.setattr(export.onnx_file, "predictions", lambda request, tried, parameters: answers)


def altered(change: Any) -> Any:
    """`build`, whose model `change` then spoils."""

    def spoiled(*arguments: Any, **options: Any) -> onnx.ModelProto:
        model = build(*arguments, **options)
        change(model.graph)
        return model

    return spoiled


def initializer(graph: onnx.GraphProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in graph.initializer if tensor.name == name)


def nudge_a_weight(graph: onnx.GraphProto) -> None:
    tensor = initializer(graph, "conv3.weight")
    weight = numpy_helper.to_array(tensor).copy()
    weight[0, 0, 0, 0] = np.nextafter(weight[0, 0, 0, 0], np.float32(1))
    tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))


def widen_the_norm(graph: onnx.GraphProto) -> None:
    tensor = initializer(graph, "norm1.window")
    band = numpy_helper.to_array(tensor).copy()
    band[0, 3] = band[0, 2]
    tensor.CopyFrom(numpy_helper.from_array(band, tensor.name))


def pool_from_the_other_side(graph: onnx.GraphProto) -> None:
    node = next(node for node in graph.node if node.name == "pool1")
    pads = next(attribute for attribute in node.attribute if attribute.name == "pads")
    pads.ints[:] = [pads.ints[2], pads.ints[3], pads.ints[0], pads.ints[1]]


def keep_all_units(graph: onnx.GraphProto) -> None:
    initializer(graph, "drop6.keep").CopyFrom(numpy_helper.from_array(np.float32(1), "drop6.keep"))


def fix_the_batch(graph: onnx.GraphProto) -> None:
    graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def lose_a_node(graph: onnx.GraphProto) -> None:
    graph.node.remove(next(node for node in graph.node if node.name == "relu3"))


def add_a_softmax(graph: onnx.GraphProto) -> None:
    graph.node[-1].output[0] = "scores"
    graph.node.append(onnx.helper.make_node("Softmax", ["scores"], ["logits"]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (nudge_a_weight, "conv3.weight in the file must be the source's"),
        (widen_the_norm, "times the bound"),
        (pool_from_the_other_side, "times the bound"),
        (keep_all_units, "times the bound"),
        (add_a_softmax, "times the bound"),
        (fix_the_batch, "ONNX Runtime must run the file"),
        (lose_a_node, "must be valid ONNX"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_file_that_is_not_its_source_is_not_kept(tmp_path, monkeypatch, source, asked, change, words):
    output = tmp_path / "model.onnx"
    output.write_bytes(b"what was there")
    monkeypatch.setattr(export.onnx_file, "build", altered(change))
    with pytest.raises(VerificationError, match=words):
        export_file(REQUEST, source, output)
    assert output.read_bytes() == b"what was there"
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize("lrn", ["ops", "node"])
def test_a_file_that_is_its_source_is_kept(tmp_path, source, asked, answers, lrn):
    output = tmp_path / "new" / "model.onnx"
    made = export_file(REQUEST, source, output, Form(lrn=lrn, outputs=["fc7"]))
    assert 0 < made.agreement.of_bound <= 1
    assert made.bytes == output.stat().st_size
    model = onnx.load(output)
    assert ("LRN" in {node.op_type for node in model.graph.node}) is (lrn == "node")
    assert [value.name for value in model.graph.output] == ["fc7", "logits"]
    for name, value in parameters_of(model, source.spec).items():
        np.testing.assert_array_equal(value, source.parameters[name])
    (logits,) = session(output).run(["logits"], {"input": trials(source)[0].images[:2]})
    assert np.abs(logits - answers[0][2]).max() <= made.agreement.error


def test_a_backend_that_answers_otherwise_keeps_nothing(tmp_path, monkeypatch, source, answers):
    wrong = {n: logits + (n == 5) * 1e-4 for n, logits in answers[0].items()}
    monkeypatch.setattr(export.onnx_file, "predictions", lambda *asked: [wrong, answers[1]])
    with pytest.raises(VerificationError, match="the logits of 5 images"):
        export_file(REQUEST, source, tmp_path / "model.onnx")
    monkeypatch.setattr(export.onnx_file, "predictions", lambda *asked: [{1: np.full((1, 10), np.nan)}, answers[1]])
    with pytest.raises(VerificationError, match="the logits of 1 images"):
        export_file(REQUEST, source, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_backend_that_fails_says_why(source):
    with pytest.raises(BackendFailed, match="abacus"):
        predictions(Request("abacus", spec="fashion-mini"), trials(source))


def test_a_file_says_where_it_comes_from_and_what_it_wants_to_see(tmp_path, monkeypatch):
    path = write(tmp_path, mean="image")
    request = Request("numpy", path)
    source = resolve(request)
    monkeypatch.setattr(export.onnx_file, "predictions", predictions)
    made = export_file(request, source, tmp_path / "model.onnx")
    stated = {entry.key: entry.value for entry in onnx.load(made.path).metadata_props}
    assert json.loads(stated["classes"]) == list(CLASSES)
    assert stated["source"] == str(path)
    assert len(stated["source.sha256"]) == 64
    assert stated["source.backend"] == "numpy"
    assert "Apache-2.0" in stated["licence"]
    assert spec.from_values(json.loads(stated["spec.json"])).hash == stated["spec.hash"] == source.spec.hash
    assert json.loads(stated["preprocessing"])["scale"] == source.spec.data.scale
    image = np.frombuffer(base64.b64decode(stated["preprocessing.mean_image"]), "<f4")
    assert source.statistics is not None
    np.testing.assert_array_equal(image, source.statistics.mean_image.astype(np.float32).ravel())


def test_made_up_photographs_are_the_same_everywhere_and_differ_from_each_other():
    mini = spec.load("fashion-mini")
    images = photographs(mini, 3)
    assert images.shape == (3, 28, 28, 1)
    np.testing.assert_array_equal(images[:2], photographs(mini, 2))
    assert (images[0] != images[1]).mean() > 0.9
    assert 30 < images.std() < 90
