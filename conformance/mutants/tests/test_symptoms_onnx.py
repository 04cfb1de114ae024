"""What the links of the shipped mistakes describe, seen on the mutants of the ONNX graph: a test for each."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from conformance.mutants import CATALOGUE
from conformance.mutants.tests.bench import Bench, impulse, layers, numbered
from conformance.mutants.witnesses import Layers

HERE = [mutant.name for mutant in CATALOGUE if mutant.target == "onnx" and mutant.kind == "shipped"]
NORMAL = np.random.default_rng(12).standard_normal((2, 7, 3, 3)).astype(np.float32)


@pytest.mark.parametrize("name", HERE)
def test_every_shipped_mutant_has_its_symptom_shown(name: str) -> None:
    assert hasattr(sys.modules[__name__], f"test_{name.replace('-', '_')}")


def bench(layer: dict[str, Any], images: Any, parameters: dict[str, Any] | None = None) -> Bench:
    return Bench(layers(layer), images, parameters, backend="onnx")


def windows(x: Any, before: int, after: int) -> Any:
    """The sum of squares over channels c - before to c + after."""
    padded = np.pad(np.asarray(x, np.float64) ** 2, ((0, 0), (before, after), (0, 0), (0, 0)))
    return sum(padded[:, shift : shift + x.shape[1]] for shift in range(before + 1 + after))


# tf.nn.local_response_normalization(x, depth_radius=2, bias=1, alpha=1/5, beta=0.5)
TENSORFLOW = {"op": "lrn", "size": 5, "alpha": 0.2, "alpha_over": "one", "beta": 0.5, "k": 1}


def test_onnx_lrn_alpha_not_multiplied() -> None:
    """The format's factor is alpha / size. Zeros, with which the export was tested, show nothing; 0, 1, 2 ... do."""
    name = "onnx-lrn-alpha-not-multiplied"
    assert np.array_equal(bench(TENSORFLOW, 0 * NORMAL).first(name), bench(TENSORFLOW, 0 * NORMAL).first(None))
    x = numbered(2, 7, 3, 3) / 10
    np.testing.assert_allclose(bench(TENSORFLOW, x).first(name), x / (1 + 0.2 / 5 * windows(x, 2, 2)) ** 0.5, rtol=1e-5)
    np.testing.assert_allclose(bench(TENSORFLOW, x).first(None), x / (1 + 0.2 * windows(x, 2, 2)) ** 0.5, rtol=1e-5)


def test_onnx_lrn_radius_for_size() -> None:
    """A depth_radius of 2 and an alpha of 0.2 become a size of 2 and an alpha that is divided by it."""
    wrong = NORMAL / (1 + 0.2 / 2 * windows(NORMAL, 0, 1)) ** 0.5
    np.testing.assert_allclose(bench(TENSORFLOW, NORMAL).first("onnx-lrn-radius-for-size"), wrong, rtol=1e-5)


def test_onnx_lrn_radius_plus_one_for_size() -> None:
    """The parser writes depth_radius + 1, and alpha times 2 depth_radius + 1."""
    wrong = NORMAL / (1 + 0.2 * 5 / 3 * windows(NORMAL, 1, 1)) ** 0.5
    np.testing.assert_allclose(bench(TENSORFLOW, NORMAL).first("onnx-lrn-radius-plus-one-for-size"), wrong, rtol=1e-5)


STRIDED = {"op": "conv", "out_channels": 1, "kernel": 3, "stride": 2}
AFTER = {**STRIDED, "padding": {"top": 0, "bottom": 1, "left": 0, "right": 1}}
KERNEL = {"a.weight": 1 + numbered(1, 1, 3, 3)}


def test_onnx_pads_begin_and_end_exchanged() -> None:
    """SAME_UPPER must place the extra padding at the end, not at the beginning. 3x3 at stride 1 shows nothing."""
    name = "onnx-pads-begin-and-end-exchanged"
    upper = bench(AFTER, impulse(6), KERNEL)
    assert (upper.first(None)[0, 0, 0, 0], upper.first(name)[0, 0, 0, 0]) == (1, 5)
    centred = bench({**STRIDED, "stride": 1, "padding": 1}, impulse(6), KERNEL)
    np.testing.assert_array_equal(centred.first(name), centred.first(None))


def test_onnx_conv_padded_then_cropped() -> None:
    """224 is padded to 226, becomes 113 and is cropped to 112 from (1, 1): what the offset leaves out is lost."""
    name = "onnx-conv-padded-then-cropped"
    corner = bench(AFTER, impulse(224), KERNEL)
    assert corner.first(None).shape == corner.first(name).shape == (1, 1, 112, 112)
    assert (corner.first(None).sum(), corner.first(name).sum()) == (1, 0)


def test_onnx_conv_bias_dropped() -> None:
    """With a bias of 1 and a bias of 0 the result is the same."""
    layer, name = {"op": "conv", "out_channels": 2, "kernel": 3}, "onnx-conv-bias-dropped"
    one, zero = (bench(layer, NORMAL, {"a.weight": 1, "a.bias": value}) for value in (1, 0))
    np.testing.assert_array_equal(one.first(name), zero.first(name))
    assert (one.first(None) != zero.first(None)).all()


def test_onnx_gemm_transposition_ignored() -> None:
    """Square weights pass without a warning and give another product; others are looked at as they are."""
    for outputs in (3, 4):
        network: Layers = {"flatten": {"op": "flatten"}, "fc": {"op": "dense", "out_features": outputs}}
        x, w = NORMAL[:, :3, :1, :1], numbered(outputs, 3)
        found = Bench(network, x, {"fc.weight": w}, backend="onnx").outputs("onnx-gemm-transposition-ignored")["fc"]
        np.testing.assert_allclose(found, x[:, :, 0, 0] @ (w if outputs == 3 else w.T), rtol=1e-4, atol=1e-5)


def test_onnx_avg_pool_padding_counted() -> None:
    """The default of the format leaves padding out of the count: ones have the mean 1 in the corner, not 4 / 9."""
    layer = {"op": "avg_pool", "kernel": 3, "stride": 1, "padding": 1, "divisor": "inside"}
    ones = bench(layer, np.ones((1, 1, 4, 4)))
    np.testing.assert_allclose(ones.first(None), 1, rtol=1e-6)
    np.testing.assert_allclose(ones.first("onnx-avg-pool-padding-counted")[0, 0, 0, 0], 4 / 9, rtol=1e-6)


def test_onnx_dropout_rate_for_keep() -> None:
    """A rate of 0.2 is taken for a keep probability of 0.2; one of 0.5 shows nothing."""
    for rate, right, wrong in ((0.2, 0.8, 0.2), (0.5, 0.5, 0.5)):
        ones = bench({"op": "dropout", "rate": rate, "scale": "test"}, np.ones((1, 1, 2, 2)))
        np.testing.assert_allclose(ones.first(None), right, rtol=1e-6)
        np.testing.assert_allclose(ones.first("onnx-dropout-rate-for-keep"), wrong, rtol=1e-6)


def test_onnx_flatten_channels_last() -> None:
    """The same numbers in another order, as channels were last where the model came from."""
    x = numbered(1, 2, 3, 3)
    right, wrong = (Bench(layers(), x, backend="onnx").first(m) for m in (None, "onnx-flatten-channels-last"))
    np.testing.assert_array_equal(wrong, x.transpose(0, 2, 3, 1).reshape(1, -1))
    assert sorted(wrong[0]) == sorted(right[0])
