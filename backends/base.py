"""The contract every backend keeps, so that training, conformance, export and benchmarks need to know only this page.

Arrays cross the contract as NumPy in canonical layout: images and maps NCHW, vectors (N, F), kernels OIHW, dense
weights (out, in), names ``conv1.weight``. A backend may store what it likes inside. One process runs one backend.

A backend is made for one :class:`spec.Spec` and one dtype, holds parameters and velocities, and starts with both zero:
callers load the initial parameters of ``spec.initial_parameters`` or a checkpoint.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

import numpy as np
import numpy.typing as npt

from backends.group import ALONE, Group
from data import Draws, Known, apply_training
from data.dataset import Images
from spec import Settings, Spec, draws, dropout_shapes, geometry

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]
Masks = Mapping[str, npt.NDArray[np.bool_]]
"""Which units each dropout layer keeps: layer name to bool (N, *output shape). Their presence means training."""


class Unsupported(RuntimeError):
    """What was asked is not in this backend's power (an inference engine asked for gradients, a dtype it lacks)."""


@dataclass(frozen=True)
class Gradients:
    """What one backward pass gives: d<cotangent, logits> by parameter (canonical layout) and by input (N, C, H, W)."""

    logits: Array
    parameters: dict[str, Array]
    input: Array


@dataclass(frozen=True)
class Metrics:
    """Sums over the images since the last reading: softmax cross-entropy, hits among the best 1 and 5 scores."""

    images: int
    loss: float
    correct1: int
    correct5: int
    losses: tuple[float, ...] = ()
    """The mean loss of each batch, in order: one for every step since the last reading. The trainer requires it."""

    def __add__(self, other: Metrics) -> Metrics:
        return Metrics(
            self.images + other.images,
            self.loss + other.loss,
            self.correct1 + other.correct1,
            self.correct5 + other.correct5,
            self.losses + other.losses,
        )


class Inference(ABC):
    """A backend that can run the network forward, in evaluation."""

    name: ClassVar[str]
    """As users type it: ``torch``, ``keras-jax``, ``onnx``."""
    dtypes: ClassVar[tuple[str, ...]] = ("float32",)
    spec: Spec
    dtype: str
    device: str

    def __init__(self, spec: Spec, *, dtype: str = "float32", device: str = "auto") -> None:
        if dtype not in self.dtypes:
            raise Unsupported(f"the {self.name} backend computes in {', '.join(self.dtypes)}. Received: {dtype}")
        self.spec, self.dtype, self.device = spec, dtype, device

    @abstractmethod
    def load(self, parameters: Arrays, velocities: Arrays | None = None) -> None:
        """Take over parameters, and velocities (zero if None). Copies; raises ValueError on a wrong name or shape."""

    @abstractmethod
    def parameters(self) -> dict[str, Array]:
        """Copies of the parameters, in network order."""

    @abstractmethod
    def outputs(self, images: Array) -> dict[str, Array]:
        """Every layer's output in evaluation, by layer name in network order, for images (N, C, H, W)."""

    def predict(self, images: Array) -> Array:
        """The logits (N, classes) in evaluation of images (N, C, H, W)."""
        return self.outputs(images)[self.spec.layers[-1].name]


class Backend(Inference):
    """A backend that can train. In its methods, masks None means evaluation and a mapping, empty or not, training.

    In a group of several processes, :meth:`step` and :meth:`metrics` are collectives: every process calls them for its
    own part of the same batch, and all hold the same parameters. All else is done by each process for itself.
    """

    group: Group = ALONE
    devices: int = 1
    """Of this process, sharing each of its batches."""
    whole_batch: int | None = None
    """Images of the whole batch of which :meth:`step` gets this process's part. The trainer of a group states it."""

    @abstractmethod
    def velocities(self) -> dict[str, Array]:
        """Copies of the optimizer's velocities, by parameter name; see spec/README.md, "Optimizer"."""

    @abstractmethod
    def outputs(self, images: Array, masks: Masks | None = None) -> dict[str, Array]:
        """Every layer's output, by layer name in network order."""

    @abstractmethod
    def gradients(self, images: Array, cotangent: Array, masks: Masks | None = None) -> Gradients:
        """The gradient of sum(cotangent * logits), cotangent (N, classes), by every parameter and the input."""

    @abstractmethod
    def loss(self, images: Array, labels: Array, masks: Masks | None = None) -> float:
        """Mean softmax cross-entropy over images (N, C, H, W) with labels (N,), whole numbers."""

    def apply_training(self, images: Images, indices: npt.ArrayLike, drawn: Draws, **known: Unpack[Known]) -> Any:
        """:func:`data.apply_training`, bit by bit, as images that :meth:`step` takes; they may lie on the device.

        Called by the threads that make batches, several at a time.
        """
        return apply_training(images, indices, drawn, **known)

    def dropout_masks(self, seed: int, images: npt.ArrayLike, epoch: int) -> Masks:
        """:func:`spec.draws.dropout_mask` of every dropout layer for `images` (N,), bit by bit, as :meth:`step` takes
        them; they may lie on the device."""
        return {
            name: draws.dropout_mask(seed, name, self.spec.layer(name).rate, shape, images=images, epoch=epoch)
            for name, shape in dropout_shapes(self.spec).items()
        }

    def device_masks(self, seed: int, images: npt.ArrayLike, epoch: int) -> Any:
        """The same worked out on the device, whatever it is. Raises Unsupported where that is never done."""
        raise Unsupported(f"the {self.name} backend draws its masks on the host")

    def accumulate(self, pieces: int) -> None:
        """Have :meth:`step` take a batch in `pieces` from now on (:func:`pieces`), one after another, with one update
        from all of them: the same step in less memory. Raises Unsupported where a batch can only be taken at once."""
        if pieces != 1:
            raise Unsupported(f"the {self.name} backend takes a batch at once. Received: {pieces} pieces")

    @abstractmethod
    def step(self, images: Array, labels: Array, settings: Mapping[str, Settings], masks: Masks) -> None:
        """One optimizer step on the gradient of :meth:`loss`, over the images of the whole batch in a group.

        Adds to the metrics; does not wait for the device.
        """

    @abstractmethod
    def metrics(self) -> Metrics:
        """Metrics of the steps since the last call, before their updates; waits for the device. In a group, of the
        images of all processes."""


def pieces(images: int, count: int) -> list[slice]:
    """A batch of `images` cut into at most `count` pieces of one size, the last of which may be smaller."""
    size = -(-images // count)
    return [slice(first, min(first + size, images)) for first in range(0, images, size)]


def check_arrays(arrays: Arrays, spec: Spec, what: str) -> None:
    """Raise ValueError unless `arrays` has exactly the parameters of `spec`, each with its shape."""
    shapes = geometry(spec).parameters
    missing, extra = sorted(shapes.keys() - arrays.keys()), sorted(arrays.keys() - shapes.keys())
    if missing or extra:
        raise ValueError(
            f"{what} must have exactly the parameters of {spec.name}."
            + (f" Missing: {', '.join(missing)}." if missing else "")
            + (f" Unknown: {', '.join(extra)}." if extra else "")
        )
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{what} of {name} must have shape {shape}. Received: {arrays[name].shape}")


def check_masks(masks: Masks | None, spec: Spec, images: int) -> None:
    """Raise ValueError unless `masks` is None or has exactly one bool mask (N, *shape) for each dropout layer."""
    if masks is None:
        return
    shapes = {name: (images, *shape) for name, shape in dropout_shapes(spec).items()}
    found = {name: tuple(mask.shape) for name, mask in masks.items()}
    if shapes != found:
        raise ValueError(f"masks must have the names and shapes {shapes}. Received: {found}")


def ranks(scores: Array, labels: Array) -> Array:
    """How many classes come before the label's, int64 (N,), for scores (N, classes): a label is among the best k if
    this is less than k.

    Before it come greater scores, and equal ones of a smaller class. Not-a-number scores count as greater than
    everything, so that a network gone wrong is never right.
    """
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels, np.int64)
    own = scores[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(scores.shape[1])[None, :] < labels[:, None]
    rank: Array = (~(scores <= own) | ((scores == own) & earlier)).sum(axis=1)
    return rank


def tally(logits: Array, labels: Array) -> Metrics:
    """Metrics of logits (N, classes): the definition, in float64, that device-side tallies must equal."""
    scores = np.asarray(logits, np.float64)
    labels = np.asarray(labels, np.int64)
    rank = ranks(scores, labels)
    shifted = scores - scores.max(axis=1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]
    loss = float(losses.sum())
    return Metrics(len(labels), loss, int((rank < 1).sum()), int((rank < 5).sum()), (loss / len(labels),))
