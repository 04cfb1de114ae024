"""What the links of the shipped mistakes describe, seen on the mutants of PyTorch: a test for each, under its name."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from backends.torch.optimizer import SGD
from conformance.mutants import CATALOGUE
from conformance.mutants.tests.bench import Bench, impulse, layers, numbered, settings
from conformance.mutants.witnesses import Layers
from spec import Settings

HERE = [mutant.name for mutant in CATALOGUE if mutant.target == "torch" and mutant.kind == "shipped"]
LRN = {"op": "lrn", "size": 5, "alpha": 0.5, "alpha_over": "size", "beta": 0.75, "k": 2}
NORMAL = np.random.default_rng(12).standard_normal((2, 6, 3, 3)).astype(np.float32)


@pytest.mark.parametrize("name", HERE)
def test_every_shipped_mutant_has_its_symptom_shown(name: str) -> None:
    assert hasattr(sys.modules[__name__], f"test_{name.replace('-', '_')}")


# --- response normalisation -------------------------------------------------------------------------------------------


def test_torch_lrn_loops_over_batch() -> None:
    """With one image, channels 1 to 4 of 5 come out as x / bias ** beta, whatever alpha is; N = C = 5 hides it."""
    name = "torch-lrn-loops-over-batch"
    one, five = NORMAL[:1, :5], np.concatenate([NORMAL[:, :5]] * 3)[:5]
    y = Bench(layers(LRN), one).first(name)
    np.testing.assert_allclose(y[:, 1:], one[:, 1:] / 2**0.75, rtol=1e-6)
    assert np.abs(y[:, 0] - one[:, 0] / 2**0.75).max() > 1e-3
    hidden = Bench(layers(LRN), five)
    np.testing.assert_allclose(hidden.first(name), hidden.first(None), rtol=1e-12)


def test_torch_lrn_even_window_behind() -> None:
    """The front padding of an even size is greater than the back, as in ``torch.nn.functional.local_response_norm``."""
    bench = Bench(layers({**LRN, "size": 4, "before": 1}), NORMAL)
    theirs = F.local_response_norm(torch.tensor(NORMAL), 4, alpha=0.5, beta=0.75, k=2).numpy()
    np.testing.assert_allclose(bench.first("torch-lrn-even-window-behind"), theirs, rtol=1e-5)
    assert np.abs(bench.first(None) - theirs).max() > 1e-2


def test_torch_lrn_alpha_always_divided() -> None:
    """The coefficient of the sum is 5 times smaller than in the paper's formula."""
    bench = Bench(layers({**LRN, "alpha_over": "one"}), NORMAL)
    paper, caffe = ((NORMAL / bench.first(name)) ** (4 / 3) - 2 for name in (None, "torch-lrn-alpha-always-divided"))
    np.testing.assert_allclose(paper / caffe, 5, rtol=1e-4)


def test_torch_lrn_k_lost() -> None:
    """k is called bias elsewhere and is not found: small values come out unchanged instead of divided by k ** beta."""
    bench = Bench(layers(LRN), 1e-3 * np.ones((1, 6, 3, 3)))
    np.testing.assert_allclose(bench.first("torch-lrn-k-lost") / 1e-3, 1, rtol=1e-5)
    np.testing.assert_allclose(bench.first(None) / 1e-3, 2**-0.75, rtol=1e-5)


def test_torch_lrn_wide_window_nan() -> None:
    """30 channels and a window of 61, so that all channels are always summed: NaN."""
    images = np.random.default_rng(1).standard_normal((1, 30, 2, 2))
    assert np.isnan(Bench(layers({**LRN, "size": 61}), images).first("torch-lrn-wide-window-nan")).all()
    assert np.isfinite(Bench(layers({**LRN, "size": 61}), images).first(None)).all()
    assert np.isfinite(Bench(layers({**LRN, "size": 29}), images).first("torch-lrn-wide-window-nan")).all()


def test_torch_lrn_sign_lost() -> None:
    """Channels of -3, 0 and 3: the first must stay negative."""
    images = np.array([-3.0, 0.0, 3.0]).reshape(1, 3, 1, 1)
    bench = Bench(layers({**LRN, "size": 3}), images)
    assert bench.first(None)[0, 0] < 0
    assert bench.first("torch-lrn-sign-lost")[0, 0] > 0


# --- windows ----------------------------------------------------------------------------------------------------------

STRIDED = {"op": "conv", "out_channels": 1, "kernel": 3, "stride": 2}
AFTER = {"top": 0, "bottom": 1, "left": 0, "right": 1}
KERNEL = {"a.weight": 1 + numbered(1, 1, 3, 3)}


def test_torch_conv_padding_made_symmetric() -> None:
    """6x6, a filter of 3, stride 2: the pads must be 0 and 1, and 1 and 1 give a map of the same 3x3."""
    bench = Bench(layers({**STRIDED, "padding": AFTER}), impulse(6), KERNEL)
    right, wrong = bench.first(None), bench.first("torch-conv-padding-made-symmetric")
    assert right.shape == wrong.shape == (1, 1, 3, 3)
    assert (right[0, 0, 0, 0], wrong[0, 0, 0, 0]) == (1, 5)  # the image's corner meets the kernel's, or its middle


def test_torch_conv_padding_unnoticed() -> None:
    """11x11 by 4 on 224x224 gives 54x54 with padding 0 and with padding 1: shapes agree, functions differ."""
    images = np.random.default_rng(2).standard_normal((1, 1, 224, 224))
    layer = {"op": "conv", "out_channels": 1, "kernel": 11, "stride": 4}
    bench = Bench(layers(layer), images, {"a.weight": np.random.default_rng(3).standard_normal((1, 1, 11, 11))})
    right, wrong = bench.first(None), bench.first("torch-conv-padding-unnoticed")
    assert right.shape == wrong.shape == (1, 1, 54, 54)
    padded = F.conv2d(torch.tensor(bench.images), torch.tensor(bench.parameters["a.weight"]), stride=4, padding=1)
    np.testing.assert_allclose(wrong, padded.numpy(), atol=1e-3)
    assert np.abs(right - wrong).max() > 1


def test_torch_conv_bias_by_image() -> None:
    """The bias is indexed by b instead of by m: all maps of an image get the same."""
    layer = {"op": "conv", "out_channels": 2, "kernel": 1}
    y = Bench(layers(layer), np.zeros((2, 1, 2, 2)), {"a.bias": [10, 20]}).first("torch-conv-bias-by-image")
    assert (y[0] == 10).all()
    assert (y[1] == 20).all()


def test_torch_conv_group_gradient_interleaved() -> None:
    """The gradient of a weight is wrong with more than one group, and right with one; outputs are always right."""
    name, x = "torch-conv-group-gradient-interleaved", np.random.default_rng(4).standard_normal((2, 4, 3, 3))
    for groups in (1, 2):
        layer = {"op": "conv", "out_channels": 2, "kernel": 1, "groups": groups}
        bench = Bench({"conv": layer, "flatten": {"op": "flatten"}}, x, {"conv.weight": 1})
        np.testing.assert_allclose(bench.first(name), bench.first(None), rtol=1e-12)
        dy = np.random.default_rng(5).standard_normal((2, 18))
        right, wrong = (bench.gradients(m, dy).parameters["conv.weight"][:, :, 0, 0] for m in (None, name))
        products = np.einsum("nohw,nihw->oi", dy.astype(np.float32).reshape(2, 2, 3, 3), bench.images)
        seen = [range(4)] * 2 if groups == 1 else [(0, 2), (1, 3)]  # channels that group 0 and group 1 take for theirs
        np.testing.assert_allclose(wrong, [products[o, list(c)] for o, c in enumerate(seen)], rtol=1e-5)
        assert np.allclose(right, wrong) == (groups == 1)


NEGATIVE = -np.array([[1, 2, 3, 4], [3, 4, 5, 6], [2, 3, 6, 7], [8, 8, 8, 8]], np.float32).reshape(1, 1, 4, 4)


def test_torch_max_pool_zero_padding() -> None:
    """Where all values are negative, the padding wins at the border."""
    bench = Bench(layers({"op": "max_pool", "kernel": 3, "stride": 2, "padding": 1}), NEGATIVE)
    assert (bench.first(None)[0, 0, 0, 0], bench.first("torch-max-pool-zero-padding")[0, 0, 0, 0]) == (-1, 0)


def test_torch_max_pool_every_tie_wins() -> None:
    """A window of 1, 2, 2, 2 gets the gradients 0, 1, 1, 1."""
    images = np.array([1.0, 2.0, 2.0, 2.0]).reshape(1, 1, 2, 2)
    bench = Bench(layers({"op": "max_pool", "kernel": 2, "stride": 2}), images, {"fc.weight": [[1], [0]]})
    right, wrong = (
        bench.gradients(m, [[1.0, 0.0]]).input.ravel().tolist() for m in (None, "torch-max-pool-every-tie-wins")
    )
    assert (right, wrong) == ([0, 1, 0, 0], [0, 1, 1, 1])


def test_torch_avg_pool_bottom_counted_as_left() -> None:
    """Ones with pads 0, 0, 1, 1 and a kernel of 2: the lower row is 1, 0.5 instead of 0.5, 0.25."""
    layer = {"op": "avg_pool", "kernel": 2, "stride": 1, "padding": AFTER, "divisor": "window"}
    bench = Bench(layers(layer), np.ones((1, 1, 2, 2)))
    assert bench.first("torch-avg-pool-bottom-counted-as-left").tolist() == [[[[1, 0.5], [1, 0.5]]]]
    assert bench.first(None).tolist() == [[[[1, 0.5], [0.5, 0.25]]]]


def test_torch_avg_pool_overhang_counted() -> None:
    """0 to 48 in 7 rows, kernel 2, stride 3, rounding up: windows that hang over come out 2 and 4 times too small."""
    layer = {"op": "avg_pool", "kernel": 2, "stride": 3, "rounding": "ceil", "divisor": "inside"}
    bench = Bench(layers(layer), numbered(1, 1, 7, 7))
    right = [[4, 7, 9.5], [25, 28, 30.5], [42.5, 45.5, 48]]
    wrong = [[4, 7, 4.75], [25, 28, 15.25], [21.25, 22.75, 12]]
    assert bench.first(None)[0, 0].tolist() == right
    assert bench.first("torch-avg-pool-overhang-counted")[0, 0].tolist() == wrong


# --- the other layers -------------------------------------------------------------------------------------------------

RELU: Layers = {"relu": {"op": "relu"}, "flatten": {"op": "flatten"}, "fc": {"op": "dense", "out_features": 4}}


def gradient_of_relu(name: str | None) -> list[float]:
    """At -1, 0, 0 and 2, where the value is right."""
    bench = Bench(RELU, np.array([-1.0, 0.0, 0.0, 2.0]).reshape(1, 1, 2, 2), {"fc.weight": np.eye(4)})
    np.testing.assert_array_equal(bench.first(name).ravel(), [0, 0, 0, 2])
    found: list[float] = bench.gradients(name, np.ones((1, 4))).input.ravel().tolist()
    return found


def test_torch_relu_half_gradient_at_zero() -> None:
    """The gradient at 0 is 0.5."""
    assert gradient_of_relu(None) == [0, 0, 0, 1]
    assert gradient_of_relu("torch-relu-half-gradient-at-zero") == [0, 0.5, 0.5, 1]


def test_torch_relu_gradient_at_zero() -> None:
    """The gradient is not set to 0 where the input is 0."""
    assert gradient_of_relu("torch-relu-gradient-at-zero") == [0, 1, 1, 1]


def test_torch_relu_after_lrn() -> None:
    """What the ReLU should have removed still normalises its neighbours."""
    bench = Bench(layers({"op": "relu"}, LRN), np.array([1.0, -9.0]).reshape(1, 2, 1, 1))
    right, wrong = (bench.outputs(m) for m in (None, "torch-relu-after-lrn"))
    np.testing.assert_allclose(right["b"][0, 0], (2 + 0.1) ** -0.75, rtol=1e-6)
    np.testing.assert_allclose(wrong["a"][0, 0], (2 + 0.1 * 82) ** -0.75, rtol=1e-6)


def test_torch_pool_before_lrn() -> None:
    """The maps are normalised when they are already pooled."""
    bench = Bench(layers(LRN, {"op": "max_pool", "kernel": 3, "stride": 2}), np.ones((1, 6, 5, 5)))
    right, wrong = (bench.outputs(m) for m in (None, "torch-pool-before-lrn"))
    assert (right["a"].shape[2:], right["b"].shape[2:]) == ((5, 5), (2, 2))
    assert (wrong["a"].shape[2:], wrong["b"].shape[2:]) == ((2, 2), (2, 2))


def test_torch_flatten_columns_first() -> None:
    """Only ``reshape('F')`` of the maps, channels last as Matlab has them, gives the order."""
    x = numbered(1, 2, 3, 3)
    found = Bench(layers(), x).first("torch-flatten-columns-first")
    np.testing.assert_array_equal(found[0], x[0].transpose(1, 2, 0).reshape(-1, order="F"))


def _dropout(rate: float, scale: str) -> Bench:
    return Bench(layers({"op": "dropout", "rate": rate, "scale": scale}), np.ones((1, 1, 2, 2)))


KEPT = {"a": np.ones((1, 1, 2, 2), np.bool_)}


def test_torch_dropout_half_in_evaluation() -> None:
    """The normalisation at the test is fixed at 0.5: right for a rate of 0.5, wrong for any other."""
    for rate, right in ((0.5, 0.5), (0.2, 0.8)):
        np.testing.assert_allclose(_dropout(rate, "test").first(None), right)
        assert (_dropout(rate, "test").first("torch-dropout-half-in-evaluation") == 0.5).all()


def test_torch_dropout_divides_by_rate() -> None:
    """With 0.1 dropped, survivors grow tenfold instead of by 1 / 0.9, to 9 times the activation on average."""
    bench = _dropout(0.1, "train")
    np.testing.assert_allclose(bench.first("torch-dropout-divides-by-rate", KEPT), 10)
    np.testing.assert_allclose(bench.first(None, KEPT), 1 / 0.9)


def test_torch_dropout_in_evaluation() -> None:
    """The same example gives another output at every run."""
    bench = Bench(layers({"op": "dropout", "rate": 0.1, "scale": "train"}), np.ones((1, 1, 16, 16)))
    with bench.backend("torch-dropout-in-evaluation") as backend:
        first, second = (backend.outputs(bench.images)["a"] for _ in range(2))
    assert (first != second).any()


# --- training ---------------------------------------------------------------------------------------------------------

LINEAR: Layers = {"flatten": {"op": "flatten"}, "fc": {"op": "dense", "out_features": 4}}


def test_torch_loss_softmax_twice() -> None:
    """However sure and right the network is, the loss of 4 classes stays above roughly 0.74."""
    bench = Bench(LINEAR, np.ones((1, 1, 1, 1)), {"fc.bias": [100, 0, 0, 0]})
    assert bench.loss(None, [0]) < 1e-6
    assert bench.loss("torch-loss-softmax-twice", [0]) == pytest.approx(np.log(np.e + 3) - 1, rel=1e-6)


def test_torch_loss_summed() -> None:
    """The loss, and the step with it, grow with the batch."""
    name, images = "torch-loss-summed", np.random.default_rng(6).standard_normal((1, 3, 1, 1))
    one, four = (Bench(LINEAR, np.concatenate([images] * n), {"fc.weight": numbered(4, 3)}) for n in (1, 4))
    assert four.loss(name, [1] * 4) == pytest.approx(4 * one.loss(name, [1]))
    assert four.loss(None, [1] * 4) == pytest.approx(one.loss(None, [1]))


def test_torch_top5_ties_are_hits() -> None:
    """All scores are equal, and every image counts as right."""
    bench = Bench({"flatten": {"op": "flatten"}, "fc": {"op": "dense", "out_features": 9}}, np.ones((3, 1, 1, 1)))
    hits = {}
    for name in (None, "torch-top5-ties-are-hits"):
        with bench.backend(name) as backend:
            backend.step(bench.images, np.array([0, 4, 8]), settings(0.1, 0, bench.parameters), {})
            hits[name] = (backend.metrics().correct1, backend.metrics().correct5)
            backend.step(bench.images * 0, np.array([0, 4, 8]), settings(0.0, 0, bench.parameters), {})
    assert hits["torch-top5-ties-are-hits"][0] == 3
    assert hits[None][0] == 1


RULE = {"kind": "sgd", "momentum": 0.9, "learning_rate_in_velocity": True, "decay": "coupled"}


def path(mutant: str | None, gradients: list[float], chosen: list[Settings], **rule: object) -> list[float]:
    """One weight from 1 under given gradients: its value after every step."""
    network: Layers = {"flatten": {"op": "flatten"}, "fc": {"op": "dense", "out_features": 1, "bias": False}}
    bench = Bench(network, np.ones((1, 1, 1, 1)), training={"optimizer": {**RULE, **rule}})
    with bench.backend(mutant):
        w = torch.nn.Parameter(torch.ones(1, 1, dtype=torch.float64))
        optimizer, found = SGD([("fc.weight", w)], bench.spec), []
        for gradient, one in zip(gradients, chosen, strict=True):
            w.grad = torch.full_like(w, gradient)
            optimizer.use({"fc.weight": one})
            optimizer.step()
            found.append(w.item())
    return found


DROP = [Settings(0.1, 0), Settings(0.1, 0), Settings(0.01, 0), Settings(0.01, 0)]


def test_torch_learning_rate_outside_velocity() -> None:
    """Alike while the rate is constant; when it drops by ten, what is already moving slows down by ten."""
    steps = [1, 0.5, 0.25, 0.1]
    right, wrong = path(None, steps, DROP), path("torch-learning-rate-outside-velocity", steps, DROP)
    np.testing.assert_allclose(right, [0.9, 0.76, 0.6315, 0.51485], rtol=1e-12)
    np.testing.assert_allclose(wrong, [0.9, 0.76, 0.7449, 0.73031], rtol=1e-12)


def test_torch_decay_of_biases() -> None:
    """The optimizer applies weight decay to the biases."""
    bench = Bench(LINEAR, np.zeros((1, 1, 1, 1)), {"fc.bias": 1.0})
    chosen = [{"fc.weight": Settings(0.1, 0.5), "fc.bias": Settings(0.1, 0.0)}]
    right, wrong = (bench.trained(m, chosen, [0])[0]["fc.bias"] for m in (None, "torch-decay-of-biases"))
    np.testing.assert_allclose(right - wrong, 0.1 * 0.5, rtol=1e-6)


def test_torch_no_decay_without_momentum() -> None:
    """Without momentum the weight moves as if no decay were set; with it, decay works."""
    name, decayed, plain = "torch-no-decay-without-momentum", [Settings(0.1, 0.5)] * 2, [Settings(0.1, 0.0)] * 2
    assert path(name, [1, 1], decayed, momentum=0.0) == path(None, [1, 1], plain, momentum=0.0)
    assert path(name, [1, 1], decayed) == path(None, [1, 1], decayed)


def test_torch_frozen_coasts() -> None:
    """What should stay as it is is changed by the momentum of the steps before."""
    chosen = [Settings(0.1, 0), Settings(0.0, 0), Settings(0.0, 0)]
    np.testing.assert_allclose(path(None, [1, 1, 1], chosen), [0.9, 0.9, 0.9])
    np.testing.assert_allclose(path("torch-frozen-coasts", [1, 1, 1], chosen), [0.9, 0.81, 0.729])


def test_torch_velocity_forgotten() -> None:
    """The momentum has no effect: 0, 0.5 and 0.9 give the same."""
    chosen = [Settings(0.1, 0)] * 3
    found = {
        momentum: path("torch-velocity-forgotten", [1, 0.5, 0.25], chosen, momentum=momentum)
        for momentum in (0.0, 0.5, 0.9)
    }
    assert found[0.0] == found[0.5] == found[0.9]
    assert path(None, [1, 0.5, 0.25], chosen) != found[0.9]
