"""What engines say of themselves, and that none passes another's speed off as its own.

The providers of GPUs are not here. What decides about them is tested on what is: ONNX Runtime's wheels carry the Azure
provider, which runs no node of a network and so falls back as a GPU's would; and, where even that does not help, on
made up sessions and profiles, as each test says.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import spec
from alexnet_rooms import ROOT
from backends.onnx import build
from benchmarks import engines
from benchmarks.engines import ENGINES, lacking, open_vino
from benchmarks.engines import onnx_runtime as ort
from benchmarks.engines.base import EngineError, read
from benchmarks.results import Accelerator

GPU = Accelerator(name="GPU", memory_mib=1.0, driver="580")


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    """fashion-mini as a file."""
    chosen = spec.load("fashion-mini")
    path = tmp_path_factory.mktemp("mini") / "mini.onnx"
    onnx.save(build(chosen, spec.initial_parameters(chosen, 1)), path)
    return path


AZURE = ort.Provider("AzureExecutionProvider")
has_azure = pytest.mark.skipif(
    AZURE.name not in onnxruntime.get_available_providers(),
    reason="this ONNX Runtime has no provider to fall back from",
)


@has_azure
def test_a_provider_that_leaves_every_node_to_the_cpu_is_refused(mini):
    with pytest.raises(EngineError, match="AzureExecutionProvider leaves nodes of this file to CPUExecutionProvider"):
        ort.session(str(mini), AZURE, 1)


@has_azure
def test_a_profile_tells_on_a_fallback_that_a_session_allowed(mini, monkeypatch):
    allow = onnxruntime.SessionOptions.add_session_config_entry

    class Lenient(onnxruntime.SessionOptions):  # type: ignore[misc]
        def add_session_config_entry(self, key: str, value: str) -> None:
            if key != "session.disable_cpu_ep_fallback":
                allow(self, key, value)

    monkeypatch.setattr(onnxruntime, "SessionOptions", Lenient)
    feed = {"input": np.zeros((1, 1, 28, 28), np.float32)}
    with pytest.raises(EngineError, match=r"(\d+) of \1 nodes ran on CPUExecutionProvider instead of Azure"):
        ort.probe(str(mini), AZURE, feed, 1)


def test_a_provider_that_is_not_there_is_refused(mini):
    with pytest.raises(EngineError, match="this ONNX Runtime lacks NoExecutionProvider; it has"):
        ort.session(str(mini), ort.Provider("NoExecutionProvider"), 1)


def test_a_session_on_another_provider_is_a_fallback():
    """A made up session: what a wheel says whose CUDA libraries do not load."""
    made = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    with pytest.raises(EngineError, match="fell back from CUDAExecutionProvider to CPUExecutionProvider"):
        ort.require_provider(made, "CUDAExecutionProvider")
    ort.require_provider(made, "CPUExecutionProvider")


def _kernel(op: str, provider: str, *types: str) -> dict[str, Any]:
    shapes = [{name: [1]} for name in types]
    arguments = {"op_name": op, "provider": provider, "input_type_shape": shapes}
    return {"cat": "Node", "name": f"{op}_kernel_time", "args": arguments}


def test_one_node_elsewhere_is_enough():
    """A made up profile: a GPU that has no kernel for one operator."""
    cuda, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    events = [_kernel("Conv", cuda, "float"), _kernel("LRN", cpu, "float"), _kernel("Gemm", cuda, "float")]
    with pytest.raises(EngineError, match=r"1 of 3 nodes ran on CPUExecutionProvider instead of CUDA.*among them LRN"):
        ort.require_nodes(events, cuda)
    ort.require_nodes([events[0], events[2]], cuda)


@pytest.mark.parametrize(
    ("events", "precision"),
    [
        ([_kernel("Conv", "p", "float", "float"), _kernel("LRN", "p", "float16")], "float32"),
        ([_kernel("FusedConv", "p", "float16", "float16"), _kernel("Gemm", "p", "float16", "float16")], "float16"),
        ([_kernel("QLinearConv", "p", "uint8", "float", "uint8", "int8")], "int8"),
        ([_kernel("MatMulInteger", "p", "uint8", "int8")], "int8"),
        ([_kernel("Conv", "p", "float", "float")] * 2 + [_kernel("QGemm", "p", "uint8", "float")], "float32"),
        ([_kernel("Relu", "p", "float")], None),
    ],
)
def test_the_precision_is_that_of_most_products(events, precision):
    assert ort.executed_precision(events) == precision


def test_a_bound_engine_answers_as_a_plain_one_does(mini):
    images = np.random.default_rng(0).standard_normal((3, 1, 28, 28), np.float32)
    answers = []
    for name in ("onnxruntime", "onnxruntime-bound", "onnxruntime-lrn-node"):
        loaded = ENGINES[name].make()(*read(mini), 1)
        assert loaded.precision == "float32"
        placed = loaded.place(images)
        loaded.run(placed)
        answers.append(loaded.fetch(loaded.run(placed)))
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_allclose(answers[0], answers[2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("said", "precision"),
    [
        ([("Convolution", "bf16"), ("Convolution", "bf16"), ("FullyConnected", "f32")], "bfloat16"),
        ([("Convolution", "f32"), ("Eltwise", "bf16"), ("Pooling", "bf16")], "float32"),
        ([("Convolution", "i8"), ("Reorder", "f32")], "int8"),
        ([("Reduce", "bf16"), ("Input", "f32"), ("Output", "f32")], "bfloat16"),
    ],
)
def test_openvino_is_asked_what_it_took(said, precision):
    """Made up runtime models: this CPU may know no bfloat16."""
    layers = [{"layerType": kind, "runtimePrecision": name} for kind, name in said]
    assert open_vino.executed_precision(layers) == precision


def test_openvino_that_says_nothing_is_refused():
    with pytest.raises(EngineError, match="must say in what it computes"):
        open_vino.executed_precision([{"layerType": "Const", "runtimePrecision": "f32"}])


OPENVINO = pytest.mark.skipif(
    find_spec("openvino") is None and "CI" not in os.environ, reason="OpenVINO is not installed; in CI it must be"
)


@OPENVINO
def test_openvino_does_not_report_home(mini, tmp_path):
    reporter, told = tmp_path / "openvino_telemetry", tmp_path / "told"
    (reporter / "backend").mkdir(parents=True)
    for place in (reporter, reporter / "backend"):
        (place / "__init__.py").write_text(f"open({str(told)!r}, 'w')\n")
    asked = (
        "import sys; from pathlib import Path; from benchmarks.engines import ENGINES\n"
        "from benchmarks.engines.base import read; ENGINES['openvino'].make()(*read(Path(sys.argv[1])), 1)"
    )
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    for program, expected in ((asked, False), ("import openvino", True)):
        subprocess.run([sys.executable, "-c", program, str(mini)], cwd=ROOT, env=paths, check=not expected)
        assert told.exists() == expected


@OPENVINO
def test_openvino_says_what_it_took_and_answers_as_onnx_runtime_does(mini):
    images = np.random.default_rng(0).standard_normal((2, 1, 28, 28), np.float32)
    exact, ours = (ENGINES[name].make()(*read(mini), 1) for name in ("openvino", "onnxruntime"))
    assert exact.precision == "float32"
    found, expected = (loaded.fetch(loaded.run(images)) for loaded in (exact, ours))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    assert ENGINES["openvino-default"].make()(*read(mini), 1).precision in ("float32", "bfloat16", "float16")


@pytest.mark.parametrize(
    ("kind", "precision"),
    [(TensorProto.FLOAT, "float32"), (TensorProto.FLOAT16, "float16"), (TensorProto.BFLOAT16, "bfloat16")],
)
def test_a_file_says_in_what_it_multiplies(tmp_path, kind, precision):
    weight = numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "w")
    if kind != TensorProto.FLOAT:
        weight = helper.make_tensor("w", kind, (1, 1, 1, 1), [1.0])
    _saved([helper.make_node("Conv", ["x", "w"], ["y"])], [weight], kind, tmp_path / "a.onnx")
    subject, _ = read(tmp_path / "a.onnx")
    assert (subject.precision, subject.dtype) == (precision, precision)


def test_a_weight_that_passes_through_integers_is_int8(tmp_path):
    nodes = [helper.make_node("DequantizeLinear", ["q", "s"], ["w"]), helper.make_node("Conv", ["x", "w"], ["y"])]
    weights = [
        numpy_helper.from_array(np.ones((1, 1, 1, 1), np.int8), "q"),
        numpy_helper.from_array(np.float32(0.5).reshape(()), "s"),
    ]
    _saved(nodes, weights, TensorProto.FLOAT, tmp_path / "a.onnx")
    assert read(tmp_path / "a.onnx")[0].precision == "int8"


def _saved(nodes: list[Any], weights: list[Any], kind: int, path: Any) -> None:
    ends = [[helper.make_tensor_value_info(name, kind, ["n", 1, 2, 2])] for name in "xy"]
    graph = helper.make_graph(nodes, "one", *ends, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10), path)


def test_an_engine_is_left_out_for_the_reason_that_it_has():
    both = ("CPUExecutionProvider", "CUDAExecutionProvider")
    assert lacking("onnxruntime", (), both) is None
    assert lacking("onnxruntime-cuda", (GPU,), both) is None
    assert lacking("onnxruntime-cuda", (), both) == "no NVIDIA GPU"
    assert lacking("onnxruntime-cuda", (GPU,), both[:1]) == "this ONNX Runtime lacks CUDAExecutionProvider"
    assert lacking("onnxruntime-coreml", (), both) == "this ONNX Runtime lacks CoreMLExecutionProvider"


def test_two_packages_of_one_runtime_are_refused(monkeypatch):
    monkeypatch.setattr(engines, "_installed", lambda name: True)
    with pytest.raises(EngineError, match="must not be installed together"):
        engines.require_one_runtime()
