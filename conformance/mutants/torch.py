"""Mistakes that shipped somewhere, made here in ``backends/torch/model.py``: layers, their order, their gradients.

Those of training are in ``torch_training.py``, the systematic ones in ``systematic.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from conformance.mutants.mutant import Live, Mutant, Patch
from conformance.mutants.restating import CLASSES, padding, restated, values
from spec import LayerGeometry
from spec.language import Padding

Rule = Callable[..., Any]
"""(``backends.torch.model``, the module, its place, x, and a mask if there is one) to y."""


def forward(op: str, rule: Rule) -> Patch:
    """Every `op` computes `rule` instead of what its module computes."""

    def patch(live: Live) -> None:
        model, modules = live.model, live.model.MODULES
        make = modules[CLASSES[op]]

        def build(place: LayerGeometry) -> Any:
            module = make(place)
            module.forward = lambda x, *mask: rule(model, module, place, x, *mask)
            return module

        live.put(modules, CLASSES[op], build)

    return patch


def right(module: Any, *inputs: Any) -> Any:
    """What the module would compute without the mutant."""
    return type(module).forward(module, *inputs)


def exchanged(first: str, second: str) -> Patch:
    """Every `second` that directly follows a `first` is computed before it."""

    def patch(live: Live) -> None:
        create = live.model.AlexNet.__init__

        def init(self: Any, spec: Any) -> None:
            create(self, spec)
            ops, names = [layer.op for layer in spec.layers], list(self._modules)
            for i in range(len(ops) - 1):
                if (ops[i], ops[i + 1]) == (first, second):
                    names[i], names[i + 1] = names[i + 1], names[i]
            for name in names:
                self._modules[name] = self._modules.pop(name)

        live.set(live.model.AlexNet, "__init__", init)

    return patch


# --- response normalisation -------------------------------------------------------------------------------------------


def by_operations(live: Live) -> None:
    """Response normalisation by PyTorch's operations, as where neither Numba nor Triton is installed."""
    live.set(live.normalization, "loop", lambda x, window, beta: None)


def _sums_of_first_channels(live: Live) -> None:
    by_operations(live)
    sums = live.normalization.Channels.sums

    def sums_of_few(window: Any, x: Any) -> Any:
        total = sums(window, x)
        total[:, x.shape[0] :] = 0
        return total

    live.set(live.normalization.Channels, "sums", sums_of_few)


def _sums_beyond_the_channels(live: Live) -> None:
    by_operations(live)
    sums = live.normalization.Channels.sums

    def sums_within(window: Any, x: Any) -> Any:
        width = window.before + 1 + window.after
        return sums(window, x) * (math.nan if width > x.shape[1] // window.groups else 1.0)

    live.set(live.normalization.Channels, "sums", sums_within)


# --- windows ----------------------------------------------------------------------------------------------------------


def _symmetric(p: Padding) -> dict[str, int]:
    rows, columns = (p.top + p.bottom + 1) // 2, (p.left + p.right + 1) // 2
    return {"top": rows, "bottom": rows, "left": columns, "right": columns}


def _padded_by_one(place: LayerGeometry) -> LayerGeometry:
    """A row and a column more on every side, where that changes no shape."""
    layer: Any = place.layer
    one = padding(lambda p: {side: extent + 1 for side, extent in p.model_dump().items()})(place)
    assert one.padding is not None
    rows = (place.input_shape[1] + one.padding.top + one.padding.bottom - layer.kernel.height) // layer.stride.height
    columns = (place.input_shape[2] + one.padding.left + one.padding.right - layer.kernel.width) // layer.stride.width
    return one if (rows + 1, columns + 1) == place.output_shape[1:] else place


def _bias_by_image(model: Any, module: Any, place: LayerGeometry, x: Any) -> Any:
    padded = x if module.border is None else model.F.pad(x, module.border)
    if module.bias is None:
        return right(module, x)
    y = model.F.conv2d(padded, module.weight, None, module.stride, module.padding, 1, module.groups)
    image = model.torch.arange(len(x)) % len(module.bias)
    return y + module.bias[image][:, None, None, None]


def _weight_gradient_interleaved(model: Any, module: Any, place: LayerGeometry, x: Any) -> Any:
    """The value is right; the weight's gradient is that of a convolution whose groups take every G-th channel."""
    interleaved = x.detach().unflatten(1, (-1, module.groups)).transpose(1, 2).flatten(1, 2)
    weight, bias = module.weight, module.bias
    wrong = right(module, interleaved)
    padded = x if module.border is None else model.F.pad(x, module.border)
    y = model.F.conv2d(padded, weight.detach(), bias, module.stride, module.padding, 1, module.groups)
    by_bias = 0 if bias is None else bias[:, None, None]
    by_weight = wrong - by_bias
    return y + by_weight - by_weight.detach()


def _zero_padded_max(model: Any, module: Any, place: LayerGeometry, x: Any) -> Any:
    layer: Any = place.layer
    kernel, stride = (layer.kernel.height, layer.kernel.width), (layer.stride.height, layer.stride.width)
    return model.F.max_pool2d(model.F.pad(x, model.border(place)), kernel, stride)


def _every_tie_wins(model: Any, module: Any, place: LayerGeometry, x: Any) -> Any:
    """The value is right; the gradient goes to every element that equals the largest."""
    layer: Any = place.layer
    y = right(module, x).detach()
    padded = model.F.pad(x, model.border(place), value=-math.inf)
    windows = padded.unfold(2, layer.kernel.height, layer.stride.height)
    windows = windows.unfold(3, layer.kernel.width, layer.stride.width)
    tied = windows == y[..., None, None]
    return y + model.torch.where(tied, windows - windows.detach(), 0).sum((-1, -2))


def _counts(model: Any, place: LayerGeometry, x: Any, sides: Padding) -> Any:
    """How many elements of the map with `sides` around it each window sees."""
    layer: Any = place.layer
    assert place.padding is not None
    p = place.padding
    ones = model.torch.ones_like(x[:1, :1])
    ones = model.F.pad(ones, (sides.left, sides.right, sides.top, sides.bottom), value=1.0)
    beyond = (p.left - sides.left, p.right - sides.right, p.top - sides.top, p.bottom - sides.bottom)
    kernel, stride = (layer.kernel.height, layer.kernel.width), (layer.stride.height, layer.stride.width)
    return model.F.avg_pool2d(model.F.pad(ones, beyond), kernel, stride, divisor_override=1)


def _bottom_counted_as_left(model: Any, module: Any, place: LayerGeometry, x: Any) -> Any:
    """The divisor of ``window`` is cut where the padding on the left would end, were it at the bottom."""
    if module.inside:
        return right(module, x)
    assert place.padding is not None
    sides = place.padding.model_copy(update={"bottom": place.padding.left})
    return right(module, x) * module.area / _counts(model, place, x, sides)


def _overhang_counted(model: Any, module: Any, place: LayerGeometry, x: Any) -> Any:
    """The divisor of ``inside`` counts what rounding up added beyond the stated padding."""
    if not module.inside:
        return right(module, x)
    assert place.padding is not None
    layer: Any = place.layer
    sides = {"top": 0, "left": 0, "bottom": place.padding.bottom - layer.padding.bottom}
    added = place.padding.model_copy(update=sides | {"right": place.padding.right - layer.padding.right})
    return module.window_mean(x) * module.area / _counts(model, place, x, added)


def _divided_by_rate(model: Any, module: Any, place: LayerGeometry, x: Any, *mask: Any) -> Any:
    return x * mask[0] / (1 - module.keep) if mask and module.scale == "train" else right(module, x, *mask)


# --- the table --------------------------------------------------------------------------------------------------------

_GITHUB = "https://github.com/"

SHIPPED: tuple[Mutant, ...] = (
    Mutant(
        "torch-lrn-loops-over-batch",
        "torch",
        "the neighbour sum is computed for as many channels as there are images, and is zero for the others",
        ("lrn.size",),
        "evaluation-outputs",
        "lrn",
        _sums_of_first_channels,
        _GITHUB + "onnx/onnx/issues/7805",
    ),
    Mutant(
        "torch-lrn-even-window-behind",
        "torch",
        "a window of even size always reaches further to the channels before",
        ("lrn.before",),
        "evaluation-outputs",
        "lrn-even",
        restated("lrn", values(before=lambda layer: layer.size // 2)),
        _GITHUB + "pytorch/pytorch/issues/75722",
    ),
    Mutant(
        "torch-lrn-alpha-always-divided",
        "torch",
        "alpha is divided by the size of the window where the specification does not divide it",
        ("lrn.alpha", "lrn.alpha_over"),
        "evaluation-outputs",
        "lrn-undivided",
        restated("lrn", values(alpha_over="size")),
        _GITHUB + "BVLC/caffe/issues/1453",
    ),
    Mutant(
        "torch-lrn-k-lost",
        "torch",
        "k is not passed on under its other name, and the default of 1 is used",
        ("lrn.k",),
        "evaluation-outputs",
        "lrn",
        restated("lrn", values(k=1.0)),
        _GITHUB + "microsoft/MMdnn/issues/805",
    ),
    Mutant(
        "torch-lrn-wide-window-nan",
        "torch",
        "a window of more channels than there are reads beyond them",
        ("lrn.size",),
        "evaluation-outputs",
        "lrn-wide",
        _sums_beyond_the_channels,
        _GITHUB + "BVLC/caffe/issues/1864",
    ),
    Mutant(
        "torch-lrn-sign-lost",
        "torch",
        "the result has lost the sign of its input",
        ("lrn.beta",),
        "evaluation-outputs",
        "lrn",
        forward("lrn", lambda model, module, place, x: right(module, x).abs()),
        _GITHUB + "ROCm/MIOpen/issues/1559",
    ),
    Mutant(
        "torch-conv-padding-made-symmetric",
        "torch",
        "padding that differs between two opposite sides is spread evenly over both",
        ("conv.padding",),
        "evaluation-outputs",
        "conv-strided",
        restated("conv", padding(_symmetric)),
        _GITHUB + "vtjeng/MIPVerify.jl/pull/23",
    ),
    Mutant(
        "torch-conv-padding-unnoticed",
        "torch",
        "a row and a column of padding too many on every side, where no shape tells",
        ("conv.padding",),
        "evaluation-outputs",
        "conv-loose",
        restated("conv", _padded_by_one),
        _GITHUB + "d2l-ai/d2l-en/blob/master/chapter_convolutional-modern/alexnet.md",
    ),
    Mutant(
        "torch-conv-bias-by-image",
        "torch",
        "the bias is indexed by the image instead of by the channel",
        ("conv.bias",),
        "evaluation-outputs",
        "conv-square",
        forward("conv", _bias_by_image),
        _GITHUB + "kraiskil/onnx2c/issues/7",
    ),
    Mutant(
        "torch-conv-group-gradient-interleaved",
        "torch",
        "the weight's gradient takes every second channel for a group instead of the first or second half",
        ("conv.groups",),
        "training-gradients",
        "conv",
        forward("conv", _weight_gradient_interleaved),
        _GITHUB + "pytorch/pytorch/issues/51430",
    ),
    Mutant(
        "torch-max-pool-zero-padding",
        "torch",
        "padding counts as zero, and wins over negative values",
        ("max_pool.padding",),
        "evaluation-outputs",
        "max-pool",
        forward("max_pool", _zero_padded_max),
        _GITHUB + "zylo117/Yet-Another-EfficientDet-Pytorch/pull/352",
    ),
    Mutant(
        "torch-max-pool-every-tie-wins",
        "torch",
        "the gradient goes to every element that equals the largest of its window",
        ("max_pool.kernel",),
        "training-gradients",
        "max-pool-ties",
        forward("max_pool", _every_tie_wins),
        _GITHUB + "Theano/Theano/issues/5248",
    ),
    Mutant(
        "torch-avg-pool-bottom-counted-as-left",
        "torch",
        "the divisor at the bottom is cut by the padding on the left",
        ("avg_pool.padding", "avg_pool.divisor"),
        "evaluation-outputs",
        "avg-pool-window",
        forward("avg_pool", _bottom_counted_as_left),
        _GITHUB + "microsoft/onnxruntime/pull/27375",
    ),
    Mutant(
        "torch-avg-pool-overhang-counted",
        "torch",
        "the divisor counts the part of a window that rounding up put beyond the map",
        ("avg_pool.rounding", "avg_pool.divisor"),
        "evaluation-outputs",
        "avg-pool-ceil",
        forward("avg_pool", _overhang_counted),
        _GITHUB + "apple/coremltools/pull/2844",
    ),
    Mutant(
        "torch-relu-half-gradient-at-zero",
        "torch",
        "as the larger of x and 0, of which each has half the gradient where they are equal",
        ("relu",),
        "training-gradients",
        "relu-at-zero",
        forward("relu", lambda model, module, place, x: model.torch.maximum(x, model.torch.zeros_like(x))),
        _GITHUB + "jax-ml/jax/pull/2342",
    ),
    Mutant(
        "torch-relu-gradient-at-zero",
        "torch",
        "the gradient is set to 0 below 0 but not at 0",
        ("relu",),
        "training-gradients",
        "relu-at-zero",
        forward("relu", lambda model, module, place, x: model.torch.where(x < 0, 0, x)),
        _GITHUB + "pytorch/tutorials/pull/269",
    ),
    Mutant(
        "torch-relu-after-lrn",
        "torch",
        "the ReLU is applied to the normalised values instead of before",
        ("order",),
        "evaluation-outputs",
        "order",
        exchanged("relu", "lrn"),
        _GITHUB + "chainer/chainer/pull/1650",
    ),
    Mutant(
        "torch-pool-before-lrn",
        "torch",
        "pooling comes before normalisation instead of after",
        ("order",),
        "evaluation-outputs",
        "order",
        exchanged("lrn", "max_pool"),
        _GITHUB + "BVLC/caffe/issues/296",
    ),
    Mutant(
        "torch-flatten-columns-first",
        "torch",
        "maps are flattened in Fortran order, down the columns",
        ("flatten",),
        "evaluation-outputs",
        "flatten",
        forward("flatten", lambda model, module, place, x: x.transpose(2, 3).flatten(1)),
        _GITHUB + "keras-team/keras/issues/13830",
    ),
    Mutant(
        "torch-dropout-half-in-evaluation",
        "torch",
        "in evaluation every unit is multiplied by 0.5 whatever the rate",
        ("dropout.rate", "dropout.scale"),
        "evaluation-outputs",
        "dropout-test",
        forward("dropout", lambda model, module, place, x, *m: right(module, x, *m) if m else x * 0.5),
        _GITHUB + "mp2893/retain/pull/1",
    ),
    Mutant(
        "torch-dropout-divides-by-rate",
        "torch",
        "in training the survivors are divided by the probability of being dropped",
        ("dropout.rate", "dropout.scale"),
        "training-outputs",
        "dropout-train",
        forward("dropout", _divided_by_rate),
        _GITHUB + "lmjohns3/theanets/pull/123",
    ),
    Mutant(
        "torch-dropout-in-evaluation",
        "torch",
        "units are dropped in evaluation too",
        ("dropout.rate",),
        "evaluation-outputs",
        "dropout-test",
        forward(
            "dropout",
            lambda model, module, place, x, *m: x * m[0] if m else x * (model.torch.rand_like(x) < module.keep),
        ),
        _GITHUB + "Coderx7/SimpleNet/issues/2",
    ),
)
