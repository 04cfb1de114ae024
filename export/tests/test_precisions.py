"""Files of float16 and of integers: what they hold, what they cost, and that wrong ones are not kept."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

import export.onnx_file
import spec
from alexnet_rooms import ROOT
from backends import Unsupported, create
from backends.evaluate import main as evaluate
from backends.onnx import build, parameters_of, session
from backends.onnx.int8 import WEIGHT, points, quantise, roundings, steps_of
from conformance.specs import chooser, generate
from data import DataError
from export import survey, to_onnx
from export.calibration import data_for, spread
from export.onnx_file import Form
from export.onnx_file import export as export_file
from export.reference import BackendFailed, Host
from export.source import Request, Source, resolve, trials
from export.tests.checkpoints import write
from export.twin import twin
from export.verify import VerificationError
from spec import SpecError
from spec.identification import identify

REQUEST = Request("numpy", spec="fashion-mini", seed=5)
PRECISIONS = ("float16", "int8")


def form(source: Source, precision: Any, **rest: Any) -> Form:
    return Form(precision=precision, data=data_for(source, None) if precision == "int8" else None, **rest)


def answered(request: Request, tried: Any, parameters: Any = None) -> Any:
    """As :func:`export.reference.predictions`, in this process, which has no framework."""
    source = resolve(request)
    backend = create("numpy", source.spec)
    backend.load(source.parameters if parameters is None else parameters)
    return [{n: backend.predict(trial.images[:n]) for n in trial.batches} for trial in tried]


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    monkeypatch.setattr(export.onnx_file, "predictions", answered)


def initializer(graph: onnx.GraphProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in graph.initializer if tensor.name == name)


def changed(name: str, change: Callable[[Any], Any]) -> Callable[[onnx.GraphProto], None]:
    def change_it(graph: onnx.GraphProto) -> None:
        tensor = initializer(graph, name)
        tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), name))

    return change_it


def first(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`change` to the first number of an array."""

    def change_first(array: Any) -> Any:
        array.flat[0] = change(array.flat[0])
        return array

    return change_first


def widened(window: Any) -> Any:
    window[0, 3] = window[0, 2]
    return window


def pool_from_the_other_side(graph: onnx.GraphProto) -> None:
    node = next(node for node in graph.node if node.name == "pool1")
    pads = next(attribute for attribute in node.attribute if attribute.name == "pads")
    pads.ints[:] = [pads.ints[2], pads.ints[3], pads.ints[0], pads.ints[1]]


def normalise_in_float16(graph: onnx.GraphProto) -> None:
    """As a converter does that knows nothing of squares: the casts around the norm go, its constants are half."""
    for node in graph.node:
        if node.name in ("norm1.wide", "norm1.narrow"):
            node.attribute[0].i = TensorProto.FLOAT16
    for tensor in graph.initializer:
        if tensor.name in ("norm1.window", "norm1.k"):
            half = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))


WRONG: list[tuple[str, Callable[[onnx.GraphProto], None], str]] = [
    ("float16", changed("conv3.weight", first(lambda x: np.nextafter(x, np.float16(1)))), "rounded to float16"),
    ("float16", changed("norm1.window", widened), "in float32, the logits of 2 images"),
    ("float16", pool_from_the_other_side, "in float32, the logits"),
    ("float16", changed("drop6.keep", lambda keep: keep * np.float16(2)), "in float32, the logits"),
    ("float16", normalise_in_float16, "norm1.square must normalise in float32"),
    ("int8", changed("conv3.weight.stored", first(lambda x: x + np.int8(1) if x < 60 else x - 1)), "to half a step"),
    ("int8", changed("fc6.weight.scale", lambda scale: scale * np.float32(1.1)), "to half a step"),
    ("int8", changed("conv1.bias.stored", first(lambda x: x + 2)), "to half a step"),
    ("int8", changed("conv2.weight.stored", first(lambda x: np.int8(100))), "from -63 to 63"),
    ("int8", changed("norm1.alpha", lambda alpha: alpha * np.float32(1.01)), "in float32, the logits of 2 images"),
    ("int8", pool_from_the_other_side, "in float32, the logits"),
    ("int8", changed("drop6.scale", lambda scale: scale * np.float32(2)), "in float32, the logits"),
    ("int8", changed("relu5.scale", lambda scale: scale / np.float32(4)), "times the bound"),
]  # fmt: skip


@pytest.mark.parametrize(("precision", "change", "words"), WRONG, ids=[str(i) for i in range(len(WRONG))])
def test_a_file_that_is_not_its_source_is_not_kept(tmp_path, monkeypatch, precision, change, words):
    assemble = export.onnx_file.assemble

    def spoiled(*arguments: Any, **rest: Any) -> onnx.ModelProto:
        model = assemble(*arguments, **rest)
        change(model.graph)
        return model

    source = resolve(REQUEST)
    monkeypatch.setattr(export.onnx_file, "assemble", spoiled)
    with pytest.raises(VerificationError, match=words):
        export_file(REQUEST, source, tmp_path / "model.onnx", form(source, precision))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("lrn", ["ops", "node"])
def test_a_file_says_its_precision_and_gives_its_parameters(tmp_path, precision, lrn):
    source = resolve(REQUEST)
    made = export_file(REQUEST, source, tmp_path / "m.onnx",
                       form(source, precision, lrn=lrn, outputs=["pool1", "fc7"], softmax=True))  # fmt: skip
    model = onnx.load(made.path)
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert said["precision"] == precision
    assert ("made-up photographs" in said.get("calibration", "")) is (precision == "int8")
    assert [value.name for value in model.graph.output] == ["pool1", "fc7", "logits", "probabilities"]
    assert {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)} == {1}
    found, steps = parameters_of(model, source.spec), roundings(model, source.spec)
    for name, value in source.parameters.items():
        assert found[name].dtype == np.float32
        unit = np.abs(value) * 2.0**-11 + 2.0**-25 if precision == "float16" else steps[name]
        assert (np.abs(found[name] - value) <= unit * 1.0001).all()
    assert made.bytes < {"float16": 0.55, "int8": 0.33}[precision] * 4 * sum(v.size for v in found.values())
    assert made.agreement.of_bound <= 1


def test_of_what_a_relu_hides_nothing_is_stored_unless_it_is_asked_for():
    """conv5 of source-2012 is pooled and then rectified: below zero it need not be told apart, but norm1 must."""
    of = spec.load("source-2012")
    found = points(of)
    assert found["conv5"].positive
    assert not found["conv1"].positive
    assert "conv2" not in found
    assert found["pool5"].copied == "conv5"
    assert (found["drop6"].copied, found["drop6"].keep) == ("relu6", 0.5)
    asked = points(of, ["pool5", "conv2"])
    assert not asked["conv5"].positive
    assert "conv2" in asked


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), precision=st.sampled_from(PRECISIONS))
def test_generated_networks_are_verified(tmp_path, seed, precision):
    """Any ops in any order: the same checks as a user's file passes."""
    of = generate(chooser(seed))
    source = Source(of, spec.initial_parameters(of, seed), "generated")
    request = Request("numpy", spec=str(tmp_path / "generated.yaml"))
    Path(request.spec).write_text(json.dumps(of.statement()))
    resolved = resolve(Request("numpy", spec=request.spec, seed=seed))
    made = export_file(
        Request("numpy", spec=request.spec, seed=seed), resolved, tmp_path / "m.onnx", form(resolved, precision)
    )
    assert made.agreement.of_bound <= 1
    assert source.spec.hash == resolved.spec.hash


def test_the_twin_of_integers_is_the_network_with_the_parameters_that_they_stand_for():
    of = spec.load("fashion-mini")
    parameters = spec.initial_parameters(of, 2)
    stored = [name for name, point in points(of).items() if point.copied is None]
    model = quantise(build(of, parameters, channels_last=True), of, dict.fromkeys(stored, (-1.0, 1.0)))
    assert steps_of(model, of).keys() == {name.replace("logits", "fc8") for name in stored}
    found = parameters_of(model, of)
    backend = create("numpy", of)
    backend.load(found)
    images = trials(resolve(REQUEST))[0].images

    (logits,) = session(twin(model, found)).run(["logits"], {"input": images})
    np.testing.assert_allclose(logits, backend.predict(images), rtol=0, atol=1e-4 * np.abs(logits).max())


def test_weights_are_of_seven_bits_and_a_large_bias_of_thirty():
    of = spec.load("fashion-mini")
    parameters = dict(spec.initial_parameters(of, 0))
    parameters["conv1.bias"] = np.full_like(parameters["conv1.bias"], 1e9)
    parameters["conv2.weight"] = np.zeros_like(parameters["conv2.weight"])
    stored = [name for name, point in points(of).items() if point.copied is None]
    model = quantise(build(of, parameters, channels_last=True), of, dict.fromkeys(stored, (-1.0, 1.0)))
    for tensor in model.graph.initializer:
        if tensor.name.endswith(".weight.stored"):
            assert np.abs(numpy_helper.to_array(tensor).astype(int)).max() <= WEIGHT
    found = parameters_of(model, of)
    np.testing.assert_allclose(found["conv1.bias"], 1e9, rtol=1e-6)
    np.testing.assert_array_equal(found["conv2.weight"], 0)


def test_a_parameter_beyond_float16_is_refused():
    of = spec.load("fashion-mini")
    parameters = dict(spec.initial_parameters(of, 0))
    parameters["fc7.bias"] = np.full_like(parameters["fc7.bias"], 7e4)
    with pytest.raises(Unsupported, match=r"fc7.bias must be within 65504, the largest float16\. Received: 70000"):
        build(of, parameters, precision="float16")


def trained(folder: Path) -> Path:
    """A checkpoint that says it was trained on the embedded images; it was not, which costs nothing here."""
    from backends import checkpoint
    from backends.starting import fingerprint_of
    from data import dataset_statistics, open_source
    from data.sources import EMBEDDED

    found = checkpoint.load(write(folder))
    images = open_source(EMBEDDED, storage=found.spec.data.storage, channels=1, seed=found.progress.seed)
    progress = found.progress.model_copy(update={"source": EMBEDDED, "fingerprint": fingerprint_of(images)})
    path = folder / "run-numpy" / "last.safetensors"
    path.parent.mkdir()
    checkpoint.save(path, checkpoint.Checkpoint(
        found.spec, found.parameters, found.velocities, dataset_statistics(images.train).arrays(),
        images.train.classes, progress, "torch", found.versions,
    ))  # fmt: skip
    return path


def test_integers_are_calibrated_on_the_training_images_and_their_cost_is_told(tmp_path, capsys, monkeypatch):
    path = trained(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert to_onnx.main(["--checkpoint", str(path), "--backend", "numpy", "--precision", "int8", "--pixels"]) == 0
    said = capsys.readouterr().out
    assert "calibrated on 512 training images of fashion-mnist-mini" in said
    assert "on 2000 images that were held out" in said
    model = onnx.load(path.with_name("model-int8.onnx"))
    stated = {entry.key: entry.value for entry in model.metadata_props}
    cost = json.loads(stated["cost"])
    assert cost["images"] == 2000
    assert cost["interval_95"][0] <= cost["difference"] <= cost["interval_95"][1]
    assert cost["difference"] == pytest.approx(cost["top1_error_int8"] - cost["top1_error_float32"])
    again = tmp_path / "again.onnx"
    assert to_onnx.main(["--checkpoint", str(path), "--backend", "numpy", "--precision", "int8", "--pixels",
                         "--output", str(again)]) == 0  # fmt: skip
    assert again.read_bytes() == path.with_name("model-int8.onnx").read_bytes()
    assert evaluate([str(again), "--output-dir", str(tmp_path / "evaluation")]) == 0
    result = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    assert f"{cost['top1_error_int8']}" in json.dumps(result)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--spec", "fashion-mini", "--precision", "bfloat16"], "no bfloat16 convolution"),
        (["--spec", "fashion-mini", "--precision", "float8"], "invalid choice: 'float8'"),
        (["--spec", "fashion-mini", "--data", "fashion-mnist-mini"], "must come with --precision int8"),
        (["--spec", "fashion-mini", "--precision", "int8", "--data", "absent"], "Received: 'absent'"),
        (["--spec", "fashion-mini", "--precision", "float16", "--exporter", "torch"], "must come with --exporter spec"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_asked_wrongly_is_refused_in_one_line(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    try:
        code: Any = to_onnx.main(arguments)
    except SystemExit as left:
        code = left.code
    said = capsys.readouterr().err
    assert code == 2
    assert words in said
    assert len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_integers_is_known_as_one_by_who_reads_graphs(tmp_path):
    made = export_file(REQUEST, resolve(REQUEST), tmp_path / "m.onnx", form(resolve(REQUEST), "int8"))
    with pytest.raises(SpecError, match="Received: one of integers"):
        identify(made.path)


def test_images_of_other_classes_are_refused(tmp_path):
    source = resolve(Request("numpy", write(tmp_path)))
    with pytest.raises(DataError, match="the images must be of the 10 classes"):
        data_for(source, "fashion-mnist-mini")
    with pytest.raises(DataError, match="Received: 'none'"):
        data_for(source, None)


def test_images_are_spread_over_all_there_are():
    np.testing.assert_array_equal(spread(5, 10), range(5))
    chosen = spread(10_000, 512)
    assert len(chosen) == 512
    assert (chosen[0], chosen[-1]) == (0, 9999)
    assert set(np.diff(chosen)) <= {19, 20}


@pytest.mark.skipif(
    find_spec("openvino") is None and "CI" not in os.environ, reason="OpenVINO is not installed; in CI it must be"
)
def test_another_engine_does_not_report_home_and_ends_when_it_is_told(tmp_path, monkeypatch):
    reporter, told = tmp_path / "openvino_telemetry", tmp_path / "told"
    reporter.mkdir()
    (reporter / "__init__.py").write_text(f"open({str(told)!r}, 'w')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), str(ROOT))))
    of = spec.load("lenet-5")
    onnx.save(build(of, spec.initial_parameters(of, 0)), tmp_path / "model.onnx")
    engine = survey.Engine()
    assert np.isfinite(engine(tmp_path, np.zeros((2, 1, 32, 32), np.float32))).all()
    engine.close()
    assert not told.exists()


def test_the_survey_of_a_few(capsys):
    assert survey.main(["--spec", "lenet-5,cifar-11pct", "--backend", "numpy"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("6 of 6 files exported, verified,")


def test_a_host_answers_as_a_process_for_each_does_and_says_what_fails():
    source = resolve(REQUEST)
    tried = trials(source)
    with Host() as host:
        with pytest.raises(BackendFailed, match="abacus"):
            host(Request("abacus", spec="fashion-mini"), tried)
        for found, wanted in zip(host(REQUEST, tried), answered(REQUEST, tried), strict=True):
            for n in wanted:
                np.testing.assert_array_equal(found[n], wanted[n])
        host.close()
        with pytest.raises(BackendFailed, match="has ended"):
            host(REQUEST, tried)


def test_the_survey_counts_what_fails(capsys, monkeypatch):
    def fail(*arguments: Any) -> Any:
        raise VerificationError("wrong")

    monkeypatch.setattr(survey, "examine", fail)
    assert survey.main(["--spec", "lenet-5", "--backend", "numpy", "--precision", "int8"]) == 1
    assert "FAILED lenet-5 numpy int8: wrong" in capsys.readouterr().out
    assert survey.main(["--spec", "lenet-6"]) == 2
    assert "Received: lenet-6" in capsys.readouterr().err
