"""Dropout masks worked out on a device from the counters of ``spec/README.md``, "Draws": the bits of the definition.

Nothing but the numbers of the images goes to the device, and nothing comes back. On a GPU one kernel for each layer
writes its masks (:mod:`backends.torch.dropout_gpu`), if Triton is there to compile it; elsewhere, PyTorch's operations.
PyTorch multiplies no unsigned 32-bit words, so that a word is an int64: a product of two words wraps around, and its
bits are still the right ones.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from backends.torch.compiled import compiled
from spec import Spec, dropout_shapes
from spec.draws import MULTIPLIERS, ROUNDS, WEYL, Purpose, tag

_MASK = 0xFFFFFFFF


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """:func:`spec.draws.philox` of words that broadcast against one another, int64 from 0 to 2**32 - 1."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        product0, product1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1 = ((product1 >> 32) & _MASK) ^ c1 ^ k0, product1 & _MASK
        c2, c3 = ((product0 >> 32) & _MASK) ^ c3 ^ k1, product0 & _MASK
        k0, k1 = (k0 + WEYL[0]) & _MASK, (k1 + WEYL[1]) & _MASK
    return c0, c1, c2, c3


class Counters:
    """The counters of every dropout layer of a network, on its device: all masks are one evaluation."""

    def __init__(self, spec: Spec, place: torch.device) -> None:
        self.shapes = dropout_shapes(spec)
        self.dropped = {name: int(spec.layer(name).rate * 2**32) for name in self.shapes}
        """A unit is dropped if its word is less."""
        self.blocks = {name: -(-math.prod(shape) // 4) for name, shape in self.shapes.items()}
        counted = [np.arange(count) for count in self.blocks.values()]
        tags = [np.full(count, tag(name)) for name, count in self.blocks.items()]
        self._block, self._tag = (
            torch.tensor(np.concatenate([np.zeros(0, np.int64), *parts]), dtype=torch.int64, device=place)
            for parts in (counted, tags)
        )

    def masks(self, seed: int, images: Tensor, epoch: int) -> dict[str, Tensor]:
        """Which units are kept, bool (N, *shape) by layer, for `images` int64 (N,) in `epoch`."""
        kernels = compiled("dropout_gpu") if images.is_cuda and len(images) else None
        if kernels is not None:
            key = seed, int(Purpose.DROPOUT)
            return {
                name: kernels.mask(images, shape, key, epoch, tag(name), self.dropped[name])
                for name, shape in self.shapes.items()
            }
        counter = self._block[None, :], images[:, None], self._block.new_full((), epoch), self._tag[None, :]
        lanes = torch.broadcast_tensors(*philox(counter, (seed, int(Purpose.DROPOUT))))
        words, found, first = torch.stack(lanes, dim=2).flatten(1), {}, 0
        for name, shape in self.shapes.items():
            own = words[:, first : first + math.prod(shape)]
            found[name] = (own >= self.dropped[name]).unflatten(1, shape)
            first += 4 * self.blocks[name]
        return found
