"""The small cases of files: exported networks, and weights that others keep. Asked of the backend ``onnx``."""

from __future__ import annotations

from conformance.checks import Job
from conformance.file_checks import EXPORT, IMPORT
from conformance.specs import CLASSES
from conformance.suite import IMAGES, Layers, Small, seeing, small
from spec import Spec, from_values, load


def alexnet() -> Spec:
    """What AlexNet's files have, where a square matrix, towers, padding of one side, a crop whose centre lies between
    two pixels, and channels in the reverse order could each be taken for something else."""
    uneven = {"top": 1, "bottom": 0, "left": 0, "right": 1}
    layers: Layers = {
        "conv1": {"op": "conv", "out_channels": 4, "kernel": 2, "padding": uneven},
        "norm1": {"op": "lrn", "size": 3, "alpha": 0.5, "alpha_over": "size", "beta": 0.75, "k": 1.0},
        "pool1": {"op": "max_pool", "kernel": 3, "stride": 2},
        "conv2": {"op": "conv", "out_channels": 4, "kernel": 3, "groups": 2, "padding": 1},
        "relu2": {"op": "relu"},
        "flatten": {"op": "flatten"},
        "fc3": {"op": "dense", "out_features": 64},
        "relu3": {"op": "relu"},
        "drop3": {"op": "dropout", "rate": 0.5, "scale": "test"},
        "fc4": {"op": "dense", "out_features": CLASSES},
    }
    values = small("filed", (3, 9), layers).statement()
    data = {
        "storage": {"size": 12, "fit": "stretch"},
        "channel_order": "bgr",
        "scale": 1 / 128,
        "mean": {"kind": "image"},
        "crop": {"kind": "random"},
    }
    return from_values(values | {"data": values["data"] | data})


def torchvision() -> Spec:
    """torchvision's network at its own size, narrow, where its file and the specification differ in what they can."""
    widths = {"conv1": 4, "conv2": 6, "conv3": 4, "conv4": 6, "conv5": 4}
    layers: dict[str, dict[str, object]] = {name: {"out_channels": width} for name, width in widths.items()}
    layers |= {name: {"out_features": size} for name, size in (("fc6", 8), ("fc7", 8), ("fc8", CLASSES))}
    layers |= {name: {"scale": "test"} for name in ("drop6", "drop7")}
    return load("torchvision", {"layers": layers, "data": {"channel_order": "bgr"}})


def cases() -> dict[str, Small]:
    """By name, the cheapest first. Those of images differ in what is done to stored bytes."""
    return {
        **{f"file-{name}": Small(Job(seeing(name)), (EXPORT,)) for name in IMAGES},
        "torchvision-file": Small(Job(torchvision()), (IMPORT,)),
        "filed": Small(Job(alexnet()), (EXPORT, IMPORT)),
    }
