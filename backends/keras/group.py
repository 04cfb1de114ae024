"""The group of processes that JAX connects: ``jax.distributed`` behind :class:`backends.group.Group`."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils

from backends.base import Array
from backends.group import Group, Lost

HEARTBEAT_S = 20
"""After so long without a word from a process JAX ends all others. Most deaths are noticed at once."""
_SIGNS = ("gloo", "nccl", "connection", "socket", "unavailable", "heartbeat", "deadline", "coordination", "timed out")


class JaxGroup(Group):
    """Process KERAS_DISTRIBUTION_PROCESS_ID of KERAS_DISTRIBUTION_NUM_PROCESSES, both from the environment; the first
    of KERAS_DISTRIBUTION_JOB_ADDRESSES is where the first process listens. ``keras.distribution.initialize`` reads the
    same, but leaves the heartbeat at 100 seconds."""

    def __init__(self) -> None:
        self._lost = False
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        with self.losing():
            jax.distributed.initialize(
                coordinator_address=os.environ["KERAS_DISTRIBUTION_JOB_ADDRESSES"].partition(",")[0],
                num_processes=int(os.environ["KERAS_DISTRIBUTION_NUM_PROCESSES"]),
                process_id=int(os.environ["KERAS_DISTRIBUTION_PROCESS_ID"]),
                heartbeat_timeout_seconds=HEARTBEAT_S,
                shutdown_timeout_seconds=HEARTBEAT_S,
            )
        self.rank, self.ranks = jax.process_index(), jax.process_count()

    def gather(self, array: Array) -> Array:
        """As bytes: JAX would make float64 float32."""
        own = np.ascontiguousarray(array)
        with self.losing():
            found = np.asarray(multihost_utils.process_allgather(own.reshape(-1).view(np.uint8)))
        return found.reshape(self.ranks, -1).view(own.dtype).reshape(self.ranks, *own.shape)

    @contextmanager
    def losing(self) -> Iterator[None]:
        try:
            yield
        except (jax.errors.JaxRuntimeError, ValueError) as error:
            if not any(sign in str(error).lower() for sign in _SIGNS):
                raise
            self._lost = True
            raise Lost("another process of this run has ended or cannot be reached") from error

    def close(self) -> None:
        """After a loss JAX would wait for the dead and then abort: the process leaves without asking it."""
        if self._lost:
            atexit.register(_leave)
        else:
            jax.distributed.shutdown()


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
