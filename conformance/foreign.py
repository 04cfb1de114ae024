"""Files in which others keep the weights of a network, written without the code that reads them.

Every way is the plainest statement of a convention: arrays are filled element by element or by one stated permutation,
graphs are written node by node. Parameters are float32 in canonical layout.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from backends.base import Array, Arrays, Unsupported
from spec import Spec, geometry, load

TORCHVISION = (0, 3, 6, 8, 10), (1, 4, 6)
"""Places of the weights in torchvision's ``features`` and ``classifier`` (torchvision/models/alexnet.py)."""


@dataclass(frozen=True)
class Written:
    """A file, and what its user would say of it."""

    path: Path
    said: dict[str, Any] = field(default_factory=dict)


def _weighted(spec: Spec) -> list[Any]:
    return [step for step in geometry(spec).layers if step.layer.op in ("conv", "local", "dense")]


def _behind_dropout(spec: Spec) -> dict[str, float]:
    """Of the weights behind each dropout, the share of units that it keeps. Raises LookupError if another op than those
    that pass factors on is between."""
    found, keep = {}, 1.0
    for step in geometry(spec).layers:
        if step.layer.op == "dropout":
            keep *= 1 - step.layer.rate
        elif step.layer.op in ("conv", "local", "dense"):
            found[f"{step.name}.weight"] = keep
            keep = 1.0
        elif keep != 1 and step.layer.op not in ("relu", "max_pool", "avg_pool", "flatten"):
            raise LookupError
    return found


def _for_other_dropout(spec: Spec, parameters: Arrays, scales: str) -> dict[str, Array] | None:
    """Parameters trained with dropout that scales in ``train`` or ``test``, if the specification's scales in the other:
    where it scales in the test, weights are larger by what it keeps. None without such a dropout, or if that rounds."""
    own = {layer.scale for layer in spec.layers if layer.op == "dropout" and layer.rate > 0}
    if len(own) != 1 or scales in own:
        return None
    try:
        keeps = _behind_dropout(spec)
    except LookupError:
        return None
    if any(math.frexp(keep)[0] != 0.5 for keep in keeps.values()):
        return None
    factors = {name: keep if scales == "train" else 1 / keep for name, keep in keeps.items()}
    return {name: np.asarray(value * factors.get(name, 1.0), np.float32) for name, value in parameters.items()}


def _canonical(path: Path, parameters: Arrays) -> Path:
    save_file({name: np.ascontiguousarray(value) for name, value in parameters.items()}, path)
    return path


def _names_alone(spec: Spec, p: Arrays, folder: Path) -> Written:
    return Written(_canonical(folder / "w.safetensors", p))


def _reversed_channels(spec: Spec, p: Arrays, folder: Path) -> Written | None:
    """For images in the other order: the first kernel reads its last channel first."""
    first = geometry(spec).layers[0]
    if first.layer.op != "conv" or first.layer.groups != 1 or first.input_shape[0] == 1:
        return None
    name, channels = f"{first.name}.weight", first.input_shape[0]
    kernel = np.empty_like(p[name])
    for channel in range(channels):
        kernel[:, channel] = p[name][:, channels - 1 - channel]
    other = {"rgb": "bgr", "bgr": "rgb"}[spec.data.channel_order]
    return Written(_canonical(folder / "w.safetensors", {**p, name: kernel}), {"channel_order": other})


def _other_dropout(spec: Spec, p: Arrays, folder: Path) -> Written | None:
    own = next((layer.scale for layer in spec.layers if layer.op == "dropout"), "train")
    other = {"train": "test", "test": "train"}[own]
    values = _for_other_dropout(spec, p, other)
    return None if values is None else Written(_canonical(folder / "w.safetensors", values), {"dropout": other})


def _structure(spec: Spec) -> list[Any]:
    """What of a network is not its widths: ops, windows, the sides of maps."""
    windows = ("kernel", "stride", "groups")
    return [
        (step.layer.op, *(getattr(step.layer, name, None) for name in windows), step.padding, step.output_shape[1:])
        for step in geometry(spec).layers
        if step.layer.op != "dropout"
    ]


def _torchvision(spec: Spec, p: Arrays, folder: Path) -> Written | None:
    """torchvision's network, of whatever widths, under its names; its dropout scales in training."""
    if _structure(spec) != _structure(load("torchvision")):
        return None
    steps = _weighted(spec)
    values = _for_other_dropout(spec, p, "train") or p
    names = [f"features.{i}" for i in TORCHVISION[0]] + [f"classifier.{i}" for i in TORCHVISION[1]]
    found = {
        f"{name}.{kind}": values[f"{step.name}.{kind}"]
        for name, step in zip(names, steps, strict=True)
        for kind in ("weight", "bias")
        if f"{step.name}.{kind}" in p
    }
    return Written(_canonical(folder / "w.safetensors", found), {"channel_order": spec.data.channel_order})


def _from_hwc(spec: Spec, p: Arrays) -> dict[str, Array] | None:
    """The first dense weight behind maps for a vector that has them channels last, element by element."""
    maps = None
    for step in geometry(spec).layers:
        if step.layer.op == "flatten":
            maps = step.input_shape
        elif step.layer.op == "dense" and maps is not None:
            if step.layer.groups != 1:
                return None
            channels, rows, columns = maps
            name = f"{step.name}.weight"
            turned = np.empty_like(p[name])
            for c in range(channels):
                for y in range(rows):
                    for x in range(columns):
                        turned[:, (y * columns + x) * channels + c] = p[name][:, (c * rows + y) * columns + x]
            return {**p, name: turned}
    return None


def _keras_weights(path: Path, spec: Spec, p: Arrays, flatten: str) -> Path:
    """Keras 3's ``.weights.h5``: kernels (rows, columns, in, out), dense (in, out), of local layers places first."""
    try:
        import h5py  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise Unsupported("files of Keras are written with h5py, which is not installed") from None
    axes = {1: (0,), 2: (1, 0), 3: (1, 2, 0), 4: (2, 3, 1, 0), 6: (4, 5, 2, 3, 1, 0)}
    with h5py.File(path, "w") as file:
        file.create_group(f"layers/{flatten}/vars")
        for number, step in enumerate(_weighted(spec)):
            group = file.create_group(f"layers/layer_{number}/vars")
            group.attrs["name"] = step.name
            for place, kind in enumerate(("weight", "bias")):
                if f"{step.name}.{kind}" in p:
                    value = p[f"{step.name}.{kind}"]
                    group.create_dataset(str(place), data=value.transpose(axes[value.ndim]))
    return path


def _keras(spec: Spec, p: Arrays, folder: Path) -> Written:
    return Written(_keras_weights(folder / "w.weights.h5", spec, p, "flatten_channels"))


def _keras_stock(spec: Spec, p: Arrays, folder: Path) -> Written | None:
    values = _from_hwc(spec, p)
    return None if values is None else Written(_keras_weights(folder / "w.weights.h5", spec, values, "flatten"))


def _graph(spec: Spec, p: Arrays, path: Path, way: str) -> Written | None:
    """An ONNX graph as other programs write it, without names that say anything; its dropout was left out.

    way: how dense layers are written, ``gemm`` with (out, in), ``gemm-in-out``, or ``matmul`` behind a flatten with
    channels last. None for a network with more than AlexNet's own ops in their plain form.
    """
    from onnx import TensorProto, helper, numpy_helper, save

    turned = p if way != "matmul" else _from_hwc(spec, p)
    if turned is None:
        return None
    values = _for_other_dropout(spec, turned, "train") or turned
    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(value: Array) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), f"c{len(constants)}"))
        return str(constants[-1].name)

    def node(op: str, inputs: list[str], **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [f"t{len(nodes)}"], **attributes))
        return f"t{len(nodes) - 1}"

    x, network = "x", geometry(spec)
    for step in network.layers:
        layer: Any = step.layer
        window = {}
        if layer.op in ("conv", "max_pool"):
            pad = step.padding
            assert pad is not None
            window = {
                "kernel_shape": [layer.kernel.height, layer.kernel.width],
                "strides": [layer.stride.height, layer.stride.width],
                "pads": [pad.top, pad.left, pad.bottom, pad.right],
            }
        match layer.op:
            case "conv":
                x = node("Conv", [x, *(constant(values[f"{step.name}.{kind}"]) for kind in ("weight", "bias"))],
                         group=layer.groups, **window)  # fmt: skip
            case "max_pool":
                x = node("MaxPool", [x], **window)
            case "relu":
                x = node("Relu", [x])
            case "lrn" if layer.groups == 1 and layer.window[0] == layer.window[1]:
                alpha = layer.alpha * {"size": 1, "one": layer.size}.get(layer.alpha_over, 0)
                x = node("LRN", [x], size=layer.size, alpha=alpha, beta=layer.beta, bias=layer.k)
            case "dropout":
                continue
            case "flatten":
                x = node("Transpose", [x], perm=[0, 2, 3, 1]) if way == "matmul" else x
                x = node("Flatten", [x])
            case "dense" if layer.groups == 1:
                weight, bias = values[f"{step.name}.weight"], constant(values[f"{step.name}.bias"])
                if way == "gemm":
                    x = node("Gemm", [x, constant(weight), bias], transB=1)
                elif way == "gemm-in-out":
                    x = node("Gemm", [x, constant(weight.T), bias])
                else:
                    x = node("Add", [node("MatMul", [x, constant(weight.T)]), bias])
            case _:
                return None
    shape = ["n", *network.input_shape]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["n", *network.output_shape])],
        constants,
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return Written(path)


def _by_graph(way: str) -> Callable[[Spec, Arrays, Path], Written | None]:
    return lambda spec, p, folder: _graph(spec, p, folder / "w.onnx", way)


WAYS: dict[str, Callable[[Spec, Arrays, Path], Written | None]] = {
    "names alone": _names_alone,
    "channels reversed": _reversed_channels,
    "dropout of the other kind": _other_dropout,
    "torchvision's names": _torchvision,
    "Keras' weights": _keras,
    "Keras' weights behind its own flatten": _keras_stock,
    "a graph with weights (out, in)": _by_graph("gemm"),
    "a graph with weights (in, out)": _by_graph("gemm-in-out"),
    "a graph with channels last": _by_graph("matmul"),
}
"""Ways of keeping weights, by what the report calls them."""


def write(way: str, spec: Spec, parameters: Arrays, folder: Path) -> Written | None:
    """Write the file into `folder`; None for a network whose weights cannot be kept so. Raises Unsupported."""
    missing_bias = any(f"{step.name}.bias" not in parameters for step in _weighted(spec))
    if missing_bias and ("graph" in way or "torchvision" in way):
        return None
    return WAYS[way](spec, parameters, folder)
