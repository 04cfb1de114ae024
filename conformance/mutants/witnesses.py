"""Small specifications, each with inputs, on which single mistakes show.

Dimensions differ pairwise and from the batch; values are signed; normalisations are strong enough to be seen. They
prove that a mutant differs at all; comparing backends takes the cases of the suite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from backends.base import Array
from conformance import filed, suite
from spec import Spec, dropout_shapes, from_values, geometry

BATCH = 3
CLASSES = 5
Layers = dict[str, dict[str, Any]]

_TRAINING: dict[str, Any] = {
    "batch_size": BATCH,
    "epochs": 4,
    "loss": "softmax_cross_entropy",
    "optimizer": {"kind": "sgd", "momentum": 0.9, "learning_rate_in_velocity": True, "decay": "coupled"},
    "learning_rate": {"*": {"kind": "stages", "stages": [{"epoch": 0, "rate": 0.2}, {"epoch": 2, "rate": 0.02}]}},
    "weight_decay": {"*": 0.05},
}


def specification(
    shape: tuple[int, int], layers: Layers, training: dict[str, Any] | None = None, init: dict[str, Any] | None = None
) -> Spec:
    """`layers` as a whole specification. shape: of the input, channels and side; training, init: what differs there."""
    channels, side = shape
    return from_values(
        {
            "name": "witness",
            "title": "A network on which one mistake shows",
            "input": {"channels": channels, "height": side, "width": side},
            "layers": layers,
            "init": {
                "weight": {"kind": "normal", "std": 0.1},
                "bias": {"kind": "constant", "value": 0.1},
                **(init or {}),
            },
            "training": {**_TRAINING, **(training or {})},
            "data": {
                "storage": {"size": side, "fit": "stretch"},
                "channel_order": "rgb",
                "scale": 1,
                "mean": {"kind": "none"},
                "crop": {"kind": "center"},
                "flip": {"probability": 0.5},
            },
            "evaluation": {"crops": "center", "average": "probabilities"},
        }
    )


@dataclass(frozen=True)
class Witness:
    """One specification and how its inputs are drawn.

    shape: of the input, channels and side of the square. images: normal numbers, or whole numbers from -1 to 1, among
    which many are equal or zero. scale: of the last layer's weights, times one over the square root of its inputs.
    """

    shape: tuple[int, int]
    layers: Layers
    training: dict[str, Any] = field(default_factory=dict)
    init: dict[str, Any] = field(default_factory=dict)
    images: Literal["normal", "integers"] = "normal"
    scale: float = 1.0
    seen: str | None = None
    """Of :data:`conformance.suite.IMAGES`, whose specification it then has."""
    filed: str | None = None
    """Of :func:`conformance.filed.cases`, likewise."""

    @cached_property
    def spec(self) -> Spec:
        if self.filed is not None:
            return filed.cases()[self.filed].job.spec
        return (
            suite.seeing(self.seen) if self.seen else specification(self.shape, self.layers, self.training, self.init)
        )

    def inputs(self, seed: int = 0) -> Inputs:
        """Everything that a backend is given; the same at every call."""
        draw = np.random.default_rng([20120930, seed])
        given = self.spec.input
        shape = (BATCH, given.channels, given.height, given.width)
        images = draw.standard_normal(shape) if self.images == "normal" else draw.integers(-1, 2, shape)
        network = geometry(self.spec)
        parameters, velocities = {}, {}
        last = network.layers[-1].name
        for name, size in network.parameters.items():
            weight = name.endswith(".weight")
            spread = 1 / math.sqrt(math.prod(size[1:4])) if weight else 0.5
            spread *= self.scale if name.startswith(f"{last}.") else 1.0
            parameters[name] = (spread * draw.standard_normal(size)).astype(np.float32)
            velocities[name] = (0.1 * draw.standard_normal(size)).astype(np.float32)
        classes = network.output_shape[0]
        return Inputs(
            self.spec,
            images.astype(np.float32),
            np.arange(BATCH) * 2 % classes,
            draw.standard_normal((BATCH, classes)).astype(np.float32),
            {
                name: draw.random((BATCH, *mask)) >= self.spec.layer(name).rate
                for name, mask in dropout_shapes(self.spec).items()
            },
            parameters,
            velocities,
        )


@dataclass(frozen=True)
class Inputs:
    """What a backend is given: float32 arrays in canonical layout, labels int64, masks bool."""

    spec: Spec
    images: Array
    labels: Array
    cotangent: Array
    masks: dict[str, Array]
    parameters: dict[str, Array]
    velocities: dict[str, Array]


_END: Layers = {"flatten": {"op": "flatten"}, "fc": {"op": "dense", "out_features": CLASSES}}
_LRN: dict[str, Any] = {"op": "lrn", "size": 5, "alpha": 2.5, "alpha_over": "size", "beta": 0.75, "k": 2}
_POOL: dict[str, Any] = {"op": "max_pool", "kernel": 3, "stride": 2}


def _one(op: str, **layer: Any) -> Layers:
    return {"layer": {"op": op, **layer}, **_END}


def _behind(layers: Layers) -> Layers:
    """`layers` behind a convolution, whose maps lie in memory as the framework's do."""
    return {"conv": {"op": "conv", "out_channels": 8, "kernel": 1}, **layers}


def _rule(**rule: Any) -> dict[str, Any]:
    return {"optimizer": {**_TRAINING["optimizer"], **rule}}


def _sides(top: int, bottom: int, left: int, right: int) -> dict[str, int]:
    return {"top": top, "bottom": bottom, "left": left, "right": right}


_DENSE: Layers = {"flatten": {"op": "flatten"}, "fc1": {"op": "dense", "out_features": 7}, "tanh": {"op": "tanh"}}
_TRAINED: Layers = {**_DENSE, "fc2": {"op": "dense", "out_features": CLASSES}}
_FREEZING: dict[str, Any] = {
    "*": {"kind": "stages", "stages": [{"epoch": 0, "rate": 0.2}, {"epoch": 2, "rate": 0.02}]},
    "*.bias": {"kind": "stages", "stages": [{"epoch": 0, "rate": 0.4}]},
    "fc1.*": {"kind": "stages", "stages": [{"epoch": 0, "rate": 0.2}, {"epoch": 1, "rate": 0}]},
}
_INITIALISED: Layers = {
    "conv": {"op": "conv", "out_channels": 8, "kernel": 3, "groups": 2},
    "flatten": {"op": "flatten"},
    "fc": {"op": "dense", "out_features": CLASSES},
}


def _drawn(**distribution: Any) -> Witness:
    return Witness((6, 5), _INITIALISED, init={"weight": distribution, "bias": distribution})


def _scheduled(**schedule: Any) -> Witness:
    return Witness((2, 4), _TRAINED, training={"epochs": 12, "learning_rate": {"*": schedule}})


WITNESSES: dict[str, Witness] = {
    "lrn": Witness((7, 5), _one(**_LRN)),
    "lrn-large": Witness((7, 130), _one(**_LRN)),
    "lrn-undivided": Witness((7, 5), _one(**{**_LRN, "alpha": 0.5, "alpha_over": "one"})),
    "lrn-even": Witness((7, 5), _one(**{**_LRN, "size": 4, "before": 1})),
    "lrn-towers": Witness((8, 5), _one(**{**_LRN, "groups": 2})),
    "lrn-behind-conv": Witness((3, 5), _behind(_one(**{**_LRN, "size": 4, "before": 1, "groups": 2}))),
    "lrn-wide": Witness((4, 6), _one(**{**_LRN, "size": 9})),
    "spatial-norm": Witness((4, 6), _one("spatial_norm", size=3, alpha=4.5, alpha_over="area", beta=0.75, k=2)),
    "spatial-norm-undivided": Witness((4, 6), _one("spatial_norm", size=3, alpha=0.5, alpha_over="one", beta=0.6, k=2)),
    "conv": Witness(
        (4, 7),
        _one("conv", out_channels=6, kernel={"height": 3, "width": 2}, groups=2, padding=_sides(1, 0, 0, 1)),
    ),
    "conv-square": Witness((4, 5), _one("conv", out_channels=6, kernel=3, padding=1)),
    "conv-lopsided": Witness((2, 5), _one("conv", out_channels=3, kernel=3, padding=_sides(1, 0, 0, 1))),
    "conv-strided": Witness((2, 6), _one("conv", out_channels=3, kernel=3, stride=2, padding=_sides(0, 1, 0, 1))),
    "conv-symmetric": Witness((2, 8), _one("conv", out_channels=3, kernel=3, stride=2, padding=1)),
    "conv-loose": Witness((2, 14), _one("conv", out_channels=3, kernel=5, stride=4)),
    "conv-ceil": Witness((2, 8), _one("conv", out_channels=3, kernel=3, stride=2, rounding="ceil")),
    "local": Witness((4, 6), _one("local", out_channels=6, kernel={"height": 3, "width": 2}, groups=2)),
    "local-square": Witness((4, 5), _one("local", out_channels=6, kernel=3, padding=1, stride=2)),
    "local-oblong": Witness((2, 5), _one("local", out_channels=3, kernel=2, stride={"height": 2, "width": 1})),
    "max-pool": Witness((3, 6), _one("max_pool", kernel=3, stride=2, padding=1)),
    "max-pool-ties": Witness((3, 6), _one("max_pool", kernel=3, stride=2), images="integers"),
    "max-pool-ceil": Witness((3, 8), _one("max_pool", kernel=3, stride=2, rounding="ceil")),
    "max-pool-oblong": Witness((3, 5), _one("max_pool", kernel=2, stride={"height": 2, "width": 1})),
    "max-pool-lopsided": Witness(
        (3, 6), _one("max_pool", kernel={"height": 3, "width": 2}, stride=1, padding=_sides(1, 1, 1, 0))
    ),
    "max-pool-overhang": Witness((3, 5), _one("max_pool", kernel=2, stride=2, padding=1, rounding="ceil")),
    "avg-pool-window": Witness(
        (3, 6), _one("avg_pool", kernel=3, stride=2, padding=_sides(0, 2, 0, 1), divisor="window")
    ),
    "avg-pool-oblong": Witness((3, 5), _one("avg_pool", kernel={"height": 3, "width": 2}, stride=1, divisor="window")),
    "avg-pool-strided": Witness((3, 5), _one("avg_pool", kernel=2, stride={"height": 2, "width": 1}, divisor="window")),
    "avg-pool-inside": Witness((3, 6), _one("avg_pool", kernel=3, stride=2, padding=1, divisor="inside")),
    "avg-pool-ceil": Witness((3, 7), _one("avg_pool", kernel=2, stride=3, rounding="ceil", divisor="inside")),
    "order": Witness(
        (3, 9),
        {
            "conv": {"op": "conv", "out_channels": 7, "kernel": 3},
            "relu": {"op": "relu"},
            "norm": _LRN,
            "pool": _POOL,
            **_END,
        },
    ),
    "relu-at-zero": Witness((3, 5), _one("relu"), images="integers"),
    "tanh": Witness((3, 5), _one("tanh", amplitude=1.7159, slope=0.6)),
    "dropout-test": Witness((3, 5), _one("dropout", rate=0.3, scale="test")),
    "dropout-train": Witness((3, 5), _one("dropout", rate=0.3, scale="train")),
    "flatten": Witness((3, 5), _END),
    "dense": Witness((3, 5), _TRAINED),
    "dense-square": Witness((3, 2), {"flatten": {"op": "flatten"}, "fc": {"op": "dense", "out_features": 12}}),
    "dense-grouped": Witness(
        (4, 5), {"flatten": {"op": "flatten"}, "fc": {"op": "dense", "out_features": 6, "groups": 2}}
    ),
    "tied-logits": Witness((3, 5), {**_DENSE, "fc2": {"op": "dense", "out_features": 7}}, scale=0.0),
    "saturated": Witness((3, 5), _TRAINED, scale=150.0),
    "training": Witness((3, 5), _TRAINED),
    "training-dropping": Witness(
        (3, 5),
        {
            **_DENSE,
            "drop1": {"op": "dropout", "rate": 0.3, "scale": "train"},
            "fc2": {"op": "dense", "out_features": CLASSES},
        },
    ),
    "training-outside": Witness((3, 5), _TRAINED, training=_rule(learning_rate_in_velocity=False)),
    "training-decoupled": Witness((3, 5), _TRAINED, training=_rule(decay="decoupled")),
    "training-plain": Witness((3, 5), _TRAINED, training=_rule(momentum=0.0)),
    "training-freezing": Witness(
        (3, 5), _TRAINED, training={"learning_rate": _FREEZING, "weight_decay": {"*": 0.05, "*.bias": 0.0}}
    ),
    "init-normal": _drawn(kind="normal", std=0.1),
    "init-uniform": _drawn(kind="uniform", low=-0.1, high=0.3),
    "init-truncated": _drawn(kind="truncated_normal", std=0.1),
    "init-fan-in": _drawn(kind="variance_scaling", scale=2, fan="fan_in", distribution="normal"),
    "init-fan-out": _drawn(kind="variance_scaling", scale=2, fan="fan_out", distribution="normal"),
    "init-glorot": _drawn(kind="variance_scaling", scale=1, fan="fan_avg", distribution="uniform"),
    "schedule-stages": _scheduled(kind="stages", stages=[{"epoch": 0, "rate": 0.1}, {"epoch": 5, "rate": 0.01}]),
    "schedule-patterns": Witness(
        (2, 4),
        _TRAINED,
        training={"epochs": 12, "learning_rate": _FREEZING, "weight_decay": {"*": 0.05, "*.bias": 0.0}},
    ),
    "schedule-step": _scheduled(kind="step", rate=0.1, factor=0.5, every=4, unit="epoch"),
    "schedule-step-in-steps": _scheduled(kind="step", rate=0.1, factor=0.5, every=5, unit="step"),
    "schedule-exponential": _scheduled(kind="exponential_steps", rate=0.1, target_factor=100, steps=5),
    "schedule-plateau": _scheduled(kind="plateau", rate=0.1, factor=0.1, patience=2, threshold=0.01, drops=2),
    **{f"images-{name}": Witness((3, 5), _END, seen=name) for name in suite.IMAGES},
    **{name: Witness((3, 9), {}, filed=name) for name in ("filed", "torchvision-file")},
}
