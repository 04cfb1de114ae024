"""Which variants the weights in a file fit, from the arrays' shapes alone, whatever they are called.

A file keeps kernels in one of two layouts, (out, in, rows, columns) as PyTorch, Caffe and ONNX or (rows, columns, in,
out) as Keras; a layer may be kept in two parts (towers, or groups of their own), and a dense layer as the convolution
over the whole map that it is. Each array of a variant must be found once, and nothing that could be a parameter may be
left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from spec.arithmetic import Shape, geometry
from spec.language import Conv, Dense
from spec.loading import load, names

LAYOUTS: Mapping[str, Mapping[int, tuple[int, ...]]] = {
    "out, in, rows, columns": {},
    "rows, columns, in, out": {2: (1, 0), 3: (1, 2, 0), 4: (2, 3, 1, 0), 6: (4, 5, 2, 3, 1, 0)},
}
"""By layout and rank: the canonical axes in the file's order; by default the canonical one."""
PARTS = (1, 2)
CANNOT_TELL = (
    "the input's size and every stride, padding and rounding that lead to the same vector behind the last maps",
    "pools: kind, kernel and place",
    "normalisation: whether there is any, its constants, its groups and its place",
    "activations, dropout and their places",
    "the order in which maps become a vector",
    "initialisation, training, data and evaluation",
)


@dataclass(frozen=True)
class Fit:
    """One variant against the arrays of a file: `missing` parameters with their shapes, and `extra` arrays."""

    name: str
    layout: str
    missing: tuple[tuple[str, Shape], ...]
    extra: tuple[tuple[str, Shape], ...]
    parts: tuple[str, ...]
    """Parameters that the file keeps in two parts."""
    copies: int
    """How often each array is there: twice where velocities are kept beside the parameters."""

    @property
    def fits(self) -> bool:
        return not self.missing and not self.extra

    @property
    def distance(self) -> int:
        """Arrays that are missing or left over; one of each makes one array of another shape."""
        return max(len(self.missing), len(self.extra))


def fit(arrays: Sequence[tuple[str, Shape]]) -> list[Fit]:
    """Every variant against the named shapes of a file, the nearest first."""
    relevant = [(name, shape) for name, shape in arrays if _may_be_parameter(shape)]
    found = [min(_layouts(name, relevant), key=lambda one: one.distance) for name in names()]
    return sorted(found, key=lambda one: (not one.fits, one.distance, one.name))


def _may_be_parameter(shape: Shape) -> bool:
    """Not counters and scalars, and not images: (3, rows, columns) is a mean image."""
    return bool(shape) and shape != (1,) and not (len(shape) == 3 and shape[0] in (1, 3) and shape[1] == shape[2] > 16)


def _layouts(name: str, arrays: Sequence[tuple[str, Shape]]) -> Iterator[Fit]:
    for layout, axes in LAYOUTS.items():
        for copies in (1, 2):
            if copies == 1 or all(count % 2 == 0 for count in Counter(shape for _, shape in arrays).values()):
                yield _fit(name, layout, axes, arrays, copies)


def _fit(
    name: str, layout: str, axes: Mapping[int, tuple[int, ...]], arrays: Sequence[tuple[str, Shape]], copies: int
) -> Fit:
    left = Counter(shape for _, shape in arrays)
    for shape in left:
        left[shape] //= copies
    missing, parts = [], []
    for parameter, forms in _parameters(name):
        for form in forms:
            stored = [_stored(shape, axes) for shape in form]
            needed = Counter(stored)
            if all(left[shape] >= count for shape, count in needed.items()):
                left -= needed
                if len(form) > 1:
                    parts.append(parameter)
                break
        else:
            missing.append((parameter, _stored(forms[0][0], axes)))
    extra = []
    for array, shape in arrays:
        if left[shape] > 0:
            left[shape] -= 1
            extra.append((array, shape))
    return Fit(name, layout, tuple(missing), tuple(extra), tuple(parts), copies)


def _stored(shape: Shape, axes: Mapping[int, tuple[int, ...]]) -> Shape:
    order = axes.get(len(shape))
    return tuple(shape[axis] for axis in order) if order else shape


@cache
def _parameters(name: str) -> tuple[tuple[str, list[tuple[Shape, ...]]], ...]:
    """Every parameter and the forms in which it may be kept: whole, in parts along its outputs, as a convolution."""
    found: dict[str, list[tuple[Shape, ...]]] = {}
    maps: Shape = ()
    for layer in geometry(load(name)).layers:
        if len(layer.input_shape) == 3:
            maps = layer.input_shape
        for parameter, shape in layer.parameters.items():
            wholes = [shape]
            if isinstance(layer.layer, Dense) and layer.layer.groups == 1 and len(shape) == 2:
                wholes += [(shape[0], *maps)] if maps and shape[1] == maps[0] * maps[1] * maps[2] else []
                wholes.append((*shape, 1, 1))
            if isinstance(layer.layer, Conv) and len(shape) == 4 and layer.output_shape[1:] == (1, 1):
                wholes.append((shape[0], shape[1] * shape[2] * shape[3]))
            found[parameter] = [
                ((whole[0] // parts, *whole[1:]),) * parts
                for parts in PARTS
                for whole in wholes
                if whole[0] % parts == 0
            ]
    return tuple(found.items())


__all__ = ["CANNOT_TELL", "LAYOUTS", "Fit", "fit"]
