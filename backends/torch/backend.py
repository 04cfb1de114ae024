"""PyTorch behind the contract of every backend."""

# mypy: disallow-untyped-decorators=False

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from backends.base import (
    Array,
    Arrays,
    Backend,
    Gradients,
    Masks,
    Metrics,
    Unsupported,
    check_arrays,
    check_masks,
    pieces,
)
from backends.group import ALONE, Group
from backends.torch.augmentation import augmented
from backends.torch.dropout import Counters
from backends.torch.model import empty
from backends.torch.optimizer import SGD
from data import Draws, Known
from data.dataset import Images
from data.shards import taken
from spec import Settings, Spec

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "mixed_bfloat16": torch.float32,
}
"""Of images, parameters and velocities. In mixed_bfloat16 products are computed in bfloat16, under torch.autocast."""


def choose_device(wanted: str, group: Group = ALONE) -> torch.device:
    """The device for ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``; auto takes a GPU where there is one.

    Of several processes on this machine, each takes a GPU of its own. Raises Unsupported for a device that this
    machine, or this build of PyTorch, does not have, or not often enough.
    """
    if group.ranks > 1:
        return _device_of_one(wanted, group)
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device(next(kind for kind, there in present.items() if there))
    names = [
        *(kind for kind, there in present.items() if there),
        *(f"cuda:{i}" for i in range(torch.cuda.device_count())),
    ]
    if wanted not in names:
        required = ", ".join(["auto", *names])
        raise Unsupported(f"a device of PyTorch on this machine must be one of {required}. Received: {wanted}")
    return torch.device(wanted)


def _device_of_one(wanted: str, group: Group) -> torch.device:
    """The device of one process in a group."""
    there = torch.cuda.device_count()
    if wanted == "cpu" or (wanted == "auto" and not there):
        return torch.device("cpu")
    if wanted not in ("auto", "cuda"):
        required = "several processes must train on cpu or on cuda, each with a GPU of its own"
        raise Unsupported(f"{required}. Received: {wanted}")
    if group.local_ranks > there:
        required = f"{group.local_ranks} processes on this machine must have as many GPUs (or --device cpu)"
        raise Unsupported(f"{required}. Received: {there}")
    torch.cuda.set_device(group.local_rank)
    return torch.device("cuda", group.local_rank)


class TorchBackend(Backend):
    """The network of :mod:`backends.torch.model` and the optimizer of :mod:`backends.torch.optimizer`.

    float32 means float32: on NVIDIA GPUs, TF32 is switched off for the whole process.
    """

    name = "torch"
    dtypes = tuple(DTYPES)

    def __init__(
        self, spec: Spec, *, dtype: str = "float32", device: str = "auto", devices: int = 1, group: Group = ALONE
    ) -> None:
        super().__init__(spec, dtype=dtype, device=device)
        if devices > 1:
            command = f"torchrun --nproc-per-node={devices} -m backends.torch.train"
            raise Unsupported(f"the torch backend has one device a process. For {devices} of them: {command}")
        self.group = group
        self._place = choose_device(device, group)
        if self._place.type == "mps" and dtype == "float64":
            raise Unsupported("the device mps computes in float32. Received: float64")
        self.device = str(self._place)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        # Channels last: on CPUs, the pools and small convolutions of PyTorch are up to twice as fast so.
        network = empty(spec, dtype=DTYPES[dtype], device=self._place)
        self._network = network.eval().to(memory_format=torch.channels_last)
        self._parameters = dict(self._network.named_parameters())
        self._optimizer = SGD(self._parameters.items(), spec)
        self._parallel: DistributedDataParallel | None = None
        self._counters = Counters(spec, self._place)
        self._pieces = 1
        self._batches: list[tuple[int, Tensor, Tensor]] = []
        """Of every step since the last reading: images, mean loss and hits, the last two still on the device."""
        with torch.no_grad():
            for parameter in self._parameters.values():
                parameter.zero_()

    def load(self, parameters: Arrays, velocities: Arrays | None = None) -> None:
        check_arrays(parameters, self.spec, "parameters")
        if velocities is not None:
            check_arrays(velocities, self.spec, "velocities")
        with torch.no_grad():
            for name, velocity in self._optimizer.velocities().items():
                self._parameters[name].copy_(torch.tensor(parameters[name]))
                velocity.copy_(torch.zeros(()) if velocities is None else torch.tensor(velocities[name]))

    def parameters(self) -> dict[str, Array]:
        return {name: _array(parameter) for name, parameter in self._parameters.items()}

    def velocities(self) -> dict[str, Array]:
        return {name: _array(velocity) for name, velocity in self._optimizer.velocities().items()}

    @torch.no_grad()
    def outputs(self, images: Array, masks: Masks | None = None) -> dict[str, Array]:
        with self._precision():
            outputs = self._network.outputs(self._tensor(images), self._masks(masks, images))
        return {name: _array(output) for name, output in outputs.items()}

    @torch.no_grad()
    def predict(self, images: Array) -> Array:
        return _array(self._logits(self._tensor(images)))

    def gradients(self, images: Array, cotangent: Array, masks: Masks | None = None) -> Gradients:
        x = self._tensor(images).requires_grad_()
        logits = self._logits(x, self._masks(masks, images))
        found = torch.autograd.grad(logits, [x, *self._parameters.values()], self._tensor(cotangent))
        by_input, *by_parameter = map(_array, found)
        return Gradients(_array(logits), dict(zip(self._parameters, by_parameter, strict=True)), by_input)

    @torch.no_grad()
    def loss(self, images: Array, labels: Array, masks: Masks | None = None) -> float:
        logits = self._logits(self._tensor(images), self._masks(masks, images))
        return float(F.cross_entropy(logits, self._tensor(labels, torch.int64)))

    def apply_training(self, images: Images, indices: npt.ArrayLike, drawn: Draws, **known: Unpack[Known]) -> Any:
        """On a GPU from the stored bytes; a CPU has nothing quicker than the definition."""
        if self._place.type == "cpu":
            return super().apply_training(images, indices, drawn, **known)
        return self.apply_on_device(images, indices, drawn, **known)

    def apply_on_device(self, images: Images, indices: npt.ArrayLike, drawn: Draws, **known: Unpack[Known]) -> Tensor:
        """The same from the stored bytes, on any device."""
        pixels = self._tensor(taken(images, indices), torch.uint8)
        return augmented(pixels, drawn, **known)

    def dropout_masks(self, seed: int, images: npt.ArrayLike, epoch: int) -> Masks:
        """On a GPU from the counters alone; a CPU has nothing quicker than the definition."""
        host = self._place.type == "cpu"
        return super().dropout_masks(seed, images, epoch) if host else self.device_masks(seed, images, epoch)

    def device_masks(self, seed: int, images: npt.ArrayLike, epoch: int) -> Any:
        return self._counters.masks(seed, self._tensor(np.asarray(images), torch.int64), epoch)

    def accumulate(self, pieces: int) -> None:
        self._pieces = pieces

    def step(self, images: Array, labels: Array, settings: Mapping[str, Settings], masks: Masks) -> None:
        check_masks(masks, self.spec, len(images))
        self._optimizer.zero_grad()
        parts, seen = pieces(len(images), self._pieces), []
        with self.group.losing():
            for rows in parts:
                kept = {name: mask[rows] for name, mask in masks.items()}
                with nullcontext() if rows is parts[-1] else self._for_itself():
                    seen.append(self._differentiate(images[rows], labels[rows], kept, len(images)))
        self._optimizer.use(settings)
        self._optimizer.step()
        loss, hit = (sum(parts[1:], start=parts[0]) for parts in zip(*seen, strict=True))
        self._batches.append((len(images), loss, hit))

    def _differentiate(self, images: Array, labels: Array, masks: Masks, batch: int) -> tuple[Tensor, Tensor]:
        """Add the gradient of these images' share in the mean loss of `batch` images. Returns it and the hits."""
        y = self._tensor(labels, torch.int64)
        logits = self._logits(self._tensor(images), self._masks(masks, images), self._trained())
        loss = F.cross_entropy(logits, y)
        if len(images) < batch:
            loss = loss * (len(images) / batch)
        (loss if self.group.ranks == 1 else loss * self._weight(batch)).backward()
        return loss.detach(), hits(logits.detach(), y)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self._place.type, torch.bfloat16, enabled=self.dtype == "mixed_bfloat16")

    def _logits(self, x: Tensor, masks: Mapping[str, Tensor] | None = None, network: nn.Module | None = None) -> Tensor:
        """In what the loss is computed in: float32, unless all is in another dtype."""
        with self._precision():
            logits: Tensor = (network or self._network)(x, masks)
        return logits.to(x.dtype)

    def _trained(self) -> nn.Module:
        """What a step differentiates. In a group, its gradients are the means of those of all processes."""
        if self.group.ranks == 1:
            return self._network
        if self._parallel is None:  # a collective, and therefore not made before the first step
            self._parallel = DistributedDataParallel(self._network, gradient_as_bucket_view=True)
        return self._parallel

    def _for_itself(self) -> AbstractContextManager[object]:
        """Within it, gradients are gathered in this process alone."""
        trained = self._trained()
        return trained.no_sync() if isinstance(trained, DistributedDataParallel) else nullcontext()

    def _weight(self, images: int) -> float:
        """Of the mean over this process's images in the mean of all processes' means, so that all images count alike.

        1 if all processes have as many; the processes' gradients are averaged by DistributedDataParallel.
        """
        if self.whole_batch is None:
            raise RuntimeError("whole_batch must be stated before a step of a group")
        return images * self.group.ranks / self.whole_batch

    def metrics(self) -> Metrics:
        total = Metrics(0, 0.0, 0, 0)
        if self._batches:
            sizes = [images for images, _, _ in self._batches]
            losses = torch.stack([loss for _, loss, _ in self._batches]).tolist()
            found = torch.stack([hit for _, _, hit in self._batches])
            if self.group.ranks > 1:
                sizes, losses, found = self._of_all(sizes, losses, found)
            correct1, correct5 = found.sum(0).tolist()
            summed = sum(size * loss for size, loss in zip(sizes, losses, strict=True))
            total = Metrics(sum(sizes), summed, correct1, correct5, tuple(losses))
            self._batches.clear()
        return total

    def _of_all(self, sizes: list[int], losses: list[float], found: Tensor) -> tuple[list[int], list[float], Tensor]:
        """Images, mean loss and hits of every step, over the images of all processes."""
        own = np.column_stack([sizes, np.multiply(sizes, losses), found.cpu().numpy()])
        images, summed, *all_found = self.group.total(own.astype(np.float64)).T
        counts = torch.from_numpy(np.column_stack(all_found).astype(np.int64))
        return images.astype(int).tolist(), (summed / images).tolist(), counts

    def _tensor(self, array: Array | Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """`array` on the device; from pinned memory where that lets the copy overlap with the computation."""
        if isinstance(array, Tensor):
            return array.to(self._place, dtype or DTYPES[self.dtype])
        host = torch.from_numpy(np.require(array, requirements=["C", "W"]))
        cuda = self._place.type == "cuda"
        return (host.pin_memory() if cuda else host).to(self._place, dtype or DTYPES[self.dtype], non_blocking=cuda)

    def _masks(self, masks: Masks | None, images: Array) -> dict[str, Tensor] | None:
        check_masks(masks, self.spec, len(images))
        return None if masks is None else {name: self._tensor(mask, torch.bool) for name, mask in masks.items()}


def hits(logits: Tensor, labels: Tensor) -> Tensor:
    """How many labels are among the best 1 and the best 5 scores: int64 (2,); :func:`backends.base.tally` says how."""
    own = logits.gather(1, labels[:, None])
    earlier = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    rank = (~(logits <= own) | ((logits == own) & earlier)).sum(1)
    return torch.stack([(rank < 1).sum(), (rank < 5).sum()])


def _array(tensor: Tensor) -> Array:
    """A copy in the host's memory. NumPy has no bfloat16: float32 holds it exactly."""
    carried = tensor.detach().float() if tensor.dtype == torch.bfloat16 else tensor.detach()
    array: Array = carried.cpu().numpy().copy()
    return array
