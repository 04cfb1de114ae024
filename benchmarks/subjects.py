"""Ways to train a network, by name: ours, and those in which it is usually written. Each runs in its own process.

The usual ways are this repository's own transcription of common practice: the layers of the specification from the
framework's own modules, ``F.local_response_norm`` or a sum of slices and a power, the framework's dropout and SGD.
"""

# mypy: disallow-subclassing-any=False, disallow-untyped-calls=False

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from backends.allocator import keep_freed_memory
from backends.base import Array, Backend
from benchmarks.devices import allow_tf32, compile_strictly, device_memory
from spec import Place, Spec, from_values, geometry, settings
from spec.language import AvgPool, Conv, Dense, Dropout, Flatten, Lrn, MaxPool, Relu


@dataclass(frozen=True)
class Training:
    """Training on the same images again and again."""

    step: Callable[[], Any]
    """One step; need not wait until it has been computed."""
    loss: Callable[[], float]
    """The loss of the last step, when it has been computed."""
    device_memory: Callable[[], float | None] = lambda: None
    """The most memory of the accelerator that was used, MiB."""


@dataclass(frozen=True)
class Subject:
    """A way to train."""

    what: str
    make: Callable[[Spec, int, str], Training]
    """From specification, images of a batch, and ``cpu`` or ``cuda``."""
    precision: str = "float32"
    """Of products: ``float32``, ``tf32`` or ``bfloat16``."""
    baseline: str | None = None
    """The usual way with which it is compared."""
    packages: tuple[str, ...] = ("torch",)


def batch_of(spec: Spec, images: int) -> tuple[Array, Array]:
    """Normal images, float32 (N, C, H, W), and labels, int64 (N,)."""
    network, draw = geometry(spec), np.random.default_rng(0)
    x = draw.standard_normal((images, *network.input_shape), np.float32)
    return x, draw.integers(0, network.output_shape[0], images)


def parameters_of(spec: Spec) -> dict[str, Array]:
    """Normal weights that keep the size of a signal, float32 by canonical name, and biases of 0.1.

    With the initial parameters of 2012 hardly anything of an image reaches the logits, and to draw them, for every
    batch size of every way, takes longer than a GPU trains.
    """
    draw, found = np.random.default_rng(0), {}
    for name, shape in geometry(spec).parameters.items():
        if name.endswith(".bias"):
            found[name] = np.full(shape, 0.1, np.float32)
        else:
            found[name] = draw.standard_normal(shape, np.float32)
            found[name] *= math.sqrt(2 / math.prod(shape[1:4]))  # beyond are the places of local weights
    return found


def without(spec: Spec, *ops: str) -> Spec:
    """`spec` without its layers of these operations, under the same name."""
    values = spec.statement()
    gone = [layer.name for layer in spec.layers if layer.op in ops]
    values["layers"] = {name: layer for name, layer in values["layers"].items() if name not in gone}
    values.pop("provenance", None)  # what says where the values of a layer are from would now point nowhere
    return from_values(values, spec.name)


# --- ours -------------------------------------------------------------------------------------------------------------


def ours(name: str, spec: Spec, images: int, device: str, *, lrn: bool = True, precision: str = "float32") -> Training:
    """What the trainer does at every step, masks and metrics included; on a GPU the images are there already."""
    from backends import create

    keep_freed_memory()
    spec = spec if lrn else without(spec, "lrn", "spatial_norm")
    backend = create(name, spec, dtype="mixed_bfloat16" if precision == "bfloat16" else "float32", device=device)
    assert isinstance(backend, Backend)
    framework = name.removeprefix("keras-")
    if precision == "tf32":
        allow_tf32(framework)
    backend.load(parameters_of(spec))
    x, y = batch_of(spec, images)
    if device == "cuda":
        x = _on_gpu(name, x)
    chosen = settings(spec, Place(epoch=0, step=0, steps_per_epoch=1, epochs=spec.training.epochs))
    numbers = np.arange(images)
    return Training(
        lambda: backend.step(x, y, chosen, backend.dropout_masks(0, numbers, 0)),
        lambda: backend.metrics().losses[-1],
        lambda: device_memory(framework) if device == "cuda" else None,
    )


def _on_gpu(name: str, x: Array) -> Any:
    if name == "torch":
        import torch

        return torch.from_numpy(x).to("cuda")
    import keras

    with keras.device("gpu:0"):
        return keras.ops.convert_to_tensor(x)


# --- as usually written, PyTorch --------------------------------------------------------------------------------------


def usual_torch(
    spec: Spec,
    images: int,
    device: str,
    *,
    lrn: Literal["usual", "ours", "none"] = "usual",
    compiled: bool = False,
    channels_last: bool = False,
    precision: str = "float32",
    keep: bool = False,
) -> Training:
    """``nn`` modules and ``torch.optim.SGD``; optionally compiled, in another layout, under autocast, with our LRN."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    from backends.torch.model import empty
    from backends.torch.normalization import ResponseNorm

    if keep:
        keep_freed_memory()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"

    def grouped_by_framework(conv: Any, x: Any) -> Any:
        return nn.Conv2d.forward(conv, x if conv.border is None else F.pad(x, conv.border))

    class Norm(nn.Module):
        def __init__(self, layer: Any) -> None:
            super().__init__()
            self.size, self.alpha, self.beta, self.k = layer.size, layer.coefficient * layer.size, layer.beta, layer.k

        def forward(self, x: Any) -> Any:
            return F.local_response_norm(x, self.size, self.alpha, self.beta, self.k)

    network: nn.Module = empty(spec, dtype=torch.float32, device="cpu").train()
    given = parameters_of(spec)
    with torch.no_grad():
        for parameter_name, parameter in network.named_parameters():
            parameter.copy_(torch.from_numpy(given[parameter_name]))
    for place in geometry(spec).layers:
        name, layer = place.name, place.layer
        if isinstance(getattr(network, name), ResponseNorm) and lrn != "ours":
            setattr(network, name, Norm(layer) if lrn == "usual" else nn.Identity())
        elif isinstance(layer, Dropout):
            setattr(network, name, nn.Dropout(layer.rate))
        elif isinstance(layer, Conv) and lrn == "usual":
            getattr(network, name).forward = partial(grouped_by_framework, getattr(network, name))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = network.to(device=device, memory_format=layout).train()
    x, y = (torch.from_numpy(array).to(device) for array in batch_of(spec, images))
    x = x.to(memory_format=layout)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0005)

    def loss_of(x: Any, y: Any) -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            scores = network(x)
        return F.cross_entropy(scores.float(), y)

    run = compile_strictly(loss_of) if compiled else loss_of
    losses: list[Any] = [None]

    def step() -> None:
        optimizer.zero_grad()
        loss = run(x, y)
        loss.backward()
        optimizer.step()
        losses[0] = loss.detach()

    return Training(step, lambda: float(losses[0]), lambda: device_memory("torch") if device == "cuda" else None)


# --- as usually written, Keras ----------------------------------------------------------------------------------------


def usual_keras(framework: str, spec: Spec, images: int, device: str) -> Training:
    """``Conv2D(groups=2)``, response normalisation of ``keras.ops``, ``compile`` and ``train_on_batch``."""
    os.environ["KERAS_BACKEND"] = framework
    import keras
    from keras import layers, ops

    class Norm(keras.layers.Layer):
        def __init__(self, layer: Any) -> None:
            super().__init__()
            self.lrn = layer

        def call(self, x: Any) -> Any:
            lrn, channels = self.lrn, x.shape[-1]
            padded = ops.pad(ops.square(x), [[0, 0], [0, 0], [0, 0], list(lrn.window)])
            total = sum(padded[..., shift : shift + channels] for shift in range(lrn.size))
            return x / ops.power(lrn.k + lrn.coefficient * total, lrn.beta)

    def made(place: Any) -> list[Any]:
        layer = place.layer
        border = []
        if place.padding is not None and any(place.padding.model_dump().values()):
            p = place.padding
            border = [layers.ZeroPadding2D(((p.top, p.bottom), (p.left, p.right)))]
        if isinstance(layer, Conv):
            size, stride = (layer.kernel.height, layer.kernel.width), (layer.stride.height, layer.stride.width)
            return [*border, layers.Conv2D(layer.out_channels, size, stride, groups=layer.groups)]
        if isinstance(layer, MaxPool | AvgPool):
            kind = layers.MaxPooling2D if isinstance(layer, MaxPool) else layers.AveragePooling2D
            size, stride = (layer.kernel.height, layer.kernel.width), (layer.stride.height, layer.stride.width)
            return [*border, kind(size, stride)]
        table: dict[type, Callable[[Any], Any]] = {
            Lrn: Norm,
            Relu: lambda layer: layers.ReLU(),
            Dropout: lambda layer: layers.Dropout(layer.rate),
            Flatten: lambda layer: layers.Flatten(),
            Dense: lambda layer: layers.Dense(layer.out_features),
        }
        if type(layer) not in table:
            raise ValueError(f"the usual way has no layer for {layer.op}: choose a specification without it")
        return [table[type(layer)](layer)]

    places = geometry(spec).layers
    channels, height, width = geometry(spec).input_shape
    network = keras.Sequential([keras.Input((height, width, channels)), *(one for p in places for one in made(p))])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.SGD(0.01, momentum=0.9, weight_decay=0.0005), loss)
    x, y = batch_of(spec, images)
    x = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    losses = [0.0]

    def step() -> None:
        losses[0] = float(network.train_on_batch(x, y))

    return Training(step, lambda: losses[0], lambda: device_memory(framework) if device == "cuda" else None)


_TF, _JAX = ("keras", "tensorflow"), ("keras", "jax")
_TUNED: dict[str, Any] = {"compiled": True, "channels_last": True, "keep": True}
SUBJECTS: dict[str, Subject] = {
    "torch": Subject("ours, PyTorch", partial(ours, "torch"), baseline="usual-torch"),
    "torch-bf16": Subject(
        "the same with --precision bf16", partial(ours, "torch", precision="bfloat16"), "bfloat16", "usual-torch"
    ),
    "torch-no-lrn": Subject("ours without its LRN layers", partial(ours, "torch", lrn=False), baseline="usual-torch"),
    "usual-torch": Subject("usual PyTorch: eager, F.local_response_norm, NCHW", usual_torch),
    "usual-torch-tuned": Subject(
        "the same compiled, channels last, freed memory kept", partial(usual_torch, **_TUNED), baseline="usual-torch"
    ),
    "usual-torch-tuned-nchw": Subject(
        "the same compiled, NCHW, freed memory kept",
        partial(usual_torch, compiled=True, keep=True),
        baseline="usual-torch",
    ),
    "usual-torch-tuned-eager": Subject(
        "the same eager, channels last, freed memory kept",
        partial(usual_torch, channels_last=True, keep=True),
        baseline="usual-torch",
    ),
    "usual-torch-tuned-bf16": Subject(
        "the same compiled, channels last, freed memory kept, under autocast to bfloat16",
        partial(usual_torch, **_TUNED, precision="bfloat16"),
        "bfloat16",
        "usual-torch",
    ),
    "keras-tensorflow": Subject(
        "ours, Keras on TensorFlow",
        partial(ours, "keras-tensorflow"),
        baseline="usual-keras-tensorflow",
        packages=_TF,
    ),
    "keras-tensorflow-bf16": Subject(
        "the same with --precision bf16",
        partial(ours, "keras-tensorflow", precision="bfloat16"),
        "bfloat16",
        "usual-keras-tensorflow",
        _TF,
    ),
    "usual-keras-tensorflow": Subject(
        "usual Keras on TensorFlow: Conv2D(groups=2), keras.ops LRN", partial(usual_keras, "tensorflow"), packages=_TF
    ),
    "keras-jax": Subject("ours, Keras on JAX", partial(ours, "keras-jax"), baseline="usual-keras-jax", packages=_JAX),
    "usual-keras-jax": Subject(
        "usual Keras on JAX: Conv2D(groups=2), keras.ops LRN", partial(usual_keras, "jax"), packages=_JAX
    ),
}
"""On a CPU, in the order of the table."""
UNASKED = tuple(name for name in SUBJECTS if name.endswith("-bf16"))
"""Measured only if they are named: a machine without instructions for bfloat16 takes minutes for a step of theirs."""

GPU_SUBJECTS: dict[str, Subject] = {}
"""What a GPU is asked for: every way in TF32 and in bfloat16, the most telling first."""
for _precision, _short in (("tf32", "tf32"), ("bfloat16", "bf16")):
    _usual = f"usual-torch-{_short}"
    for _name, _what, _make, _packages in (
        ("torch", "ours, PyTorch, the trainer's step", partial(ours, "torch"), ("torch",)),
        ("torch-module", "our nn.Module in a plain loop, eager", partial(usual_torch, lrn="ours"), ("torch",)),
        (
            "torch-module-compiled",
            "the same, compiled",
            partial(usual_torch, lrn="ours", compiled=True, channels_last=True),
            ("torch",),
        ),
        ("usual-torch", "usual PyTorch: eager, F.local_response_norm, NCHW", usual_torch, ("torch",)),
        (
            "usual-torch-compiled",
            "the same, compiled, channels last",
            partial(usual_torch, compiled=True, channels_last=True),
            ("torch",),
        ),
        ("keras-jax", "ours, Keras on JAX", partial(ours, "keras-jax"), _JAX),
        ("keras-tensorflow", "ours, Keras on TensorFlow", partial(ours, "keras-tensorflow"), _TF),
    ):
        GPU_SUBJECTS[f"{_name}-{_short}"] = Subject(
            f"{_what}, {_precision}",
            partial(_make, precision=_precision),
            _precision,
            _usual if _packages == ("torch",) and _name != "usual-torch" else None,
            _packages,
        )
ALL_SUBJECTS = SUBJECTS | GPU_SUBJECTS
