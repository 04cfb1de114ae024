"""The dropout masks of :mod:`backends.torch.dropout` as one kernel for each layer, compiled by Triton.

PyTorch's operations pass some hundred and sixty times through arrays of 64-bit words for them. Here each unit's word is
worked out where its mask is written: the same bits, from 32-bit words. See :mod:`backends.torch.channel_norm_gpu`
for where Triton is, and how this is tested without a GPU.
"""

# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from backends.torch.channel_norm_gpu import on_device_of
from spec.draws import MULTIPLIERS, ROUNDS, WEYL

_BLOCK = 1024
"""Units that a program of the grid computes, of one image."""


def mask(images: Tensor, shape: tuple[int, ...], key: tuple[int, int], epoch: int, tag: int, dropped: int) -> Tensor:
    """Which units are kept, bool (N, *shape), for `images` int64 (N,), whose numbers are words.

    A unit is dropped if its word is less than `dropped`. Formula: ``spec/README.md``, "Draws".
    """
    units = math.prod(shape)
    kept = torch.empty((len(images), *shape), dtype=torch.bool, device=images.device)
    with on_device_of(images):
        _mask[len(images), triton.cdiv(units, _BLOCK)](
            images, kept.view(torch.uint8), units, epoch, *key, tag, dropped, *MULTIPLIERS, *WEYL, ROUNDS, _BLOCK
        )
    return kept


def launch() -> None:
    """Compile and run the smallest kernel on a GPU. Raises whatever Triton does where it cannot."""
    mask(torch.zeros(1, dtype=torch.int64, device="cuda"), (1,), (0, 0), 0, 0, 0)


# What changes from step to step must not make a kernel of its own where it happens to be 1 or a multiple of 16.
@triton.jit(do_not_specialize=["epoch", "seed"])
def _mask(  # type: ignore[no-untyped-def]
    images_at, kept_at, units, epoch, seed, PURPOSE: tl.constexpr, TAG: tl.constexpr, DROPPED: tl.constexpr,
    MULTIPLIER0: tl.constexpr, MULTIPLIER1: tl.constexpr, WEYL0: tl.constexpr, WEYL1: tl.constexpr,
    ROUNDS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    unit = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    c0 = (unit // 4).to(tl.uint32)
    c1 = tl.full((BLOCK,), tl.load(images_at + row).to(tl.uint32), tl.uint32)
    c2, c3 = tl.full((BLOCK,), epoch, tl.uint32), tl.full((BLOCK,), TAG, tl.uint32)
    k0, k1 = tl.full((BLOCK,), seed, tl.uint32), tl.full((BLOCK,), PURPOSE, tl.uint32)
    m0, m1 = tl.full((BLOCK,), MULTIPLIER0, tl.uint32), tl.full((BLOCK,), MULTIPLIER1, tl.uint32)
    w0, w1 = tl.full((BLOCK,), WEYL0, tl.uint32), tl.full((BLOCK,), WEYL1, tl.uint32)
    for _ in tl.static_range(ROUNDS):
        high0, low0 = tl.umulhi(c0, m0), c0 * m0
        high1, low1 = tl.umulhi(c2, m1), c2 * m1
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + w0, k1 + w1
    lane = unit % 4
    word = tl.where(lane == 0, c0, tl.where(lane == 1, c1, tl.where(lane == 2, c2, c3)))
    kept = word >= tl.full((BLOCK,), DROPPED, tl.uint32)
    tl.store(kept_at + row * units + unit, kept.to(tl.uint8), unit < units)
