"""Mistakes in what the specification means: schedules, and the arithmetic of windows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from conformance.mutants.mutant import Live, Mutant, Patch
from conformance.mutants.spec import function
from spec import Place

_GITHUB = "https://github.com/"


def arithmetic(name: str, rule: Callable[..., Any]) -> Patch:
    """As :func:`function` in ``spec.arithmetic``, which remembers the geometry of networks."""

    def patch(live: Live) -> None:
        live.finally_(live.arithmetic._geometry.cache_clear)
        function("arithmetic", name, rule)(live)
        live.arithmetic._geometry.cache_clear()

    return patch


# --- schedules --------------------------------------------------------------------------------------------------------


def _epoch(later: int) -> Callable[..., float]:
    def rate(right: Any, schedule: Any, place: Place, errors: Any = ()) -> float:
        shifted = min(max(place.epoch + later, 0), place.epochs)
        found: float = right(schedule, replace(place, epoch=shifted), errors)
        return found

    return rate


def _patience(change: Callable[[int], int]) -> Callable[..., int]:
    def drops(right: Any, schedule: Any, errors: Any) -> int:
        found: int = right(schedule.model_copy(update={"patience": change(schedule.patience)}), errors)
        return found

    return drops


def _relative_threshold(right: Any, schedule: Any, errors: Any) -> int:
    """An improvement is one by a share of the best so far, as PyTorch has it by default."""
    best, waited, drops = math.inf, 0, 0
    for error in errors:
        if error < best * (1 - schedule.threshold):
            best, waited = error, 0
            continue
        waited += 1
        if waited >= schedule.patience and drops < schedule.drops:
            drops, waited = drops + 1, 0
    return drops


def _drops_without_end(right: Any, schedule: Any, errors: Any) -> int:
    found: int = right(schedule.model_copy(update={"drops": 2**31 - 1}), errors)
    return found


def _first_pattern(right: Any, patterns: Any, parameter: str) -> Any:
    return right(dict(reversed(patterns.items())), parameter)


def _steps_for_epochs(right: Any, schedule: Any, place: Place, errors: Any = ()) -> float:
    other = {"epoch": "step", "step": "epoch"}
    if schedule.kind == "step":
        schedule = schedule.model_copy(update={"unit": other[schedule.unit]})
    found: float = right(schedule, place, errors)
    return found


def _one_part_too_many(right: Any, schedule: Any, place: Place, errors: Any = ()) -> float:
    """The last part of the run has the rate before the target's."""
    if schedule.kind != "exponential_steps":
        found: float = right(schedule, place, errors)
        return found
    total = place.epochs * place.steps_per_epoch
    part = place.step * schedule.steps // total
    return float(schedule.rate * schedule.target_factor ** (-part / schedule.steps))


# --- arithmetic -------------------------------------------------------------------------------------------------------


def _rounded(to: str, pools: bool) -> Callable[..., Any]:
    """Pools, or the others, always round `to`."""

    def extent(right: Any, *given: Any) -> Any:
        *sizes, stated, drop = given
        return right(*sizes, to if drop == pools else stated, drop)

    return extent


def _last_window_kept(right: Any, *given: Any) -> Any:
    return right(*given[:-1], False)


SHIPPED: tuple[Mutant, ...] = (
    Mutant(
        "spec-plateau-one-epoch-late",
        "spec",
        "the rate drops after one more epoch without improvement than the patience",
        ("schedule.plateau",),
        "schedule",
        "schedule-plateau",
        function("schedule", "plateau_drops", _patience(lambda patience: patience + 1)),
        _GITHUB + "pytorch/pytorch/issues/119763",
    ),
    Mutant(
        "spec-plateau-without-patience",
        "spec",
        "the patience is accepted and not used",
        ("schedule.plateau",),
        "schedule",
        "schedule-plateau",
        function("schedule", "plateau_drops", _patience(lambda patience: 1)),
        _GITHUB + "nitrain/nitrain/issues/23",
    ),
    Mutant(
        "spec-schedule-first-epoch-skipped",
        "spec",
        "the schedule is advanced before an epoch instead of after it, so that its first value is never used",
        ("schedule.step",),
        "schedule",
        "schedule-step",
        function("schedule", "rate", _epoch(1)),
        _GITHUB + "ThilinaRajapakse/pytorch-transformers-classification/issues/21",
    ),
    Mutant(
        "spec-schedule-one-epoch-late",
        "spec",
        "the first advance of the schedule changes nothing, so that every value comes an epoch late",
        ("schedule.stages",),
        "schedule",
        "schedule-stages",
        function("schedule", "rate", _epoch(-1)),
        _GITHUB + "pytorch/pytorch/pull/7889",
    ),
    Mutant(
        "spec-pools-always-round-up",
        "spec",
        "pools round up whatever is stated",
        ("max_pool.rounding",),
        "evaluation-outputs",
        "max-pool",
        arithmetic("_extent", _rounded("ceil", pools=True)),
        _GITHUB + "ethereon/netscope/issues/25",
    ),
)

SYSTEMATIC: tuple[Mutant, ...] = (
    Mutant(
        "spec-plateau-threshold-relative",
        "spec",
        "an improvement is measured as a share of the best error",
        ("schedule.plateau",),
        "schedule",
        "schedule-plateau",
        function("schedule", "plateau_drops", _relative_threshold),
    ),
    Mutant(
        "spec-plateau-drops-without-end",
        "spec",
        "the number of drops is not limited",
        ("schedule.plateau",),
        "schedule",
        "schedule-plateau",
        function("schedule", "plateau_drops", _drops_without_end),
    ),
    Mutant(
        "spec-first-pattern-holds",
        "spec",
        "of the patterns that match a parameter the first holds instead of the last",
        ("learning_rate", "weight_decay"),
        "schedule",
        "schedule-patterns",
        function("schedule", "matched", _first_pattern),
    ),
    Mutant(
        "spec-step-counts-the-other-unit",
        "spec",
        "a schedule in epochs counts optimizer steps, and the other way round",
        ("schedule.step",),
        "schedule",
        "schedule-step-in-steps",
        function("schedule", "rate", _steps_for_epochs),
    ),
    Mutant(
        "spec-exponential-misses-its-target",
        "spec",
        "an exponential schedule ends one part before its target",
        ("schedule.exponential_steps",),
        "schedule",
        "schedule-exponential",
        function("schedule", "rate", _one_part_too_many),
    ),
    Mutant(
        "spec-convolutions-round-down",
        "spec",
        "a convolution, shared or local, rounds down where it is told to round up",
        ("conv.rounding", "local.rounding"),
        "evaluation-outputs",
        "conv-ceil",
        arithmetic("_extent", _rounded("floor", pools=False)),
    ),
    Mutant(
        "spec-pools-round-down",
        "spec",
        "a pool rounds down where it is told to round up",
        ("max_pool.rounding",),
        "evaluation-outputs",
        "max-pool-ceil",
        arithmetic("_extent", _rounded("floor", pools=True)),
    ),
    Mutant(
        "spec-pool-keeps-window-of-padding",
        "spec",
        "a last pooling window that lies in the padding alone is kept",
        ("max_pool.rounding",),
        "evaluation-outputs",
        "max-pool-overhang",
        arithmetic("_extent", _last_window_kept),
    ),
)
