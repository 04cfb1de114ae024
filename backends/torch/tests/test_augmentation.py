"""Augmentation on a device is the definition, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backends.tests import augmentations
from backends.torch.augmentation import augmented
from backends.torch.backend import TorchBackend, choose_device
from data.shards import Shards
from spec import initial_parameters

DEVICES = sorted({"cpu", str(choose_device("auto"))})


@pytest.mark.parametrize("device", DEVICES)
def test_every_augmentation_is_the_definition_s(device: str) -> None:
    images, statistics = augmentations.pictures()
    for case in augmentations.CASES:
        spec = augmentations.case(*case)
        for epoch in (1, 2):
            indices, drawn, known, wanted = augmentations.expected(images, statistics, spec, epoch)
            found = augmented(torch.tensor(images[indices], device=device), drawn, **known)
            assert found.device.type == torch.device(device).type
            assert found.dtype == torch.float32
            np.testing.assert_array_equal(found.cpu().numpy(), wanted, err_msg=f"{case}, epoch {epoch}")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_step_takes_what_lies_on_the_device(dtype: str) -> None:
    spec = augmentations.case("stddev", "moving", "random", "bgr", 1 / 255)
    images, statistics = augmentations.pictures()
    indices, drawn, known, wanted = augmentations.expected(images, statistics, spec, 0)
    backend = TorchBackend(spec, dtype=dtype)
    backend.load(initial_parameters(spec, 0))
    made = backend.apply_training(Shards([images[:5], images[5:]]), indices, drawn, **known)
    here = augmented(torch.tensor(images[indices], device=backend.device), drawn, **known)
    labels = indices % 4
    np.testing.assert_array_equal(made if isinstance(made, np.ndarray) else made.cpu().numpy(), wanted)
    assert backend.loss(here, labels) == backend.loss(wanted, labels)  # type: ignore[arg-type]
