"""Every operation of the PyTorch network against the oracle, and the module as a PyTorch user meets it."""

from __future__ import annotations

import copy
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import backends.torch
import spec
from backends.numpy import NumpyBackend
from backends.tests import small
from backends.torch.backend import TorchBackend
from backends.torch.compiled import compiled
from backends.torch.model import AvgPool2d, MaxPool2d, pool_arguments
from backends.torch.normalization import Channels, ResponseNorm, ResponseNormFunction, Square
from spec import geometry

Layers = dict[str, dict[str, Any]]
LRN = {"op": "lrn", "size": 5, "alpha": 0.3, "alpha_over": "size", "beta": 0.75, "k": 2.0}
SIDES = {"top": 0, "bottom": 1, "left": 2, "right": 0}

CASES: dict[str, Layers] = {
    "conv": {"a": {"op": "conv", "out_channels": 4, "kernel": 3, "stride": 2, "padding": 1}},
    "conv without bias": {"a": {"op": "conv", "out_channels": 4, "kernel": 2, "bias": False}},
    "conv in groups": {"a": {"op": "conv", "out_channels": 9, "kernel": 3, "groups": 3}},
    "conv, sides padded differently": {"a": {"op": "conv", "out_channels": 4, "kernel": 3, "padding": SIDES}},
    "conv, rounded up": {"a": {"op": "conv", "out_channels": 4, "kernel": 4, "stride": 3, "rounding": "ceil"}},
    "conv, oblong": {
        "a": {
            "op": "conv",
            "out_channels": 4,
            "kernel": {"height": 3, "width": 2},
            "stride": {"height": 1, "width": 2},
            "padding": {"top": 1, "bottom": 1, "left": 0, "right": 0},
        }
    },
    "local": {"a": {"op": "local", "out_channels": 4, "kernel": 3, "stride": 2, "padding": 1}},
    "local in groups, rounded up": {
        "a": {
            "op": "local",
            "out_channels": 6,
            "kernel": 4,
            "stride": 3,
            "groups": 2,
            "rounding": "ceil",
            "bias": False,
        }
    },
    "max_pool of signed values, rounded up": {"a": {"op": "max_pool", "kernel": 4, "stride": 3, "rounding": "ceil"}},
    "max_pool, padded": {"a": {"op": "max_pool", "kernel": 3, "stride": 2, "padding": 1}},
    "max_pool, padded as PyTorch refuses": {"a": {"op": "max_pool", "kernel": 3, "stride": 2, "padding": 2}},
    "max_pool, sides padded differently": {"a": {"op": "max_pool", "kernel": 3, "stride": 2, "padding": SIDES}},
    "avg_pool over the window": {
        "a": {"op": "avg_pool", "kernel": 3, "stride": 2, "padding": 1, "rounding": "ceil", "divisor": "window"}
    },
    "avg_pool inside, rounded up": {
        "a": {"op": "avg_pool", "kernel": 4, "stride": 3, "rounding": "ceil", "divisor": "inside"}
    },
    "avg_pool inside, sides padded differently": {
        "a": {"op": "avg_pool", "kernel": 3, "stride": 2, "padding": SIDES, "divisor": "inside"}
    },
    "avg_pool over the window, padded as PyTorch refuses": {
        "a": {"op": "avg_pool", "kernel": 3, "stride": 2, "padding": 2, "divisor": "window"}
    },
    "lrn": {"a": LRN},
    "lrn, even window": {"a": {**LRN, "size": 4, "before": 1}},
    "lrn, one-sided window": {"a": {**LRN, "size": 3, "before": 0}},
    "lrn, window beyond all channels": {"a": {**LRN, "size": 25}},
    "lrn of two towers": {"a": {**LRN, "groups": 2}},
    "lrn, alpha undivided": {"a": {**LRN, "alpha_over": "one"}},
    "lrn, beta 0.5": {"a": {**LRN, "beta": 0.5}},
    "lrn, beta 1": {"a": {**LRN, "beta": 1.0}},
    "lrn, beta 0.6": {"a": {**LRN, "beta": 0.6}},
    "spatial_norm": {
        "a": {"op": "spatial_norm", "size": 5, "alpha": 0.5, "alpha_over": "area", "beta": 0.75, "k": 1.0}
    },
    "spatial_norm over all": {
        "a": {"op": "spatial_norm", "size": 15, "alpha": 0.5, "alpha_over": "one", "beta": 0.6, "k": 1.0}
    },
    "relu": {"a": {"op": "relu"}},
    "tanh": {"a": {"op": "tanh", "amplitude": 1.7159, "slope": 0.6667}},
    "dropout scaled in training": {"a": {"op": "dropout", "rate": 0.3, "scale": "train"}},
    "dropout scaled in evaluation": {"a": {"op": "dropout", "rate": 0.3, "scale": "test"}},
    "dropout of nothing": {"a": {"op": "dropout", "rate": 0.0, "scale": "test"}},
    "dense in groups": {"flatten": {"op": "flatten"}, "a": {"op": "dense", "out_features": 6, "groups": 3}},
    "dense without bias": {"flatten": {"op": "flatten"}, "a": {"op": "dense", "out_features": 5, "bias": False}},
}


def network_of(layers: Layers) -> spec.Spec:
    tail = {} if "flatten" in layers else {"flatten": {"op": "flatten"}}
    return small.spec({**layers, **tail, "scores": {"op": "dense", "out_features": 3}}, channels=6, size=8)


def require_close(found: np.ndarray, expected: np.ndarray, what: str) -> None:
    """float64 against float64, relative to the largest value: sums of at most some thousand terms."""
    assert found.shape == expected.shape, what
    error = np.abs(found - expected).max(initial=0) / max(1e-300, np.abs(expected).max(initial=0))
    assert error < 1e-12, f"{what}: relative error {error:.1e}"


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("layers", CASES.values(), ids=CASES.keys())
def test_agrees_with_the_oracle(layers: Layers, training: bool) -> None:
    chosen = network_of(layers)
    rng = np.random.default_rng(0)
    oracle, ours = NumpyBackend(chosen), TorchBackend(chosen, dtype="float64", device="cpu")
    parameters = {name: rng.normal(size=shape) for name, shape in geometry(chosen).parameters.items()}
    images, cotangent = rng.normal(size=(3, 6, 8, 8)), rng.normal(size=(3, 3))
    masks = {name: rng.random((3, *shape)) < 0.6 for name, shape in spec.dropout_shapes(chosen).items()}
    for backend in (oracle, ours):
        backend.load(parameters)
    chosen_masks = masks if training else None
    expected, found = oracle.outputs(images, chosen_masks), ours.outputs(images, chosen_masks)
    assert list(expected) == list(found)
    for name in expected:
        require_close(found[name], expected[name], name)
    wanted, got = oracle.gradients(images, cotangent, chosen_masks), ours.gradients(images, cotangent, chosen_masks)
    require_close(got.input, wanted.input, "gradient by the input")
    require_close(got.logits, wanted.logits, "logits")
    for name in wanted.parameters:
        require_close(got.parameters[name], wanted.parameters[name], f"gradient by {name}")


@pytest.mark.parametrize(("top", "left"), [(0, 0), (1, 0), (1, 1)])
@pytest.mark.parametrize("rounding", ["floor", "ceil"])
@pytest.mark.parametrize("pool", [MaxPool2d, AvgPool2d])
def test_pools_do_the_same_with_and_without_arguments_of_their_own(
    monkeypatch: pytest.MonkeyPatch, pool: type, rounding: str, top: int, left: int
) -> None:
    op = {"op": "max_pool"} if pool is MaxPool2d else {"op": "avg_pool", "divisor": "inside"}
    padding = {"top": top, "bottom": top, "left": left, "right": left}
    layer = {**op, "kernel": 3, "stride": 2, "rounding": rounding, "padding": padding}
    x = torch.randn(2, 6, 8, 8, dtype=torch.float64)
    place = geometry(network_of({"a": layer})).layers[0]
    assert pool_arguments(place) is not None, "this case is about pools for which PyTorch has arguments"
    native = pool(place)(x)
    monkeypatch.setattr("backends.torch.model.pool_arguments", lambda place: None)
    torch.testing.assert_close(pool(place)(x), native, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(
    "name", [name for name, layers in CASES.items() if layers.get("a", {}).get("op") in ("lrn", "spatial_norm")]
)
def test_the_backward_of_response_normalisation_is_its_derivative(name: str) -> None:
    norm = ResponseNorm(geometry(network_of(CASES[name])).layers[0])
    x = torch.randn(2, 6, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(norm, (x,))
    channels_last = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    assert torch.autograd.gradcheck(norm, (channels_last,))


def test_a_sum_of_squares_does_not_cancel() -> None:
    """A channel of 1e5 beside channels of 1: a running sum would lose the small ones for good."""
    layers = {"a": {**LRN, "alpha_over": "one", "alpha": 1.0}}
    chosen = network_of(layers)
    images = np.ones((1, 6, 8, 8))
    images[:, 0] = 1e5
    found = TorchBackend(chosen, dtype="float32", device="cpu").outputs(images)["a"]
    expected = NumpyBackend(chosen).outputs(images)["a"]
    assert np.abs(found / expected - 1).max() < 1e-6


def test_build_gives_a_plain_module_with_canonical_names_and_the_initial_parameters() -> None:
    chosen = small.spec()
    network = backends.torch.build(chosen, seed=3)
    expected = spec.initial_parameters(chosen, 3)
    state = network.state_dict()
    assert list(state) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(state[name].numpy(), value)
    assert [name for name, _ in network.named_children()] == [layer.name for layer in chosen.layers]
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    copy.deepcopy(network).load_state_dict(state)
    assert backends.torch.build(chosen, dtype=torch.float64).fc8.weight.dtype == torch.float64


def test_a_layer_may_be_called_as_a_method_is() -> None:
    layers = {"train": {"op": "flatten"}, "half": {"op": "relu"}, "forward": {"op": "dense", "out_features": 3}}
    network = backends.torch.build(small.spec(layers))
    assert set(network.state_dict()) == {"forward.weight", "forward.bias"}
    assert network.eval()(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


def test_a_training_loop_of_a_users_own_draws_its_own_dropout() -> None:
    network = backends.torch.build(small.spec())
    x = torch.randn(64, 1, 8, 8)
    torch.manual_seed(0)
    first, second = network.train()(x), network(x)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(network(x), first)
    assert torch.equal(network.eval()(x), network(x))


@pytest.mark.parametrize("scale", ["train", "test"])
def test_drawn_dropout_keeps_as_many_and_scales_as_stated(scale: str) -> None:
    layers = {
        "flatten": {"op": "flatten"},
        "a": {"op": "dropout", "rate": 0.2, "scale": scale},
        "fc": CASES["dense in groups"]["a"],
    }
    drop = backends.torch.build(small.spec({**layers, "fc": {"op": "dense", "out_features": 3}})).a
    x = torch.ones(100_000)
    kept = drop.train()(x)
    assert abs((kept > 0).double().mean().item() - 0.8) < 0.01  # eight standard deviations
    assert kept.max().item() == pytest.approx(1.25 if scale == "train" else 1.0)
    assert drop.eval()(x).unique().tolist() == pytest.approx([1.0 if scale == "train" else 0.8])


def test_masks_mean_training_in_either_mode() -> None:
    network = backends.torch.build(small.spec())
    x, masks = torch.randn(3, 1, 8, 8), {"drop6": torch.rand(3, 16) < 0.5}
    assert torch.equal(network.train()(x, masks), network.eval()(x, masks))
    assert not torch.equal(network(x, masks), network(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("threads", [1, 3])
@given(
    window=st.builds(Channels, st.integers(0, 9), st.integers(0, 9), st.sampled_from((1, 2, 3))),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 30).map(lambda n: 6 * n), st.integers(1, 25), st.integers(1, 25)),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_the_compiled_loop_of_response_normalisation_has_the_bits_of_the_operations(
    dtype: torch.dtype, threads: int, window: Channels, shape: tuple[int, int, int, int], seed: int
) -> None:
    drawn = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=drawn).mul_(30).relu_().to(dtype, memory_format=torch.channels_last)
    slope = torch.randn(shape, generator=drawn).to(dtype)
    found, before = [], torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        torch.set_num_threads(threads)
        try:
            for compiled in (True, False):
                x = x.detach().requires_grad_()
                y = ResponseNormFunction.apply(x, window, 0.02, 0.75, 2.0)
                assert (y.grad_fn.loop is not None) == compiled
                found.append((y.detach(), *torch.autograd.grad(y, x, slope)))
                patch.setattr("backends.torch.normalization.loop", lambda x, window, beta: None)
        finally:
            torch.set_num_threads(before)
    for ours, theirs in zip(*found, strict=True):
        assert ours.dtype == dtype
        assert ours.is_contiguous(memory_format=torch.channels_last)
        assert ours.double().numpy().tobytes() == theirs.double().numpy().tobytes()  # zeros of either sign are two


def test_without_numba_response_normalisation_says_that_it_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    for name in ("backends.torch.channel_norm", "data.compiled"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr("backends.torch.channel_norm", raising=False)
    compiled.cache_clear()
    x = torch.ones(1, 6, 2, 2).contiguous(memory_format=torch.channels_last)
    try:
        with pytest.warns(UserWarning, match="slower without Numba"):
            y = ResponseNormFunction.apply(x, Channels(2, 2, 1), 1.0, 0.75, 2.0)
    finally:
        compiled.cache_clear()
    assert y[0, :, 0, 0].tolist() == pytest.approx([(2 + n) ** -0.75 for n in (3, 4, 5, 5, 4, 3)])


@pytest.mark.parametrize("window", [Channels(2, 2, 1), Channels(1, 2, 3), Square(3)], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_response_normalisation_is_the_same_to_the_bit_in_blocks_of_any_size(
    monkeypatch: pytest.MonkeyPatch, window: Channels | Square, layout: torch.memory_format
) -> None:
    monkeypatch.setattr("backends.torch.normalization.loop", lambda x, window, beta: None)
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(7, 6, 5, 4, generator=drawn).to(memory_format=layout).requires_grad_()
    slope = torch.randn(x.shape, generator=drawn)
    found = []
    for elements in (1, 300, 1 << 30):  # an image at a time, two, all
        monkeypatch.setattr("backends.torch.normalization.BLOCK", elements)
        y = ResponseNormFunction.apply(x, window, 0.5, 0.75, 1.0)
        assert y.is_contiguous(memory_format=layout)
        found.append((y.detach(), *torch.autograd.grad(y, x, slope)))
    for part in found[1:]:
        assert all(map(torch.equal, part, found[0]))
