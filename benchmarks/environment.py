"""The machine and the software that numbers belong to."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from alexnet_rooms import ROOT
from benchmarks.devices import accelerators
from benchmarks.results import Environment
from data.parallel import cores

_INSTRUCTIONS = ("avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8",
                 "asimd", "sve", "bf16", "i8mm")  # fmt: skip


def environment(threads: int, packages: Iterable[str]) -> Environment:
    """What this process can find out about the machine, and the versions of those of `packages` that are installed."""
    cpu, flags = _cpu()
    return Environment(
        machine=platform.machine(),
        system=f"{platform.system()} {platform.release()}",
        cpu=cpu,
        instructions=tuple(name for name in _INSTRUCTIONS if name in flags),
        cores=cores(),
        threads=threads,
        memory_gib=_memory(),
        load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        python=platform.python_version(),
        versions=versions(packages),
        revision=_revision(),
        accelerators=accelerators(),
    )


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those of `packages` (names as pip knows them) that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _cpu() -> tuple[str, frozenset[str]]:
    """The CPU's name and its features; what is not known is empty."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine(), frozenset()
    fields: dict[str, str] = {}
    for line in info.read_text(errors="replace").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = fields.get("flags") or fields.get("Features") or ""
    return fields.get("model name") or platform.machine(), frozenset(flags.split())


def _memory() -> float | None:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)


def _revision() -> str | None:
    """None where the checkout is no git repository or git is not installed."""
    try:
        head, changed = (
            subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")
