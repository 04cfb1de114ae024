"""Each type of layer of Caffe as one of the language: a message in, an op and its fields out, every value sourced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from spec.importers.common import shown
from spec.importers.prototxt import Message

PROTO = "caffe.proto, default of"
Fields = dict[str, tuple[Any, str]]


def stated_at(message: Message, name: str) -> str:
    """Where a field stands, as a source; the schema's default if it is not stated."""
    if message.has(name):
        return f"{message.file} {message.path}.{name}"
    return f"{PROTO} {message.path.rpartition('.')[2]}.{name}"


def _pair(message: Message, name: str, default: int | None) -> tuple[Any, str]:
    """A field that has one value, or two (height, width), or ``_h`` and ``_w``: as the language writes it."""
    short = name.removesuffix("_size")
    if message.has(f"{short}_h") or message.has(f"{short}_w"):
        sizes = [message.number(f"{short}_{side}", int, default) for side in "hw"]
        where = stated_at(message, f"{short}_h")
    else:
        sizes = message.numbers(name, int) or ([] if default is None else [default])
        where = stated_at(message, name)
    if not 1 <= len(sizes) <= 2 or min(sizes) < 0 or max(sizes) > 2**20:
        raise message.refuse(name, "must be one or two whole numbers, not negative", shown(sizes))
    height, width = sizes * 2 if len(sizes) == 1 else sizes
    if name == "pad":
        one = {"top": height, "bottom": height, "left": width, "right": width}
    else:
        one = {"height": height, "width": width}
    return (height if height == width else one), where


def _sides(value: Any) -> tuple[int, int]:
    """(rows, columns) of what :func:`_pair` gives."""
    if isinstance(value, int):
        return value, value
    sizes = list(value.values())
    return sizes[0], sizes[-1]


def _window(message: Message) -> Fields:
    return {
        "kernel": _pair(message, "kernel_size", None),
        "stride": _pair(message, "stride", 1),
        "padding": _pair(message, "pad", 0),
    }


def _convolution(layer: Message) -> tuple[str, Fields]:
    param = layer.message("convolution_param")
    if any(value != 1 for value in param.numbers("dilation", int)):
        raise param.cannot_say("dilation", "must be 1", ", ".join(param.texts("dilation")))
    if param.number("axis", int, 1) != 1:
        raise param.cannot_say("axis", "must be 1", param.text("axis"))
    fields = {
        "out_channels": (param.number("num_output", int), stated_at(param, "num_output")),
        **_window(param),
        "rounding": ("floor", "src/caffe/layers/conv_layer.cpp: an integer division"),
        "groups": (param.number("group", int, 1), stated_at(param, "group")),
        "bias": (param.truth("bias_term", True), stated_at(param, "bias_term")),
    }
    return "conv", fields


def _pooling(layer: Message) -> tuple[str, Fields]:
    param = layer.message("pooling_param")
    kind = param.text("pool", "MAX")
    if kind not in ("MAX", "AVE"):
        raise param.cannot_say("pool", "must be MAX or AVE", shown(kind))
    if param.truth("global_pooling", False):
        raise param.cannot_say("global_pooling", "must be false: state the kernel", "true")
    rounding = param.text("round_mode", "CEIL")
    if rounding not in ("CEIL", "FLOOR"):
        raise param.refuse("round_mode", "must be CEIL or FLOOR", shown(rounding))
    fields = {**_window(param), "rounding": (rounding.lower(), stated_at(param, "round_mode"))}
    (kernel, stride, padding) = (_sides(fields[name][0]) for name in ("kernel", "stride", "padding"))
    if any(s > k for s, k in zip(stride, kernel)):
        raise param.cannot_say("stride", "must not be greater than the kernel", shown(stride))
    if kind == "AVE":
        if any(padding):
            required = "an average must have no padding: Caffe divides by the part of the window inside the padded map"
            raise param.cannot_say("pad", required, shown(padding))
        fields["divisor"] = ("inside", "src/caffe/layers/pooling_layer.cpp: pool_size of the clipped window")
    return ("max_pool" if kind == "MAX" else "avg_pool"), fields


def _lrn(layer: Message) -> tuple[str, Fields]:
    param = layer.message("lrn_param")
    region = param.text("norm_region", "ACROSS_CHANNELS")
    if region not in ("ACROSS_CHANNELS", "WITHIN_CHANNEL"):
        raise param.refuse("norm_region", "must be ACROSS_CHANNELS or WITHIN_CHANNEL", shown(region))
    across = region == "ACROSS_CHANNELS"
    size = param.number("local_size", int, 5)
    if size % 2 == 0:
        raise param.refuse("local_size", "must be odd", str(size))
    source = "src/caffe/layers/lrn_layer.cpp"
    fields = {
        "size": (size, stated_at(param, "local_size")),
        "alpha": (param.number("alpha", float, 1.0), stated_at(param, "alpha")),
        "alpha_over": ("size", f"{source}: alpha_over_size")
        if across
        else ("area", f"{source}: an average over size^2"),
        "beta": (param.number("beta", float, 0.75), stated_at(param, "beta")),
        "k": (param.number("k", float, 1.0), stated_at(param, "k"))
        if across
        else (1.0, f"{source}: power_param shift 1"),
    }
    if across:
        fields["groups"] = (1, f"{source}: a window reaches across groups")
    return ("lrn" if across else "spatial_norm"), fields


def _inner_product(layer: Message) -> tuple[str, Fields]:
    param = layer.message("inner_product_param")
    for name, neutral in (("axis", "1"), ("transpose", "false")):
        if param.text(name, neutral) != neutral:
            raise param.cannot_say(name, f"must be {neutral}", param.text(name))
    return "dense", {
        "out_features": (param.number("num_output", int), stated_at(param, "num_output")),
        "bias": (param.truth("bias_term", True), stated_at(param, "bias_term")),
    }


def _dropout(layer: Message) -> tuple[str, Fields]:
    param = layer.message("dropout_param")
    scale = "src/caffe/layers/dropout_layer.cpp: scale_ = 1 / (1 - threshold_) in training"
    rate = param.number("dropout_ratio", float, 0.5)
    return "dropout", {"rate": (rate, stated_at(param, "dropout_ratio")), "scale": ("train", scale)}


def _relu(layer: Message) -> tuple[str, Fields]:
    param = layer.message("relu_param")
    if param.number("negative_slope", float, 0.0):
        raise param.cannot_say("negative_slope", "must be 0", param.text("negative_slope"))
    return "relu", {}


LAYERS: Mapping[str, Callable[[Message], tuple[str, Fields]]] = {
    "Convolution": _convolution,
    "Pooling": _pooling,
    "LRN": _lrn,
    "InnerProduct": _inner_product,
    "Dropout": _dropout,
    "ReLU": _relu,
    "TanH": lambda layer: ("tanh", {}),
    "Flatten": lambda layer: ("flatten", {}),
}
WEIGHTED = {"Convolution": "convolution_param", "InnerProduct": "inner_product_param"}
