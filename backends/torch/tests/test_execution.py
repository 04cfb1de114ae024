"""Masks drawn on the device, batches in pieces, mixed precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import spec
from backends.base import Backend
from backends.tests import small
from backends.torch.backend import TorchBackend
from backends.torch.dropout import philox
from spec import Place, draws, initial_parameters, settings

LAYERS: dict[str, Any] = {
    **{name: layer for name, layer in small.ALEXNET.items() if name.endswith(("1", "2"))},
    "drop2": {"op": "dropout", "rate": 0.3, "scale": "train"},
    **{name: layer for name, layer in small.ALEXNET.items() if not name.endswith(("1", "2"))},
}


def test_the_words_are_those_of_the_definition() -> None:
    draw = np.random.default_rng(0)
    words = draw.integers(0, 2**32, (4, 1000), dtype=np.uint64)
    words[:, 0], words[:, 1] = 0, 2**32 - 1
    for key in ((0, 0), (2**32 - 1, 2**32 - 1), (0xA4093822, 7)):
        c0, c1, c2, c3 = words.astype(np.uint32)
        f0, f1, f2, f3 = (torch.from_numpy(word.astype(np.int64)) for word in words)
        for found, expected in zip(philox((f0, f1, f2, f3), key), draws.philox((c0, c1, c2, c3), key), strict=True):
            np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (2**32 - 1, 89)])
def test_masks_of_the_device_are_the_definition_s(seed: int, epoch: int) -> None:
    backend = TorchBackend(small.spec(LAYERS), device="cpu")
    images = np.array([5, 0, 2**31, 2**32 - 1])
    found, expected = backend.device_masks(seed, images, epoch), Backend.dropout_masks(backend, seed, images, epoch)
    assert list(found) == list(expected) == ["drop2", "drop6"]
    for name, mask in expected.items():
        assert found[name].dtype == torch.bool
        np.testing.assert_array_equal(found[name].numpy(), mask)
    assert (
        TorchBackend(small.spec({k: v for k, v in LAYERS.items() if v["op"] != "dropout"}), device="cpu").device_masks(
            seed, images, epoch
        )
        == {}
    )


def stepped(pieces: int, dtype: str = "float64", on_device: bool = False) -> TorchBackend:
    """After three steps on ten images."""
    chosen = small.spec(LAYERS)
    backend = TorchBackend(chosen, dtype=dtype, device="cpu")
    backend.load(initial_parameters(chosen, 0))
    backend.accumulate(pieces)
    draw = np.random.default_rng(0)
    for step in range(3):
        images, labels = draw.normal(size=(10, 1, 8, 8)), draw.integers(0, 4, 10)
        masks = (backend.device_masks if on_device else backend.dropout_masks)(1, np.arange(10), step)
        backend.step(images, labels, settings(chosen, Place(step, step, 1, 3)), masks)
    return backend


@pytest.mark.parametrize("pieces", [2, 3, 4, 10])
def test_a_step_in_pieces_is_the_step(pieces: int) -> None:
    whole, parts = stepped(1), stepped(pieces, on_device=True)
    for found, expected in ((parts.parameters(), whole.parameters()), (parts.velocities(), whole.velocities())):
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-10, atol=1e-13)
    seen, wanted = parts.metrics(), whole.metrics()
    assert (seen.images, seen.correct1, seen.correct5) == (wanted.images, wanted.correct1, wanted.correct5)
    np.testing.assert_allclose(seen.losses, wanted.losses, rtol=1e-12)


def test_mixed_precision_multiplies_in_bfloat16_and_keeps_float32() -> None:
    seen: dict[str, torch.dtype] = {}
    backend = TorchBackend(small.spec(LAYERS), dtype="mixed_bfloat16", device="cpu")
    for name, module in backend._network._modules.items():
        assert module is not None
        module.register_forward_hook(lambda _m, _i, output, name=name: seen.update({name: output.dtype}))
    given = initial_parameters(backend.spec, 0)
    backend.load(given)
    for name, array in backend.parameters().items():
        np.testing.assert_array_equal(array, given[name])
    images = np.random.default_rng(0).normal(size=(4, 1, 8, 8)).astype("f4")
    assert backend.predict(images).dtype == np.float32
    assert set(seen.values()) == {torch.bfloat16}
    mixed, plain = stepped(1, "mixed_bfloat16"), stepped(1, "float32")
    assert {p.dtype for p in mixed._parameters.values()} == {torch.float32}
    assert {v.dtype for v in mixed._optimizer.velocities().values()} == {torch.float32}
    apart = [np.abs(mixed.parameters()[n] - w).max() / np.abs(w).max() for n, w in plain.parameters().items()]
    assert 1e-5 < max(apart) < 0.05


def test_the_spec_of_these_tests_drops_maps_and_vectors() -> None:
    assert spec.dropout_shapes(small.spec(LAYERS)) == {"drop2": (6, 2, 2), "drop6": (16,)}
