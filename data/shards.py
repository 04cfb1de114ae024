"""Images that lie in several arrays, read as if they lay in one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from data.compiled import compiled_loops

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

_LARGE = 1 << 14
"""Bytes of an image from which on a compiled loop copies it past the caches (:func:`data.loops.copy_rows`)."""


class Shards:
    """uint8 (N, S, S, C) in parts (N_i, S, S, C), for instance memory maps, in their order.

    Only copies leave: an index gives an image, a slice or an array of indices gives images. :meth:`take` is the quick
    way to a shuffled batch.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, parts: Sequence[U8]) -> None:
        """Raises ValueError if there are none, or if they are not all uint8 (N_i, S, S, C)."""
        shapes = {part.shape[1:] for part in parts}
        if len(shapes) != 1 or any(part.dtype != np.uint8 or part.ndim != 4 for part in parts):
            raise ValueError(f"parts must be uint8 (N, S, S, C). Received: {[(p.dtype, p.shape) for p in parts]}")
        self.parts = tuple(parts)
        self._contiguous = all(part.flags.c_contiguous for part in parts)
        self._starts = np.cumsum([0, *(len(part) for part in parts)])
        self.shape: tuple[int, int, int, int] = (int(self._starts[-1]), *parts[0].shape[1:])

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: int | slice | npt.ArrayLike) -> U8:
        if isinstance(key, slice):
            return self.take(np.arange(*key.indices(len(self))))
        indices = np.asarray(key)
        if indices.dtype.kind not in "iu":
            raise TypeError(f"an index must be a whole number, a slice or an array of them. Received: {key!r}")
        return self.take(indices.reshape(-1)).reshape(*indices.shape, *self.shape[1:])

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("images in several parts can only be copied into one array")
        return self[:].astype(dtype or np.uint8, copy=False)

    def take(self, indices: npt.ArrayLike, out: U8 | None = None) -> U8:
        """The images `indices` (n,) in their order: uint8 (n, S, S, C), `out` if it is given.

        They are read in the order in which they lie, so that a disk is read forwards and a page once. Indices below 0
        count from the end, as everywhere. Raises IndexError outside -N .. N - 1.
        """
        wanted = np.asarray(indices, np.int64)
        if wanted.size and not -len(self) <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(
                f"an index must be {-len(self)} .. {len(self) - 1}. Received: {wanted.min()} to {wanted.max()}"
            )
        wanted = np.where(wanted < 0, wanted + len(self), wanted)
        if out is None:
            out = np.empty((len(wanted), *self.shape[1:]), np.uint8)
        order = np.argsort(wanted, kind="stable")
        part = np.searchsorted(self._starts, wanted[order], side="right") - 1
        local = wanted[order] - self._starts[part]
        loops = compiled_loops() if out[:1].nbytes >= _LARGE and out.flags.c_contiguous else None
        if loops is not None and self._contiguous:
            for which in np.unique(part):
                of = part == which
                loops.copy_rows(self.parts[which], local[of], out, order[of])
            return out
        for place, which, row in zip(order.tolist(), part.tolist(), local.tolist(), strict=True):
            out[place] = self.parts[which][row]
        return out


Images = U8 | Shards
"""Where stored images lie: one array, or several behind one another."""


def taken(images: Images, indices: npt.ArrayLike, out: U8 | None = None) -> U8:
    """``images[indices]``, copied: uint8 (n, S, S, C), into `out` if it is given."""
    return (images if isinstance(images, Shards) else Shards([images])).take(indices, out)
