"""Mistakes in files: in networks that are exported, in what files say of themselves, in weights that are read.

All run in the process of the backend ``onnx``, by which files are written and read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from conformance.mutants.mutant import Live, Mutant, Patch
from conformance.mutants.onnx import (
    _begin_and_end_exchanged,
    _flattened_channels_last,
    _square_gemm_untransposed,
    lowering,
    node,
)
from conformance.mutants.restating import restated, values
from conformance.mutants.spec import function
from spec import LayerGeometry, Spec, geometry

Rule = Callable[..., Any]


# --- export -----------------------------------------------------------------------------------------------------------


def in_graph(patch: Patch) -> Patch:
    """A mistake in the graph of ``backends/onnx``, which files hold."""

    def wrong(live: Live) -> None:
        graph = Live("onnx")
        live.finally_(graph.undo)
        patch(graph)

    return wrong


def _towers_exchanged(live: Live, right: Any, g: Any, at: LayerGeometry, x: str, y: str) -> None:
    """The outputs of a grouped convolution come from the next group's kernels."""
    held, name, groups = g.parameters, f"{at.name}.weight", getattr(at.layer, "groups", 1)
    g.parameters = {**held, name: np.roll(held[name], len(held[name]) // groups, axis=0)}
    try:
        right(g, at, x, y)
    finally:
        g.parameters = held


def _squares_in_half(live: Live) -> None:
    """In a file of float16 the squares under a response normalisation are float16 too: above 255 they are infinite."""
    right = live.nodes.Graph.node

    def node(self: Any, op: str, inputs: list[str], output: str, name: str = "", **attributes: Any) -> Any:
        if op != "Mul" or self.precision != "float16" or len(set(inputs)) > 1:
            return right(self, op, inputs, output, name, **attributes)
        half = self.cast(inputs[0], "float16", f"{output}.half")
        return self.cast(right(self, op, [half, half], f"{output}.in_half"), "float32", output, name)

    live.set(live.nodes.Graph, "node", node)


def _softmax_twice(right: Rule, model: Any) -> None:
    from onnx import helper

    right(model)
    last = model.graph.node[-1]
    model.graph.node.append(helper.make_node("Softmax", ["once"], [last.output[0]], "twice", axis=1))
    last.output[0] = "once"


def _logits_are_probabilities(right: Rule, model: Any) -> None:
    """The softmax is put into the network: what is called logits has been through it."""
    from onnx import helper

    for one in model.graph.node:
        one.output[:] = ["scores" if name == "logits" else name for name in one.output]
    model.graph.node.append(helper.make_node("Softmax", ["scores"], ["logits"], "softmax", axis=1))
    right(model)


def _said(**change: Any) -> Rule:
    """The preparation of bytes as if the section `data` said something else."""
    return lambda right, model, stated, statistics: right(
        model, stated.model_copy(update={"data": stated.data.model_copy(update=change)}), statistics
    )


def _mean_in_the_other_order(right: Rule, stated: Spec, statistics: Any) -> Any:
    return np.ascontiguousarray(right(stated, statistics)[::-1])


def _mean_in_bytes(right: Rule, stated: Spec, statistics: Any) -> Any:
    return right(stated.model_copy(update={"data": stated.data.model_copy(update={"scale": 1.0})}), statistics)


def _crop_moved(right: Rule, data: Any, input: Any, crops: str) -> Any:
    return [(max(0, row - 1), max(0, col - 1), flip) for row, col, flip in right(data, input, crops)]


def last_files(module: str, name: str) -> Patch:
    """What ``export.module.name`` gave for the first file stays for all that follow."""

    def patch(live: Live) -> None:
        kept: list[Any] = []
        owner = getattr(live, module)
        right = getattr(owner, name)

        def stale(*given: Any, **named: Any) -> Any:
            found = right(*given, **named)
            kept.append(found)
            return type(found)(kept[0]) if isinstance(found, dict) else kept[0]

        live.set(owner, name, stale)

    return patch


def _stale_parameters(live: Live) -> None:
    """The network of the file before: a graph that is built once and kept."""
    kept: list[Any] = []
    right = live.onnx_file.build

    def build(spec: Any, parameters: Any, **named: Any) -> Any:
        kept.append(parameters)
        return right(spec, kept[0], **named)

    live.set(live.onnx_file, "build", build)


def told(**keys: Callable[[str], str]) -> Patch:
    """A file that says `change(text)` under a key, in which dots are underscores."""

    def wrong(right: Rule, *given: Any, **named: Any) -> dict[str, str]:
        said: dict[str, str] = right(*given, **named)
        names = {key.replace(".", "_"): key for key in said}
        return said | {names[key]: change(said[names[key]]) for key, change in keys.items() if key in names}

    return function("onnx_file", "metadata", wrong)


def _sorted_names(text: str) -> str:
    import json

    return json.dumps(sorted(json.loads(text)))


def _unscaled(text: str) -> str:
    import json

    return json.dumps(json.loads(text) | {"scale": 1.0})


def _red_last(text: str) -> str:
    """A mean image in the order of the network's channels, where the file says that red is first."""
    import base64

    image = np.frombuffer(base64.b64decode(text), "<f4").reshape(3, -1)[::-1]
    return base64.b64encode(np.ascontiguousarray(image).tobytes()).decode()


# --- import -----------------------------------------------------------------------------------------------------------


def _unchanged(right: Rule, parameters: Mapping[str, Any], *given: Any) -> dict[str, Any]:
    return dict(parameters)


def _columns_before_rows(right: Rule, parameters: Mapping[str, Any], stated: Spec) -> dict[str, Any]:
    """A vector that has maps in the order H, W, C is read in the order W, H, C."""
    found, maps = right(parameters, stated), None
    for step in geometry(stated).layers:
        if step.layer.op == "flatten":
            maps = step.input_shape
        elif step.layer.op == "dense" and maps is not None:
            name = f"{step.name}.weight"
            channels, rows, columns = maps
            weight = found[name].reshape(-1, channels, rows, columns).swapaxes(2, 3)
            found[name] = np.ascontiguousarray(weight).reshape(found[name].shape)
            break
    return dict(found)


def _square_untransposed(right: Rule, array: Any) -> Any:
    square = array.ndim == 2 and array.shape[0] == array.shape[1]
    return np.ascontiguousarray(array) if square else right(array)


def _kernel_sides_exchanged(right: Rule, array: Any) -> Any:
    found = right(array)
    return np.ascontiguousarray(found.swapaxes(2, 3)) if array.ndim == 4 else found


def _gemm_as_it_stands(right: Rule, graph: Any) -> list[tuple[str, str, bool]]:
    """transB is not looked at, which fits if the weight is square."""
    square = {one.name for one in graph.initializer if len(one.dims) == 2 and one.dims[0] == one.dims[1]}
    return [(weight, bias, turned and weight not in square) for weight, bias, turned in right(graph)]


def _inverse_dropout(right: Rule, parameters: Any, stated: Any, scales: str, wanted: str) -> Any:
    return right(parameters, stated, wanted, scales)


def _read_towers_exchanged(right: Rule, of: Spec, *given: Any) -> dict[str, Any]:
    """The two halves of a grouped kernel change places, as when two files of towers are joined in the wrong order."""
    found = right(of, *given)
    for step in geometry(of).layers:
        if getattr(step.layer, "groups", 1) > 1 and step.layer.op == "conv":
            for kind in ("weight", "bias"):
                value = found[f"{step.name}.{kind}"]
                found[f"{step.name}.{kind}"] = np.roll(value, len(value) // 2, axis=0)
    return dict(found)


def _names_sorted(right: Rule, *given: Any) -> Any:
    names, line = right(*given)
    return tuple(sorted(names)), line


def _convolutions_as_text(right: Rule, stated: Spec) -> dict[str, str]:
    """features.10 comes before features.6, as in a listing of names as texts."""
    names = dict(right(stated))
    for kind in ("weight", "bias"):
        one, other = f"features.6.{kind}", f"features.10.{kind}"
        names[one], names[other] = names[other], names[one]
    return names


def _of(check: str, case: str | None, witness: str, *rows: tuple[str, str, str, Patch]) -> tuple[Mutant, ...]:
    """Mutants caught by `check`. rows: name, what is wrong, what it concerns, patch."""
    return tuple(
        Mutant(f"export-{name}", "export", what, (concern,), check, witness, patch, case=case)
        for name, what, concern, patch in rows
    )


GRAPH = "filed"
SYSTEMATIC: tuple[Mutant, ...] = (
    *_of(
        "export",
        GRAPH,
        GRAPH,
        ("flatten-channels-last", "maps are flattened with their channels last", "flatten",
         in_graph(lowering("flatten", _flattened_channels_last))),
        ("towers-exchanged", "each tower has the kernels of the other", "conv.groups",
         in_graph(lowering("conv", _towers_exchanged))),
        ("dense-untransposed", "a square weight is used as it stands where the node says to transpose it",
         "dense.out_features", in_graph(lowering("dense", _square_gemm_untransposed))),
        ("lrn-node-alpha-undivided", "the node is given the coefficient of the sum for alpha, which it divides",
         "lrn.alpha", in_graph(node("LRN", lambda of: {**of, "alpha": of["alpha"] / of["size"]}))),
        ("lrn-node-size-as-radius", "the node is given the reach of the window for its size", "lrn.size",
         in_graph(node("LRN", lambda of: {**of, "size": of["size"] // 2 * 2 - 1}))),
        ("lrn-in-float16", "in a file of float16 the squares under a normalisation are float16 too", "lrn.precision",
         in_graph(_squares_in_half)),
        ("padding-on-the-other-side", "padding of one side is put on the opposite one", "conv.padding",
         in_graph(_begin_and_end_exchanged)),
        ("dropout-keeps-all", "dropout that scales in the test is left out", "dropout.scale",
         in_graph(restated("dropout", values(scale="train")))),
        ("channels-not-reversed", "bytes go into the network red first where it wants blue", "data.channel_order",
         function("onnx_file", "add_pixels", _said(channel_order="rgb"))),
        ("mean-in-the-other-order", "the mean image is red first where the pixels are blue first", "data.mean",
         function("ends", "_mean", _mean_in_the_other_order)),
        ("mean-in-bytes", "the mean is in bytes where pixels are scaled", "data.mean",
         function("ends", "_mean", _mean_in_bytes)),
        ("crop-off-by-one", "the central crop is a pixel up and left", "data.crop",
         function("ends", "evaluation_views", _crop_moved)),
        ("scale-forgotten", "bytes are not scaled", "data.scale",
         function("onnx_file", "add_pixels", _said(scale=1.0))),
        ("softmax-twice", "probabilities have been through the softmax twice", "probabilities",
         function("onnx_file", "add_softmax", _softmax_twice)),
        ("softmax-in-the-logits", "what is called logits has been through the softmax", "logits",
         function("onnx_file", "add_softmax", _logits_are_probabilities)),
        ("parameters-of-the-last-file", "the network has the parameters of the file before", "parameters",
         _stale_parameters),
        ("metadata-of-the-last-file", "a file says of itself what the one before it said", "metadata",
         last_files("onnx_file", "metadata")),
        ("classes-sorted", "the names of classes are in the order of the alphabet", "metadata.classes",
         told(classes=_sorted_names)),
        ("preprocessing-said-unscaled", "the file says that bytes are not scaled", "metadata.preprocessing",
         told(preprocessing=_unscaled)),
        ("mean-image-blue-first", "the mean image that the file records is blue first", "metadata.mean_image",
         told(preprocessing_mean_image=_red_last)),
        ("source-of-another-file", "the digest of the checkpoint is that of no file", "metadata.source",
         told(source_sha256=lambda text: "0" * len(text))),
    ),
    *_of(
        "export",
        "file-values",
        "images-values",
        ("deviation-forgotten", "pixels are not divided by their deviation", "data.std",
         function("onnx_file", "add_pixels", _said(std=None))),
    ),
    *_of(
        "import",
        GRAPH,
        GRAPH,
        ("read-flatten-order-kept", "weights for maps with their channels last are taken as they are", "flatten",
         function("conversions", "from_hwc", _unchanged)),
        ("read-columns-before-rows", "places of such maps are read column by column", "flatten",
         function("conversions", "from_hwc", _columns_before_rows)),
        ("read-keras-dense-as-it-stands", "Keras' square weight is not transposed", "dense.out_features",
         function("conversions", "from_keras", _square_untransposed)),
        ("read-keras-kernel-sides-exchanged", "rows of Keras' kernels are taken for columns", "conv.kernel",
         function("conversions", "from_keras", _kernel_sides_exchanged)),
        ("read-gemm-as-it-stands", "a square weight (in, out) of a graph is not transposed", "dense.out_features",
         function("weight_files", "_weighted", _gemm_as_it_stands)),
        ("read-channels-kept", "weights for images in the other order are taken as they are", "data.channel_order",
         function("conversions", "with_reversed_channels", _unchanged)),
        ("read-dropout-ignored", "weights of dropout that scales elsewhere are taken as they are", "dropout.scale",
         function("conversions", "rescaled", _unchanged)),
        ("read-dropout-inverted", "weights behind a dropout are divided where they are to be multiplied",
         "dropout.scale", function("conversions", "rescaled", _inverse_dropout)),
        ("read-towers-exchanged", "the halves of grouped kernels change places", "conv.groups",
         function("importing", "_values", _read_towers_exchanged)),
        ("read-classes-sorted", "the names of classes are put into the order of the alphabet", "classes",
         function("importing", "_classes", _names_sorted)),
    ),
    *_of(
        "import",
        "torchvision-file",
        "torchvision-file",
        ("read-names-as-text", "torchvision's features.10 is taken for the one before features.6", "names",
         function("conversions", "torchvision_names", _convolutions_as_text)),
    ),
)  # fmt: skip
