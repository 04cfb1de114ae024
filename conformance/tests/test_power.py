"""Plausible mistakes, each killed by the named check and named at the layer where it is.

A few of each kind, in the oracle's own formulas; the catalogue of patches to the real backends has its own folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pytest

import spec
from backends.base import Array
from backends.numpy import NumpyBackend
from backends.numpy.ops import BACKWARD, FORWARD, Call, Gradient, flat_windows, response, windows_backward
from conformance.checks import CHECKS, Examination, Job, examine, first_fault
from conformance.specs import slim
from conformance.tests.altered import patched, restated
from spec import Spec, from_values
from spec.language import Padding

Rule = Callable[..., Any]


def _slim(name: str) -> Spec:
    return slim(spec.load(name))


def _mini(layers: Mapping[str, Any], size: int = 9) -> Spec:
    """A small network for a mistake that no slim variant would show."""
    values = spec.load("fashion-mini").statement() | {"provenance": {}, "expect": {}, "name": "mini"}
    values["input"] = {"channels": 4, "height": size, "width": size}
    ends = {"flatten": {"op": "flatten"}, "fc": {"op": "dense", "out_features": 7}}
    return from_values(values | {"layers": {**layers, **ends}})


SOURCE = "source-2012"
CONV = {"op": "conv", "out_channels": 6, "kernel": 3}
NETWORKS: dict[str, Callable[[], Spec]] = {
    **{name: partial(_slim, name) for name in (SOURCE, "caffenet", "torchvision", "fashion-mini")},
    "asymmetric": lambda: _mini({"conv": {**CONV, "padding": {"top": 0, "bottom": 2, "left": 1, "right": 0}}}),
    "pooled": lambda: _mini({"conv": CONV, "pool": {"op": "max_pool", "kernel": 3, "stride": 2, "padding": 1}}),
    "averaged": lambda: _mini(
        {"conv": CONV, "pool": {"op": "avg_pool", "kernel": 3, "stride": 2, "padding": 1, "divisor": "inside"}}
    ),
    "even": lambda: _mini(
        {
            "conv": {**CONV, "out_channels": 7},
            "norm": {"op": "lrn", "size": 4, "before": 2, "alpha": 0.1, "alpha_over": "one", "beta": 0.75, "k": 1},
        }
    ),
    "ceil": lambda: _mini({"conv": CONV, "pool": {"op": "max_pool", "kernel": 3, "stride": 2, "rounding": "ceil"}}, 10),
}


@dataclass(frozen=True)
class Mistake:
    """On `network`, the layers or the recipe are taken for others, or ops have other formulas."""

    network: str
    check: str
    """By which it must be killed."""
    tensor: str
    """Which must be named."""
    layers: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    forward: Mapping[str, Rule] = field(default_factory=dict)
    backward: Mapping[str, Rule] = field(default_factory=dict)
    backend: type[NumpyBackend] = NumpyBackend


def _with_padding(change: Callable[[Padding], Padding]) -> Rule:
    right = FORWARD["conv"]

    def conv(call: Call) -> Array:
        padding = call.geometry.padding
        assert padding is not None
        return right(replace(call, geometry=replace(call.geometry, padding=change(padding))))

    return conv


def _other_side(p: Padding) -> Padding:
    return Padding(top=p.bottom, bottom=p.top, left=p.right, right=p.left)


def _flatten_by_place(call: Call) -> Array:
    return call.x.transpose(0, 2, 3, 1).reshape(len(call.x), -1)


_conv = FORWARD["conv"]


def _groups_swapped(call: Call) -> Array:
    if call.layer.groups == 1:
        return _conv(call)
    return _conv(replace(call, x=np.concatenate(np.split(call.x, call.layer.groups, axis=1)[::-1], axis=1)))


def _kernel_flipped(call: Call) -> Array:
    weight = call.parameters["weight"][:, :, ::-1, ::-1]
    return _conv(replace(call, parameters={**call.parameters, "weight": weight}))


def _max_pool_over_zeros(call: Call) -> Array:
    largest: Array = flat_windows(call, 0.0).max(axis=-1)
    return largest


def _own_slope_only(call: Call, y: Array, dy: Array) -> Gradient:
    return dy * response(call) ** -call.layer.beta, {}


def _straight_through(call: Call, y: Array, dy: Array) -> Gradient:
    return dy, {}


def _last_winner(call: Call, y: Array, dy: Array) -> Gradient:
    kernel = call.layer.kernel
    values = flat_windows(call, -np.inf)
    winner = values.shape[-1] - 1 - values[..., ::-1].argmin(axis=-1)
    du = (winner[..., None] == np.arange(values.shape[-1])) * dy[..., None]
    return windows_backward(du.reshape(*dy.shape, kernel.height, kernel.width), call.geometry), {}


class ClippedLoss(NumpyBackend):
    """Cross-entropy of probabilities that are clipped to 1e-7."""

    def loss(self, images: Array, labels: Array, masks: Any = None) -> float:
        return min(super().loss(images, labels, masks), -float(np.log(1e-7)))


class SummedLoss(NumpyBackend):
    """A sum where a mean should be."""

    def loss(self, images: Array, labels: Array, masks: Any = None) -> float:
        return super().loss(images, labels, masks) * len(images)


class FrozenDecays(NumpyBackend):
    """A frozen parameter's velocity decays all the same."""

    def step(self, images: Array, labels: Array, settings: Any, masks: Any) -> None:
        super().step(images, labels, settings, masks)
        for name, one in settings.items():
            if one.frozen:
                self._velocities[name] = 0.9 * self._velocities[name]


MISTAKES: dict[str, Mistake] = {
    "LRN's alpha is not divided by its size": Mistake(
        SOURCE, "evaluation-outputs", "the output of norm1", layers={"norm1": {"alpha_over": "one"}}
    ),
    "LRN's k is 1": Mistake(SOURCE, "evaluation-outputs", "the output of norm1", layers={"norm1": {"k": 1.0}}),
    "LRN reaches across towers": Mistake(
        SOURCE, "evaluation-outputs", "the output of norm2", layers={"norm2": {"groups": 1}}
    ),
    "LRN's even window leans to the other side": Mistake(
        "even", "evaluation-outputs", "the output of norm", layers={"norm": {"before": 1}}
    ),
    "the spatial norm divides alpha by nothing": Mistake(
        SOURCE, "evaluation-outputs", "the output of cnorm2", layers={"cnorm2": {"alpha_over": "one"}}
    ),
    "groups are taken in the other order": Mistake(
        "caffenet", "evaluation-outputs", "the output of conv2", forward={"conv": _groups_swapped}
    ),
    "the kernel is flipped": Mistake(
        "torchvision", "evaluation-outputs", "the output of conv1", forward={"conv": _kernel_flipped}
    ),
    "padding is on the other side": Mistake(
        "asymmetric", "evaluation-outputs", "the output of conv", forward={"conv": _with_padding(_other_side)}
    ),
    "maps are flattened place by place": Mistake(
        SOURCE, "evaluation-outputs", "the output of flatten", forward={"flatten": _flatten_by_place}
    ),
    "a max-pool pads with zeros": Mistake(
        "pooled", "evaluation-outputs", "the output of pool", forward={"max_pool": _max_pool_over_zeros}
    ),
    "an average counts the padding": Mistake(
        "averaged", "evaluation-outputs", "the output of pool", layers={"pool": {"divisor": "window"}}
    ),
    "dropout scales in training instead of in the test": Mistake(
        "fashion-mini", "evaluation-outputs", "the output of drop6", layers={"drop6": {"scale": "train"}}
    ),
    "dropout scales in the test instead of in training": Mistake(
        "torchvision", "evaluation-outputs", "the output of drop6", layers={"drop6": {"scale": "test"}}
    ),
    "LRN's gradient forgets the neighbours": Mistake(
        SOURCE, "training-gradients", "the gradient of conv2.bias", backward={"lrn": _own_slope_only}
    ),
    "a ReLU lets all gradients through": Mistake(
        "torchvision", "training-gradients", "the gradient of fc7.bias", backward={"relu": _straight_through}
    ),
    "a max-pool's gradient goes to the wrong place": Mistake(
        "pooled", "training-gradients", "the gradient of conv.bias", backward={"max_pool": _last_winner}
    ),
    "the loss of a saturated softmax is clipped": Mistake(
        "pooled", "loss", "the loss of saturated logits", backend=ClippedLoss
    ),
    "the loss is a sum": Mistake("pooled", "loss", "the loss in evaluation", backend=SummedLoss),
    "the learning rate is outside the velocity": Mistake(
        "fashion-mini",
        "training-steps",
        "the velocity conv1.weight after step 1",
        training={"optimizer": {"learning_rate_in_velocity": False}},
    ),
    "decay is decoupled": Mistake(
        "fashion-mini",
        "training-steps",
        "the velocity conv1.weight after step 1",
        training={"optimizer": {"decay": "decoupled"}},
    ),
    "what is frozen still loses velocity": Mistake(
        SOURCE, "training-steps", "the velocity conv1.weight after step 6", backend=FrozenDecays
    ),
}


class DecaysBiases(NumpyBackend):
    """Weights' decay is applied to biases too."""

    def step(self, images: Array, labels: Array, settings: Any, masks: Any) -> None:
        wrong = {
            name: replace(one, weight_decay=settings[name.replace(".bias", ".weight")].weight_decay)
            for name, one in settings.items()
        }
        super().step(images, labels, wrong, masks)


MISTAKES["biases decay"] = Mistake(
    "caffenet", "training-steps", "the velocity conv1.bias after step 1", backend=DecaysBiases
)


@pytest.fixture(scope="module")
def examination():
    known: dict[str, Examination] = {}

    def of(network: str) -> Examination:
        if network not in known:
            e = known[network] = Examination(Job(NETWORKS[network]()))
            # Everything is worked out before anything is patched; and right formulas pass.
            findings = examine(e, NumpyBackend(e.spec, dtype="float32"), trains=True)
            assert first_fault(findings) is None
        return known[network]

    return of


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_killed_by_the_named_check_and_named_where_it_is(examination, name):
    mistake = MISTAKES[name]
    e = examination(mistake.network)
    other = restated(e.spec, layers=mistake.layers, training=mistake.training)
    with patched(mistake.forward, mistake.backward):
        findings = examine(e, mistake.backend(other, dtype="float32"), trains=True)
    fault = first_fault(findings)
    assert fault is not None, "the mistake lives"
    assert (fault.check, fault.tensor) == (mistake.check, mistake.tensor)
    before = list(CHECKS)[: list(CHECKS).index(mistake.check)]
    assert all(finding.passed for finding in findings if finding.check in before)


def test_floor_where_ceil_is_meant_is_refused_or_seen(examination):
    """The maps lose a row, so that the next dense layer does not fit: a backend cannot even load the parameters."""
    e = examination("ceil")
    wrong = NumpyBackend(restated(e.spec, layers={"pool": {"rounding": "floor"}}), dtype="float32")
    with pytest.raises(ValueError, match=r"fc\.weight must have shape \(7, 54\)\. Received: \(7, 96\)"):
        examine(e, wrong, trains=True)


def test_patches_are_undone():
    before = dict(FORWARD), dict(BACKWARD)
    with patched({"conv": _kernel_flipped}, {"relu": _straight_through}):
        assert FORWARD["conv"] is _kernel_flipped
    assert before == (FORWARD, BACKWARD)
