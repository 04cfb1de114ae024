"""AlexNet as a PyTorch module: every layer of a specification, under the specification's names.

`build` makes an ordinary `nn.Module`: a chain whose submodules are called as the layers are, and whose ``state_dict()``
holds ``conv1.weight``, ``conv1.bias`` and so on in canonical layout, which is PyTorch's own. The formulas are those of
``spec/README.md``; what PyTorch has no module for (response normalisation, explicit padding, test-scaled dropout,
locally connected and grouped dense layers) is written out here.

References
    [1] A. Krizhevsky, I. Sutskever, G. E. Hinton: ImageNet Classification with Deep Convolutional Neural
        Networks, NIPS 2012.
    [2] The code that produced [1]: computerhistory/AlexNet-Source-Code@2f8b81f, layers/layers-145.cfg and src/layer.cu.
    [3] spec/README.md: every operation as a formula.
"""

# mypy: disallow-subclassing-any=False, disallow-untyped-decorators=False

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backends.torch.grouped import convolution
from backends.torch.normalization import ResponseNorm
from spec import LayerGeometry, Spec, geometry, initial_parameter
from spec.language import AvgPool, Conv, Dense, Dropout, Flatten, Local, Lrn, MaxPool, Relu, SpatialNorm, Tanh


class AlexNet(nn.Module):
    """The network of a specification: images (N, C, H, W) to class scores (N, classes)."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        for layer in geometry(spec).layers:
            # Not add_module: it refuses names that nn.Module itself uses, and a layer may be called `half` or `train`.
            self._modules[layer.name] = MODULES[type(layer.layer)](layer)

    def forward(self, x: Tensor, masks: Mapping[str, Tensor] | None = None) -> Tensor:
        """x: (N, C, H, W). Returns logits (N, classes).

        masks: which units each dropout layer keeps, bool (N, *shape) by layer name. With masks the network behaves as
        in training whatever its mode; without them ``train()`` draws masks from PyTorch's generator and ``eval()``
        drops nothing.
        """
        for name, module in self._modules.items():
            x = module(x, masks[name]) if masks and name in masks else module(x)
        return x

    def outputs(self, x: Tensor, masks: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Every layer's output on x (N, C, H, W), by name, in network order."""
        found = {}
        for name, module in self._modules.items():
            x = module(x, masks[name]) if masks and name in masks else module(x)
            found[name] = x
        return found


def build(
    spec: Spec, *, seed: int = 0, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> AlexNet:
    """The network of `spec` with its initial parameters, in training mode like every new module.

    seed: of the initial parameters (``spec.initial_parameters``), which are the same in every backend.

        >>> network = build(spec.load("source-2012"))
        >>> network.fc8.weight.shape
        torch.Size([1000, 4096])
    """
    network = empty(spec, dtype=dtype, device=device)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(torch.from_numpy(initial_parameter(spec, name, seed)))
    return network


def empty(spec: Spec, *, dtype: torch.dtype, device: torch.device | str) -> AlexNet:
    """The network of `spec` with parameters of any value: PyTorch's own initialisation would be drawn for nothing."""
    with torch.device("meta"):
        network = AlexNet(spec)
    network.to(dtype).to_empty(device=device)
    return network


# --- convolution, local and dense -------------------------------------------------------------------------------------


def border(place: LayerGeometry) -> tuple[int, int, int, int]:
    """The padding of `place` in the order of F.pad."""
    assert place.padding is not None
    return place.padding.left, place.padding.right, place.padding.top, place.padding.bottom


class Conv2d(nn.Conv2d):
    """Convolution with any explicit padding: the module's own where both sides are alike, F.pad where they differ."""

    def __init__(self, place: LayerGeometry) -> None:
        layer, (left, right, top, bottom) = place.layer, border(place)
        assert isinstance(layer, Conv)
        alike = left == right and top == bottom
        super().__init__(
            place.input_shape[0],
            layer.out_channels,
            (layer.kernel.height, layer.kernel.width),
            (layer.stride.height, layer.stride.width),
            (top, left) if alike else 0,
            groups=layer.groups,
            bias=layer.bias,
        )
        self.border = None if alike else (left, right, top, bottom)

    def forward(self, x: Tensor) -> Tensor:
        if self.border is not None:
            x = F.pad(x, self.border)
        return convolution(x, self.weight, self.bias, self.stride, self.padding, self.groups)


class Local2d(nn.Module):
    """Convolution whose weights (out, in/groups, kh, kw, rows, columns) and biases differ from place to place."""

    def __init__(self, place: LayerGeometry) -> None:
        super().__init__()
        layer = place.layer
        assert isinstance(layer, Local)
        self.border, self.groups, self.output_shape = border(place), layer.groups, place.output_shape
        self.kernel, self.stride = (layer.kernel.height, layer.kernel.width), (layer.stride.height, layer.stride.width)
        self.weight = nn.Parameter(torch.empty(place.parameters[f"{layer.name}.weight"]))
        self.bias = nn.Parameter(torch.empty(place.output_shape)) if layer.bias else None

    def forward(self, x: Tensor) -> Tensor:
        windows = F.unfold(F.pad(x, self.border), self.kernel, stride=self.stride).unflatten(1, (self.groups, -1))
        weight = self.weight.flatten(4).unflatten(0, (self.groups, -1)).flatten(2, 4)
        y = torch.einsum("ngkl,gokl->ngol", windows, weight).reshape(-1, *self.output_shape)
        return y if self.bias is None else y + self.bias


class Linear(nn.Linear):
    """y = W x + b; with groups, each slice of x has its own W."""

    def __init__(self, place: LayerGeometry) -> None:
        layer = place.layer
        assert isinstance(layer, Dense)
        super().__init__(place.input_shape[0] // layer.groups, layer.out_features, bias=layer.bias)
        self.groups = layer.groups

    def forward(self, x: Tensor) -> Tensor:
        if self.groups == 1:
            return super().forward(x)
        x, weight = x.unflatten(1, (self.groups, -1)), self.weight.unflatten(0, (self.groups, -1))
        y = torch.einsum("ngi,goi->ngo", x, weight).flatten(1)
        return y if self.bias is None else y + self.bias


# --- pooling ----------------------------------------------------------------------------------------------------------


def pool_arguments(place: LayerGeometry) -> dict[str, Any] | None:
    """Arguments that make PyTorch's pools see exactly the windows of `place`, or None if none do.

    PyTorch clips a window at the map, so that only where the first begins and how many there are matter.
    """
    layer, (left, _, top, _) = place.layer, border(place)
    assert isinstance(layer, MaxPool | AvgPool)
    kernel, stride = (layer.kernel.height, layer.kernel.width), (layer.stride.height, layer.stride.width)
    if any(before > size // 2 for before, size in zip((top, left), kernel, strict=True)):
        return None  # PyTorch refuses such padding

    def count(length: int, before: int, size: int, step: int, ceil: bool) -> int:
        windows = (length + 2 * before - size + (step - 1 if ceil else 0)) // step + 1
        return windows - 1 if ceil and (windows - 1) * step >= length + before else windows

    for ceil in (False, True):
        sides = zip(place.input_shape[1:], (top, left), kernel, stride, strict=True)
        if tuple(count(*side, ceil) for side in sides) == place.output_shape[1:]:
            return {"kernel_size": kernel, "stride": stride, "padding": (top, left), "ceil_mode": ceil}
    return None


class MaxPool2d(nn.Module):
    """The largest value of each window; padding counts as minus infinity, not as zero."""

    def __init__(self, place: LayerGeometry) -> None:
        super().__init__()
        layer = place.layer
        assert isinstance(layer, MaxPool)
        native = pool_arguments(place)
        self.border = border(place) if native is None else None
        kernel, stride = (layer.kernel.height, layer.kernel.width), (layer.stride.height, layer.stride.width)
        self.arguments = native or {"kernel_size": kernel, "stride": stride}

    def forward(self, x: Tensor) -> Tensor:
        padded = x if self.border is None else F.pad(x, self.border, value=-math.inf)
        return F.max_pool2d(padded, **self.arguments)


class AvgPool2d(nn.Module):
    """The sum of each window over its area (`divisor: window`) or over its part inside the map (`inside`)."""

    def __init__(self, place: LayerGeometry) -> None:
        super().__init__()
        layer = place.layer
        assert isinstance(layer, AvgPool)
        native = pool_arguments(place)
        self.border = border(place) if native is None else None
        self.inside = layer.divisor == "inside"
        kernel, stride = (layer.kernel.height, layer.kernel.width), (layer.stride.height, layer.stride.width)
        self.arguments = native or {"kernel_size": kernel, "stride": stride}
        self.area = math.prod(kernel)

    def forward(self, x: Tensor) -> Tensor:
        mean = self.window_mean(x)
        return mean / self.window_mean(torch.ones_like(x[:1, :1])) if self.inside else mean

    def window_mean(self, x: Tensor) -> Tensor:
        padded = x if self.border is None else F.pad(x, self.border)
        return F.avg_pool2d(padded, **self.arguments, divisor_override=self.area)


# --- element by element -----------------------------------------------------------------------------------------------


class ScaledTanh(nn.Module):
    """amplitude * tanh(slope * x)."""

    def __init__(self, place: LayerGeometry) -> None:
        super().__init__()
        layer = place.layer
        assert isinstance(layer, Tanh)
        self.amplitude, self.slope = layer.amplitude, layer.slope

    def forward(self, x: Tensor) -> Tensor:
        return self.amplitude * torch.tanh(self.slope * x)


class ScaledDropout(nn.Module):
    """Dropout that scales in training (inverted) or in evaluation (as [1] and [2] do)."""

    def __init__(self, place: LayerGeometry) -> None:
        super().__init__()
        layer = place.layer
        assert isinstance(layer, Dropout)
        self.keep, self.scale = 1.0 - layer.rate, layer.scale

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None and self.training:
            mask = torch.rand_like(x) < self.keep
        if mask is None:
            return x * self.keep if self.scale == "test" else x
        kept = x * mask
        return kept / self.keep if self.scale == "train" else kept

    def extra_repr(self) -> str:
        return f"rate={1.0 - self.keep:g}, scale={self.scale}"


MODULES: dict[type, Callable[[LayerGeometry], nn.Module]] = {
    Conv: Conv2d,
    Local: Local2d,
    Dense: Linear,
    MaxPool: MaxPool2d,
    AvgPool: AvgPool2d,
    Lrn: ResponseNorm,
    SpatialNorm: ResponseNorm,
    Relu: lambda place: nn.ReLU(),
    Tanh: ScaledTanh,
    Dropout: ScaledDropout,
    Flatten: lambda place: nn.Flatten(),
}
"""Every operation of the language and the module that realises it."""
