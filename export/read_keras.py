"""A Keras model as a graph of neutral tensors, from its configuration alone: no class is loaded, no code is run.

Reads ``.keras`` (a zip with ``config.json``) and whole models in HDF5 (the attribute ``model_config``); functional and
sequential models, nested ones too. A layer whose computation is code (``Lambda``) is a step that says so.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from export.hdf5 import listing
from export.keras_layers import LAYERS, OWN, PACKAGE, Arguments, Config
from export.keras_ops import OPERATIONS, tf_function
from export.read_weights import BROKEN_ZIP
from export.tensors import Graph, Tensor, Unreadable

MAX_CONFIG = 8 * 2**20
MAX_LAYERS = 5000
MODELS = ("Functional", "Model", "Sequential")
CODE = "(code, which is not read)"
"""Said of a layer whose class is neither Keras' nor this project's."""


def read(path: Path) -> tuple[Tensor, Tensor]:
    """(input, output) of a Keras file. Raises Unreadable in one line, whatever is wrong with it."""
    model = config(path)
    graph = Graph()
    try:
        start = graph.input(_input_shape(model))
        outputs = _model(graph, model, [start], 0)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable(f"a Keras model must be configured as Keras does. Received: {type(error).__name__}") from None
    return start, outputs[0]


def config(path: Path) -> Mapping[str, Any]:
    """The configuration of the model in a ``.keras`` or HDF5 file."""
    text = _from_zip(path) if zipfile.is_zipfile(path) else _from_hdf5(path)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise Unreadable("a Keras model's configuration must be JSON. Received: other text") from None
    if not isinstance(found, dict) or found.get("class_name") not in MODELS:
        received = found.get("class_name", "no class") if isinstance(found, dict) else type(found).__name__
        raise Unreadable(f"a Keras file must hold a functional or sequential model. Received: {str(received)[:60]}")
    return found


def _from_zip(path: Path) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive, archive.open("config.json") as stream:
            text = stream.read(MAX_CONFIG + 1)
    except KeyError:
        raise Unreadable("a Keras file must have a config.json. Received: a zip without one") from None
    except BROKEN_ZIP as error:
        raise Unreadable(f"must be a readable zip. Received: {str(error)[:80] or type(error).__name__}") from None
    if len(text) > MAX_CONFIG:
        raise Unreadable(f"a Keras model's configuration must have at most {MAX_CONFIG} bytes. Received: more")
    return text


def _from_hdf5(path: Path) -> bytes:
    text = listing(path).config
    if text is None:
        raise Unreadable("an HDF5 file must hold a whole Keras model. Received: no model_config")
    return text.encode()


def _layers(model: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = model["config"]
    layers = found["layers"] if isinstance(found, Mapping) else found  # a list in Keras 1
    if not isinstance(layers, list) or not 1 <= len(layers) <= MAX_LAYERS:
        raise Unreadable(f"a model must have one to {MAX_LAYERS} layers. Received: another number")
    return layers


def _input_shape(model: Mapping[str, Any]) -> tuple[int, ...]:
    """The input's shape, the batch one, from the input layer or from the first layer that states it."""
    for layer in _layers(model):
        if layer["class_name"] in MODELS:
            return _input_shape(layer)
        stated = layer["config"].get("batch_shape") or layer["config"].get("batch_input_shape")
        stated = stated or layer.get("build_config", {}).get("input_shape")
        if stated:
            if len(stated) != 4 or not all(isinstance(side, int) and side > 0 for side in stated[1:]):
                raise Unreadable(f"the input must be images of a stated size. Received: {str(stated)[:60]}")
            return (1, *stated[1:])
    raise Unreadable("a model must state the shape of its input. Received: none")


def _model(graph: Graph, model: Mapping[str, Any], inputs: list[Tensor], depth: int) -> list[Tensor]:
    """The outputs of a model called on `inputs`."""
    if depth > 8:
        raise Unreadable("models must nest at most 8 deep. Received: deeper nesting")
    if model["class_name"] == "Sequential":
        x = inputs[0]
        for layer in _layers(model):
            if layer["class_name"] != "InputLayer":
                x = _call(graph, layer, [x], {}, depth)[0]
        return [x]
    known: dict[tuple[str, int, int], Tensor] = {}
    waiting = list(_layers(model))
    starts = [str(item[0]) for item in _references(model["config"]["input_layers"])]
    for name, tensor in zip(starts, inputs):
        known[name, 0, 0] = tensor
    while waiting:
        ready = [layer for layer in waiting if _ready(layer, known)]
        if not ready:
            raise Unreadable("layers must be called on layers before them. Received: a call on none of these")
        for layer in ready:
            waiting.remove(layer)
            for number, (arguments, options) in enumerate(_calls(layer)):
                outputs = _call(graph, layer, [_resolved(item, known) for item in arguments], options, depth)
                for index, tensor in enumerate(outputs):
                    known[str(layer["name"]), number, index] = tensor
    ends = _references(model["config"]["output_layers"])
    return [known[str(name), int(node), int(index)] for name, node, index in ends]


def _references(stated: Any) -> list[Any]:
    """(layer, call, output) triples: one of them, or a list of them."""
    return [stated] if stated and isinstance(stated[0], str) else list(stated)


def _ready(layer: Mapping[str, Any], known: Mapping[tuple[str, int, int], Tensor]) -> bool:
    if layer["class_name"] == "InputLayer":
        return True
    arguments = [item for given, _ in _calls(layer) for item in given]
    return all(reference in known for reference in _histories(arguments))


def _calls(layer: Mapping[str, Any]) -> list[tuple[list[Any], Mapping[str, Any]]]:
    """Every call of a layer: (arguments, options). Keras 3 states them by name, Keras 2 as triples with options."""
    found = []
    for node in layer.get("inbound_nodes", []):
        if isinstance(node, Mapping):
            found.append((list(node.get("args", [])), node.get("kwargs", {}) or {}))
        else:
            triples = [node] if node and isinstance(node[0], str) else list(node)
            tensors = [_history(item[0], item[1], item[2]) for item in triples]
            options = triples[0][3] if triples and len(triples[0]) > 3 else {}
            found.append(([tensors] if len(tensors) > 1 else tensors, options))
    return found


def _history(name: Any, node: Any, index: Any) -> dict[str, Any]:
    return {"class_name": "__keras_tensor__", "config": {"keras_history": [name, node, index]}}


def _histories(item: Any) -> list[tuple[str, int, int]]:
    if isinstance(item, list):
        return [reference for part in item for reference in _histories(part)]
    if isinstance(item, Mapping) and item.get("class_name") == "__keras_tensor__":
        name, node, index = item["config"]["keras_history"]
        return [(str(name), int(node), int(index))]
    return []


def _resolved(item: Any, known: Mapping[tuple[str, int, int], Tensor]) -> Any:
    if isinstance(item, list):
        return [_resolved(part, known) for part in item]
    if isinstance(item, Mapping):
        if item.get("class_name") == "__keras_tensor__":
            return known[_histories(item)[0]]
        if item.get("class_name") == "__slice__":
            span = item["config"]
            return slice(span["start"], span["stop"], span["step"])
        if item.get("class_name") == "__ellipsis__":
            return ...
    return item


def _call(
    graph: Graph, layer: Mapping[str, Any], arguments: list[Any], options: Mapping[str, Any], depth: int
) -> list[Tensor]:
    """What a layer gives when it is called."""
    config = layer["config"]
    flat = [item for part in arguments for item in (part if isinstance(part, list) else [part])]
    tensors = [item for item in flat if isinstance(item, Tensor)]
    if layer["class_name"] in MODELS:
        return _model(graph, layer, tensors, depth + 1)
    if layer["class_name"] == "TFOpLambda":
        return [tf_function(graph, arguments, config, options)]
    kind, known = _class(layer)
    if kind not in known:
        return [graph.unknown(kind if known and kind != "Lambda" else f"{kind} {CODE}", tensors)]
    try:
        found = known[kind](graph, arguments, config if known in (LAYERS, OWN) else {**config, **options})
    except KeyError as error:
        raise Unreadable(f"{kind} must state {error.args[0]}. Received: a configuration without it") from None
    except Unreadable as error:
        raise Unreadable(f"{kind}: {error}") from None
    return found if isinstance(found, list) else [found]


def _class(layer: Mapping[str, Any]) -> tuple[str, Mapping[str, Callable[[Graph, Arguments, Config], Any]]]:
    """A layer's class, and the classes that it is one of: Keras' layers or operations, this project's, or none.

    Keras 3 states the module of its own and the package of others, Keras 2 and HDF5 ``package>class``, or the class
    alone.
    """
    package, _, kind = str(layer.get("registered_name") or layer["class_name"])[:80].rpartition(">")
    module = str(layer.get("module") or "").split(".")
    if package:
        return kind, OWN if package == PACKAGE else {}
    if module[0] in ("keras", "tf_keras"):
        return kind, OPERATIONS if "ops" in module else LAYERS
    return kind, {} if "module" in layer else {**OPERATIONS, **LAYERS}


__all__ = ["CODE", "MAX_CONFIG", "config", "read"]
