"""The group of processes that ``torchrun`` starts: ``torch.distributed`` behind :class:`backends.group.Group`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist

from backends.base import Array
from backends.group import Group, Lost

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for another that is alive but does not answer. The death of one is noticed at once."""
_SIGNS = (
    "connection closed by peer",
    "connection reset by peer",
    "broken pipe",
    "connection refused",
    "socket closed",
    "timed out",
    "nccl",
    "gloo",
    "no keep-alive",
    "failed to recv",
    "failed to send",
)
"""Words by which the errors of torch.distributed, most of which are plain RuntimeErrors, are told from others."""


class TorchGroup(Group):
    """Process RANK of WORLD_SIZE, both from the environment, as are MASTER_ADDR and MASTER_PORT.

    What is on CPUs goes through gloo, what is on NVIDIA GPUs through NCCL.
    """

    def __init__(self) -> None:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        # torchrun may keep one store for all its restarts, in which the addresses of the dead would be found.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        with self.losing():
            store, rank, size = next(dist.rendezvous("env://", timeout=TIMEOUT))
            store = dist.PrefixStore(f"attempt {attempt}", store)
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        self.local_rank = int(os.environ.get("LOCAL_RANK", self.rank))
        self.local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", self.ranks))

    def gather(self, array: Array) -> Array:
        """Through the host's memory: on a GPU, no step is waited for."""
        own = torch.from_numpy(np.ascontiguousarray(array))
        found = [torch.empty_like(own) for _ in range(self.ranks)]
        with self.losing():
            dist.all_gather(found, own)
        return np.stack([part.numpy() for part in found])

    @contextmanager
    def losing(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if not any(sign in str(error).lower() for sign in _SIGNS):
                raise
            raise Lost("another process of this run has ended or cannot be reached") from error

    def close(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()
