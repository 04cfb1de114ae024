"""Mistakes of data parallel, each with the column in which it must be noticed: ``torch*2``, ``keras-jax*2``.

They are not in the catalogue, because one process with one device does not know them.
"""

from __future__ import annotations

import contextlib
from typing import Any

from conformance.mutants.mutant import Live, Mutant, Patch, Target


def _weight(rule: Any) -> Patch:
    """Of a process's mean loss in that of all: ``rule(backend, images)``."""
    return lambda live: live.set(live.backend.TorchBackend, "_weight", rule)


def _only_the_first_counts(self: Any, images: int) -> float:
    whole: int = self.whole_batch
    return images * self.group.ranks / whole if self.group.rank == 0 else 0.0


def _never_averaged(live: Live) -> None:
    """Every process updates with its own gradient."""
    live.set(live.backend.TorchBackend, "_trained", lambda self: self._network)


def _share(part: Any) -> Patch:
    """A process takes the images ``part(n, rank, ranks)`` of a batch."""

    def patch(live: Live) -> None:
        import data.batches

        live.set(data.batches, "share", part)

    return patch


def _local_metrics(live: Live) -> None:
    live.set(live.backend.TorchBackend, "_of_all", lambda self, sizes, losses, found: (sizes, losses, found))


def _never_synchronised_again(live: Live) -> None:
    """Gradients are gathered by each process alone, as if another piece of the batch were to come."""
    step = live.backend.TorchBackend.step

    def alone(self: Any, *args: Any) -> None:
        with self._trained().no_sync() if self.group.ranks > 1 else contextlib.nullcontext():
            step(self, *args)

    live.set(live.backend.TorchBackend, "step", alone)


def _rows(rule: Any) -> Patch:
    """The rows and weights that devices take are ``rule(rows, weights, sharing, images, whole)``."""

    def patch(live: Live) -> None:
        right = live.sharing.Sharing.rows

        def wrong(self: Any, images: int, whole: int) -> Any:
            return rule(*right(self, images, whole), self, images, whole)

        live.set(live.sharing.Sharing, "rows", wrong)

    return patch


def _mutant(name: str, target: Target, what: str, patch: Patch) -> Mutant:
    return Mutant(name, target, what, ("batch_size",), "training-steps", "training", patch)


TORCH: tuple[Mutant, ...] = (
    _mutant(
        "torch-group-gradients-summed",
        "torch",
        "the gradients of the processes are summed instead of averaged",
        _weight(lambda self, images: images * self.group.ranks**2 / self.whole_batch),
    ),
    _mutant(
        "torch-group-uneven-parts-count-alike",
        "torch",
        "every process counts alike in the mean, however many images it has",
        _weight(lambda self, images: 1.0),
    ),
    _mutant(
        "torch-group-only-the-first-counts",
        "torch",
        "the gradient of the first process alone is used",
        _weight(_only_the_first_counts),
    ),
    _mutant("torch-group-never-averaged", "torch", "every process updates with a gradient of its own", _never_averaged),
    _mutant(
        "torch-group-not-synchronised",
        "torch",
        "no_sync is never left, so that every process trains for itself",
        _never_synchronised_again,
    ),
    _mutant(
        "torch-group-parts-overlap",
        "torch",
        "every process takes one image more, which is another's",
        _share(lambda n, rank, ranks: slice(max(0, n * rank // ranks - 1), n * (rank + 1) // ranks)),
    ),
    _mutant(
        "torch-group-same-part",
        "torch",
        "every process takes the first part",
        _share(lambda n, rank, ranks: slice(0, n // ranks)),
    ),
    _mutant(
        "torch-group-drops-what-is-left",
        "torch",
        "the images that do not come out even are left out",
        _share(lambda n, rank, ranks: slice(n // ranks * rank, n // ranks * (rank + 1))),
    ),
    _mutant("torch-group-metrics-of-one", "torch", "metrics are of the first process's images", _local_metrics),
)

KERAS: tuple[Mutant, ...] = (
    _mutant(
        "keras-devices-filling-counts",
        "keras",
        "the images that fill up an uneven batch count in the mean",
        _rows(lambda rows, weights, sharing, images, whole: (rows, 0 * weights + 1 / len(rows))),
    ),
    _mutant(
        "keras-devices-mean-of-each",
        "keras",
        "the loss of each device is its own mean, and the gradients are summed",
        _rows(lambda rows, weights, sharing, images, whole: (rows, weights * sharing.devices)),
    ),
    _mutant(
        "keras-devices-same-part",
        "keras",
        "every device takes the first part",
        _rows(lambda rows, weights, sharing, images, whole: (rows % (len(rows) // sharing.devices), weights)),
    ),
    _mutant(
        "keras-devices-only-the-first",
        "keras",
        "the images of the first device alone count",
        _rows(lambda rows, weights, sharing, images, whole: (rows, weights * (rows < len(rows) // sharing.devices))),
    ),
)
PARALLEL = (*TORCH, *KERAS)
