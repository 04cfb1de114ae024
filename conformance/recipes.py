"""The small cases of how training is executed: in pieces, in mixed precision, with masks from a device, on fast paths.

They are asked beside those of ``suite.py`` where mutants are killed, and of every backend that trains in
``tests/test_recipes.py``. Each is made so that one thing which is hidden elsewhere is seen.
"""

from __future__ import annotations

from collections.abc import Sequence

from conformance import filed, suite
from conformance.bounds import MIXED
from conformance.checks import Job
from conformance.specs import CLASSES
from conformance.suite import VARIANTS, Layers, Small, deciding, small, smooth
from spec import Spec

_END: Layers = {"flatten": {"op": "flatten"}, "fc": {"op": "dense", "out_features": CLASSES}}


NETWORK = (
    "evaluation-outputs",
    "prediction",
    "training-outputs",
    "training-gradients",
    "evaluation-gradients",
    "loss",
    "training-steps",
)
"""The checks of what precision changes."""


def dropping() -> Spec:
    """Masks of maps and of vectors, neither of a multiple of four units, one scaled in training and one in the test."""
    return small(
        "dropping",
        (2, 4),
        {
            "conv1": {"op": "conv", "out_channels": 3, "kernel": 2},
            "drop1": {"op": "dropout", "rate": 0.3, "scale": "test"},
            "flatten": {"op": "flatten"},
            "fc2": {"op": "dense", "out_features": 7},
            "tanh2": {"op": "tanh"},
            "drop2": {"op": "dropout", "rate": 0.5, "scale": "train"},
            "fc3": {"op": "dense", "out_features": CLASSES},
        },
        weight_decay={"*": 0.5, "*.bias": 0.0},
    )


def slow() -> Spec:
    """A rate at which the errors of gradients are nothing beside the digits that parameters and velocities keep."""
    dense: Layers = {"fc1": {"op": "dense", "out_features": 7}, "tanh1": {"op": "tanh"}}
    layers = {"flatten": {"op": "flatten"}, **dense, "fc2": {"op": "dense", "out_features": CLASSES}}
    return small("slow", (2, 4), layers, learning_rate={"*": {"kind": "constant", "rate": 1e-5}})


def steep() -> Spec:
    """A response normalisation by a high power, which makes an error of the sum under it that many times as large."""
    lrn = {"op": "lrn", "size": 5, "alpha": 0.01, "alpha_over": "size", "beta": 96.0, "k": 1.0}
    return small("steep", (7, 4), {"norm": lrn, **_END})


def large() -> Spec:
    """A response normalisation of so many numbers that implementations go through them in blocks."""
    lrn = {"op": "lrn", "size": 5, "alpha": 0.5, "alpha_over": "size", "beta": 0.75, "k": 1.0}
    pool = {"op": "avg_pool", "kernel": 14, "stride": 14, "divisor": "window"}
    return small("large", (8, 126), {"norm": lrn, "pool": pool, **_END})


def wide() -> Spec:
    """A convolution with so many windows that implementations cut its images in blocks, of which one is left over."""
    conv = {"op": "conv", "out_channels": 2, "kernel": 5, "stride": 2, "padding": 2}
    pool = {"op": "avg_pool", "kernel": 45, "divisor": "window", "stride": 45}
    return small("wide", (24, 90), {"conv": conv, "pool": pool, **_END})


def cases() -> dict[str, Small]:
    """By name, the cheapest first."""
    trained, outputs = ("training-steps",), ("evaluation-outputs",)
    return {
        "dropping-accumulated": Small(Job(dropping()), ("accumulation",)),
        "dropping-on-device": Small(Job(dropping()), ("device-draws",)),
        "slow-mixed": Small(Job(slow(), MIXED), trained),
        "tied-mixed": Small(Job(slow(), MIXED, tied=True, images=CLASSES), trained),
        "steep-mixed": Small(Job(steep(), MIXED), outputs),
        "deciding-mixed": Small(Job(deciding(), MIXED), NETWORK),
        "smooth-mixed": Small(Job(smooth(), MIXED), NETWORK),
        "accumulated-mixed": Small(Job(dropping(), MIXED), ("accumulation",)),
        "large": Small(Job(large(), images=3), ("evaluation-outputs", "training-gradients")),
        "wide": Small(Job(wide(), images=3), ("evaluation-outputs", "training-gradients")),
    }


def every(variants: Sequence[str] = VARIANTS) -> dict[str, Small]:
    """All small cases by name: of what is computed, of how, and of files. variants: those that are made slim."""
    return {**suite.cases(variants), **cases(), **filed.cases()}
