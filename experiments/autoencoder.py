"""An autoencoder whose code is bits, in NumPy.

The paper proposes one for retrieval (section 6.1). How it is trained is from A. Krizhevsky and G. E. Hinton, "Using
very deep autoencoders for content-based image retrieval", ESANN 2011: the logistic units of the code are rounded to 0
or 1 on the way forward, and taken as they are on the way back. With u = (x - m) / s a vector of F numbers, m the mean
of the vectors and s one number, the root of the mean square of x - m:

    z = W u + b          h = 1 where z > 0, else 0          u' = V (h - 1/2) + c
    L = |u' - u|^2 / F                                      the mean over a batch
    dL/du' = 2 (u' - u) / F     dL/dh = V^T dL/du'          dL/dz = dL/dh p (1 - p),  p = 1 / (1 + exp(-z))

The code of x is h. Learning is by Adam (D. P. Kingma and J. Ba, ICLR 2015) with a rate that falls to 0 along a line.
Everything drawn is a function of the seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from data import epoch_order
from spec import draws
from spec.draws import Purpose
from spec.language import tag

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
Bits = npt.NDArray[np.bool_]

STEPS = 2000
BATCH_SIZE = 100
RATE = 3e-3
_AT_A_TIME = 8192
_BETAS, _EPSILON = (0.9, 0.999), 1e-8
"""Adam's, from its paper."""


@dataclass(frozen=True, eq=False)
class Autoencoder:
    """A trained autoencoder of vectors of F numbers with B bits."""

    mean: F32
    """(F,)"""
    scale: float
    parameters: dict[str, F32]
    """W (B, F), b (B,), V (F, B), c (F,)."""
    loss: float
    """Over the last pass: the part of the vectors' variance that the code does not keep."""

    def bits(self, vectors: npt.NDArray[Any]) -> Bits:
        """The codes of vectors (N, F), bool (N, B)."""
        parts = (np.asarray(vectors[i : i + _AT_A_TIME], np.float32) for i in range(0, len(vectors), _AT_A_TIME))
        return np.concatenate([self._bits((part - self.mean) / np.float32(self.scale)) for part in parts])

    def _bits(self, units: F32) -> Bits:
        return units @ self.parameters["W"].T + self.parameters["b"] > 0

    def codes(self, vectors: npt.NDArray[Any]) -> U8:
        """The same as bytes, uint8 (N, B / 8)."""
        return np.packbits(self.bits(vectors), axis=1)


def train(vectors: npt.NDArray[Any], bits: int, seed: int, *, steps: int = STEPS) -> Autoencoder:
    """An autoencoder of `bits` bits for vectors like `vectors` (N, F). Raises ValueError if they are all alike.

    With no steps: the bits say on which side of the mean a vector is along random directions.
    """
    mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    units = np.asarray(vectors, np.float32) - mean
    scale = float(np.sqrt(np.mean(units**2, dtype=np.float64)))
    if not scale:
        raise ValueError("vectors must differ from each other. Received: all alike")
    units /= np.float32(scale)
    parameters = _initial(units, bits, seed)
    adam, batch = _Adam(parameters), min(BATCH_SIZE, len(units))
    each = len(units) // batch
    losses = []
    for step in range(steps):
        epoch, place = divmod(step, each)
        if place == 0:
            order = epoch_order(seed, epoch, len(units))
        loss, gradients = gradients_of(parameters, units[order[place * batch : (place + 1) * batch]])
        adam.step(gradients, RATE * (1 - step / steps))
        losses.append(loss)
    return Autoencoder(mean, scale, parameters, float(np.mean(losses[-each:])) if losses else 1.0)


def gradients_of(parameters: dict[str, F32], u: F32) -> tuple[float, dict[str, F32]]:
    """L of the batch u (N, F) and its derivatives, by the formulas at the head of this file."""
    z = u @ parameters["W"].T + parameters["b"]
    p = 1 / (1 + np.exp(-z))
    h = (z > 0) - np.float32(0.5)
    off = h @ parameters["V"].T + parameters["c"] - u
    du = off * np.float32(2 / off.size)
    dz = (du @ parameters["V"]) * p * (1 - p)
    loss = float(np.mean(off**2, dtype=np.float64))
    return loss, {"W": dz.T @ u, "b": dz.sum(axis=0), "V": du.T @ h, "c": du.sum(axis=0)}


def _initial(units: F32, bits: int, seed: int) -> dict[str, F32]:
    """Every z with mean 0 and deviation 1 over the vectors, in random directions; V and c zero."""
    features = units.shape[1]
    drawn = draws.words(seed, Purpose.INIT, features, items=np.arange(bits), tag=tag("encoder"))
    weights = draws.normal(drawn).astype(np.float32)
    weights /= np.maximum((units @ weights.T).std(axis=0), np.finfo(np.float32).tiny)[:, None]
    zeros = np.zeros(bits, np.float32), np.zeros((features, bits), np.float32), np.zeros(features, np.float32)
    return dict(zip("WbVc", (weights, *zeros), strict=True))


class _Adam:
    """Adam: m <- b1 m + (1 - b1) g, v <- b2 v + (1 - b2) g^2, w <- w - rate m' / (sqrt(v') + e), the primes corrected
    for beginning at zero."""

    def __init__(self, parameters: dict[str, F32]) -> None:
        self._parameters, self._steps = parameters, 0
        self._moments = {name: (np.zeros_like(w), np.zeros_like(w)) for name, w in parameters.items()}

    def step(self, gradients: dict[str, F32], rate: float) -> None:
        self._steps += 1
        first, second = (np.float32(1 - beta**self._steps) for beta in _BETAS)
        for name, w in self._parameters.items():
            (m, v), g = self._moments[name], gradients[name]
            m += np.float32(1 - _BETAS[0]) * (g - m)
            v += np.float32(1 - _BETAS[1]) * (g * g - v)
            w -= np.float32(rate) * (m / first) / (np.sqrt(v / second) + np.float32(_EPSILON))
