"""Specifications made from others in code: shorter, or with one thing changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spec import Spec, from_values

Values = dict[str, Any]
"""A specification as :meth:`spec.Spec.statement` gives it."""


def derived(spec: Spec, values: Values, suffix: str = "") -> Spec:
    """The specification that `values`, changed from those of `spec`, state; named after it, with `suffix`.

    What was expected of the network, and the sources of values, are left behind: they are those of `spec`. Raises
    SpecError.
    """
    kept = {key: value for key, value in values.items() if key not in ("expect", "provenance")}
    return from_values({**kept, "name": spec.name + suffix}, spec.name)


def shortened(spec: Spec, epochs: int | None) -> Spec:
    """`spec` in `epochs` epochs, with the stages of its learning rates at the same parts of the run; None: as it is."""
    if epochs is None or epochs == spec.training.epochs:
        return spec
    values = spec.statement()
    training, share = values["training"], epochs / spec.training.epochs
    for schedule in training["learning_rate"].values():
        if schedule["kind"] == "stages":
            schedule["stages"] = _moved(schedule["stages"], share)
        elif schedule["kind"] == "step" and schedule["unit"] == "epoch":
            schedule["every"] = max(1, round(schedule["every"] * share))
    training["epochs"] = epochs
    return derived(spec, values)


def _moved(stages: Sequence[Values], share: float) -> list[Values]:
    """`stages` with their epochs multiplied by `share`; of those that fall on one epoch, the last."""
    by_epoch = {round(stage["epoch"] * share): stage["rate"] for stage in stages}
    return [{"epoch": epoch, "rate": rate} for epoch, rate in sorted(by_epoch.items())]
