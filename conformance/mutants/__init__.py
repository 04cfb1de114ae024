"""Wrong implementations, by which the suite is tested: what it would not notice, it does not check.

A mutant is a small change of a backend in a running process. Those of kind `shipped` are mistakes that somebody made in
public, each with the link; the others are systematic. ``python -m conformance.mutants list`` prints them.

>>> from conformance.mutants import find
>>> with find("torch-lrn-loops-over-batch").apply():
...     backend = backends.create("torch", spec)
"""

from __future__ import annotations

from conformance.mutants import (
    attributes,
    files,
    images,
    keras,
    numpy,
    onnx,
    parallel,
    recipes,
    spec,
    spec_schedule,
    systematic_keras,
    systematic_onnx,
    systematic_torch,
    torch,
    torch_training,
)
from conformance.mutants.mutant import CHECKS, Live, Mutant, Target

CATALOGUE: tuple[Mutant, ...] = (
    *torch.SHIPPED,
    *torch_training.SHIPPED,
    *keras.SHIPPED,
    *onnx.SHIPPED,
    *spec.SHIPPED,
    *spec_schedule.SHIPPED,
    *attributes.SYSTEMATIC,
    *systematic_torch.SYSTEMATIC,
    *systematic_keras.SYSTEMATIC,
    *systematic_onnx.SYSTEMATIC,
    *spec.SYSTEMATIC,
    *spec_schedule.SYSTEMATIC,
    *numpy.SYSTEMATIC,
    *images.SYSTEMATIC,
    *recipes.SYSTEMATIC,
    *files.SYSTEMATIC,
)


def find(name: str) -> Mutant:
    """The mutant called `name`. Raises ValueError if there is none."""
    for mutant in (*CATALOGUE, *parallel.PARALLEL):
        if mutant.name == name:
            return mutant
    raise ValueError(
        f"a mutant must be one of those that `python -m conformance.mutants list` prints. Received: {name}"
    )


__all__ = ["CATALOGUE", "CHECKS", "Live", "Mutant", "Target", "find"]
