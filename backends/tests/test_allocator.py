"""Freed memory is kept, seen from outside: what a process gives back, it must fault in again."""

import platform
import subprocess
import sys

import pytest

from alexnet_rooms import ROOT

FAULTS = """
import resource, sys
import numpy as np
from backends.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
np.ones(1 << 23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(1 << 23)  # 64 MiB, freed at once
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(what: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, what], cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator than glibc's")
def test_memory_that_was_freed_is_used_again_without_a_page_fault() -> None:
    assert faults("keep") < 0.1 * faults("leave")
