"""The bounds: what they are made of, that rounding stays within them, and that hardly anything else does."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import spec
from backends.numpy import NumpyBackend
from backends.numpy.network import Step
from backends.numpy.ops import FORWARD, Call, response
from backends.onnx.backend import LrnNodeBackend
from conformance import oracle
from conformance.bounds import (
    EXTREME,
    UNIT_ROUNDOFF,
    Arithmetic,
    backward_rounding,
    bound,
    channel_largest,
    forward_rounding,
)
from conformance.checks import Examination, Job, examine, first_fault
from conformance.oracle import Expected, Oracle
from conformance.specs import chooser, generate, slim
from conformance.suite import loud
from conformance.tests.altered import restated
from conformance.tests.conftest import require
from spec.arithmetic import follow
from spec.language import Conv, Dense, Lrn, Size

U = UNIT_ROUNDOFF["float32"]


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("terms", [16, 300, 4000])
def test_a_sum_taken_term_by_term_loses_what_the_model_says(terms, signed):
    """The least careful order there is, in float32, beside the standard deviation of :func:`forward_rounding`."""
    draw = np.random.default_rng(terms)
    x = draw.standard_normal((64, terms), np.float32)
    w = draw.standard_normal((32, terms), np.float32)
    if not signed:
        x, w = np.abs(x), np.abs(w)
    partial = np.zeros((64, 32), np.float32)
    for k in range(terms):
        partial += x[:, k, None] * w[None, :, k]
    layer = follow((terms,), (Dense(name="fc", op="dense", out_features=32, bias=False),)).layers[0]
    call = Call(layer, x.astype(np.float64), {"weight": w.astype(np.float64)})
    exact = FORWARD["dense"](call)
    std = forward_rounding(call, exact, Arithmetic("float32"))
    measured = math.sqrt(np.mean(((partial - exact) / std) ** 2))
    assert 0.5 < measured < 1.3


@pytest.mark.parametrize("run", [1, 4, 49, 2025])
def test_equal_terms_in_a_row_lose_what_the_model_says(run):
    """The gradient of biases in front of an average pool, in float32 and one term after the other."""
    draw, channels = np.random.default_rng(run), 500
    rows = max(1, 400 // run)
    dy = np.repeat(draw.standard_normal((3, channels, rows), np.float32), run, axis=2)
    dy *= draw.random(dy.shape) < 0.9 if run == 1 else 1  # zeros are no run
    partial = np.zeros(channels, np.float32)
    for image in dy:
        for place in range(rows * run):
            partial += image[:, place]
    conv = Conv(name="conv", op="conv", out_channels=channels, kernel=Size(height=1, width=1))
    layer = follow((1, rows, run), (conv,)).layers[0]
    wide = dy.reshape(3, channels, rows, run).astype(np.float64)
    call = Call(layer, np.ones((3, 1, rows, run)), {"weight": np.ones((channels, 1, 1, 1)), "bias": np.ones(channels)})
    gradients = {"weight": np.zeros((channels, 1, 1, 1)), "bias": wide.sum(axis=(0, 2, 3))}
    _, stds = backward_rounding(call, wide, np.zeros_like(call.x), gradients, Arithmetic("float32"))
    # The model says the largest by channel, which is a few times the root mean square over channels.
    measured = np.abs(partial - gradients["bias"]).max() / stds["bias"].max() / EXTREME
    assert 0.1 < measured < 1.3


def lrn_call(loudness: float) -> Call:
    """A map in which one channel is `loudness` and the rest of the order of 1."""
    layer = Lrn(name="norm", op="lrn", size=5, alpha=1e-4, alpha_over="size", beta=0.75, k=1.0)
    x = np.random.default_rng(1).standard_normal((1, 24, 5, 3))
    x[:, 3] *= loudness
    return Call(follow((24, 5, 3), (layer,)).layers[0], x.astype(np.float32).astype(np.float64))


def running_sum_lrn(call: Call) -> Any:
    """LRN in float32 whose window moves by adding its head and subtracting its tail."""
    layer, x = call.layer, call.x.astype(np.float32)
    squares = np.float32(layer.coefficient) * np.pad(x * x, ((0, 0), (2, 2), (0, 0), (0, 0)))
    s = np.empty_like(x)
    s[:, 0] = np.float32(layer.k) + squares[:, :5].sum(axis=1)
    for c in range(1, x.shape[1]):
        s[:, c] = s[:, c - 1] + squares[:, c + 4] - squares[:, c - 1]
    return x * s ** np.float32(-layer.beta)


def test_a_running_sum_needs_its_own_bound_and_keeps_it():
    call = lrn_call(1e5)
    exact = FORWARD["lrn"](call)
    error = np.abs(running_sum_lrn(call) - exact)
    plain = forward_rounding(call, exact, Arithmetic("float32"))
    running = forward_rounding(call, exact, Arithmetic("float32", running_sum_lrn=True))
    assert (error / plain).max() > 1000
    assert (error / running).max() < 5
    # The loud channel has left the window of channel 12 long ago, and yet its square is what the sum's digits are of.
    assert response(call)[:, 12].max() < 1.01
    assert error[:, 12].max() > 100 * plain[:, 12].max()


def test_the_lrn_kernel_of_onnx_runtime_has_a_bound_of_its_own_and_keeps_it(pool):
    """Behind a loud channel it is hundreds of plain bounds away, but within those derived for a running sum."""
    e = Examination(Job(loud(), loud=True))
    backend = LrnNodeBackend(e.spec)
    plain = first_fault(examine(e, backend, trains=False))
    assert plain is not None
    assert plain.tensor == "the output of norm"
    assert plain.ratio > 50
    running = examine(e.running, backend, trains=False)
    assert first_fault(running) is None
    assert max(finding.ratio for finding in running) > 0.05, "the bounds are loose"
    (result,) = pool.run(["backends.onnx.backend:LrnNodeBackend"], e.job)
    require(result)


def test_where_no_channel_is_loud_a_running_sum_costs_little():
    call = lrn_call(1.0)
    exact = FORWARD["lrn"](call)
    plain, running = (forward_rounding(call, exact, Arithmetic("float32", running)) for running in (False, True))
    assert (running <= 4 * plain).all()


def test_what_does_not_round_has_no_bound():
    assert bound([np.zeros((1, 3, 1, 1))], None, "float32", 300).tolist() == [[[[0.0]], [[0.0]], [[0.0]]]]


@pytest.mark.parametrize("numbers", [1, 5, 40])
def test_the_bound_of_a_few_numbers_is_not_small_by_luck(numbers):
    """Eight runs, ten thousand times over: even the smallest bound is one that a right answer hardly ever leaves."""
    errors = np.random.default_rng(numbers).standard_normal((8, 10_000, numbers))
    found = np.array([float(bound(runs, None, "float32", numbers)) for runs in np.abs(errors).max(axis=2).T])
    assert found.min() > 2.5
    assert found.max() < 40


def test_channels_are_told_apart_where_enough_was_seen():
    array = np.ones((2, 3, 8, 8))
    array[:, 1] = -5.0
    assert channel_largest(array, 1).ravel().tolist() == [1.0, 5.0, 1.0]
    assert channel_largest(array[:, :, :2, :2], 1).ravel().tolist() == [5.0]
    assert channel_largest(np.array([[1.0, -7.0]]), 1).ravel().tolist() == [7.0]


@pytest.mark.parametrize("number", range(12))
def test_rounding_alone_stays_within_the_bounds(number):
    """The oracle's own formulas computed in float32: twelve networks, every check."""
    network = generate(chooser(number))
    e = Examination(Job(network, seed=number))
    findings = examine(e, NumpyBackend(network, dtype="float32"), trains=True)
    assert first_fault(findings) is None
    assert max(finding.ratio for finding in findings) > 0.05, "the bounds are loose"


EVERY_ATTRIBUTE = {
    "input": {"channels": 3, "height": 9, "width": 9},
    "data": {"storage": {"size": 9}},
    "layers": {
        "conv1": {"op": "conv", "out_channels": 8, "kernel": 3, "padding": 1},
        "norm1": {"op": "lrn", "size": 4, "before": 1, "alpha": 1e-3, "alpha_over": "size", "beta": 0.75, "k": 2.0},
        "conv2": {"op": "conv", "out_channels": 6, "kernel": 3},
        "norm2": {"op": "spatial_norm", "size": 3, "alpha": 1e-2, "alpha_over": "area", "beta": 0.75, "k": 1.0},
        "conv3": {"op": "conv", "out_channels": 5, "kernel": 2},
        "tanh3": {"op": "tanh", "amplitude": 1.7159, "slope": 0.6667},
        "flatten": {"op": "flatten"},
        "fc4": {"op": "dense", "out_features": 13},
        "drop4": {"op": "dropout", "rate": 0.5, "scale": "test"},
        "fc5": {"op": "dense", "out_features": 11},
        "drop5": {"op": "dropout", "rate": 0.3, "scale": "train"},
        "fc6": {"op": "dense", "out_features": 7},
    },
}
FORWARD_ATTRIBUTES = [
    ("norm1", "alpha"), ("norm1", "beta"), ("norm1", "k"),
    ("norm2", "alpha"), ("norm2", "beta"), ("norm2", "k"),
    ("tanh3", "amplitude"), ("tanh3", "slope"),
    ("drop4", "rate"), ("drop5", "rate"),
]  # fmt: skip


@pytest.fixture(scope="module")
def sensitive() -> Examination:
    base = spec.load("fashion-mini").statement() | {"provenance": {}}
    values = base | EVERY_ATTRIBUTE | {"data": {**base["data"], "storage": {"size": 9, "fit": "stretch"}}, "expect": {}}
    values["init"] = {**base["init"], "parameters": {}}
    values["training"] = {**base["training"], "weight_decay": {"*": 0.05}}
    return Examination(Job(spec.from_values(values)))


@pytest.mark.parametrize(("layer", "attribute"), FORWARD_ATTRIBUTES)
def test_a_thousandth_of_an_attribute_is_noticed(sensitive, layer, attribute):
    """In float64, so that nothing but the attribute differs."""
    value = getattr(sensitive.spec.layer(layer), attribute)
    wrong = NumpyBackend(restated(sensitive.spec, layers={layer: {attribute: value * 1.001}}), dtype="float64")
    fault = first_fault(_in_dtype(sensitive, wrong, ("evaluation-outputs", "training-outputs")))
    assert fault is not None
    assert fault.tensor == f"the output of {layer}"


def test_a_thousandth_of_the_momentum_is_noticed(sensitive):
    other = restated(sensitive.spec, training={"optimizer": {"momentum": 0.9 * 1.001}})
    fault = first_fault(_in_dtype(sensitive, NumpyBackend(other, dtype="float64"), ("training-steps",)))
    assert fault is not None
    assert fault.tensor.startswith("the velocity")


@pytest.mark.parametrize("which", ["learning_rate", "weight_decay"])
def test_a_thousandth_of_a_setting_is_noticed(sensitive, which):
    class Wrong(NumpyBackend):
        def step(self, images: Any, labels: Any, settings: Any, masks: Any) -> None:
            wrong = {name: replace(one, **{which: getattr(one, which) * 1.001}) for name, one in settings.items()}
            super().step(images, labels, wrong, masks)

    fault = first_fault(_in_dtype(sensitive, Wrong(sensitive.spec, dtype="float64"), ("training-steps",)))
    assert fault is not None
    assert fault.tensor.startswith("the velocity")


def _in_dtype(e: Examination, backend: Any, only: tuple[str, ...]) -> Any:
    """Examine a float64 backend as if it were one of the examination's dtype."""

    class Rounded:
        def __getattr__(self, name: str) -> Any:
            found = getattr(backend, name)
            if name not in ("outputs", "parameters", "velocities"):
                return found
            return lambda *args: {k: v.astype(e.arithmetic.dtype) for k, v in found(*args).items()}

    return examine(e, Rounded(), trains=True, only=only)


def test_a_correct_backend_in_float64_passes_as_float32(sensitive):
    """The other tests' way of asking finds nothing where nothing is wrong."""
    right = NumpyBackend(sensitive.spec, dtype="float64")
    assert (
        first_fault(_in_dtype(sensitive, right, ("evaluation-outputs", "training-outputs", "training-steps"))) is None
    )


def _dense_call(rows: int, columns: int, draw: np.random.Generator) -> Call:
    layer = follow((columns,), (Dense(name="fc", op="dense", out_features=rows, bias=False),)).layers[0]
    return Call(layer, draw.standard_normal((2, columns)), {"weight": draw.standard_normal((rows, columns))})


def test_of_a_large_weight_the_loudest_rows_and_a_share_of_the_others_are_watched(monkeypatch):
    draw = np.random.default_rng(0)
    call = _dense_call(200, 40, draw)
    step = Step(call, FORWARD["dense"](call))
    gradient = draw.standard_normal((200, 40))
    gradient[[11, 77]] *= 50  # the label's row, say: no other gradient is as loud
    assert oracle._watched([step], {"fc.weight": gradient}) == {}, "it is small"
    monkeypatch.setattr(oracle, "ENOUGH", 200 * 40 // 10)
    rows = oracle._watched([step], {"fc.weight": gradient})["fc.weight"]
    assert {11, 77} <= set(rows)
    assert set(range(0, 200, 10)) <= set(rows)
    assert len(rows) <= 20 + oracle.LOUDEST


def test_bounds_of_a_thinned_weight_are_a_fair_share_of_those_of_the_whole(monkeypatch):
    """And the values are the same. The row of the label is loud: a class that a softmax is sure of has hardly any."""
    network = slim(spec.load("caffenet"))
    e = Examination(Job(network))
    case, labels = e.case, e.case.labels

    def expected() -> dict[str, Expected]:
        made = Oracle(network, case.parameters, case.images, case.masks, e.arithmetic, replicas=8, seed=case.seed)
        return made.loss_gradients(labels)

    whole = expected()
    weights = [name for name in whole if name.startswith("fc") and name.endswith(".weight")]
    monkeypatch.setattr(oracle, "ENOUGH", 16)
    monkeypatch.setattr(oracle, "LOUDEST", 2)
    thinned = expected()
    assert len(weights) == 3
    for name in whole:
        assert np.array_equal(thinned[name].value, whole[name].value), name
        share = float((thinned[name].bound / whole[name].bound).min())
        assert 0.5 <= share <= 1.0 if name in weights else share == 1.0, (name, share)
    quietest = {name: np.abs(whole[name].value).max(axis=1).argmin(keepdims=True) for name in weights}
    monkeypatch.setattr(oracle, "_watched", lambda steps, gradients: quietest)
    blind = expected()
    assert all((blind[name].bound < 0.5 * whole[name].bound).all() for name in weights), "any row would do"
