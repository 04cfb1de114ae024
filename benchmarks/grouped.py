"""Convolution in groups: the framework's own, one convolution for each group, or a dense one with zeros in between."""

# mypy: disallow-untyped-calls=False

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.devices import allow_tf32, used_precision
from benchmarks.ways import Way, measured
from spec import LayerGeometry, Spec, geometry
from spec.language import Conv

FORMS = {
    "native": "the framework's groups",
    "split": "a convolution for each group",
    "dense": "one convolution by a block-diagonal kernel",
}


def places(spec: Spec) -> list[LayerGeometry]:
    """Where `spec` convolves in groups."""
    return [at for at in geometry(spec).layers if isinstance(at.layer, Conv) and at.layer.groups > 1]


def function(form: str, place: LayerGeometry) -> Callable[[Any, Any], Any]:
    """A function of x (N, C, H, W), padded already, and the kernel (O, C / groups, h, w) that all forms share."""
    import torch.nn.functional as F

    from backends.torch import grouped

    layer = place.layer
    assert isinstance(layer, Conv)
    stride, groups = (layer.stride.height, layer.stride.width), layer.groups
    if form == "native":
        return lambda x, weight: F.conv2d(x, weight, stride=stride, groups=groups)
    chosen = {"split": grouped.split, "dense": grouped.dense}[form]
    return lambda x, weight: chosen(x, weight, None, stride, (0, 0), groups)


def _way(form: str, place: LayerGeometry, batch: int, device: str, layout: str, precision: str) -> Way:
    import torch

    dtype = torch.float32 if precision == "tf32" else getattr(torch, precision)
    memory = torch.contiguous_format if layout == "NCHW" else torch.channels_last
    layer, padding = place.layer, place.padding
    assert isinstance(layer, Conv)
    assert padding is not None
    channels, height, width = place.input_shape
    padded = (batch, channels, height + padding.top + padding.bottom, width + padding.left + padding.right)
    kernel = (layer.out_channels, channels // layer.groups, layer.kernel.height, layer.kernel.width)

    def make() -> Callable[[], Any]:
        generator = torch.Generator(device).manual_seed(0)

        def drawn(shape: tuple[int, ...]) -> Any:
            x = torch.randn(shape, generator=generator, device=device)
            return x.to(dtype).to(memory_format=memory).requires_grad_()

        x, weight, call = drawn(padded), drawn(kernel), function(form, place)
        cotangent = torch.ones_like(call(x, weight))

        def both() -> None:
            x.grad = weight.grad = None
            torch.backends.cudnn.allow_tf32 = precision == "tf32"
            call(x, weight).backward(cotangent)

        return both

    # Forward, and by both factors; a dense kernel's zeros are no work that anybody asked for.
    return Way(form, FORMS[form], layout, used_precision(precision, device), make, "native",
               operations=6 * place.macs * batch)  # fmt: skip


def measure(
    spec: Spec, layer: str, *, batch: int, device: str, precisions: list[str], layouts: list[str], rounds: int,
    threads: int, until: float | None,
) -> Any:  # fmt: skip
    """(cases, failures) of every form at `layer`, forward and backward."""
    import torch

    torch.set_num_threads(threads)
    allow_tf32("torch")
    (place,) = (place for place in places(spec) if place.name == layer)
    ways = [
        _way(form, place, batch, device, layout, precision)
        for precision in precisions
        for layout in layouts
        for form in FORMS
    ]
    where = f"{spec.name} {layer}, {' x '.join(map(str, (batch, *place.input_shape)))}"
    return measured("grouped convolution", where, batch, device, ways, rounds, until)
