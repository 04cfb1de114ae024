"""Mistakes in what the specification means: initial parameters and draws. Schedules: ``spec_schedule.py``.

Backends and the trainer call this code, so that one mistake here is in all of them. Each mutant changes ``spec`` in the
process that is examined, and the process that judges has it as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from conformance.mutants.mutant import Live, Mutant, Patch

_GITHUB = "https://github.com/"


def function(module: str, name: str, rule: Callable[..., Any]) -> Patch:
    """``spec.module.name`` is ``rule(right, ...)``, `right` being the function as it is."""

    def patch(live: Live) -> None:
        owner = getattr(live, module)
        right = getattr(owner, name)
        live.set(owner, name, lambda *given, **named: rule(right, *given, **named))

    return patch


# --- initialisation ---------------------------------------------------------------------------------------------------


def _scaled_then_truncated(right: Any, distribution: Any, shape: Any, weight_shape: Any, words: Any) -> Any:
    """Variance scaling by a normal that is cut at two standard deviations, and has less variance for it."""
    from spec.language import TruncatedNormal

    if getattr(distribution, "distribution", None) != "normal":
        return right(distribution, shape, weight_shape, words)
    from spec.initialisation import fans

    fan_in, fan_out = fans(weight_shape)
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[distribution.fan]
    std = math.sqrt(distribution.scale / fan)
    return right(TruncatedNormal(kind="truncated_normal", std=std), shape, weight_shape, words)


def _clipped(right: Any, distribution: Any, shape: Any, weight_shape: Any, words: Any) -> Any:
    """A truncated normal whose tails are put on the border instead of being drawn again."""
    from spec.draws import normal

    if distribution.kind != "truncated_normal":
        return right(distribution, shape, weight_shape, words)
    return distribution.std * normal(words).clip(-2, 2)


def _ungrouped(live: Live) -> None:
    """The inputs of all groups are counted for each output."""
    module, groups = live.initialisation, [1]
    initial_parameter, fans = module.initial_parameter, module.fans

    def of_layer(spec: Any, name: str, seed: int) -> Any:
        groups[0] = getattr(spec.layer(name.rpartition(".")[0]), "groups", 1)
        return initial_parameter(spec, name, seed)

    def of_all_groups(weight_shape: Any) -> tuple[int, int]:
        fan_in, fan_out = fans(weight_shape)
        return fan_in * groups[0], fan_out

    live.set(module, "initial_parameter", of_layer)
    live.set(module, "fans", of_all_groups)


def _without_the_window(right: Any, weight_shape: Any) -> tuple[int, int]:
    """Inputs and outputs alone, as for a matrix."""
    outputs, inputs, *_ = weight_shape
    return inputs, outputs


def _exchanged(right: Any, weight_shape: Any) -> tuple[int, int]:
    fan_in, fan_out = right(weight_shape)
    return fan_out, fan_in


# --- draws ------------------------------------------------------------------------------------------------------------


def _same_seed_for_every_image(right: Any, *given: Any, images: Any, epoch: int) -> Any:
    return right(*given, images=images * 0, epoch=0)


def _same_in_every_epoch(right: Any, *given: Any, epoch: int = 0, **named: Any) -> Any:
    return right(*given, **named)


def _same_in_every_layer(right: Any, seed: int, layer: str, *rest: Any, **named: Any) -> Any:
    return right(seed, "dropout", *rest, **named)


def _by_place_in_batch(right: Any, *given: Any, images: Any, epoch: int) -> Any:
    return right(*given, images=range(len(images)), epoch=epoch)


SHIPPED: tuple[Mutant, ...] = (
    Mutant(
        "spec-init-scaled-normal-truncated",
        "spec",
        "variance scaling draws a normal that is cut at two standard deviations, without making up for the variance",
        ("init.variance_scaling",),
        "initialisation",
        "init-fan-in",
        function("initialisation", "_sample", _scaled_then_truncated),
        _GITHUB + "tensorflow/tensorflow/issues/16344",
    ),
    Mutant(
        "spec-init-fan-in-ungrouped",
        "spec",
        "the fan-in of a grouped convolution counts the inputs of all groups",
        ("init.variance_scaling", "conv.groups"),
        "initialisation",
        "init-fan-in",
        _ungrouped,
        _GITHUB + "ml-explore/mlx/issues/4536",
    ),
    Mutant(
        "spec-init-fans-without-window",
        "spec",
        "the fans of a convolution leave the size of its kernel out",
        ("init.variance_scaling", "conv.kernel"),
        "initialisation",
        "init-glorot",
        function("initialisation", "fans", _without_the_window),
        _GITHUB + "FluxML/Flux.jl/issues/442",
    ),
    Mutant(
        "spec-dropout-always-the-same",
        "spec",
        "dropout draws the same mask for every image in every epoch",
        ("draws.dropout",),
        "draws",
        "training",
        function("draws", "dropout_mask", _same_seed_for_every_image),
        _GITHUB + "PaddlePaddle/Paddle/issues/7796",
    ),
    Mutant(
        "spec-draws-repeat-every-epoch",
        "spec",
        "every epoch draws what the first has drawn",
        ("draws.epoch",),
        "draws",
        "training",
        function("draws", "words", _same_in_every_epoch),
        _GITHUB + "pytorch/pytorch/issues/41329",
    ),
)

SYSTEMATIC: tuple[Mutant, ...] = (
    Mutant(
        "spec-init-truncated-normal-clipped",
        "spec",
        "the tails of a truncated normal are moved to the border",
        ("init.truncated_normal",),
        "initialisation",
        "init-truncated",
        function("initialisation", "_sample", _clipped),
    ),
    Mutant(
        "spec-init-fans-exchanged",
        "spec",
        "fan-in and fan-out are exchanged",
        ("init.variance_scaling",),
        "initialisation",
        "init-fan-out",
        function("initialisation", "fans", _exchanged),
    ),
    Mutant(
        "spec-init-same-for-every-parameter",
        "spec",
        "every parameter draws from the same stream",
        ("init.normal",),
        "initialisation",
        "init-normal",
        function("draws", "tag", lambda right, name: 0),
    ),
    Mutant(
        "spec-init-uniform-from-its-end",
        "spec",
        "a uniform distribution runs down from its end",
        ("init.uniform",),
        "initialisation",
        "init-uniform",
        function("draws", "uniform", lambda right, word: 1 - right(word)),
    ),
    Mutant(
        "spec-philox-nine-rounds",
        "spec",
        "the generator takes nine rounds instead of ten",
        ("draws.philox",),
        "draws",
        "training",
        lambda live: live.set(live.draws, "ROUNDS", 9),
    ),
    Mutant(
        "spec-philox-keys-exchanged",
        "spec",
        "the generator's two Weyl constants are exchanged",
        ("draws.philox",),
        "draws",
        "training",
        lambda live: live.set(live.draws, "WEYL", live.draws.WEYL[::-1]),
    ),
    Mutant(
        "spec-dropout-same-in-every-layer",
        "spec",
        "every dropout layer drops the same units",
        ("draws.dropout",),
        "draws",
        "training",
        function("draws", "dropout_mask", _same_in_every_layer),
    ),
    Mutant(
        "spec-dropout-by-place-in-batch",
        "spec",
        "masks belong to places in the batch instead of to images",
        ("draws.dropout",),
        "draws",
        "training",
        function("draws", "dropout_mask", _by_place_in_batch),
    ),
    Mutant(
        "spec-dropout-keeps-with-the-rate",
        "spec",
        "units are kept with the probability of being dropped",
        ("draws.dropout",),
        "draws",
        "training",
        function("draws", "chance", lambda right, word, probability: right(word, 1 - probability)),
    ),
)
