"""Every op of the graph against the oracle, in both lowerings of LRN, and what the file says about itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import pytest

import spec
from alexnet_rooms import ROOT
from backends import Unsupported, create
from backends.onnx import OnnxBackend, build, parameters_of, session, tensor_names
from backends.onnx.graph import IR_VERSION, OPSET, LrnLowering
from backends.onnx.norms import BAND_CHANNELS
from spec import Spec

EPS = float(np.finfo(np.float32).eps)
UNEVEN = {"top": 1, "bottom": 2, "left": 0, "right": 1}
TALL = {"height": 2, "width": 1}
NORM: dict[str, Any] = {"op": "lrn", "size": 5, "alpha": 2.0, "alpha_over": "size", "beta": 0.75, "k": 2.0}
LAYERS: dict[str, dict[str, Any]] = {
    "conv": {"op": "conv", "out_channels": 6, "kernel": {"height": 3, "width": 2}, "padding": UNEVEN},
    "conv_groups": {"op": "conv", "out_channels": 6, "kernel": 3, "stride": 2, "rounding": "ceil", "groups": 3},
    "conv_without_bias": {"op": "conv", "out_channels": 2, "kernel": 3, "stride": 3, "bias": False},
    "local": {"op": "local", "out_channels": 6, "kernel": {"height": 3, "width": 2}, "stride": 2, "padding": UNEVEN},
    "local_groups": {"op": "local", "out_channels": 4, "kernel": 3, "stride": TALL, "groups": 2, "bias": False},
    "max_pool": {"op": "max_pool", "kernel": 3, "stride": 2, "padding": UNEVEN, "rounding": "ceil"},
    "avg_pool_window": {
        "op": "avg_pool", "kernel": 3, "stride": 2, "padding": UNEVEN, "rounding": "ceil", "divisor": "window",
    },
    "avg_pool_inside": {
        "op": "avg_pool", "kernel": 3, "stride": 2, "padding": UNEVEN, "rounding": "ceil", "divisor": "inside",
    },
    "lrn": NORM,
    "lrn_groups": {**NORM, "groups": 2},
    "lrn_undivided": {**NORM, "alpha_over": "one", "k": 1.0, "size": 3},
    "lrn_even_behind": {**NORM, "size": 4, "before": 2},
    "lrn_even_ahead": {**NORM, "size": 4, "before": 1, "groups": 2},
    "lrn_odd_not_centred": {**NORM, "before": 1},
    "lrn_beta_1": {**NORM, "beta": 1.0},
    "lrn_beta_half": {**NORM, "beta": 0.5},
    "lrn_beta_odd": {**NORM, "beta": 0.6},
    "lrn_wider_than_its_map": {**NORM, "size": 17},
    "spatial_norm": {"op": "spatial_norm", "size": 5, "alpha": 2.0, "alpha_over": "area", "beta": 0.75, "k": 1.0},
    "relu": {"op": "relu"},
    "tanh": {"op": "tanh", "amplitude": 1.7159, "slope": 0.6667},
    "tanh_plain": {"op": "tanh"},
    "dropout_train": {"op": "dropout", "rate": 0.3, "scale": "train"},
    "dropout_test": {"op": "dropout", "rate": 0.3, "scale": "test"},
}  # fmt: skip
DENSE: dict[str, dict[str, Any]] = {
    "dense": {"op": "dense", "out_features": 4},
    "dense_groups": {"op": "dense", "out_features": 6, "groups": 3},
    "dense_groups_without_bias": {"op": "dense", "out_features": 6, "groups": 2, "bias": False},
}
EXACT = ("max_pool", "relu", "dropout", "flatten")
"""Ops that choose or copy values, or round a product once."""


def network(layers: dict[str, Any], channels: int = 6, side: int = 7) -> Spec:
    values = spec.load("fashion-mini").statement()
    values["input"] = {"channels": channels, "height": side, "width": side}
    values["data"]["storage"]["size"] = side
    for name in ("expect", "provenance", "notes"):
        values.pop(name)
    values["data"]["mean"] = {"kind": "channel"}
    return spec.from_values({**values, "name": "small", "layers": layers})


def parameters(network: Spec, seed: int = 3) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    shapes = spec.geometry(network).parameters
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def images(network: Spec, count: int, seed: int = 4) -> Any:
    shape = (count, network.input.channels, network.input.height, network.input.width)
    return np.random.default_rng(seed).normal(0, 2, shape).astype(np.float32)


def oracle(network: Spec, values: Any, x: Any) -> dict[str, Any]:
    made = create("numpy", network, dtype="float64")
    made.load(values)
    return made.outputs(x)


def assert_within_rounding(network: Spec, values: Any, x: Any, found: dict[str, Any], layer: str) -> None:
    """`layer` is the first to round, so its error is its own: (terms + 12) eps of the sum of the terms' magnitudes.

    Products and sums of n terms err by at most n eps of the sum of magnitudes (Higham, Accuracy and Stability, 3.1),
    which the oracle gives when parameters and images are replaced by their magnitudes; roots, powers and quotients, of
    which no op here has more than six in a row, by two eps each.
    """
    wanted = oracle(network, values, x)[layer]
    magnitude = oracle(network, {name: np.abs(value) for name, value in values.items()}, np.abs(x))[layer]
    op = network.layer(layer).op
    terms = 1 if op in EXACT else sum(p.size // p.shape[0] for n, p in values.items() if n.startswith(f"{layer}."))
    bound = (
        (terms + (0 if op in EXACT else 12)) * EPS * (np.abs(wanted) if op in ("lrn", "spatial_norm") else magnitude)
    )
    error = np.abs(found[layer] - wanted)
    assert found[layer].shape == wanted.shape
    assert (error <= bound).all(), f"{op} errs by up to {np.max(error / np.maximum(bound, 1e-300)):.3g} of its bound"


LOWERED = [(case, lrn) for case in LAYERS for lrn in (("ops", "node") if case.startswith("lrn") else ("ops",))]


@pytest.mark.parametrize(("case", "lrn"), LOWERED)
def test_an_op_on_maps_agrees_with_the_oracle(case, lrn):
    small = network({"op": LAYERS[case], "flatten": {"op": "flatten"}})
    values, x = parameters(small), images(small, 3)
    backend = OnnxBackend(small, lrn=lrn)
    backend.load(values)
    assert_within_rounding(small, values, x, backend.outputs(x), "op")


@pytest.mark.parametrize("case", DENSE)
def test_a_dense_layer_agrees_with_the_oracle(case):
    small = network({"flatten": {"op": "flatten"}, "op": DENSE[case]}, channels=6, side=2)
    values, x = parameters(small), images(small, 5)
    backend = OnnxBackend(small)
    backend.load(values)
    assert_within_rounding(small, values, x, backend.outputs(x), "op")


LRNS = [case for case in LAYERS if case.startswith("lrn")]


@pytest.mark.parametrize("case", LRNS)
def test_the_sum_along_many_channels_agrees_with_the_oracle(case):
    """Beyond BAND_CHANNELS in a group it is a pool; `lrn_groups` has as many in each of two."""
    groups = LAYERS[case].get("groups", 1)
    small = network({"op": LAYERS[case], "flatten": {"op": "flatten"}}, channels=groups * (BAND_CHANNELS + 1), side=2)
    assert "AveragePool" in {node.op_type for node in build(small, {}).graph.node}
    backend = OnnxBackend(small)
    backend.load({})
    x = images(small, 2)
    assert_within_rounding(small, {}, x, backend.outputs(x), "op")


@pytest.mark.parametrize("case", [*LRNS, "spatial_norm"])
def test_normalisation_with_channels_last_agrees_with_the_oracle(case):
    small = network({"op": LAYERS[case], "flatten": {"op": "flatten"}})
    x = images(small, 3)
    model = build(small, {}, outputs=["op"], channels_last=True)
    (found, _) = session(model).run(["op", "logits"], {"input": x})
    assert_within_rounding(small, {}, x, {"op": found}, "op")


@pytest.mark.parametrize(("case", "node"), [("lrn", True), ("lrn_groups", True), ("lrn_even_ahead", False),
                                            ("lrn_odd_not_centred", False)])  # fmt: skip
def test_the_lrn_node_is_used_where_it_can_say_what_is_meant(case, node):
    small = network({"op": LAYERS[case], "flatten": {"op": "flatten"}})
    lowerings: list[tuple[LrnLowering, bool]] = [("node", node), ("ops", False)]
    for lrn, expected in lowerings:
        ops = {n.op_type for n in build(small, {}, lrn=lrn).graph.node}
        assert ("LRN" in ops) is expected


def test_ops_normalise_loud_neighbours_that_the_node_gets_wrong():
    """A loud channel beside quiet ones: ONNX Runtime's LRN node sums by adding the next and subtracting the last."""
    small = network({"op": {**NORM, "alpha": 1e-4}, "flatten": {"op": "flatten"}}, channels=24)
    x = images(small, 2)
    x[:, :12] *= 1e4
    wanted = oracle(small, {}, x)["op"]
    errors = {}
    for lrn in ("ops", "node"):
        backend = OnnxBackend(small, lrn=lrn)
        backend.load({})
        errors[lrn] = np.max(np.abs(backend.outputs(x)["op"] - wanted) / np.abs(wanted))
    assert errors["ops"] < 12 * EPS
    assert errors["ops"] < errors["node"]


@pytest.fixture(scope="module")
def mini() -> Spec:
    return spec.load("fashion-mini")


@pytest.fixture(scope="module")
def initial(mini: Spec) -> Any:
    return spec.initial_parameters(mini, 1)


def test_every_layer_is_an_output_by_its_name_and_the_last_is_the_prediction(mini, initial):
    backend = create("onnx", mini)
    backend.load(initial)
    x = images(mini, 4)
    found, wanted = backend.outputs(x), oracle(mini, initial, x)
    assert list(found) == [layer.name for layer in mini.layers]
    assert {name: value.shape for name, value in found.items()} == {n: v.shape for n, v in wanted.items()}
    np.testing.assert_allclose(backend.predict(x), found["fc8"], rtol=0, atol=64 * EPS * np.abs(found["fc8"]).max())


def test_the_batch_is_free_and_images_do_not_see_each_other(mini, initial):
    run = session(build(mini, initial))
    x = images(mini, 5)
    (whole,) = run.run(["logits"], {"input": x})
    for part in (slice(0, 1), slice(1, 4), slice(4, 5)):
        (logits,) = run.run(["logits"], {"input": x[part]})
        np.testing.assert_allclose(logits, whole[part], rtol=0, atol=64 * EPS * np.abs(whole).max())


@pytest.mark.parametrize("lrn", ["ops", "node"])
@pytest.mark.parametrize("name", spec.names())
def test_the_checker_accepts_every_variant(name, lrn):
    """With narrow dense layers, so that the weights are small; the layers are the variant's."""
    dense = [layer.name for layer in spec.load(name).layers if layer.op == "dense"][:-1]
    narrow = spec.load(name, {"layers": {layer: {"out_features": 8} for layer in dense}})
    zeros = {parameter: np.zeros(shape, np.float32) for parameter, shape in spec.geometry(narrow).parameters.items()}
    onnx.checker.check_model(build(narrow, zeros, lrn=lrn), full_check=True)


def test_the_file_says_what_it_is(mini, initial):
    model = build(mini, initial, outputs=["fc7", "pool1"], metadata={"classes": "[]"})
    found = {entry.key: entry.value for entry in model.metadata_props}
    assert found["spec.hash"] == mini.hash
    assert spec.from_values(json.loads(found["spec.json"])).statement() == mini.statement()
    assert found["classes"] == "[]"
    assert (model.opset_import[0].version, model.ir_version) == (OPSET, IR_VERSION) == (18, 8)
    assert [value.name for value in model.graph.output] == ["pool1", "fc7", "logits"]
    assert [value.name for value in model.graph.input] == ["input"]
    assert "channels grey" in model.graph.input[0].doc_string
    assert all(value.doc_string for value in model.graph.output)
    assert found["precision"] == "float32"
    assert {layer.name for layer in mini.layers} <= {node.name for node in model.graph.node}
    read = parameters_of(model, mini)
    assert list(read) == list(spec.geometry(mini).parameters)
    for name, value in initial.items():
        np.testing.assert_array_equal(read[name], value)


def test_layers_may_be_called_as_the_graph_calls_its_ends():
    small = network({"input": {"op": "relu"}, "logits": {"op": "flatten"}, "last": {"op": "dense", "out_features": 2}})
    values, x = parameters(small), images(small, 2)
    assert tensor_names(small) == {"input": "input.output", "logits": "logits.output", "last": "logits"}
    backend = OnnxBackend(small)
    backend.load(values)
    np.testing.assert_array_equal(backend.outputs(x)["input"], np.maximum(x, 0))


def test_what_cannot_be_is_refused(mini, initial):
    with pytest.raises(ValueError, match=r"Missing: conv1\.weight"):
        build(mini, {name: value for name, value in initial.items() if name != "conv1.weight"})
    with pytest.raises(ValueError, match=r"outputs must be layers of fashion-mini\. Received: fc9"):
        build(mini, initial, outputs=["fc9"])
    with pytest.raises(Unsupported, match="in float32"):
        create("onnx", mini, dtype="float64")
    with pytest.raises(Unsupported, match="abacus"):
        OnnxBackend(mini, device="abacus").predict(images(mini, 1))
    with pytest.raises(Unsupported, match="no velocities"):
        create("onnx", mini).load(initial, initial)


@pytest.mark.skipif(
    os.name != "posix", reason="where ONNX Runtime keeps the identity it reports under is known for POSIX"
)
def test_onnx_runtime_reports_to_nobody(tmp_path):
    """It writes the identity it would report under into the folder for temporary files, at import."""
    environment = {key: value for key, value in os.environ.items() if key not in ("ORT_DISABLE_TELEMETRY", "CI")}
    environment["TMPDIR"] = str(tmp_path)
    subprocess.run([sys.executable, "-c", "import backends.onnx"], env=environment, cwd=ROOT, check=True)
    assert list(tmp_path.iterdir()) == []
