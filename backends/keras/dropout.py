"""Dropout masks worked out on a device from the counters of ``spec/README.md``, "Draws": the bits of the definition.

Nothing but the numbers of the images goes to the device, and nothing comes back.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import ops

from backends.keras.engine import ENGINE
from spec import Spec, dropout_shapes
from spec.draws import MULTIPLIERS, ROUNDS, WEYL, Purpose, tag

_MASK = 0xFFFFFFFF


def _xor(*words: Any) -> Any:
    found = words[0]
    for word in words[1:]:
        found = ops.bitwise_xor(found, word)
    return found


def philox(counter: tuple[Any, Any, Any, Any], key: Any) -> tuple[Any, ...]:
    """:func:`spec.draws.philox` of words that broadcast against one another, in the engine's dtype; key: (2,) words."""
    c0, c1, c2, c3 = counter
    for number in range(ROUNDS):
        moved = (ops.convert_to_tensor(np.array(number * weyl & _MASK, ENGINE.word)) for weyl in WEYL)
        k0, k1 = (_wrapped(ops.add(key[i], by)) for i, by in enumerate(moved))
        (high0, low0), (high1, low1) = ENGINE.product(c0, MULTIPLIERS[0]), ENGINE.product(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = _xor(high1, c1, k0), low1, _xor(high0, c3, k1), low0
    return c0, c1, c2, c3


def _wrapped(word: Any) -> Any:
    """Modulo 2**32, which a dtype of 32 bits is by itself."""
    return word & _MASK if ENGINE.word == "int64" else word


class Counters:
    """The counters of every dropout layer of a network: all masks are one compiled evaluation."""

    def __init__(self, spec: Spec) -> None:
        self.shapes = dropout_shapes(spec)
        self.dropped = {name: int(spec.layer(name).rate * 2**32) for name in self.shapes}
        """A unit is dropped if its word is less."""
        self.blocks = {name: -(-math.prod(shape) // 4) for name, shape in self.shapes.items()}
        counted = [np.arange(count) for count in self.blocks.values()]
        tags = [np.full(count, tag(name)) for name, count in self.blocks.items()]
        self.block, self.tag = (np.concatenate([np.zeros(0, np.int64), *parts])[None, :] for parts in (counted, tags))
        self._compiled = ENGINE.compiled(ENGINE.fused(self._evaluated), [])

    def masks(self, seed: int, images: Any, epoch: int) -> dict[str, Any]:
        """Which units are kept, bool (N, *shape) by layer, for `images` (N,) in `epoch`; canonical layout."""
        if not self.shapes:
            return {}
        words = (np.array(value, ENGINE.word) for value in (images, epoch, (seed, int(Purpose.DROPOUT))))
        return dict(zip(self.shapes, self._compiled(*words), strict=True))

    def _evaluated(self, images: Any, epoch: Any, key: Any) -> list[Any]:
        block, tags = (ops.convert_to_tensor(part.astype(ENGINE.word)) for part in (self.block, self.tag))
        lanes = philox((block, ops.expand_dims(images, 1), epoch, tags), key)
        n, first, found = ops.shape(images)[0], 0, []
        words = ops.reshape(ops.stack([ops.broadcast_to(lane, (n, block.shape[1])) for lane in lanes], axis=2), (n, -1))
        for name, shape in self.shapes.items():
            own = words[:, first : first + math.prod(shape)]
            dropped = ops.convert_to_tensor(np.array(self.dropped[name], ENGINE.word))
            found.append(ops.reshape(ops.greater_equal(own, dropped), (n, *shape)))
            first += 4 * self.blocks[name]
        return found
