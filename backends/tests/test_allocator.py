"""Freed memory is kept, seen from outside: what a process gives back, it must fault in again."""

import platform
import resource
import subprocess
import sys

import pytest

from alexnet_rooms import ROOT

FAULTS = """
import resource, sys
import numpy as np
from backends.allocator import keep_freed_memory
from data.allocator import keep_freed_blocks
size = int(sys.argv[2])
if sys.argv[1] != "leave":
    assert {"all": keep_freed_memory, "blocks": keep_freed_blocks}[sys.argv[1]]()
np.ones(size)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(size)  # freed at once
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(what: str, size: int) -> int:
    """Pages faulted in by ten arrays of `size` float64."""
    command = [sys.executable, "-c", FAULTS, what, str(size)]
    return int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator than glibc's")
def test_memory_that_was_freed_is_used_again_without_a_page_fault() -> None:
    small, large = 1 << 19, 1 << 23  # 4 and 64 MiB
    left = faults("leave", large)
    assert faults("all", large) < 0.1 * left
    assert faults("blocks", large) > 0.9 * left
    assert faults("blocks", small) < 0.1 * 10 * small * 8 / resource.getpagesize()
