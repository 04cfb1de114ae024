"""How much memory a network takes to train, and what to say when there was not enough of it.

Counted are float32 arrays: parameters, their velocities and their gradients once each, and of every image each layer's
output and its gradient. Frameworks take more than that (workspaces, copies in another layout, fragments): FACTOR says
how much more, generously.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from spec import Spec, geometry

FACTOR = 1.5
"""What frameworks take for each byte counted here, chosen generously. Of paper-2012 at batch 64, 1,716 MiB are counted;
the processes of ``benchmarks/run.py --suite training`` held 2,064 MiB (PyTorch) and 3,843 MiB (Keras on TensorFlow),
libraries and the images included."""
_TYPES = ("MemoryError", "OutOfMemoryError", "ResourceExhaustedError")
_WORDS = re.compile(
    r"out of memory|not enough memory|can.t allocate memory|cannot allocate memory|RESOURCE_EXHAUSTED|"
    r"resource exhausted|OOM when allocating|bad_alloc|failed to allocate",
    re.IGNORECASE,
)
_CAPACITY = re.compile(r"total capacity of ([\d.]+) (GiB|MiB)")


class OutOfMemory(RuntimeError):
    """The machine, or the device, has less memory than the run takes. One line: where, and which batch would fit."""


@dataclass(frozen=True)
class Need:
    """Bytes that training takes."""

    fixed: int
    """Whatever the batch."""
    per_image: int

    def of(self, images: int) -> int:
        """For so many images at a time."""
        return self.fixed + images * self.per_image

    def fitting(self, room: int) -> int:
        """The most images at a time that take no more than `room` bytes; 0 if none does."""
        return max(0, (room - self.fixed) // self.per_image)


def need(spec: Spec, precision: str = "float32") -> Need:
    """What training `spec` takes by the count of this module, FACTOR included.

    In bf16 the outputs have half the size, and of the parameters there is a copy of half the size.
    """
    network, narrow = geometry(spec), precision == "bf16"
    inputs = 4 * spec.input.channels * spec.input.height * spec.input.width
    outputs = inputs + sum(layer.output_bytes for layer in network.layers)
    fixed = (3 * 4 + (2 if narrow else 0)) * network.parameter_count
    return Need(int(FACTOR * fixed), int(FACTOR * 2 * outputs) // (2 if narrow else 1))


def is_exhausted(error: BaseException) -> bool:
    """Whether `error`, of Python or of any framework, says that there is no more memory.

    Frameworks are told by the names of their errors and by their words, since this module imports none of them:
    ``torch.OutOfMemoryError``, PyTorch's RuntimeError of its CPU allocator, TensorFlow's ``ResourceExhaustedError``,
    and the ``XlaRuntimeError`` of JAX that begins with RESOURCE_EXHAUSTED.
    """
    if isinstance(error, OSError):
        return False
    if any(kind.__name__ in _TYPES for kind in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and _WORDS.search(str(error)) is not None


def available() -> int | None:
    """Bytes that this process can have in the host's memory, what it has already included; None where unknown."""
    limits = [_meminfo(), _cgroup(), _address_space()]
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else None


def _meminfo() -> int | None:
    path = Path("/proc/meminfo")
    if not path.exists():
        return None
    found = re.search(r"^MemAvailable:\s+(\d+) kB", path.read_text(), re.MULTILINE)
    return None if found is None else 1024 * int(found[1]) + _pages(1)


def _pages(field: int) -> int:
    """Bytes of this process: 0, of its address space; 1, of it in memory."""
    return int(Path("/proc/self/statm").read_text().split()[field]) * os.sysconf("SC_PAGE_SIZE")


def _cgroup() -> int | None:
    path = Path("/sys/fs/cgroup/memory.max")
    text = path.read_text().strip() if path.exists() else "max"
    return int(text) if text.isdigit() else None


def _address_space() -> int | None:
    """Of a limit on the address space (ulimit -v): what of it is not used for code and the like."""
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY or not Path("/proc/self/statm").exists():
        return None
    return max(0, soft - _pages(0) + _pages(1))


def advice(error: BaseException, spec: Spec, where: str, precision: str = "float32", pieces: int = 1) -> str:
    """One line: what ran out where, what would fit, and from which numbers that follows.

    pieces: in which a batch was taken.
    """
    words = (str(error).splitlines() or [""])[0][:160]
    wanted, tried = need(spec, precision), -(-spec.training.batch_size // pieces)
    capacity = _CAPACITY.search(str(error))
    if capacity is not None:
        room: int | None = int(float(capacity[1]) * {"GiB": 2**30, "MiB": 2**20}[capacity[2]])
    elif "cuda" in where or "mps" in where or "gpu" in where:
        room = None  # of a device that does not say how much it has
    else:
        room = available()
    estimate = tried if room is None else wanted.fitting(room)
    # It did not fit, whatever the estimate says: half of it is then the most that can be promised.
    batch = min(estimate, tried // 2)
    takes = f"by estimate {_mib(wanted.fixed)} and {_mib(wanted.per_image)} an image"
    takes += "" if room is None else f", of {_mib(room)} there"
    more = -(-spec.training.batch_size // max(1, batch))
    hope = f"--batch-size {batch} would fit, or --accumulation-steps {more}" if batch > 0 else "no batch size would fit"
    return f"out of memory {where}. {hope} ({takes}). {type(error).__name__}: {words}"


def _mib(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"
