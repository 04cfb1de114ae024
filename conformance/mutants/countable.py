"""The proof that a mutant counts: on its witness it is far from the oracle, and the backend without it is not.

``python -m conformance.mutants countable --backend keras-jax [NAME ...]`` prints one JSON object a line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from backends.registry import backend_class
from conformance.mutants.mutant import Mutant
from conformance.mutants.observation import WITHOUT_BACKEND, Arrays, distance, observe
from conformance.mutants.witnesses import WITNESSES, Inputs

AGREEMENT = {"float64": 1e-9, "float32": 5e-5}
"""An unchanged backend is this close to the oracle, relative to a tensor's largest number."""
DIFFERENCE = 1e-3
"""A mutant is at least this far: twenty times what rounding in float32 is allowed, thousands of times what it does."""


@dataclass(frozen=True)
class Proof:
    """How far from the oracle a backend is without the mutant and with it, and where with it most."""

    mutant: str
    backend: str
    dtype: str
    unchanged: float
    mutated: float
    where: str

    @property
    def countable(self) -> bool:
        return self.unchanged <= AGREEMENT[self.dtype] and self.mutated >= DIFFERENCE


def prove(mutant: Mutant, backend: str) -> Proof:
    """Run `mutant` in this process, on `backend` (``keras-jax`` for a mutant of Keras)."""
    check, dtype = mutant.expected_check, _dtype(backend)
    given = WITNESSES[mutant.witness].inputs()
    expected, unchanged = agreement(mutant.witness, check, backend)
    with mutant.apply():
        try:
            mutated, where = distance(_seen(check, backend, given, dtype), expected)
        except (ValueError, RuntimeError) as error:  # a mutant that breaks down is no less wrong
            mutated, where = math.inf, f"{type(error).__name__}: {error}"
    return Proof(mutant.name, backend, dtype, unchanged, mutated, where)


@lru_cache(maxsize=256)
def agreement(witness: str, check: str, backend: str) -> tuple[Arrays, float]:
    """What the oracle says of a witness, and how far from it the backend is without a mutant."""
    given = WITNESSES[witness].inputs()
    expected = _seen(check, "numpy", given, "float64")
    return expected, distance(_seen(check, backend, given, _dtype(backend)), expected)[0]


def _dtype(backend: str) -> str:
    return "float64" if "float64" in backend_class(backend).dtypes else "float32"


def _seen(check: str, backend: str, given: Inputs, dtype: str) -> Arrays:
    made = None if check in WITHOUT_BACKEND else backend_class(backend)(given.spec, dtype=dtype)
    return observe(check, made, given)
