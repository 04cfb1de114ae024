"""Changes that look like mistakes and are none, on the part of the language's domain that is stated, with the proof.

A mutant counts if the oracle differs from it somewhere in the domain. What stands here differs nowhere in the domain
stated: it is in no catalogue, or it is, and then counts elsewhere only. Each entry can be shown numerically.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backends.numpy.optimizer import update
from backends.registry import backend_class
from conformance.mutants import find
from conformance.mutants.observation import Arrays, distance, observe
from conformance.mutants.witnesses import Layers, Witness
from spec import Settings
from spec.language import Optimizer


@dataclass(frozen=True)
class Equivalent:
    """Two computations that are the same, and where."""

    name: str
    what: str
    domain: str
    proof: str
    demonstrate: Callable[[], float]
    """How far the two are apart on an example of the domain, relative to the largest number."""


def same(first: Witness, second: Witness, checks: tuple[str, ...], *, seen: Callable[[str], bool]) -> float:
    """How far apart the oracle's answers for two specifications are, on the same inputs, in what is `seen` by name."""
    given = first.inputs()
    other = replace(given, spec=second.spec)
    return max(distance(_seen("numpy", c, other, seen), _seen("numpy", c, given, seen))[0] for c in checks)


def inert(mutant: str, witness: Witness, checks: tuple[str, ...], backend: str = "torch") -> float:
    """How far `backend` with a mutant of the catalogue is from the oracle on a witness where it should not matter."""
    given, everything = witness.inputs(), lambda name: True
    expected = {check: _seen("numpy", check, given, everything) for check in checks}
    with find(mutant).apply():
        return max(distance(_seen(backend, check, given, everything), expected[check])[0] for check in checks)


def _seen(backend: str, check: str, given: Any, seen: Callable[[str], bool]) -> Arrays:
    made = backend_class(backend)(given.spec, dtype="float64")
    return {name: array for name, array in observe(check, made, given).items() if seen(name)}


# --- what the entries are made of -------------------------------------------------------------------------------------

_END: Layers = {"flatten": {"op": "flatten"}, "fc": {"op": "dense", "out_features": 5}}
_LRN: dict[str, Any] = {"op": "lrn", "size": 5, "beta": 0.75, "k": 2}
_OUTSIDE = ("evaluation-outputs", "evaluation-gradients", "training-steps")
_FC: Layers = {"flatten": {"op": "flatten"}, "fc1": {"op": "dense", "out_features": 7}}


def _of(**layers: dict[str, Any]) -> Witness:
    return Witness((3, 7), {**layers, **_END})


def _pool_55(rounding: str) -> Witness:
    return Witness((2, 55), {"pool": {"op": "max_pool", "kernel": 3, "stride": 2, "rounding": rounding}, **_END})


def _whole(name: str) -> bool:
    """What leaves the network: not the layers inside, nor velocities."""
    inside = ("relu", "pool", "drop", "norm")
    return name not in inside and not name.startswith("velocity")


def _not_velocities(name: str) -> bool:
    return not name.startswith("velocity")


def _rule(**rule: Any) -> dict[str, Any]:
    return {
        "optimizer": {"kind": "sgd", "momentum": 0.9, "learning_rate_in_velocity": True, "decay": "coupled", **rule},
        "learning_rate": {"*": {"kind": "constant", "rate": 0.1}},
    }


_DROPOUT: dict[str, Any] = {"op": "dropout", "rate": 0.3, "scale": "train"}
_FC2: Layers = {"fc2": {"op": "dense", "out_features": 5}}
_CONV = {"op": "conv", "out_channels": 4, "kernel": 3}
_POOL = {"op": "max_pool", "kernel": 3, "stride": 2}
_PADDED = {**_POOL, "padding": 1}


def _from_rest(rule: dict[str, Any]) -> Arrays:
    """Parameters after four steps from velocities of zero."""
    given = Witness((3, 5), {**_FC, "tanh": {"op": "tanh"}, "fc2": {"op": "dense", "out_features": 5}}, rule).inputs()
    rest = {name: np.zeros_like(v) for name, v in given.velocities.items()}
    return _only_parameters(replace(given, velocities=rest))


def _only_parameters(given: Any) -> Arrays:
    return _seen("numpy", "training-steps", given, lambda name: name.startswith("parameter"))


def _rate_in_and_outside() -> float:
    inside, outside = (_from_rest(_rule(learning_rate_in_velocity=flag)) for flag in (True, False))
    return distance(outside, inside)[0]


def _decay_without_momentum() -> float:
    rules = [_rule(momentum=0.0, decay=decay) for decay in ("coupled", "decoupled")]
    first, second = (_from_rest(rule) for rule in rules)
    return distance(second, first)[0]


def _decay_before_the_step() -> float:
    """As Keras does it: w takes its decay, then the step; g is of the w before."""
    draw = np.random.default_rng(3)
    w, v, g = draw.standard_normal((3, 4, 5))
    rule = Optimizer(kind="sgd", momentum=0.9, learning_rate_in_velocity=True, decay="decoupled")
    right, _ = update(w, v, g, Settings(0.1, 0.05), rule)
    moved = 0.9 * v - 0.1 * g
    return distance({"w": w * (1 - 0.1 * 0.05) + moved}, {"w": right})[0]


def _first_buffer_is_the_gradient() -> float:
    """As ``torch.optim.SGD``: no buffer at first, then g itself."""
    draw = np.random.default_rng(4)
    w, g = draw.standard_normal((2, 4, 5))
    rule = Optimizer(kind="sgd", momentum=0.9, learning_rate_in_velocity=False, decay="coupled")
    right, buffer = update(w, np.zeros_like(w), g, Settings(0.1, 0.05), rule)
    first = g + 0.05 * w
    return distance({"w": w - 0.1 * first, "v": first}, {"w": right, "v": buffer})[0]


EQUIVALENT: tuple[Equivalent, ...] = (
    Equivalent(
        "pool-floor-for-ceil",
        "rounding down instead of up in a pool, or the other way round",
        "the stride divides the padded extent less the kernel, as it does for 3x3 pools of stride 2 on AlexNet's maps "
        "of 55, 27 and 13",
        "both numbers of windows are (H + p - k) / s + 1, a whole number: (55 - 3) / 2 + 1 = 27",
        lambda: same(_pool_55("floor"), _pool_55("ceil"), _OUTSIDE, seen=lambda name: True),
    ),
    Equivalent(
        "relu-behind-max-pool",
        "the ReLU behind a max-pool instead of before it",
        "what leaves the pair, and all gradients",
        "max(., 0) does not decrease, so that it commutes with the largest of a set; the gradient goes to the same "
        "element if that is above 0 and nowhere if it is not",
        lambda: same(
            _of(conv=_CONV, relu={"op": "relu"}, pool=_POOL),
            _of(conv=_CONV, pool=_POOL, relu={"op": "relu"}),
            _OUTSIDE,
            seen=_whole,
        ),
    ),
    Equivalent(
        "relu-behind-dropout",
        "dropout before the ReLU instead of behind it",
        "what leaves the pair, and all gradients",
        "dropout multiplies each unit by a number that is not negative, c, and max(c x, 0) = c max(x, 0)",
        lambda: same(
            Witness((3, 5), {**_FC, "relu": {"op": "relu"}, "drop": _DROPOUT, **_FC2}),
            Witness((3, 5), {**_FC, "drop": _DROPOUT, "relu": {"op": "relu"}, **_FC2}),
            (*_OUTSIDE, "training-outputs", "training-gradients"),
            seen=_whole,
        ),
    ),
    Equivalent(
        "max-pool-zero-padding-behind-relu",
        "zeros instead of minus infinity around a max-pool",
        "behind a ReLU: every value is at least 0, and every window sees one",
        "a 0 more among numbers that are at least 0 does not change the largest; if that is 0, the ReLU's derivative "
        "ends the gradient whoever gets it",
        lambda: inert("torch-max-pool-zero-padding", _of(conv=_CONV, relu={"op": "relu"}, pool=_PADDED), _OUTSIDE),
    ),
    Equivalent(
        "max-pool-ties",
        "any rule for the gradient of elements that are equally large",
        "no window has two equal largest elements",
        "the largest is one element, and every rule gives it the whole gradient",
        lambda: inert("torch-max-pool-every-tie-wins", _of(pool=_POOL), ("evaluation-gradients",)),
    ),
    Equivalent(
        "relu-at-zero",
        "any derivative of the ReLU at 0",
        "no input is 0",
        "the derivative at 0 is not used",
        lambda: inert("torch-relu-half-gradient-at-zero", _of(relu={"op": "relu"}), ("evaluation-gradients",)),
    ),
    Equivalent(
        "lrn-alpha-in-other-words",
        "alpha divided by the size of the window or not",
        "the alpha that is divided is as many times larger as the window has channels",
        "(n a) / n = a",
        lambda: same(
            _of(norm={**_LRN, "alpha": 2.5, "alpha_over": "size"}),
            _of(norm={**_LRN, "alpha": 0.5, "alpha_over": "one"}),
            _OUTSIDE,
            seen=lambda name: True,
        ),
    ),
    Equivalent(
        "lrn-groups-of-one",
        "any number of groups in response normalisation",
        "the window is one channel",
        "a window of one channel reaches across no border",
        lambda: same(
            _of(norm={**_LRN, "size": 1, "alpha": 0.5, "alpha_over": "one", "groups": 1}),
            _of(norm={**_LRN, "size": 1, "alpha": 0.5, "alpha_over": "one", "groups": 3}),
            _OUTSIDE,
            seen=lambda name: True,
        ),
    ),
    Equivalent(
        "flatten-of-single-places",
        "any order of flattening",
        "maps of one place",
        "with H = W = 1 the index (c H + y) W + x is c, and so it is in every other order",
        lambda: inert(
            "torch-flatten-columns-first",
            Witness((3, 3), {"conv": _CONV, **_END}),
            _OUTSIDE,
        ),
    ),
    Equivalent(
        "learning-rate-outside-velocity",
        "the learning rate outside the velocity instead of inside it, seen by the parameters",
        "the learning rate does not change, and velocities start at zero",
        "by induction v inside is -lr times v outside, and the step is the same; at a drop of the rate it is not",
        _rate_in_and_outside,
    ),
    Equivalent(
        "decay-without-momentum",
        "decoupled decay instead of coupled, seen by the parameters",
        "the momentum is 0",
        "w - lr (g + wd w) = w - lr g - lr wd w; with momentum the decay would stay in the velocity",
        _decay_without_momentum,
    ),
    Equivalent(
        "decay-before-the-step",
        "decoupled decay taken from the parameter before the step instead of beside it",
        "everywhere, if the gradient is that of the parameter before either",
        "(1 - lr wd) w + v' = w + v' - lr wd w",
        _decay_before_the_step,
    ),
    Equivalent(
        "first-buffer-is-the-gradient",
        "the first velocity is the gradient instead of mu 0 + gradient",
        "velocities start at zero",
        "mu 0 = 0",
        _first_buffer_is_the_gradient,
    ),
)
