"""The oracle: NumPy in float64, a backward derived by hand, written to be read beside ``spec/README.md``."""

from __future__ import annotations

from backends.numpy.backend import NumpyBackend

__all__ = ["NumpyBackend"]
