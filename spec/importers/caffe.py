"""From Caffe's ``train_val.prototxt`` and ``solver.prototxt`` to a specification.

Fields, defaults and their meaning are those of BVLC/caffe at commit 9b89154 (src/caffe/proto/caffe.proto and the files
named as sources). What the two files do not have is filled in from ``caffenet`` and said so.
"""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

from spec.importers.caffe_layers import LAYERS, PROTO, WEIGHTED, Fields, stated_at
from spec.importers.common import Draft, Imported, LeftOut, cannot_say, shown
from spec.importers.prototxt import Message, parse
from spec.loading import load

TEMPLATE = "caffenet"
"""Where the stored size and the average over crops come from, which the files do not have."""
IMAGES = 1_281_167
"""Training images of ILSVRC 2012, to count epochs by; Caffe counts steps."""
MAXLAYERS = 500
DATA = ("Data", "ImageData", "HDF5Data", "MemoryData", "WindowData", "DummyData", "Input")
_MEASURES = ("Accuracy", "Silence")
_BATCH = ("data_param", "image_data_param", "hdf5_data_param", "memory_data_param", "window_data_param")


class _Reading:
    """The state of one import: the draft, whether maps have become a vector, and the layers that have parameters."""

    def __init__(self, draft: Draft) -> None:
        self.draft, self.flat = draft, False
        self.weighted: dict[str, tuple[Message, Message]] = {}


def _append(reading: _Reading, layer: Message, kind: str, name: str) -> None:
    draft, where = reading.draft, f"{layer.file} {layer.path}.type"
    if kind == "InnerProduct" and not reading.flat:
        draft.layer("flatten", "flatten", {}, "src/caffe/layers/inner_product_layer.cpp: maps as one vector, C, H, W")
        reading.flat = True
    op, fields = LAYERS[kind](layer)
    reading.flat |= op == "flatten"
    made = draft.layer(name, op, fields, where)
    if kind in WEIGHTED:
        reading.weighted[made] = (layer, layer.message(WEIGHTED[kind]))


# --- what every parameter has -----------------------------------------------------------------------------------------


def _filler(param: Message, name: str) -> tuple[dict[str, Any], str]:
    """An initial distribution, and where it is stated."""
    filler = param.message(name)
    kind = filler.text("type", "constant")
    fan = filler.text("variance_norm", "FAN_IN")
    fans = {"FAN_IN": "fan_in", "FAN_OUT": "fan_out", "AVERAGE": "fan_avg"}
    where = f"{filler.file} {filler.path}" if param.has(name) else f"{PROTO} FillerParameter"
    if kind == "constant":
        return {"kind": "constant", "value": filler.number("value", float, 0.0)}, where
    if kind == "gaussian":
        if filler.number("mean", float, 0.0) != 0 or filler.number("sparse", int, -1) != -1:
            raise filler.cannot_say("mean", "must be 0, and sparse unset", filler.text("mean", "0"))
        return {"kind": "normal", "std": filler.number("std", float, 1.0)}, where
    if kind == "uniform":
        return {
            "kind": "uniform",
            "low": filler.number("min", float, 0.0),
            "high": filler.number("max", float, 1.0),
        }, where
    if kind in ("xavier", "msra") and fan in fans:
        scale, drawn = (1.0, "uniform") if kind == "xavier" else (2.0, "normal")
        return {"kind": "variance_scaling", "scale": scale, "fan": fans[fan], "distribution": drawn}, where
    raise filler.cannot_say("type", "must be constant, gaussian, uniform, xavier or msra", shown(kind))


def _times(one: float, other: float) -> float:
    """A product of two decimal numbers as people compute it: 0.1 times 3 is 0.3."""
    return float(Decimal(repr(one)) * Decimal(repr(other)))


def _schedule(draft: Draft, solver: Message, rate: float) -> dict[str, Any]:
    policy = solver.text("lr_policy")
    if policy == "step":
        factor, every = solver.number("gamma", float), solver.number("stepsize", int)
        return {"kind": "step", "rate": rate, "factor": factor, "every": every, "unit": "step"}
    if policy != "fixed":
        _leave(draft, solver, "lr_policy", "a schedule that the language does not have; its first rate is taken", True)
    return {"kind": "constant", "rate": rate}


def _per_parameter(reading: _Reading, solver: Message) -> None:
    """Initialisation, learning rate and decay of every weight and bias."""
    base, decay = solver.number("base_lr", float), solver.number("weight_decay", float, 0.0)
    init: dict[str, Any] = {}
    rates: dict[str, Any] = {}
    decays: dict[str, Any] = {}
    for name, (layer, param) in reading.weighted.items():
        specs = layer.messages("param")
        kinds = ("weight", "bias") if param.truth("bias_term", True) else ("weight",)
        if len(specs) > len(kinds):
            raise layer.refuse("param", f"must be stated at most {len(kinds)} times", str(len(specs)))
        for number, kind in enumerate(kinds):
            spec = specs[number] if number < len(specs) else Message(layer.file, layer.line, f"{layer.path}.param")
            if spec.text("name", ""):
                raise spec.cannot_say("name", "layers must not share parameters", spec.text("name"))
            init[f"{name}.{kind}"] = _filler(param, f"{kind}_filler")
            multiple = spec.number("lr_mult", float, 1.0)
            schedule = _schedule(reading.draft, solver, _times(base, multiple))
            rates[f"{name}.{kind}"] = (schedule, f"{solver.file} base_lr, lr_policy; {stated_at(spec, 'lr_mult')}")
            share = spec.number("decay_mult", float, 1.0)
            decays[f"{name}.{kind}"] = (
                {"": _times(decay, share)},
                f"{solver.file} weight_decay; {stated_at(spec, 'decay_mult')}",
            )
    reading.draft.per_parameter(("init",), ("weight", "bias"), init, ("parameters",))
    reading.draft.per_parameter(("training", "learning_rate"), ("*.weight", "*.bias"), rates)
    reading.draft.per_parameter(("training", "weight_decay"), ("*.weight", "*.bias"), decays)


def _leave(draft: Draft, message: Message, name: str, why: str, matters: bool = False) -> None:
    file, line, path = message.place(name)
    item = LeftOut(file, line, path, message.text(name), why, matters)
    if item not in draft.left_out:
        draft.left_out.append(item)


# --- the rest of the recipe -------------------------------------------------------------------------------------------


def _training(reading: _Reading, solver: Message, data: Message) -> None:
    draft = reading.draft
    kind = solver.text("type", solver.text("solver_type", "SGD"))
    if kind.upper() != "SGD":
        raise solver.cannot_say("type", "must be SGD", shown(kind))
    if solver.text("regularization_type", "L2") != "L2":
        raise solver.cannot_say("regularization_type", "must be L2", solver.text("regularization_type"))
    if solver.number("clip_gradients", float, -1.0) >= 0:
        _leave(draft, solver, "clip_gradients", "the language does not clip gradients", True)
    stating = next((data.message(name) for name in _BATCH if data.has(name)), Message(data.file, data.line, data.path))
    size, times = stating.number("batch_size", int), solver.number("iter_size", int, 1)
    where = stated_at(stating, "batch_size") + (f"; {stated_at(solver, 'iter_size')}" if times != 1 else "")
    draft.put(("training", "batch_size"), size * times, where)
    steps = solver.number("max_iter", int)
    epochs = steps * size * times / IMAGES
    why = f"not in these files: {steps:,} steps of {size * times} are {epochs:.2f} epochs of {IMAGES:,} images"
    draft.fill(("training", "epochs"), max(1, round(epochs)), why)
    update = "src/caffe/solvers/sgd_solver.cpp, ComputeUpdateValue: history = momentum * history + rate * diff"
    optimizer = ("training", "optimizer")
    draft.put((*optimizer, "kind"), "sgd", stated_at(solver, "type"))
    draft.put((*optimizer, "momentum"), solver.number("momentum", float, 0.0), stated_at(solver, "momentum"))
    draft.put((*optimizer, "learning_rate_in_velocity"), True, update)
    draft.put((*optimizer, "decay"), "coupled", "src/caffe/solvers/sgd_solver.cpp, Regularize: diff += decay * weight")


def _data(reading: _Reading, data: Message) -> None:
    draft, template = reading.draft, load(TEMPLATE).statement()
    transform = data.message("transform_param")
    why = f"not in these files: as in {TEMPLATE}"
    crop = transform.number("crop_size", int, 0)
    side = reading.draft.values["input"]["height"]
    storage = template["data"]["storage"] if crop and side < template["data"]["storage"]["size"] else None
    draft.fill_tree(("data", "storage"), storage or {"size": side, "fit": "stretch"}, why)
    order = "bgr" if reading.draft.values["input"]["channels"] == 3 else "rgb"
    draft.put(("data", "channel_order"), order, "src/caffe/util/io.cpp: images as OpenCV decodes them, blue first")
    draft.put(("data", "scale"), transform.number("scale", float, 1.0), stated_at(transform, "scale"))
    values = transform.numbers("mean_value", float)
    if transform.text("mean_file", ""):
        align = "src/caffe/data_transformer.cpp: mean[data_index], at the crop's place"
        draft.put(("data", "mean", "kind"), "image", stated_at(transform, "mean_file"))
        draft.put(("data", "mean", "align"), "crop", align)
    elif values:
        channels = draft.values["input"]["channels"]
        draft.put(("data", "mean", "kind"), "values", stated_at(transform, "mean_value"))
        draft.put(
            ("data", "mean", "values"),
            tuple(values * channels if len(values) == 1 else values),
            stated_at(transform, "mean_value"),
        )
    else:
        draft.put(("data", "mean", "kind"), "none", f"{PROTO} transform_param.mean_file and mean_value")
    place = "src/caffe/data_transformer.cpp: a random place in training, the centre in the test"
    draft.put(
        ("data", "crop", "kind"), "random" if crop else "center", place if crop else stated_at(transform, "crop_size")
    )
    draft.put(("data", "crop", "shared_by"), 1, "src/caffe/data_transformer.cpp: drawn for each image")
    mirror = transform.truth("mirror", False)
    draft.put(("data", "flip", "probability"), 0.5 if mirror else 0.0, f"{stated_at(transform, 'mirror')}: Rand(2)")
    draft.put(("data", "flip", "shared_by"), 1, "src/caffe/data_transformer.cpp: drawn for each image")
    draft.put(("evaluation", "crops"), "center", "src/caffe/data_transformer.cpp: the centre in the test")
    draft.fill(("evaluation", "average"), template["evaluation"]["average"], why)


_WHY = (
    (r".*\.(engine|backend|source|prefetch|rand_skip|force_nd_im2col|root_folder)", "where data or kernels come from"),
    (r"(test_|display|average_loss|snapshot|debug|layer_wise).*", "what is printed, tested and kept during the run"),
    (r"(solver_mode|device_id|random_seed|net|train_net|solver_type|type|weights)", "how and where it is run"),
    (r"(stepvalue|power|gamma|stepsize)", "belongs to the learning rate's schedule"),
    (r".*\.(name|top|bottom)|name", "names"),
    (r".*\.phase", "when the layer runs"),
    (r".*\.mean_file", "where the mean image is kept"),
)


def _remainder(draft: Draft, trained: list[Message], *messages: Message) -> None:
    """Report every field that nobody read."""
    in_training = {layer.path for layer in trained}
    for message in messages:
        for path, line, text in message.unread():
            layer = path.split(".")[0]
            why = next((why for pattern, why in _WHY if re.fullmatch(pattern, path)), "nothing here reads it")
            if layer.startswith("layer ") and (layer not in in_training or not _belongs(trained, line)):
                why = "belongs to a layer of the test, or one that only measures"
            draft.left_out.append(LeftOut(message.file, line, path, text, why))


def _belongs(trained: list[Message], line: int) -> bool:
    """Whether a line lies in a layer of the training; layers of both phases may share a name."""
    return any(layer.line <= line <= _last(layer) for layer in trained)


def _last(message: Message) -> int:
    lines = [entry.line if isinstance(entry.value, str) else _last(entry.value) for entry in message.entries]
    return max(lines, default=message.line)


# --- the whole --------------------------------------------------------------------------------------------------------


def _trained(net: Message) -> list[Message]:
    """The layers that run in training, each with a path that names it."""
    if net.has("layers"):
        raise net.cannot_say(
            "layers", "must be `layer` messages: upgrade the file with Caffe's upgrade_net_proto_text", "layers"
        )
    layers = net.messages("layer")
    if not 1 <= len(layers) <= MAXLAYERS:
        raise net.refuse("layer", f"must be one to {MAXLAYERS} layers", str(len(layers)))
    chosen = []
    for layer in layers:
        _rename(layer, f"layer {layer.text('name', '?')[:60]}")
        phases = [phase for rule in layer.messages("include") for phase in rule.texts("phase")]
        phases += [layer.text("phase")] if layer.has("phase") else []
        excluded = [phase for rule in layer.messages("exclude") for phase in rule.texts("phase")]
        if (not phases or "TRAIN" in phases) and "TRAIN" not in excluded:
            chosen.append(layer)
    return chosen


def _rename(message: Message, path: str) -> None:
    message.path = path
    for entry in message.entries:
        if isinstance(entry.value, Message):
            _rename(entry.value, f"{path}.{entry.name}")


def _input(net: Message, data: Message, stated: tuple[int, int, int] | None) -> Fields:
    """Channels and the square size, from what the option states, else from the crop."""
    if stated is not None:
        said = "not in these files: stated at the import"
        return {name: (size, said) for name, size in zip(("channels", "height", "width"), stated)}
    transform = data.message("transform_param")
    crop = transform.number("crop_size", int, 0)
    if not crop:
        required = "the crop, or the option --input, must state the input's size"
        raise transform.refuse("crop_size", required, "nothing")
    where = stated_at(transform, "crop_size")
    return {"channels": (3, "not in these files: colour images"), "height": (crop, where), "width": (crop, where)}


def convert(network: Path, solver: Path, input_shape: tuple[int, int, int] | None = None) -> Imported:
    """Import a training network and its solver. input_shape: (channels, height, width), from the crop if None.

    Raises Inexpressible if the network is not one that the language can say, SpecError if the files are wrong.
    """
    net, recipe = parse(network), parse(solver)
    layers = _trained(net)
    data = next((layer for layer in layers if layer.text("type") in DATA), None)
    if data is None:
        raise net.refuse("layer", "must have a data layer for training", "none")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", net.text("name", network.stem)).strip("-.")[:80] or "imported"
    draft = Draft(name, f"Imported from {network.name} and {solver.name}", network.name)
    fields = _input(net, data, input_shape)
    for key, (value, source) in fields.items():
        if source.startswith("not in these files"):
            draft.fill(("input", key), value, source)
        else:
            draft.put(("input", key), value, source)
    reading = _Reading(draft)
    top = (data.texts("top") or [""])[0]
    loss = None
    for layer in layers:
        kind = layer.text("type")
        if layer is data or kind in _MEASURES:
            continue
        bottoms, tops = layer.texts("bottom"), layer.texts("top")
        if kind == "SoftmaxWithLoss":
            loss = layer
        if loss is not None:
            if kind != "SoftmaxWithLoss" or not bottoms or bottoms[0] != top:
                raise layer.cannot_say(
                    "type", "a network must end in one SoftmaxWithLoss", f"{kind} on {', '.join(bottoms)}"
                )
            continue
        if kind not in LAYERS:
            required = f"must be one of {', '.join(LAYERS)}, SoftmaxWithLoss or Accuracy"
            raise layer.cannot_say("type", required, shown(kind))
        if bottoms != [top] or len(tops) != 1:
            raise layer.cannot_say("bottom", f"layers must form a chain; here it has come to {top}", ", ".join(bottoms))
        _append(reading, layer, kind, layer.text("name", kind))
        top = tops[0]
    if loss is None:
        raise cannot_say(net.file, None, "layer", "a network must end in a SoftmaxWithLoss", "none")
    if any(weight != 1 for weight in loss.numbers("loss_weight", float)):
        raise loss.cannot_say("loss_weight", "must be 1", loss.text("loss_weight"))
    draft.put(("training", "loss"), "softmax_cross_entropy", f"{loss.file} {loss.path}.type")
    _per_parameter(reading, recipe)
    _training(reading, recipe, data)
    _data(reading, data)
    _remainder(draft, [layer for layer in layers if layer.text("type") not in _MEASURES], net, recipe)
    return draft.finish()


__all__ = ["TEMPLATE", "convert"]
