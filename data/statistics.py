"""What is known of the training images as a whole: the mean image and the covariance of the colours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from math import copysign, sqrt

import numpy as np
import numpy.typing as npt

from data.compiled import compiled_loops
from data.dataset import I64, U8, Dataset, Images
from data.errors import DataError

F64 = npt.NDArray[np.float64]
Progress = Callable[[int, int], None]
"""Called with how many images are done and how many there are."""

_CHUNK_BYTES = 1 << 20
"""Bytes of images worked on at a time."""
_SHORT = 257
"""So many bytes add up to at most 2**16 - 1."""
_PIXELS = 1 << 14
"""Pixels multiplied at a time, so that they stay in cache as float32."""
_ROW = 256
"""255 * 255 * 256 is below 2**24, up to which float32 has every whole number."""
_SWEEPS = 30
"""Far more sweeps than Jacobi's method needs on three colours (about 5)."""


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """Of the stored training images, in the units of their bytes, 0..255, channels in the order red, green, blue.

    float64 throughout; C channels, S = ``storage.size``. The covariance is that of the colours of all pixels of all
    images, divided by their number. Sums are exact integers, so that neither order nor chunks matter.
    """

    mean_image: F64
    """(C, S, S): the mean of every place."""
    channel_mean: F64
    """(C,): the mean of every channel."""
    covariance: F64
    """(C, C)."""
    eigenvalues: F64
    """(C,): of the covariance, largest first, never negative: the variances along the principal components."""
    eigenvectors: F64
    """(C, C): column j is the unit vector of component j; its component of the largest magnitude is positive."""

    def arrays(self) -> dict[str, F64]:
        """The fields by name, as a checkpoint records them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> Statistics:
        """The inverse of :meth:`arrays`. Raises DataError if one is missing or of a wrong shape, dtype or range."""
        names = [field.name for field in fields(cls)]
        if missing := [name for name in names if name not in arrays]:
            raise DataError(f"statistics must have {', '.join(names)}. Missing: {', '.join(missing)}")
        channels, size = (*np.shape(arrays["mean_image"]), 0, 0)[:2]
        vector, square = (channels,), (channels, channels)
        shapes = dict(zip(names, [(channels, size, size), vector, square, vector, square], strict=True))
        for name, shape in shapes.items():
            array = arrays[name]
            if array.dtype != np.float64 or array.shape != shape or not array.size or not np.isfinite(array).all():
                raise DataError(f"the statistic {name} must be finite float64 of shape {shape}. "
                                f"Received: {array.dtype} of shape {array.shape}")  # fmt: skip
        if (np.asarray(arrays["eigenvalues"], np.float64) < 0).any():
            raise DataError(f"the statistic eigenvalues must not be negative. Received: {arrays['eigenvalues']}")
        return cls(**{name: np.asarray(arrays[name], np.float64) for name in names})


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Exact sums over N images (N, S, S, C), of which the statistics are made; sums of sums are sums."""

    images: int
    places: I64
    """(S, S, C): of the bytes at every place."""
    products: I64
    """(C, C): of the products of two channels' bytes, over all pixels of all images."""

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.images + other.images, self.places + other.places, self.products + other.products)


def sums(images: U8) -> Sums:
    """The sums over `images` (N, S, S, C)."""
    channels = images.shape[-1]
    places = np.zeros(images.shape[1:], np.int64)
    products = np.zeros((channels, channels))
    multiply = _products if channels != 3 or (loops := compiled_loops()) is None else loops.colour_products
    for start in range(0, len(images), _SHORT):
        short = np.zeros(images.shape[1:], np.uint16)
        for image in images[start : start + _SHORT]:  # one at a time, while it is in the cache
            short += image
            products += multiply(image.reshape(-1, channels))
        places += short
    return Sums(len(images), places, products.astype(np.int64))


def _products(pixels: U8) -> F64:
    """The sums of products of two channels over `pixels` (n, C).

    In float32, and exact in whatever order they are added: _ROW products of two bytes are below 2**24.
    """
    channels = pixels.shape[1]
    total = np.zeros((channels, channels))
    for start in range(0, len(pixels), _PIXELS):
        part = pixels[start : start + _PIXELS]
        planes = np.zeros((channels, -(-len(part) // _ROW) * _ROW), np.float32)
        planes[:, : len(part)] = np.ascontiguousarray(part.T)
        rows = planes.reshape(channels, -1, _ROW)
        for i in range(channels):
            total[i, i:] += np.vecdot(rows[i], rows[i:]).sum(axis=-1, dtype=np.float64)
    return np.triu(total) + np.triu(total, 1).T


def statistics_of(sums: Sums) -> Statistics:
    """The statistics of the images that `sums` were taken over. Raises DataError if there were none."""
    if not sums.images:
        raise DataError("statistics are those of at least one training image. Received: none")
    pixels = sums.images * int(np.prod(sums.places.shape[:2]))
    totals = [int(total) for total in sums.places.sum(axis=(0, 1))]
    covariance = np.array(  # Python divides whole numbers with one rounding
        [
            [(pixels * int(product) - total * other) / pixels**2 for product, other in zip(products, totals)]
            for products, total in zip(sums.products, totals)
        ]
    )
    eigenvalues, eigenvectors = principal_components(covariance)
    return Statistics(
        mean_image=np.ascontiguousarray((sums.places / sums.images).transpose(2, 0, 1)),
        channel_mean=np.array([total / pixels for total in totals]),
        covariance=covariance,
        eigenvalues=eigenvalues,
        eigenvectors=eigenvectors,
    )


def compute_statistics(images: Images, *, progress: Progress | None = None) -> Statistics:
    """The statistics of `images` (N, S, S, C), in one pass.

    progress: called with (done, N). Raises DataError if N is 0.
    """
    count, *shape = images.shape
    total = Sums(0, np.zeros(shape, np.int64), np.zeros((shape[-1], shape[-1]), np.int64))
    step = max(1, _CHUNK_BYTES // int(np.prod(shape)))
    for start in range(0, count, step):
        total += sums(np.asarray(images[start : start + step]))
        if progress is not None:
            progress(min(start + step, count), count)
    return statistics_of(total)


def dataset_statistics(dataset: Dataset, *, progress: Progress | None = None) -> Statistics:
    """:func:`compute_statistics` of the images of `dataset`; read, where they were taken when it was prepared.

    Raises DataError if what is kept there is damaged.
    """
    path = dataset.statistics_file
    if path is None:
        return compute_statistics(dataset.images, progress=progress)
    try:
        with np.load(path, allow_pickle=False) as kept:
            return Statistics.from_arrays(dict(kept))
    except Exception as error:  # zipfile, zlib and NumPy raise many types on damaged files
        raise DataError(f"kept statistics must be readable. Received: {error}. In: {path}") from error


def principal_components(covariance: F64) -> tuple[F64, F64]:
    """Eigenvalues (C,), largest first, and unit eigenvectors (C, C) in columns, of a symmetric matrix (C, C).

    Cyclic Jacobi rotations (G. H. Golub and C. F. Van Loan, Matrix Computations, 8.5), of + - * / sqrt alone, so that
    they are the same bits on every machine, which LAPACK does not promise. The component of largest magnitude of each
    eigenvector is positive (the first of equals); eigenvalues below zero, which only rounding makes, become 0.
    """
    n = len(covariance)
    a = [[float(value) for value in row] for row in covariance]
    v = [[float(i == j) for j in range(n)] for i in range(n)]
    for _ in range(_SWEEPS):
        for p in range(n):
            for q in range(p + 1, n):
                if a[p][q] == 0.0:
                    continue
                theta = (a[q][q] - a[p][p]) / (2.0 * a[p][q])
                t = copysign(1.0, theta) / (abs(theta) + sqrt(theta * theta + 1.0))
                c = 1.0 / sqrt(t * t + 1.0)
                s = t * c
                for row in a:  # A J
                    row[p], row[q] = c * row[p] - s * row[q], s * row[p] + c * row[q]
                a[p], a[q] = (  # J' A J
                    [c * x - s * y for x, y in zip(a[p], a[q], strict=True)],
                    [s * x + c * y for x, y in zip(a[p], a[q], strict=True)],
                )
                a[p][q] = a[q][p] = 0.0
                for row in v:
                    row[p], row[q] = c * row[p] - s * row[q], s * row[p] + c * row[q]
    eigenvalues = np.array([a[i][i] for i in range(n)])
    order = np.argsort(-eigenvalues, kind="stable")
    vectors = np.array(v)[:, order]
    largest = vectors[np.argmax(np.abs(vectors), axis=0), np.arange(n)]
    return np.maximum(eigenvalues[order], 0.0), vectors * np.where(largest < 0, -1.0, 1.0)
