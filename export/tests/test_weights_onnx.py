"""Weights out of ONNX files: Caffe's graph gives ONNX Runtime's outputs, and what is broken or hostile is one line."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import spec
from backends import create
from export import from_weights, hdf5
from export.conversions import Refused
from export.importing import Stated, import_weights
from export.tests.test_weights import Arrays, close, draw, same_bits, slim
from spec import Spec, geometry

h5py = pytest.importorskip("h5py")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

ZOO = {"pool1": [0, 0, 0, 0], "pool2": [0, 0, 0, 0], "pool5": [0, 0, 1, 1]}
PAPER = ((96, 256, 384, 384, 256), 4096, 1000)
NARROW = ((4, 4, 6, 4, 4), 6, 5)


def zoo(weights: Arrays, sizes: Any = NARROW, *, norm_first: bool = True, channels_last: bool = False) -> Any:
    """The graph of ONNX' light_bvlc_alexnet.onnx around `weights`, node by node; with `norm_first` False CaffeNet's.

    channels_last: the maps become a vector in the order H, W, C, dense layers are MatMul and Add, as converters of
    TensorFlow's graphs write them.
    """
    nodes: list[Any] = []
    last = "data_0"

    def add(kind: str, *more: str, **attributes: Any) -> None:
        nonlocal last
        nodes.append(helper.make_node(kind, [last, *more], [f"r{len(nodes)}"], **attributes))
        last = nodes[-1].output[0]

    for i, (kernel, stride, pad, group) in enumerate(
        [(11, 4, 0, 1), (5, 1, 2, 2), (3, 1, 1, 1), (3, 1, 1, 2), (3, 1, 1, 2)], 1
    ):
        add("Conv", f"conv{i}_w_0", f"conv{i}_b_0", kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4,
            group=group)  # fmt: skip
        add("Relu")
        if i in (1, 2, 5):
            norm = {"size": 5, "alpha": 1e-4, "beta": 0.75, "bias": 1.0}
            if norm_first and i < 5:
                add("LRN", **norm)
            add("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=ZOO[f"pool{i}"])
            if not norm_first and i < 5:
                add("LRN", **norm)
    if channels_last:
        add("Transpose", perm=[0, 2, 3, 1])
    add("Reshape", "shape")
    constants = {"shape": np.array([1, sizes[0][-1] * 36])}
    for name, value in weights.items():
        layer, kind = name.split(".")
        constants[f"{layer}_{kind[0]}_0"] = value
    for i in (6, 7, 8):
        weight, bias = f"fc{i}_w_0", f"fc{i}_b_0"
        if channels_last:
            add("MatMul", weight)
            constants[weight] = constants[weight].T
            add("Add", bias)
        else:
            add("Gemm", weight, bias, transB=1)
        if i < 8:
            add("Relu")
            add("Dropout", ratio=0.5)
    add("Softmax")
    if channels_last:
        turned = constants["fc6_w_0"].reshape(sizes[0][-1], 6, 6, -1).transpose(1, 2, 0, 3)
        constants["fc6_w_0"] = np.ascontiguousarray(turned.reshape(-1, sizes[1]))
    graph = helper.make_graph(
        nodes, "zoo",
        [helper.make_tensor_value_info("data_0", TensorProto.FLOAT, [1, 3, 224, 224])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, [1, sizes[2]])],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=4)


def narrow(name: str = "onnx-zoo", **more: Any) -> Spec:
    return slim(name, NARROW[0], NARROW[1], NARROW[2], **more)


IMAGES = (np.random.default_rng(4).standard_normal((3, 3, 224, 224)) * 60).astype(np.float32)


def agrees(path: Path, of: Spec, parameters: Arrays, images: Any = IMAGES) -> None:
    """ONNX Runtime on the file, which takes one image, gives the softmax of what the parameters give in any batch."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = np.concatenate([session.run(None, {"data_0": image[None]})[0] for image in IMAGES])
    network = create("torch", of, device="cpu")
    network.load(parameters)
    for n in (1, len(images)):
        logits = network.predict(images[:n]).astype(np.float64)
        power = np.exp(logits - logits.max(axis=1, keepdims=True))
        close(power / power.sum(axis=1, keepdims=True), expected[:n])
    assert (np.ptp(expected, axis=1) > 0.01 / expected.shape[1]).all()


def light(parameters: Arrays) -> Any:
    """The graph in the onnx package, light_bvlc_alexnet.onnx, with `parameters` for the constants that it makes up."""
    model = onnx.load(_light(Path()))
    made = [node for node in model.graph.node if node.op_type == "ConstantOfShape"]
    for node in made:
        layer, kind, _ = node.output[0].split("_")
        value = parameters[f"{layer}.{'weight' if kind == 'w' else 'bias'}"]
        model.graph.node.remove(node)
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), node.output[0]))
        model.graph.input.append(helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, value.shape))
    return model


def test_the_zoos_alexnet_is_known_and_gives_the_outputs_of_onnx_runtime(tmp_path):
    of = spec.load("onnx-zoo")
    parameters = draw(of)
    onnx.save(light(parameters), tmp_path / "a.onnx")
    found = import_weights(tmp_path / "a.onnx", Stated(mean=(123.0, 117.0, 104.0)))
    same_bits(found.parameters, parameters)
    assert found.spec.name == "onnx-zoo"
    assert found.spec.data.channel_order == "bgr"
    assert found.spec.data.mean.values == (123.0, 117.0, 104.0)
    agrees(tmp_path / "a.onnx", found.spec, found.parameters)


@pytest.mark.parametrize("channels_last", [False, True])
def test_other_spellings_and_orders_give_the_same(tmp_path, channels_last):
    path, of = tmp_path / "a.onnx", narrow()
    onnx.save(zoo(draw(of), channels_last=channels_last), path)
    found = import_weights(path, Stated(of))
    same_bits(found.parameters, draw(of))
    agrees(path, of, found.parameters)
    rgb = narrow(data={"channel_order": "rgb"})
    turned = import_weights(path, Stated(rgb, channel_order="bgr"))
    agrees(path, rgb, turned.parameters, IMAGES[:, ::-1].copy())
    scaled = narrow(scale="test")
    agrees(path, scaled, import_weights(path, Stated(scaled)).parameters)


def test_caffenet_at_224_pixels_is_known_and_its_absent_weights_are_said(tmp_path):
    shapes = geometry(spec.load("caffenet")).parameters
    model = zoo({name: np.zeros(shape, np.float32) for name, shape in shapes.items()}, PAPER, norm_first=False)
    for tensor in model.graph.initializer:
        if "_w_" in tensor.name:
            outside(tensor, "absent.bin")
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(Refused, match=r"absent\.bin', which is not there"):
        import_weights(tmp_path / "a.onnx")
    of = narrow("caffenet", input={"height": 224, "width": 224})
    onnx.save(zoo(draw(narrow()), norm_first=False), tmp_path / "b.onnx")
    with pytest.raises(Refused, match=r"network must be that of caffenet\. Received: .*pool"):
        import_weights(tmp_path / "b.onnx", Stated(of))


def outside(tensor: Any, place: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)


def test_data_beside_the_file_is_read(tmp_path):
    of, model = narrow(), zoo(draw(narrow()))
    onnx.save(model, tmp_path / "a.onnx", save_as_external_data=True, location="a.bin", size_threshold=0)
    same_bits(import_weights(tmp_path / "a.onnx", Stated(of)).parameters, draw(of))


def test_a_header_whose_size_begins_as_a_pickle_is_no_pickle(tmp_path):
    of = narrow()
    for padding in range(40):
        save_file(draw(of), tmp_path / "a.safetensors", {"padding": "x" * 8 * padding})
        if (tmp_path / "a.safetensors").read_bytes()[:1] == b"\x80":
            break
    else:
        pytest.fail("no header of such a size was made")
    same_bits(import_weights(tmp_path / "a.safetensors", Stated(of)).parameters, draw(of))


def test_a_file_that_ends_the_hdf5_library_is_one_line(tmp_path, monkeypatch):
    """The library crashes at some damaged files, which ones depends on its version: here its process ends itself."""
    path = _h5(tmp_path)
    child = tmp_path / "child.py"
    child.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setattr(hdf5, "CHILD", child)
    with pytest.raises(Refused, match="the HDF5 library ends"):
        import_weights(path)


# --- refused ----------------------------------------------------------------------------------------------------------


def _external(folder: Path, place: str) -> Path:
    model = zoo(draw(narrow()))
    outside(next(tensor for tensor in model.graph.initializer if tensor.name == "conv1_w_0"), place)
    (folder / "inside").mkdir()
    (folder / "secret.bin").write_bytes(bytes(4 * 4 * 3 * 121))
    (folder / "inside" / "link.bin").symlink_to(folder / "secret.bin")
    path = folder / "inside" / "a.onnx"
    onnx.save(model, path)
    return path


def _h5(folder: Path, **options: Any) -> Path:
    (folder / "secret.bin").write_bytes(bytes(4 * 4 * 3 * 121))
    with h5py.File(folder / "a.weights.h5", "w") as file:
        layer = file.create_group("layers/conv2d/vars")
        layer.attrs["name"] = "conv1"
        layer.create_dataset("0", (11, 11, 3, 4), "f4", **options)
    return folder / "a.weights.h5"


def _h5_link(folder: Path) -> Path:
    with h5py.File(_h5(folder), "a") as file:
        file["layers/conv2d/vars/1"] = h5py.ExternalLink(str(folder / "b.h5"), "x")
    return folder / "a.weights.h5"


def _safetensors(folder: Path, change: Any) -> Path:
    save_file(draw(narrow()), folder / "a.safetensors")
    raw = change((folder / "a.safetensors").read_bytes())
    (folder / "a.safetensors").write_bytes(raw)
    return folder / "a.safetensors"


def _renamed(raw: bytes) -> bytes:
    """Every shape a hundred million times larger."""
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + size])
    for entry in header.values():
        entry["shape"][0] *= 10**8
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + raw[8 + size :]


def _onnx(folder: Path, change: Any) -> Path:
    model = zoo(draw(narrow()))
    change(model)
    onnx.save(model, folder / "a.onnx")
    return folder / "a.onnx"


def _dims(model: Any) -> None:
    next(tensor for tensor in model.graph.initializer if tensor.name == "conv1_b_0").dims[0] = 2**40


def _size(value: Any) -> Any:
    def change(model: Any) -> None:
        node = next(node for node in model.graph.node if node.op_type == "LRN")
        at = next(item for item in node.attribute if item.name == "size")
        at.CopyFrom(helper.make_attribute("size", value) if value is not None else onnx.AttributeProto(name="size"))

    return change


def _type(model: Any) -> None:
    next(tensor for tensor in model.graph.initializer if tensor.name == "conv1_b_0").data_type = 40


def _name(model: Any) -> None:
    model.graph.node[0].input[1] = "a\nb"


def _half(model: Any) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "fc6_w_0")
    tensor.raw_data = tensor.raw_data[:100]


def _scaled(model: Any) -> None:
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    gemm.attribute.append(helper.make_attribute("alpha", 2.0))


def _poisoned(model: Any) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "conv1_b_0")
    tensor.CopyFrom(numpy_helper.from_array(np.full(4, np.nan, np.float32), "conv1_b_0"))


def _light(folder: Path) -> Path:
    return Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / "light_bvlc_alexnet.onnx"


REFUSED = {
    "traversal": (lambda at: _external(at, "../secret.bin"), "must lie beside the file"),
    "absolute": (lambda at: _external(at, str(at / "secret.bin")), "must lie beside the file"),
    "link": (lambda at: _external(at, "link.bin"), "must lie beside the file"),
    "onnx dims": (lambda at: _onnx(at, _dims), "must"),
    "onnx half": (lambda at: _onnx(at, _half), "must have the values"),
    "no size": (lambda at: _onnx(at, _size(None)), "must have a value"),
    "size 0": (lambda at: _onnx(at, _size(0)), "must be at least 1"),
    "size in words": (lambda at: _onnx(at, _size("five")), "must have the inputs and attributes"),
    "unknown type": (lambda at: _onnx(at, _type), "must have the values"),
    "name of two lines": (lambda at: _onnx(at, _name), "reads a?b"),
    "gemm alpha": (lambda at: _onnx(at, _scaled), "must"),
    "not a number": (lambda at: _onnx(at, _poisoned), "must be finite"),
    "light": (_light, "must be kept in the file"),
    "h5 external": (lambda at: _h5(at, external=[(str(at / "secret.bin"), 0, 5808)]), "must lie in it"),
    "h5 link": (_h5_link, "must hold the parameters"),
    "h5 garbage": (lambda at: _safetensors(at, lambda raw: b"\x89HDF\r\n\x1a\n" + raw[:999]), "HDF5"),
    "safetensors cut": (lambda at: _safetensors(at, lambda raw: raw[:-9]), "whole safetensors"),
    "safetensors head": (lambda at: _safetensors(at, lambda raw: struct.pack("<Q", 2**60) + raw[8:]), "header"),
    "safetensors large": (lambda at: _safetensors(at, _renamed), "must"),
    "absent": (lambda at: at / "none.onnx", "readable"),
    "empty": (lambda at: _safetensors(at, lambda raw: b""), "must"),
    "folder": (lambda at: at, "readable"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_broken_or_hostile_is_one_line_and_leaves_nothing(tmp_path, capsys, name):
    make, words = REFUSED[name]
    yaml = tmp_path / "narrow.yaml"
    layers = "".join(f"  conv{i}: {{out_channels: {n}}}\n" for i, n in enumerate(NARROW[0], 1))
    layers += "".join(f"  fc{i}: {{out_features: {n}}}\n" for i, n in ((6, 6), (7, 6), (8, 5)))
    yaml.write_text(f"extends: onnx-zoo\ntitle: narrow\nlayers:\n{layers}")
    path = make(tmp_path)
    stated = [] if name == "light" else ["--spec", str(yaml)]
    assert from_weights.main([str(path), *stated, "--output", str(tmp_path / "made")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert words in said.err
    assert not (tmp_path / "made").exists()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.sampled_from(["onnx", "safetensors"]))
def test_no_damage_ends_in_a_traceback(tmp_path, data, kind):
    damaged(tmp_path, data, kind)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_to_hdf5_ends_the_process(tmp_path, data):
    damaged(tmp_path, data, "h5")


def damaged(tmp_path: Path, data: Any, kind: str) -> None:
    """Import of a file of some kind in which a few bytes are others, or which is cut."""
    of = narrow()
    path = tmp_path / f"file.{kind}"
    if kind == "onnx":
        onnx.save(zoo(draw(of)), path)
    elif kind == "h5":
        with h5py.File(path, "w") as file:
            for i, (name, value) in enumerate(draw(of).items()):
                file[f"layers/l{i // 2}/vars/{i % 2}"] = value.T
                file[f"layers/l{i // 2}/vars"].attrs["name"] = name.split(".")[0]
    else:
        save_file(draw(of), path)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        near = min(len(raw) - 1, data.draw(st.sampled_from([200, 2000, len(raw) - 1])))
        raw[data.draw(st.integers(0, near))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(raw[: data.draw(st.integers(1, len(raw)))]) if data.draw(st.booleans()) else bytes(raw))
    with contextlib.suppress(Refused, spec.SpecError):
        import_weights(path, Stated(of))
