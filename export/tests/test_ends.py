"""The preparation inside a file is that of ``data``, bit by bit, and verification looks at both ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import export.onnx_file
import spec
from backends.onnx import build, session
from data import DataError, compute_statistics, evaluation_batch
from export.ends import add_pixels
from export.onnx_file import Form
from export.onnx_file import export as export_file
from export.source import Request, photographs, resolve, trials
from export.tests.checkpoints import write
from export.verify import VerificationError
from spec import Spec

DATA: dict[str, dict[str, Any]] = {
    "bytes": {"scale": 1.0, "mean": {"kind": "none"}},
    "channel": {},
    "image": {"mean": {"kind": "image"}},
    "cropped": {"mean": {"kind": "image"}, "storage": {"size": 33}},
    "cropped_and_aligned": {"mean": {"kind": "image", "align": "crop"}, "storage": {"size": 32}},
    "bgr": {"mean": {"kind": "image"}, "channel_order": "bgr", "std": (0.3, 0.5, 0.7), "storage": {"size": 31}},
    "values": {"mean": {"kind": "values", "values": (0.4, 0.5, 0.6)}, "std": (0.3, 0.5, 0.7), "scale": 1 / 255},
}


def network(data: dict[str, Any]) -> Spec:
    return spec.load("fashion-mini", {"input": {"channels": 3}, "data": data})


@pytest.mark.parametrize("case", DATA)
def test_the_network_sees_the_same_bits_as_in_evaluation(case):
    stated = network(DATA[case])
    pictures = photographs(stated, 3)
    statistics = compute_statistics(photographs(stated, 8, seed=1))
    model = build(stated, spec.initial_parameters(stated, 0))
    add_pixels(model, stated, statistics)
    onnx.checker.check_model(model, full_check=True)
    model.graph.output.append(next(value for value in model.graph.value_info if value.name == "input"))
    found, _ = session(model).run(["input", "logits"], {"pixels": pictures})
    wanted = evaluation_batch(pictures, data=stated.data, input=stated.input, statistics=statistics)[:, 0]
    np.testing.assert_array_equal(found, wanted)


def test_a_mean_that_is_not_known_is_refused():
    stated = network(DATA["image"])
    with pytest.raises(DataError, match="needs the statistics"):
        add_pixels(build(stated, spec.initial_parameters(stated, 0)), stated, None)


def altered(monkeypatch: pytest.MonkeyPatch, name: str, change: Any) -> None:
    """Let `change` spoil the graph after the function `name` of the export has worked on it."""
    original = getattr(export.onnx_file, name)

    def spoiled(model: onnx.ModelProto, *arguments: Any) -> None:
        original(model, *arguments)
        change(model.graph)

    monkeypatch.setattr(export.onnx_file, name, spoiled)


def brighten(graph: onnx.GraphProto) -> None:
    mean = next(tensor for tensor in graph.initializer if tensor.name == "pixels.mean")
    mean.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(mean) + np.float32(1e-3), mean.name))


def over_the_batch(graph: onnx.GraphProto) -> None:
    graph.node[-1].attribute[0].i = 0


def test_a_file_with_both_ends(tmp_path, monkeypatch):
    request = Request("numpy", write(tmp_path, mean="image"))
    source, output = resolve(request), tmp_path / "model.onnx"
    made = export_file(request, source, output, Form(pixels=True, softmax=True))
    assert made.agreement.of_bound <= 1
    run = session(output)
    assert [(value.name, value.type, value.shape) for value in run.get_inputs()] == [
        ("pixels", "tensor(uint8)", ["batch", 28, 28, 1])
    ]
    logits, probabilities = run.run(["logits", "probabilities"], {"pixels": photographs(source.spec, 4)})
    assert probabilities.shape == logits.shape == (4, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    for name, change, words in (
        ("add_pixels", brighten, "times the bound"),
        ("add_softmax", over_the_batch, "must be the softmax"),
    ):
        with monkeypatch.context() as patch:
            altered(patch, name, change)
            with pytest.raises(VerificationError, match=words):
                export_file(request, source, tmp_path / "other.onnx", Form(pixels=True, softmax=True))
    assert not (tmp_path / "other.onnx").exists()


def test_the_loud_trial_reaches_the_network_behind_the_preparation(tmp_path, monkeypatch):
    """A norm that is wrong only where images are loud is found although bytes cannot be loud."""

    def widen(graph: onnx.GraphProto) -> None:
        window = next(tensor for tensor in graph.initializer if tensor.name == "norm1.window")
        values = numpy_helper.to_array(window).copy()
        values[0, 3] = values[0, 2]
        window.CopyFrom(numpy_helper.from_array(values, window.name))

    request = Request("numpy", write(tmp_path))
    source = resolve(request)
    altered(monkeypatch, "add_pixels", widen)
    with pytest.raises(VerificationError, match="the logits of 2 images"):
        export_file(request, source, tmp_path / "model.onnx", Form(pixels=True))
    assert [trial.pixels is None for trial in trials(source)] == [False, True]
