"""ONNX graphs are known by what they compute: every variant, other people's spellings of it, and files that are broken.

Metadata, documentation and every name are gone from the files before they are read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import spec
from backends.onnx import build
from backends.onnx.nodes import Graph
from export.reading import read
from spec.__main__ import main
from spec.departures import Found, against, structures
from spec.errors import SpecError
from spec.identification import Network, identify, text
from spec.language import Spec
from spec.structure import of_spec

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / "light_bvlc_alexnet.onnx"
LARGE = 2**16
"""Parameters of more elements are announced by their shape and not written."""


@pytest.fixture
def light(monkeypatch):
    """Graphs of whole variants without their weights, which are said to be in a file that is not there."""
    whole = Graph.constant

    def constant(self: Any, name: str, value: Any) -> str:
        if isinstance(value, np.ndarray) and value.size > LARGE and ".band" not in name and ".places" not in name:
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=value.shape)
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="absent.bin")
            self.initializers.append(tensor)
            return name
        return whole(self, name, value)

    monkeypatch.setattr(Graph, "constant", constant)


def parameters(of: Spec) -> dict[str, Any]:
    return {name: np.broadcast_to(np.float32(0.01), shape) for name, shape in spec.geometry(of).parameters.items()}


def anonymous(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without metadata, documentation and shapes of its inner tensors, every name replaced by a number."""
    del model.metadata_props[:]
    del model.graph.value_info[:]
    model.doc_string = model.producer_name = model.graph.doc_string = ""
    model.graph.name = "g"
    numbers: dict[str, str] = {}

    def renamed(name: str) -> str:
        return numbers.setdefault(name, f"t{len(numbers)}") if name else ""

    def rename(graph: onnx.GraphProto) -> None:
        for values in (graph.input, graph.output, graph.initializer):
            for value in values:
                value.name = renamed(value.name)
                value.doc_string = ""
        for node in graph.node:
            node.name, node.doc_string = "", ""
            node.input[:] = [renamed(name) for name in node.input]
            node.output[:] = [renamed(name) for name in node.output]
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    rename(attribute.g)

    rename(model.graph)
    return model


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.bin"
    path.write_bytes(anonymous(model).SerializeToString())
    return path


def said(path: Path, name: str) -> list[str]:
    """The departures of a file from a variant, in words."""
    found = identify(path)
    assert isinstance(found, Network)
    return [str(d) for candidate in found.candidates if candidate.name == name for d in candidate.departures]


# --- every variant ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", spec.names())
def test_every_variants_graph_is_known(light, tmp_path, name):
    of = spec.load(name)
    found = identify(saved(build(of, parameters(of)), tmp_path))
    assert isinstance(found, Network)
    assert found.names == (name,)
    assert found.notes == ()


@pytest.mark.parametrize("name", ["source-2012", "caffenet", "cifar-11pct"])
def test_graphs_with_lrn_nodes_are_known(light, tmp_path, name):
    of = spec.load(name)
    found = identify(saved(build(of, parameters(of), lrn="node"), tmp_path))
    assert found.names == (name,)


def test_graphs_that_return_more_than_logits_are_known(light, tmp_path):
    of = spec.load("fashion-mini")
    model = build(of, parameters(of), outputs=["fc7", "pool5"])
    assert identify(saved(model, tmp_path)).names == ("fashion-mini",)


def test_the_graph_in_the_onnx_package_is_what_it_is(capsys):
    assert main(["identify", str(LIGHT)]) == 0
    printed = capsys.readouterr().out
    assert "an ONNX graph, input 3 x 224 x 224\nis onnx-zoo\n" in printed
    assert "its weights are one constant each" in printed
    assert "its output is probabilities" in printed
    assert said(LIGHT, "caffe-alexnet") == [
        "input: 3 x 224 x 224 instead of 3 x 227 x 227",
        "conv1: padding: 0, -1, 0, -1 (top, bottom, left, right; below 0: rows and columns that no window sees; "
        "maps of 54 x 54) instead of 0, 0, 0, 0 (top, bottom, left, right; maps of 55 x 55)",
        "pool1: padding: 0, -1, 0, -1 (top, bottom, left, right; below 0: rows and columns that no window sees; "
        "maps of 26 x 26) instead of 0, 0, 0, 0 (top, bottom, left, right; maps of 27 x 27)",
        "pool2: padding: 0, -1, 0, -1 (top, bottom, left, right; below 0: rows and columns that no window sees; "
        "maps of 12 x 12) instead of 0, 0, 0, 0 (top, bottom, left, right; maps of 13 x 13)",
        "pool5: padding: 0, 1, 0, 1 (top, bottom, left, right; maps of 6 x 6) instead of 0, 0, 0, 0 "
        "(top, bottom, left, right; maps of 6 x 6)",
    ]


SPATIAL = {"after": "norm2", "op": "spatial_norm", "size": 3, "alpha": 0.5, "alpha_over": "area", "beta": 1, "k": 1}


@pytest.mark.parametrize(
    ("layers", "departures"),
    [
        ({"norm1": {"k": 1}}, ["norm1: k: 1 instead of 2"]),
        ({"norm1": {"groups": 1}}, ["norm1: groups: 1 instead of 2"]),
        ({"norm2": {"beta": 0.5}}, ["norm2: beta: 0.5 instead of 0.75"]),
        ({"norm2": {"size": 3, "alpha": 6.0e-5}}, ["norm2: before: 1 instead of 2", "norm2: after: 1 instead of 2"]),
        ({"norm1": {"size": 6, "before": 3, "alpha": 1.2e-4}}, ["norm1: before: 3 instead of 2"]),
        (
            {"norm1": {"alpha_over": "one"}},
            [
                "norm1: coefficient: 0.0001 (alpha not divided by the 5 channels of the window) instead of "
                "2e-05 (alpha divided by the 5 channels of the window)"
            ],
        ),
        ({"conv4": {"groups": 1}}, ["conv4: groups: 1 instead of 2"]),
        ({"norm1": {"after": "conv1"}}, ["relu1: place: relu behind lrn (norm1) instead of behind conv (conv1)"]),
        ({"drop6": {"rate": 0.25}}, ["drop6: rate: 0.25 instead of 0.5"]),
        ({"relu3": {"op": "tanh"}}, ["tanh3: tanh instead of relu"]),
        (
            {"pool5": {"op": "avg_pool", "kernel": 3, "stride": 2, "divisor": "inside"}},
            ["pool5: avg_pool, kernel 3x3 instead of max_pool, kernel 3x3"],
        ),
        (
            {"cnorm": SPATIAL},
            ["cnorm2: more: spatial_norm behind lrn (norm2)"],
        ),
    ],
)
def test_every_departure_is_seen_in_the_graph(tmp_path, layers, departures):
    of = spec.load("fashion-mini", {"layers": layers})
    path = saved(build(of, parameters(of)), tmp_path)
    assert said(path, "fashion-mini") == departures
    assert not identify(path).names


# --- other people's spellings -----------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {
    "input": {"channels": 3, "height": 19, "width": 19},
    "layers": {
        "conv1": {"op": "conv", "out_channels": 8, "kernel": 5, "stride": 2, "padding": 2},
        "relu1": {"op": "relu"},
        "norm1": {"op": "lrn", "size": 3, "alpha": 0.03, "alpha_over": "size", "beta": 0.75, "k": 2, "groups": 2},
        "pool1": {"op": "max_pool", "kernel": 3, "stride": 2},
        "conv2": {"op": "conv", "out_channels": 12, "kernel": 3, "padding": 1, "groups": 2},
        "relu2": {"op": "relu"},
        "conv3": {"op": "conv", "out_channels": 8, "kernel": 3, "padding": 1},
        "relu3": {"op": "relu"},
        "flatten": {"op": "flatten"},
        "fc4": {"op": "dense", "out_features": 6},
        "relu4": {"op": "relu"},
        "fc5": {"op": "dense", "out_features": 4},
    },
}


def small(**changes: Mapping[str, Any] | None) -> Spec:
    """The network that the graphs below are spellings of."""
    base = {
        key: value for key, value in spec.load("fashion-mini").statement().items() if key in ("training", "evaluation")
    }
    layers = {name: {**SMALL["layers"].get(name, {}), **(changes.get(name) or {})} for name in SMALL["layers"]}
    kept = {name: layer for name, layer in layers.items() if changes.get(name, {}) is not None}
    init = {"weight": {"kind": "normal", "std": 0.1}, "bias": {"kind": "constant", "value": 0.0}}
    data = spec.load("fashion-mini").statement()["data"]
    return spec.from_values(
        {**SMALL, "layers": kept, "init": init, "data": data, **base, "name": "small", "title": "small"}
    )


class Net:
    """Nodes of a graph in the making; weights are random."""

    def __init__(self, opset: int = 17) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.opset = opset
        self.random = np.random.default_rng(0)

    def const(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weight(self, *shape: int) -> str:
        return self.const(self.random.standard_normal(shape))

    def __call__(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"n{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def model(self, output: str, shape: tuple[Any, ...] = ("N", 3, 19, 19)) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            self.initializers,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


def departures(path: Path, of: Spec) -> list[str]:
    found = read(path)
    assert isinstance(found, Found)
    (only,) = against(found, {of.name: of_spec(of)})
    return [str(departure) for departure in only.departures]


def plain_head(net: Net, x: str = "x") -> Any:
    return net("Relu", net("Conv", x, net.weight(8, 3, 5, 5), net.weight(8), strides=[2, 2], pads=[2] * 4))


def plain_tail(net: Net, x: str) -> Any:
    y = net("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2])
    y = net("Relu", net("Conv", y, net.weight(12, 4, 3, 3), net.weight(12), pads=[1] * 4, group=2))
    y = net("Relu", net("Conv", y, net.weight(8, 12, 3, 3), net.weight(8), pads=[1] * 4))
    y = net("Relu", net("Gemm", net("Flatten", y), net.weight(6, 128), net.weight(6), transB=1))
    return net("Gemm", y, net.weight(6, 4), net.weight(4))


def lrn_by_slices(net: Net, x: str, channels: int, groups: int) -> Any:
    """k + a * sum, the sum by adding shifted slices of a padded square, beta through exp and log; each group apart."""
    parts = net("Split", x, outputs=groups, axis=1) if groups > 1 else [x]
    results = []
    for part in parts:
        square = net("Pow", part, net.const(2))
        padded = net("Pad", square, net.const([0, 1, 0, 0, 0, 1, 0, 0], np.int64))
        width = channels // groups
        shifted = [
            net("Slice", padded, net.const([i], np.int64), net.const([i + width], np.int64), net.const([1], np.int64))
            for i in range(3)
        ]
        base = net("Add", net.const(2), net("Mul", net("Sum", *shifted), net.const(0.01)))
        results.append(net("Mul", part, net("Exp", net("Mul", net("Log", base), net.const(-0.75)))))
    return net("Concat", *results, axis=1) if groups > 1 else results[0]


def lrn_as_torch(net: Net, x: str) -> Any:
    """As torch exports F.local_response_norm: a pool over channels that have become depth."""
    square = net("Unsqueeze", net("Mul", x, x), net.const([1], np.int64))
    padded = net("Pad", square, net.const([0, 0, 1, 0, 0, 0, 0, 1, 0, 0], np.int64))
    mean = net(
        "Squeeze", net("AveragePool", padded, kernel_shape=[3, 1, 1], strides=[1, 1, 1]), net.const([1], np.int64)
    )
    base = net("Add", net("Mul", mean, net.const(0.03)), net.const(2))
    return net("Div", x, net("Pow", base, net.const(0.75)))


@pytest.mark.parametrize(
    ("norm", "groups"),
    [
        (lambda net, x: lrn_by_slices(net, x, 8, 1), 1),
        (lrn_as_torch, 1),
        (lambda net, x: net("LRN", x, size=3, alpha=0.03, beta=0.75, bias=2.0), 1),
    ],
)
def test_normalisation_is_known_by_what_it_computes(
    tmp_path: Path, norm: Callable[[Net, str], Any], groups: int
) -> None:
    net = Net()
    path = saved(net.model(plain_tail(net, norm(net, plain_head(net)))), tmp_path)
    assert departures(path, small(norm1={"groups": groups})) == []
    assert departures(path, small(norm1={"groups": groups, "k": 1})) == ["norm1: k: 2 instead of 1"]


def test_normalisation_in_slices_is_normalisation_in_groups(tmp_path):
    net = Net()
    path = saved(net.model(plain_tail(net, lrn_by_slices(net, plain_head(net), 8, 2))), tmp_path)
    assert departures(path, small(norm1={"groups": 2})) == []


@pytest.mark.parametrize("wrong", ["center", "no square", "border"])
def test_what_is_no_response_normalisation_is_not_taken_for_one(tmp_path, wrong):
    net = Net()
    x = plain_head(net)
    if wrong == "center":
        y = net("Div", net("Sub", x, net("ReduceMean", x, axes=[2, 3])), net.const(2))
    elif wrong == "no square":
        y = net("Div", x, net("Add", net("Abs", x), net.const(1)))
    else:  # the mean of the window's part inside the channels: the divisor changes at the first and last channel
        square = net("Unsqueeze", net("Mul", x, x), net.const([1], np.int64))
        mean = net("AveragePool", square, kernel_shape=[3, 1, 1], strides=[1, 1, 1], pads=[1, 0, 0, 1, 0, 0])
        base = net("Add", net("Mul", net("Squeeze", mean, net.const([1], np.int64)), net.const(0.03)), net.const(2))
        y = net("Div", x, net("Pow", base, net.const(0.75)))
    path = saved(net.model(plain_tail(net, y)), tmp_path)
    found = departures(path, small(norm1={"groups": 1}))
    assert any("paths that meet" in departure for departure in found)
    assert any("missing: lrn" in departure for departure in found)


def test_towers_side_by_side_are_groups(tmp_path):
    """Each tower has layers of its own from the image on; the third sees both, joined once for each of its halves."""
    net = Net()
    towers = []
    for _ in range(2):
        y = net("Relu", net("Conv", "x", net.weight(4, 3, 5, 5), net.weight(4), strides=[2, 2], pads=[2] * 4))
        y = net("LRN", y, size=3, alpha=0.03, beta=0.75, bias=2.0)
        y = net("MaxPool", y, kernel_shape=[3, 3], strides=[2, 2])
        towers.append(net("Relu", net("Conv", y, net.weight(6, 4, 3, 3), net.weight(6), pads=[1] * 4)))
    halves = [
        net("Relu", net("Conv", net("Concat", *towers, axis=1), net.weight(4, 12, 3, 3), net.weight(4), pads=[1] * 4))
        for _ in range(2)
    ]
    joined = net("Flatten", net("Concat", *halves, axis=1))
    parts = [net("Relu", net("Gemm", joined, net.weight(128, 3), net.weight(3))) for _ in range(2)]
    output = net("Gemm", net("Concat", *parts, axis=1), net.weight(6, 4), net.weight(4))
    assert departures(saved(net.model(output), tmp_path), small()) == []


def test_towers_that_differ_are_not_one_layer(tmp_path):
    net = Net()
    x = plain_head(net)
    one = net("Conv", x, net.weight(4, 8, 3, 3), net.weight(4), pads=[1] * 4)
    other = net("Conv", x, net.weight(4, 8, 5, 5), net.weight(4), pads=[2] * 4)
    y = plain_tail(net, net("Concat", one, other, axis=1))
    found = departures(saved(net.model(y), tmp_path), small(norm1=None))
    assert any("paths that meet in concat" in departure for departure in found)


def test_channels_last_around_every_layer_and_a_flatten_in_that_order(tmp_path):
    """As converters from TensorFlow write it: pads apart, split convolutions, biases added, shapes computed."""
    net = Net()

    def nchw(y: str) -> Any:
        return net("Transpose", y, perm=[0, 3, 1, 2])

    def nhwc(y: str) -> Any:
        return net("Transpose", y, perm=[0, 2, 3, 1])

    padded = net("Pad", nchw("x"), net.const([0, 0, 2, 2, 0, 0, 2, 2], np.int64))
    y = nhwc(net("Conv", padded, net.weight(8, 3, 5, 5), strides=[2, 2]))
    y = net("Relu", net("Add", y, net.weight(8)))
    apart = net("Split", y, outputs=2, axis=3)
    parts = [nhwc(net("LRN", nchw(p), size=3, alpha=0.03, beta=0.75, bias=2.0)) for p in apart]
    y = nhwc(net("MaxPool", nchw(net("Concat", *parts, axis=3)), kernel_shape=[3, 3], strides=[2, 2]))
    apart = net("Split", y, outputs=2, axis=3)
    halves = [nhwc(net("Conv", nchw(p), net.weight(6, 4, 3, 3), auto_pad="SAME_UPPER")) for p in apart]
    y = net("Relu", net("Add", net("Concat", *halves, axis=-1), net.weight(12)))
    y = net("Relu", nhwc(net("Conv", nchw(y), net.weight(8, 12, 3, 3), net.weight(8), auto_pad="SAME_LOWER")))
    batch = net("Gather", net("Shape", y), net.const(0, np.int64))
    shape = net("Concat", net("Unsqueeze", batch, net.const([0], np.int64)), net.const([-1], np.int64), axis=0)
    y = net("Relu", net("Add", net("MatMul", net("Reshape", y, shape), net.weight(128, 6)), net.weight(6)))
    y = net("Softmax", net("Add", net("MatMul", y, net.weight(6, 4)), net.weight(4)))
    path = saved(net.model(y, ("N", 19, 19, 3)), tmp_path)
    assert departures(path, small()) == []
    found = read(path)
    assert isinstance(found, Found)
    assert found.flatten == "hwc"
    assert found.structure.input == (3, 19, 19)
    assert found.notes == ("its output is probabilities: a softmax stands behind the last layer",)
    said = text(Network("f", found.kind, found.structure.input, against(found, structures()), found.notes, ()))
    assert "3 x 19 x 19" in said


def test_rounding_up_and_pads_of_their_own_are_padding(tmp_path):
    net = Net()
    y = net("LRN", plain_head(net), size=3, alpha=0.03, beta=0.75, bias=2.0)
    y = net("MaxPool", y, kernel_shape=[3, 3], strides=[3, 3], ceil_mode=1)
    below = net.const(-np.inf)
    y = net("MaxPool", net("Pad", y, net.const([0, 0, 1, 1, 0, 0, 1, 1], np.int64), below), kernel_shape=[3, 3])
    y = net("Conv", y, net.weight(12, 4, 3, 3), net.weight(12), pads=[1] * 4, group=2)
    found = read(saved(net.model(y), tmp_path))
    assert isinstance(found, Found)
    facts = [step.facts["padding"] for step in found.structure.steps if step.op == "max_pool"]
    assert facts == [(0, 2, 0, 2), (1, 1, 1, 1)]


def test_dropout_nodes_are_seen_and_batch_normalisation_is_more(tmp_path):
    net = Net(opset=11)
    x = net("Dropout", plain_head(net), ratio=0.25, outputs=2)[0]
    y = net("BatchNormalization", x, net.weight(8), net.weight(8), net.weight(8), net.weight(8))
    found = departures(saved(net.model(plain_tail(net, y)), tmp_path), small(norm1=None))
    assert found == [
        "drop1: more: dropout behind relu (relu1)",
        "batchnormalization1: more: BatchNormalization behind dropout (drop1)",
    ]


@pytest.mark.filterwarnings("ignore")  # torch's own, of its older exporter
@pytest.mark.parametrize("dynamo", [True, False])
def test_torchs_exporters_of_a_network_with_its_own_response_normalisation(tmp_path, dynamo):
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    functional = torch.nn.functional

    class Module(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = torch.nn.Conv2d(3, 8, 5, 2, 2)
            self.conv2 = torch.nn.Conv2d(8, 12, 3, 1, 1, groups=2)
            self.conv3 = torch.nn.Conv2d(12, 8, 3, 1, 1)
            self.pool = torch.nn.AdaptiveAvgPool2d((4, 4)) if dynamo else torch.nn.Identity()
            self.fc4, self.fc5 = torch.nn.Linear(128, 6), torch.nn.Linear(6, 4)

        def forward(self, x: Any) -> Any:
            x = functional.local_response_norm(functional.relu(self.conv1(x)), 3, 0.03, 0.75, 2.0)
            x = functional.relu(self.conv2(functional.max_pool2d(x, 3, 2)))
            x = torch.flatten(self.pool(functional.relu(self.conv3(x))), 1)
            return self.fc5(functional.dropout(functional.relu(self.fc4(x)), 0.5, self.training))

    path = tmp_path / "exported.onnx"
    opened = {"dynamic_shapes": {"x": {0: torch.export.Dim("batch")}}} if dynamo else {}  # its older one cannot
    torch.onnx.export(
        Module().eval(), (torch.zeros(2, 3, 19, 19),), path, input_names=["x"], dynamo=dynamo, verbose=False, **opened
    )
    assert departures(saved(onnx.load(path), tmp_path), small(norm1={"groups": 1})) == []


# --- broken files -----------------------------------------------------------------------------------------------------


def small_model() -> onnx.ModelProto:
    net = Net()
    return net.model(plain_tail(net, lrn_by_slices(net, plain_head(net), 8, 2)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda graph: graph.node[0].input.__setitem__(0, "nowhere"), "must read what is made before it"),
        (lambda graph: graph.input.pop(), "one input of four axes"),
        (lambda graph: graph.output.pop(), "an output of the graph must depend"),
        (lambda graph: graph.initializer[0].dims.__setitem__(0, 2**40), "elements"),
        (lambda graph: graph.initializer[0].dims.__setitem__(1, 5), "must"),
        (lambda graph: graph.initializer[0].dims.__setitem__(0, -3), "must not be negative"),
        (lambda graph: graph.initializer[0].ClearField("raw_data"), "values that its shape says"),
        (lambda graph: graph.node[0].attribute.append(helper.make_attribute("dilations", [0, 1])), "must be positive"),
        (lambda graph: graph.input[0].type.tensor_type.shape.dim[2].Clear(), "height and width must be stated"),
    ],
)
def test_broken_graphs_are_refused_in_one_line(tmp_path, change, words):
    model = small_model()
    change(model.graph)
    path = tmp_path / "broken.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(SpecError, match=words) as caught:
        identify(path)
    assert "\n" not in str(caught.value)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_ends_in_a_traceback(tmp_path, data):
    raw = bytearray(small_model().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, min(len(raw), 4000) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.onnx"
    path.write_bytes(bytes(raw[: data.draw(st.integers(1, len(raw)))]) if data.draw(st.booleans()) else bytes(raw))
    with contextlib.suppress(SpecError):
        identify(path)


def test_bombs_are_refused(tmp_path):
    """A constant of 2^50 elements in no bytes, and a shape that would be computed to it."""
    net = Net()
    y = net("Add", plain_head(net), net("ConstantOfShape", net.const([2**25, 2**25], np.int64)))
    path = saved(net.model(y), tmp_path)
    with pytest.raises(SpecError, match="at most"):
        identify(path)
    net = Net()
    big = net("ConstantOfShape", net.const([1024, 1024], np.int64))
    for _ in range(30):
        big = net("Concat", big, big, axis=0)
    path = saved(net.model(net("Add", plain_head(net), big)), tmp_path)
    with pytest.raises(SpecError, match="must"):
        identify(path)
