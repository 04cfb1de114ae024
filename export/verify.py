"""Whether an ONNX file is what it was made from: by its checker, its parameters, and ONNX Runtime beside its backend.

The bound is that of the conformance suite: what rounding can do to this network on these images, measured with the
oracle. File and backend may each be as far from the exact answer, so that they may differ by the sum.

A file of fewer digits than float32 is asked for more. Its parameters must be the source's, rounded as its precision
rounds; its twin in float32 (:mod:`export.twin`), which has these parameters and rounds nothing else, must agree with
the backend on the same parameters within the bound of float32; normalisation must be in float32; and the file itself
must agree within the bound of its own precision, which for integers is what half a step of every stored tensor can do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from backends.base import Array, Arrays
from backends.onnx import parameters_of, session
from backends.onnx.backend import RUNTIME_ERRORS
from backends.onnx.graph import INPUT, LOGITS, PIXELS, PROBABILITIES, Precision, network_only
from backends.onnx.int8 import roundings, steps_of
from backends.onnx.nodes import NUMBERS
from conformance.bounds import MIXED, MIXED_HALF, Arithmetic
from conformance.oracle import Oracle
from export.source import Source, Trial
from export.twin import HALVES, twin

Run = Callable[[Trial, int], Array | None]
"""The logits of the first n images of a trial; None if it cannot be put to this."""
REPLICAS = 2
"""Perturbed runs of the oracle behind each bound."""


class VerificationError(RuntimeError):
    """The file is not what it was made from."""


@dataclass(frozen=True, eq=False)
class Agreement:
    """How close file and backend came."""

    error: float
    """The largest difference of two logits in the first trial."""
    of_bound: float
    """The largest difference in all trials, as a fraction of what was allowed at its place."""
    bound: Array
    """What was allowed in the first trial; it broadcasts to the logits."""
    seen: float = math.inf
    """By how many bounds the logits of different images differ, where they differ the most: with few, the comparison
    says little of the network, because its parameters let little of an image through."""


def verify(
    file: Path,
    source: Source,
    trials: Sequence[Trial],
    predictions: Sequence[Mapping[int, Array]],
    by_name: bool = True,
    precision: Precision = "float32",
) -> Agreement:
    """Check `file` against `source`, and its logits against the backend's `predictions`: by trial, by batch size.

    by_name: the file has the parameters under their own names; what exporters call and lay out as they like is known by
    what it does. predictions: with the parameters that the file computes with
    (:func:`backends.onnx.parameters_of`). Raises VerificationError with what was wrong.
    """
    try:
        onnx.checker.check_model(str(file), full_check=True)
        model = onnx.load(file)
        found = parameters_of(model, source.spec) if by_name else {}
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, KeyError) as error:
        raise VerificationError(f"the file must be valid ONNX with every parameter: {_first_line(error)}") from error
    stated = {entry.key: entry.value for entry in model.metadata_props}.get("precision")
    if stated != precision:
        raise VerificationError(f"the file must say that its precision is {precision}. Received: {stated}")
    if by_name:
        _check_parameters(model, source, found, precision)
    if precision != "float32":
        _check_norms(model, source)
    running = any(node.op_type == "LRN" for node in model.graph.node)
    rounded, exact = _arithmetic(model, source, running, precision), Arithmetic("float32", running)
    parameters = found if by_name else source.parameters
    agreements: list[Agreement] = []
    seen = 0.0
    try:
        runs = _runs(file, model, DEVICES.get(precision, "cpu"))
        twins = [] if precision == "float32" else _runs(twin(model, found), model)
        for trial, expected in zip(trials, predictions, strict=True):
            narrow = _allowed(source, parameters, trial, exact, exact)
            spread = np.ptp(expected[max(expected)].astype(np.float64), axis=0)
            seen = max(seen, float((spread / np.maximum(narrow, np.finfo(np.float64).tiny)).max()))
            if twins:
                _try(twins, trial, expected, narrow, "in float32, ")
            if trial.rounded or not twins:
                allowed = narrow if rounded == exact else _allowed(source, parameters, trial, rounded, exact)
                agreements += _try(runs, trial, expected, allowed)
    except RUNTIME_ERRORS as error:
        raise VerificationError(f"ONNX Runtime must run the file: {_first_line(error)}") from error
    return Agreement(agreements[0].error, max(made.of_bound for made in agreements), agreements[0].bound, seen)


def _try(
    runs: Sequence[Run], trial: Trial, expected: Mapping[int, Array], allowed: Array, where: str = ""
) -> list[Agreement]:
    """Every run that takes `trial`, at each of its batch sizes."""
    made = []
    for run in runs:
        if logits := {n: answer for n in expected if (answer := run(trial, n)) is not None}:
            made.append(_compare(logits, expected, allowed, where))
    return made


DEVICES = {"bfloat16": "cuda"}
"""What runs files of a precision, where it is not the CPU."""


def _check_parameters(model: onnx.ModelProto, source: Source, found: Mapping[str, Array], precision: Precision) -> None:
    halves: Mapping[str, Array] = {}
    if precision == "int8":
        try:
            halves = roundings(model, source.spec)
        except ValueError as error:
            raise VerificationError(str(error)) from error
    for name, parameter in source.parameters.items():
        wanted = np.asarray(parameter, np.float32)
        if name in halves:  # in float64, so that the comparison itself loses nothing
            distance = np.abs(found[name].astype(np.float64) - wanted)
            # the quotient and the product are rounded to float32: a few units of the number itself
            if not (distance <= halves[name] + 4 * np.finfo(np.float32).eps * np.abs(wanted)).all():
                raise VerificationError(f"{name} in the file must be the source's to half a step")
            continue
        if precision in NUMBERS:
            wanted = wanted.astype(NUMBERS[precision].numpy).astype(np.float32)
        if not np.array_equal(found[name], wanted):
            how = "bit by bit" if precision in ("float32", "int8") else f"rounded to {precision}"
            raise VerificationError(f"{name} in the file must be the source's, {how}")


def _check_norms(model: onnx.ModelProto, source: Source) -> None:
    """Normalisation is in float32, whatever is around it."""
    typed = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    numbers = {value.name: value.type.tensor_type.elem_type for value in (*typed.value_info, *typed.input)}
    numbers |= {tensor.name: tensor.data_type for tensor in typed.initializer}
    norms = {layer.name for layer in source.spec.layers if layer.op in ("lrn", "spatial_norm")}
    for node in typed.node:
        inside = node.name in norms or node.name.rpartition(".")[0] in norms
        if inside and node.op_type not in ("Cast", *_STORING):
            for name in node.input:
                if numbers.get(name) in HALVES:
                    raise VerificationError(f"{node.name} must normalise in float32")


_STORING = ("QuantizeLinear", "DequantizeLinear", "Transpose")


def _arithmetic(model: onnx.ModelProto, source: Source, running: bool, precision: Precision) -> Arithmetic:
    if precision == "int8":
        steps = steps_of(model, source.spec)
        return Arithmetic("float32", running, steps, steps.pop(INPUT))
    dtype = {"float16": MIXED_HALF, "bfloat16": MIXED}.get(precision, precision)
    return Arithmetic(dtype, running)


def _runs(file: Path | onnx.ModelProto, model: onnx.ModelProto, device: str = "cpu") -> list[Run]:
    """How a trial is put to the file: as a user would, and if it takes stored bytes, to the network behind them too.

    Each gives the logits of the first n images, or None for a trial that it cannot be put.
    """
    whole = session(file, device=device)
    names = [value.name for value in whole.get_outputs()]

    def answer(feed: dict[str, Array]) -> Array:
        found = dict(zip(names, whole.run(names, feed), strict=True))
        if PROBABILITIES in found:
            _check_softmax(found[LOGITS], found[PROBABILITIES])
        return np.asarray(found[LOGITS])

    if whole.get_inputs()[0].name == INPUT:
        return [lambda trial, n: answer({INPUT: trial.images[:n]})]
    inside = session(network_only(model if isinstance(file, Path) else file), device=device)
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


def _compare(found: Mapping[int, Array], expected: Mapping[int, Array], allowed: Array, where: str) -> Agreement:
    worst = Agreement(0.0, 0.0, allowed)
    for n, wanted in expected.items():
        if found[n].shape != wanted.shape:
            raise VerificationError(f"{where}{n} images must give logits {wanted.shape}. Received: {found[n].shape}")
        distance = np.abs(found[n].astype(np.float64) - wanted)
        share = distance / np.maximum(allowed, np.finfo(np.float64).tiny)
        of_bound = float(np.max(np.where(distance == 0, 0.0, share)))
        if not of_bound <= 1:  # written so that not-a-number fails
            raise VerificationError(
                f"{where}the logits of {n} images must be within {allowed.max():.3g} of the backend's, the bound of "
                f"rounding. Received: {distance.max():.3g} away, {of_bound:.3g} times the bound at its place"
            )
        worst = Agreement(max(worst.error, float(distance.max())), max(worst.of_bound, of_bound), allowed)
    return worst


def _allowed(source: Source, parameters: Arrays, trial: Trial, arithmetic: Arithmetic, exact: Arithmetic) -> Array:
    """By class, how far file and backend may be apart: how far each of them may be from the oracle."""

    def bound(arithmetic: Arithmetic) -> Array:
        oracle = Oracle(source.spec, parameters, trial.images, None, arithmetic, replicas=REPLICAS)
        return oracle.outputs()[source.spec.layers[-1].name].bound

    of_backend = bound(exact)
    return of_backend + (of_backend if arithmetic == exact else bound(arithmetic))


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
