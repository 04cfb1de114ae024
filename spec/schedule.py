"""The settings of every parameter at every step: learning rate, decay, and whether it is frozen.

Pure functions of the specification, the place in the run and (for plateaus) the validation errors so far.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from spec.arithmetic import geometry
from spec.language import (
    ConstantRate,
    ExponentialStepsRate,
    PlateauRate,
    Schedule,
    Spec,
    StagedRate,
    StepRate,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Settings:
    """How one parameter is updated at one step. A frozen parameter and its velocity are left untouched."""

    learning_rate: float
    weight_decay: float

    @property
    def frozen(self) -> bool:
        """A learning rate of 0 skips the whole update, as ``Weights::update`` of the 2012 source (src/weights.cu)."""
        return self.learning_rate == 0.0


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a run: `step` counts optimizer steps from 0 over the whole run; the first epoch is 0."""

    epoch: int
    step: int
    steps_per_epoch: int
    epochs: int


def matched(patterns: dict[str, T], parameter: str) -> T:
    """The value of the pattern written last among those that match. Raises KeyError if none does."""
    return patterns[matching(patterns, parameter)]


def matching(patterns: Iterable[str], parameter: str) -> str:
    """The pattern written last among those that match. Raises KeyError if none does."""
    for pattern in reversed(list(patterns)):
        if fnmatch.fnmatchcase(parameter, pattern):
            return pattern
    raise KeyError(f"no pattern of {', '.join(patterns)} matches the parameter {parameter}")


def plateau_drops(schedule: PlateauRate, validation_errors: Sequence[float]) -> int:
    """How often the rate has dropped after epochs with these validation top-1 errors (fractions, in order)."""
    best, waited, drops = float("inf"), 0, 0
    for error in validation_errors:
        if error <= best - schedule.threshold and error < best:
            best, waited = error, 0
            continue
        waited += 1
        if waited >= schedule.patience and drops < schedule.drops:
            drops, waited = drops + 1, 0
    return drops


def rate(schedule: Schedule, place: Place, validation_errors: Sequence[float] = ()) -> float:
    """The learning rate of `schedule` at `place`. Formulas: README, "Schedules"."""
    match schedule:
        case ConstantRate():
            return schedule.rate
        case StagedRate():
            return next(stage.rate for stage in reversed(schedule.stages) if stage.epoch <= place.epoch)
        case StepRate():
            elapsed = place.epoch if schedule.unit == "epoch" else place.step
            return schedule.rate * schedule.factor ** (elapsed // schedule.every)
        case ExponentialStepsRate():
            total = place.epochs * place.steps_per_epoch
            part = min(place.step * schedule.steps // total, schedule.steps - 1) if total else 0
            return float(schedule.rate * schedule.target_factor ** (-part / (schedule.steps - 1)))
        case PlateauRate():
            return float(schedule.rate * schedule.factor ** plateau_drops(schedule, validation_errors))
    raise TypeError(f"no rule for the schedule {schedule!r}")


def settings(spec: Spec, place: Place, validation_errors: Sequence[float] = ()) -> dict[str, Settings]:
    """The settings of every parameter at `place`, by canonical name, in network order."""
    training = spec.training
    return {
        name: Settings(
            rate(matched(training.learning_rate, name), place, validation_errors),
            float(matched(training.weight_decay, name)),
        )
        for name in geometry(spec).parameters
    }


def scaled_learning_rates(spec: Spec, base: float) -> dict[str, Any]:
    """`training.learning_rate` as plain values, multiplied so that the first parameter's first rate is `base`.

    For the option ``--lr``: the ratios between parameters and between stages stay as the specification has them.
    """
    first = rate(matched(spec.training.learning_rate, next(iter(geometry(spec).parameters))), Place(0, 0, 1, 1))
    if first == 0:
        raise ValueError("the first parameter starts frozen: its learning rate cannot be scaled")

    def scaled(values: Any) -> Any:
        if isinstance(values, dict):
            return {key: base * (v / first) if key == "rate" else scaled(v) for key, v in values.items()}
        return tuple(map(scaled, values)) if isinstance(values, list | tuple) else values

    return {pattern: scaled(schedule.model_dump()) for pattern, schedule in spec.training.learning_rate.items()}
