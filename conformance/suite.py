"""The small cases of the suite, cheapest first: every op, convention and rule of the language is in one of them.

None is made for one mistake. What is square, tied, lopsided or frozen on purpose is so in general.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conformance.checks import Job
from conformance.specs import CLASSES, chooser, generate, slim, ties
from spec import Spec, from_values, load

GENERATED = (0, 1, 2, 3, 5, 7, 69)
VARIANTS = ("fashion-mini", "caffenet", "torchvision", "source-2012")
Layers = Mapping[str, Mapping[str, Any]]

_DENSE: Layers = {
    "flatten": {"op": "flatten"},
    "fc1": {"op": "dense", "out_features": 7},
    "tanh": {"op": "tanh"},
    "fc2": {"op": "dense", "out_features": CLASSES},
}
_END: Layers = {"flatten": {"op": "flatten"}, "fc": {"op": "dense", "out_features": CLASSES}}


def small(name: str, shape: tuple[int, int], layers: Layers, **training: Any) -> Spec:
    """A specification with `layers` on square images of `shape`, channels and side; training: what its recipe has."""
    values = generate(chooser(0), name).statement()
    channels, side = shape
    values["input"] = {"channels": channels, "height": side, "width": side}
    values["data"]["storage"]["size"] = side
    return from_values(values | {"layers": layers, "training": values["training"] | training})


def square() -> Spec:
    """Where rows can be taken for columns, and inputs for outputs, without any shape telling."""
    window = {"kernel": 3, "stride": 1, "padding": 1}
    return small(
        "square",
        (6, 4),
        {
            "conv1": {"op": "conv", "out_channels": 6, **window},
            "norm1": {"op": "lrn", "size": 3, "alpha": 0.5, "alpha_over": "size", "beta": 0.75, "k": 1.0},
            "local2": {"op": "local", "out_channels": 6, **window},
            "pool2": {"op": "avg_pool", "divisor": "inside", **window},
            "flatten": {"op": "flatten"},
            "fc3": {"op": "dense", "out_features": 96},
            "tanh3": {"op": "tanh"},
            "fc4": {"op": "dense", "out_features": 96},
        },
    )


def smooth() -> Spec:
    """Every op that decides nothing, so that the two digits of bfloat16 can turn nothing."""
    common = {"alpha": 0.1, "beta": 0.75, "k": 1.0}
    return small(
        "smooth",
        (4, 9),
        {
            "conv1": {"op": "conv", "out_channels": 8, "kernel": 3, "groups": 2},
            "norm1": {"op": "lrn", "size": 5, "alpha_over": "size", **common},
            "tanh1": {"op": "tanh"},
            "pool1": {"op": "avg_pool", "kernel": 3, "stride": 2, "divisor": "inside"},
            "local2": {"op": "local", "out_channels": 6, "kernel": 2},
            "norm2": {"op": "spatial_norm", "size": 3, "alpha_over": "area", **common},
            "flatten": {"op": "flatten"},
            "fc3": {"op": "dense", "out_features": 13},
            "tanh3": {"op": "tanh", "amplitude": 1.7159, "slope": 0.6667},
            "drop3": {"op": "dropout", "rate": 0.5, "scale": "train"},
            "fc4": {"op": "dense", "out_features": CLASSES},
        },
    )


def deciding() -> Spec:
    """The ops that decide, on so few numbers that all of them are out of reach of the rounding of bfloat16."""
    return small(
        "deciding",
        (3, 4),
        {
            "pool1": {"op": "max_pool", "kernel": 2, "stride": 2},
            "conv2": {"op": "conv", "out_channels": 4, "kernel": 2},
            "relu2": {"op": "relu"},
            "flatten": {"op": "flatten"},
            "fc3": {"op": "dense", "out_features": 5},
            "relu3": {"op": "relu"},
            "fc4": {"op": "dense", "out_features": CLASSES},
        },
    )


def loud() -> Spec:
    """A response normalisation behind a channel that drowns the others, for those that sum as they go."""
    norm = {"op": "lrn", "size": 5, "alpha": 1e-4, "alpha_over": "size", "beta": 0.75, "k": 1.0}
    return small("loud", (3, 7), {"conv": {"op": "conv", "out_channels": 24, "kernel": 3}, "norm": norm, **_END})


def oblong(op: str) -> Spec:
    """A layer with another kernel, stride and padding on every side, which keeps its shape if they are exchanged."""
    sides = {"top": 1, "bottom": 0, "left": 0, "right": 1}
    window = {"kernel": {"height": 2, "width": 2}, "stride": {"height": 2, "width": 1}, "padding": sides}
    own = {"avg_pool": {"divisor": "window"}, "max_pool": {}}.get(op, {"out_channels": 6, "groups": 2})
    return small(f"oblong-{op}", (4, 7), {"layer": {"op": op, **window, **own}, **_END})


def overhanging(op: str, rounding: str, **own: Any) -> Spec:
    """A layer padded at the bottom alone, whose windows end before the map does on the right, or reach beyond it."""
    sides = {"top": 0, "bottom": 2, "left": 0, "right": 0}
    window = {"kernel": {"height": 3, "width": 2}, "stride": {"height": 2, "width": 3}, "padding": sides}
    layers = {"layer": {"op": op, **window, "rounding": rounding, **own}, **_END}
    return small("-".join((rounding, op, *map(str, own.values()))), (3, 7), layers)


RATES: dict[str, dict[str, Any]] = {
    "constant": {"kind": "constant", "rate": 0.1},
    "stages": {"kind": "stages", "stages": [{"epoch": 0, "rate": 0.1}, {"epoch": 5, "rate": 0.01}]},
    "step": {"kind": "step", "rate": 0.1, "factor": 0.5, "every": 4, "unit": "epoch"},
    "step-in-steps": {"kind": "step", "rate": 0.1, "factor": 0.999, "every": 5, "unit": "step"},
    "exponential": {"kind": "exponential_steps", "rate": 0.1, "target_factor": 100, "steps": 5},
    "plateau": {"kind": "plateau", "rate": 0.1, "factor": 0.1, "patience": 2, "threshold": 0.01, "drops": 2},
}


def scheduled(kind: str) -> Spec:
    """One schedule, and for biases another pattern that also matches."""
    rates = {"*": RATES[kind], "*.bias": RATES["constant"]}
    return small(f"schedule-{kind}", (2, 4), _DENSE, epochs=17, learning_rate=rates)


DISTRIBUTIONS: dict[str, dict[str, Any]] = {
    "normal": {"kind": "normal", "std": 0.1},
    "uniform": {"kind": "uniform", "low": -0.1, "high": 0.3},
    "truncated": {"kind": "truncated_normal", "std": 0.1},
    **{
        f"{fan}-{form}": {"kind": "variance_scaling", "scale": 2, "fan": fan, "distribution": form}
        for fan in ("fan_in", "fan_out", "fan_avg")
        for form in ("normal", "uniform")
    },
}


def initialised(kind: str) -> Spec:
    """One distribution for weights and biases, of a grouped convolution and of a dense layer."""
    layers = {"conv": {"op": "conv", "out_channels": 8, "kernel": 3, "groups": 2}, **_END}
    values = small(f"initial-{kind}", (6, 5), layers).statement()
    return from_values(values | {"init": {"weight": DISTRIBUTIONS[kind], "bias": DISTRIBUTIONS[kind]}})


def optimised(momentum: float, inside: bool, decay: str) -> Spec:
    """One variant of the optimizer across a drop, with decay, multipliers, and something frozen and thawed."""
    rule = {"kind": "sgd", "momentum": momentum, "learning_rate_in_velocity": inside, "decay": decay}
    name = f"momentum-{momentum:g}-{'inside' if inside else 'outside'}-{decay}"
    drop = {"kind": "stages", "stages": [{"epoch": 0, "rate": 0.02}, {"epoch": 2, "rate": 0.002}]}
    rest = [{"epoch": 0, "rate": 0.04}, {"epoch": 1, "rate": 0.0}, {"epoch": 3, "rate": 0.004}]
    rates = {"*": drop, "*.bias": {"kind": "constant", "rate": 0.04}, "fc1.*": {"kind": "stages", "stages": rest}}
    decays = {"*": 0.5, "*.bias": 0.0, "fc1.*": 0.2}
    return small(name, (2, 4), _DENSE, optimizer=rule, epochs=5, learning_rate=rates, weight_decay=decays)


OPTIMIZERS = {
    spec.name: spec
    for momentum in (0.9, 0.0)
    for inside in (True, False)
    for decay in ("coupled", "decoupled")
    for spec in [optimised(momentum, inside, decay)]
}


def _overhanging() -> Iterator[Spec]:
    for rounding in ("floor", "ceil"):
        for op in ("conv", "local"):
            yield overhanging(op, rounding, out_channels=5)
        yield overhanging("max_pool", rounding)
        for divisor in ("window", "inside"):
            yield overhanging("avg_pool", rounding, divisor=divisor)


NOISE: dict[str, Any] = {"sigma": 0.1, "scale": "stddev", "divide_by": 1.1, "until_epoch": 3}
VALUES = [0.41, 0.44, 0.48], [0.21, 0.24, 0.28]
"""A mean and a standard deviation of pixels from 0 to 1, channel by channel."""
IMAGES: dict[str, tuple[dict[str, Any], tuple[str, str]]] = {
    "bytes": ({"storage": {"size": 8, "fit": "short_side"}}, ("ten", "probabilities")),
    "noisy": ({"channel_order": "bgr", "mean": {"kind": "image"}, "color_noise": NOISE}, ("ten", "probabilities")),
    "moving": (
        {
            "scale": 0.3,
            "mean": {"kind": "image", "align": "crop"},
            "crop": {"kind": "random", "shared_by": 2},
            "flip": {"probability": 0.26, "shared_by": 3},  # one draw is 0.262
            "color_noise": {"sigma": 3.0, "scale": "eigenvalue"},
        },
        ("ten", "logits"),
    ),
    "values": (
        {
            "scale": 1 / 255,
            "mean": {"kind": "values", "values": VALUES[0]},
            "std": VALUES[1],
            "crop": {"kind": "center"},
        },
        ("center", "probabilities"),
    ),
    "channels": ({"mean": {"kind": "channel"}, "scale": 1 / 128, "channel_order": "bgr"}, ("center", "logits")),
}
"""What differs from plain bytes at random places, and the protocol of evaluation."""
OF_IMAGES = ("stored-images", "training-images", "evaluation-images", "scores")


def seeing(name: str) -> Spec:
    """A linear network on crops of stored images, whose centres lie between two pixels."""
    made = small(
        f"images-{name}", (3, 5), {"flatten": {"op": "flatten"}, "fc": {"op": "dense", "out_features": CLASSES}}
    )
    values, (own, protocol) = made.statement(), IMAGES[name]
    plain = {
        "storage": {"size": 8, "fit": "stretch"},
        "crop": {"kind": "random"},
        "flip": {"probability": 0.5},
    }
    values["data"] |= {**plain, **own}
    return from_values(values | {"evaluation": dict(zip(("crops", "average"), protocol, strict=True))})


@dataclass(frozen=True)
class Small:
    """A case of the suite."""

    job: Job
    only: tuple[str, ...] | None = None
    """The checks that it is made for; None: all of them."""


def cases(variants: Sequence[str] = VARIANTS) -> dict[str, Small]:
    """Every small case by name, the cheapest first. variants: those that are made slim."""
    trained = ("training-steps",)
    return {
        **{one.name: Small(Job(one), ("schedule",)) for one in map(scheduled, RATES)},
        **{one.name: Small(Job(one), ("initialisation",)) for one in map(initialised, DISTRIBUTIONS)},
        **{one.name: Small(Job(one), OF_IMAGES) for one in map(seeing, IMAGES)},
        **{name: Small(Job(one), trained) for name, one in OPTIMIZERS.items()},
        "tied": Small(Job(small("tied", (2, 4), _DENSE), tied=True, images=CLASSES), trained),
        "ties": Small(Job(ties(), whole=True)),
        **{one.name: Small(Job(one)) for one in map(oblong, ("conv", "local", "max_pool", "avg_pool"))},
        **{one.name: Small(Job(one)) for one in _overhanging()},
        "loud": Small(Job(loud(), loud=True)),
        "square": Small(Job(square())),
        "smooth": Small(Job(smooth())),
        "deciding": Small(Job(deciding())),
        **{f"generated-{number}": Small(Job(generate(chooser(number), f"generated-{number}"))) for number in GENERATED},
        **{f"{name}-slim": Small(Job(slim(load(name)))) for name in variants},
    }
