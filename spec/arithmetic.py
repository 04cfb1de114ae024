"""What follows from a specification by arithmetic: shapes, explicit padding, parameters, MACs and bytes of every layer.

Rounding is turned into explicit padding here, once: a backend pads as told and then only ever rounds down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from spec.language import (
    AvgPool,
    Conv,
    Dense,
    Dropout,
    Flatten,
    Layer,
    Local,
    Lrn,
    MaxPool,
    Padding,
    Size,
    Spec,
    Windowed,
)

Shape = tuple[int, ...]
MAX_ELEMENTS = 2**33
"""No tensor of a specification may have more elements than this; it keeps a mistyped size from asking for the moon."""


class GeometryError(ValueError):
    """A layer that cannot follow the one before it. ``layer`` and ``field`` say where."""

    def __init__(self, layer: str, field: str, required: str, received: str) -> None:
        self.layer, self.field, self.required, self.received = layer, field, required, received
        super().__init__(f"layers.{layer}.{field}: {required}. Received: {received}.")


@dataclass(frozen=True, slots=True)
class LayerGeometry:
    """The arithmetic of one layer. Shapes are canonical and without the batch: (C, H, W) or (F,)."""

    layer: Layer
    input_shape: Shape
    output_shape: Shape
    padding: Padding | None
    """Of windowed layers: rows and columns to add, rounding included; with it, rounding down is exact."""
    parameters: dict[str, Shape]
    """Canonical name (``conv1.weight``) to shape: OIHW, (out, in) and the bias; see README, "Canonical layout"."""
    macs: int
    """Multiply-accumulates per image, whole windows counted, biases not."""

    @property
    def name(self) -> str:
        return self.layer.name

    @property
    def parameter_count(self) -> int:
        return sum(math.prod(shape) for shape in self.parameters.values())

    @property
    def output_bytes(self) -> int:
        """Bytes of one image's output in float32."""
        return 4 * math.prod(self.output_shape)


@dataclass(frozen=True, slots=True)
class Geometry:
    """The arithmetic of a whole network."""

    input_shape: Shape
    layers: tuple[LayerGeometry, ...]

    @property
    def output_shape(self) -> Shape:
        return self.layers[-1].output_shape

    @property
    def parameters(self) -> dict[str, Shape]:
        """Canonical parameter names to shapes, in network order, a weight before its bias."""
        return {name: shape for layer in self.layers for name, shape in layer.parameters.items()}

    @property
    def parameter_count(self) -> int:
        return sum(layer.parameter_count for layer in self.layers)

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    def __getitem__(self, name: str) -> LayerGeometry:
        return next(layer for layer in self.layers if layer.name == name)


def _extent(
    length: int, before: int, after: int, kernel: int, stride: int, rounding: str, drop: bool
) -> tuple[int, int]:
    """Output length along one side and the padding after it that makes rounding down exact.

    `drop`: a last window that would begin beyond the map and its leading padding is dropped, as pooling layers do
    everywhere (Caffe pooling_layer.cpp, PyTorch pooling_output_shape): it would see padding alone.
    """
    free = length + before + after - kernel
    if free < 0:
        return 0, after
    count = (free + stride - 1) // stride + 1 if rounding == "ceil" else free // stride + 1
    if drop and rounding == "ceil" and (count - 1) * stride >= length + before:
        count -= 1
    needed = (count - 1) * stride + kernel
    return count, max(after, needed - length - before)


def _windowed(layer: Windowed, shape: Shape, pooling: bool) -> tuple[Shape, Padding]:
    if len(shape) != 3:
        raise GeometryError(layer.name, "op", f"{layer.op} must stand on maps (C, H, W)", f"{shape}")  # type: ignore[attr-defined]
    p, k, s = layer.padding, layer.kernel, layer.stride
    if pooling:  # every window must see a part of the map
        sides = {"top": k.height, "bottom": k.height, "left": k.width, "right": k.width}
        for side, kernel in sides.items():
            if getattr(p, side) >= kernel:
                required = f"padding.{side} of a pool must be less than its kernel ({kernel})"
                raise GeometryError(layer.name, "padding", required, str(getattr(p, side)))
    rows, bottom = _extent(shape[1], p.top, p.bottom, k.height, s.height, layer.rounding, pooling)
    columns, right = _extent(shape[2], p.left, p.right, k.width, s.width, layer.rounding, pooling)
    if rows < 1 or columns < 1:
        required = f"the kernel must fit into the padded map of {shape[1]}x{shape[2]}"
        raise GeometryError(layer.name, "kernel", required, f"{k.height}x{k.width}")
    return (shape[0], rows, columns), Padding(top=p.top, bottom=bottom, left=p.left, right=right)


def _require_groups(layer: Conv | Local | Dense | Lrn, inputs: int, outputs: int | None, what: str) -> None:
    for count, side in ((inputs, f"input {what}"), (outputs, f"output {what}")):
        if count is not None and count % layer.groups:
            raise GeometryError(layer.name, "groups", f"groups must divide the {count} {side}", str(layer.groups))


def _follow(layer: Layer, shape: Shape) -> LayerGeometry:
    """The geometry of `layer` on an input of `shape`. Raises GeometryError."""
    output, padding, parameters, macs = shape, None, {}, 0
    match layer:
        case Conv() | Local():
            (channels, rows, columns), padding = _windowed(layer, shape, pooling=False)
            _require_groups(layer, channels, layer.out_channels, "channels")
            output = (layer.out_channels, rows, columns)
            kernel = (layer.out_channels, channels // layer.groups, layer.kernel.height, layer.kernel.width)
            place = (rows, columns) if isinstance(layer, Local) else ()
            parameters[f"{layer.name}.weight"] = kernel + place
            if layer.bias:
                parameters[f"{layer.name}.bias"] = (layer.out_channels, *place)
            macs = rows * columns * math.prod(kernel)
        case MaxPool() | AvgPool():
            output, padding = _windowed(layer, shape, pooling=True)
        case Dense():
            if len(shape) != 1:
                raise GeometryError(
                    layer.name, "op", "dense must stand on a vector: put a flatten before it", f"{shape}"
                )
            _require_groups(layer, shape[0], layer.out_features, "features")
            output = (layer.out_features,)
            parameters[f"{layer.name}.weight"] = (layer.out_features, shape[0] // layer.groups)
            if layer.bias:
                parameters[f"{layer.name}.bias"] = (layer.out_features,)
            macs = math.prod(parameters[f"{layer.name}.weight"])
        case Flatten():
            output = (math.prod(shape),)
        case Lrn():
            if len(shape) != 3:
                raise GeometryError(layer.name, "op", "lrn must stand on maps (C, H, W)", f"{shape}")
            _require_groups(layer, shape[0], None, "channels")
        case _:
            if layer.op == "spatial_norm" and len(shape) != 3:
                raise GeometryError(layer.name, "op", "spatial_norm must stand on maps (C, H, W)", f"{shape}")
    for what, size in (("output", output), *parameters.items()):
        if math.prod(size) > MAX_ELEMENTS:
            raise GeometryError(layer.name, "op", f"the {what} must have at most {MAX_ELEMENTS} elements", f"{size}")
    return LayerGeometry(layer, shape, output, padding, parameters, macs)


def follow(input_shape: Shape, layers: tuple[Layer, ...]) -> Geometry:
    """The geometry of a chain of layers. Raises GeometryError at the first layer that does not fit."""
    shape = input_shape
    followed = []
    for layer in layers:
        followed.append(_follow(layer, shape))
        shape = followed[-1].output_shape
    return Geometry(input_shape, tuple(followed))


@lru_cache(maxsize=256)
def _geometry(key: tuple[Shape, tuple[Layer, ...]]) -> Geometry:
    return follow(*key)


def geometry(spec: Spec) -> Geometry:
    """The geometry of `spec`; computed once per network."""
    return _geometry(((spec.input.channels, spec.input.height, spec.input.width), spec.layers))


def dropout_shapes(spec: Spec) -> dict[str, Shape]:
    """Of every dropout layer that drops anything: the shape of its mask, without the batch."""
    return {
        layer.name: layer.output_shape
        for layer in geometry(spec).layers
        if isinstance(layer.layer, Dropout) and layer.layer.rate > 0
    }


__all__ = ["Geometry", "GeometryError", "LayerGeometry", "Shape", "Size", "dropout_shapes", "follow", "geometry"]
