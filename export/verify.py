"""Whether an ONNX file is what it was made from: by its checker, its parameters, and ONNX Runtime beside its backend.

The bound is that of the conformance suite: what rounding can do to this network on these images, measured with the
oracle. File and backend may each be as far from the exact answer, so that they may differ by the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from backends.base import Array
from backends.onnx import parameters_of, session
from backends.onnx.backend import RUNTIME_ERRORS
from backends.onnx.graph import INPUT, LOGITS, PIXELS, PROBABILITIES, network_only
from conformance.bounds import Arithmetic
from conformance.oracle import Oracle
from export.source import Source, Trial

REPLICAS = 2
"""Perturbed runs of the oracle behind each bound."""


class VerificationError(RuntimeError):
    """The file is not what it was made from."""


@dataclass(frozen=True)
class Agreement:
    """How close file and backend came."""

    error: float
    """The largest difference of two logits in the first trial."""
    of_bound: float
    """The largest difference in all trials, as a fraction of what was allowed at its place."""


def verify(
    file: Path,
    source: Source,
    trials: Sequence[Trial],
    predictions: Sequence[Mapping[int, Array]],
    by_name: bool = True,
) -> Agreement:
    """Check `file` against `source`, and its logits against the backend's `predictions`: by trial, by batch size.

    by_name: the file has the parameters under their own names; what exporters call and lay out as they like is known by
    what it does. Raises VerificationError with what was wrong.
    """
    try:
        onnx.checker.check_model(str(file), full_check=True)
        model = onnx.load(file)
        found = parameters_of(model, source.spec) if by_name else {}
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, KeyError) as error:
        raise VerificationError(f"the file must be valid ONNX with every parameter: {_first_line(error)}") from error
    for name, value in found.items():
        if not np.array_equal(value, np.asarray(source.parameters[name], np.float32)):
            raise VerificationError(f"{name} in the file must be the source's, bit by bit")
    agreements = []
    try:
        runs = _runs(file, model)
        for trial, expected in zip(trials, predictions, strict=True):
            allowed = _allowed(source, trial, any(node.op_type == "LRN" for node in model.graph.node))
            for run in runs:
                if logits := {n: answer for n in expected if (answer := run(trial, n)) is not None}:
                    agreements.append(_compare(logits, expected, allowed))
    except RUNTIME_ERRORS as error:
        raise VerificationError(f"ONNX Runtime must run the file: {_first_line(error)}") from error
    return Agreement(agreements[0].error, max(agreement.of_bound for agreement in agreements))


def _runs(file: Path, model: onnx.ModelProto) -> list[Callable[[Trial, int], Array | None]]:
    """How a trial is put to the file: as a user would, and if it takes stored bytes, to the network behind them too.

    Each gives the logits of the first n images, or None for a trial that it cannot be put.
    """
    whole = session(file)
    names = [value.name for value in whole.get_outputs()]

    def answer(feed: dict[str, Array]) -> Array:
        found = dict(zip(names, whole.run(names, feed), strict=True))
        if PROBABILITIES in found:
            _check_softmax(found[LOGITS], found[PROBABILITIES])
        return np.asarray(found[LOGITS])

    if whole.get_inputs()[0].name == INPUT:
        return [lambda trial, n: answer({INPUT: trial.images[:n]})]
    inside = session(network_only(model))
    return [
        lambda trial, n: None if trial.pixels is None else answer({PIXELS: trial.pixels[:n]}),
        lambda trial, n: inside.run([LOGITS], {INPUT: trial.images[:n]})[0],
    ]


def _check_softmax(logits: Array, probabilities: Array) -> None:
    """An exponential, a sum of as many terms as there are classes, a quotient: so many roundings at most."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    exact = shifted / shifted.sum(axis=1, keepdims=True)
    # an exponential turns the rounding of its argument, up to the spread of the logits, into a relative error
    units = 8 + logits.shape[1] + np.ptp(logits, axis=1, keepdims=True)
    known = np.finfo(np.float32)
    allowed = units * known.eps * exact + known.tiny  # below it numbers may be flushed to zero
    if probabilities.shape != logits.shape or not (np.abs(probabilities - exact) <= allowed).all():
        raise VerificationError("the probabilities must be the softmax of the logits")


def _compare(found: Mapping[int, Array], expected: Mapping[int, Array], allowed: Array) -> Agreement:
    worst = Agreement(0.0, 0.0)
    for n, wanted in expected.items():
        if found[n].shape != wanted.shape:
            raise VerificationError(f"{n} images must give logits {wanted.shape}. Received: {found[n].shape}")
        distance = np.abs(found[n].astype(np.float64) - wanted)
        share = distance / np.maximum(allowed, np.finfo(np.float64).tiny)
        of_bound = float(np.max(np.where(distance == 0, 0.0, share)))
        if not of_bound <= 1:  # written so that not-a-number fails
            raise VerificationError(
                f"the logits of {n} images must be within {allowed.max():.3g} of the backend's, the bound of rounding. "
                f"Received: {distance.max():.3g} away, {of_bound:.3g} times the bound at its place"
            )
        worst = Agreement(max(worst.error, float(distance.max())), max(worst.of_bound, of_bound))
    return worst


def _allowed(source: Source, trial: Trial, running_sum_lrn: bool) -> Array:
    """By class, how far file and backend may be apart: twice how far one of them may be from the oracle."""
    arithmetic = Arithmetic("float32", running_sum_lrn)
    oracle = Oracle(source.spec, source.parameters, trial.images, None, arithmetic, replicas=REPLICAS)
    return 2 * oracle.outputs()[source.spec.layers[-1].name].bound


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
