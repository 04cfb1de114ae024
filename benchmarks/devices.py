"""The few things about a GPU that frameworks must be asked in their own words, in their own processes only."""

# mypy: disallow-untyped-calls=False

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from benchmarks.results import Accelerator

_QUERY = ("name", "memory.total", "driver_version", "clocks.max.sm", "power.limit")


def accelerators(ask: Callable[[list[str]], str] | None = None) -> tuple[Accelerator, ...]:
    """NVIDIA GPUs as ``nvidia-smi`` lists them; none where there is no such program or no driver behind it.

    ask: for tests; what runs the command line and returns its output, raising OSError or CalledProcessError.
    """
    try:
        said = (ask or _output)(["nvidia-smi", f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"])
    except (OSError, subprocess.SubprocessError):
        return ()
    found = []
    for line in said.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == len(_QUERY) and (memory := _number(fields[1])) is not None:
            found.append(
                Accelerator(
                    name=fields[0],
                    memory_mib=memory,
                    driver=fields[2],
                    clock_mhz=_number(fields[3]),
                    power_watts=_number(fields[4]),
                )
            )
    return tuple(found)


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # "[N/A]", as virtual machines have it
        return None


def used_precision(precision: str, device: str) -> str:
    """What a precision that was asked for is on `device`: TF32 is known to NVIDIA's tensor cores alone."""
    return "float32" if precision == "tf32" and device != "cuda" else precision


def allow_tf32(framework: str) -> None:
    """Let float32 products be computed in TF32 from now on, where the device can; our backends forbid it."""
    if framework == "torch":
        import torch

        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    elif framework == "tensorflow":
        import tensorflow

        tensorflow.config.experimental.enable_tensor_float_32_execution(True)
    elif framework == "jax":
        import jax

        jax.config.update("jax_default_matmul_precision", "tensorfloat32")
    else:
        raise ValueError(f"a framework must be torch, tensorflow or jax. Received: {framework!r}")


def device_memory(framework: str) -> float | None:
    """The most memory of the first GPU that this process has used, MiB, as `framework` counts it."""
    if framework == "torch":
        import torch

        return torch.cuda.max_memory_reserved() / 2**20 if torch.cuda.is_available() else None
    if framework == "tensorflow":
        import tensorflow

        there = tensorflow.config.list_physical_devices("GPU")
        return tensorflow.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20 if there else None
    import jax

    statistics = next((d.memory_stats() for d in jax.local_devices() if d.platform == "gpu"), None)
    return statistics["peak_bytes_in_use"] / 2**20 if statistics else None


RECOMPILED = 64
"""How often torch.compile may compile one function anew. At its own limit of 8 it would go on without compiling."""


def compile_strictly(function: Callable[..., Any], mode: str = "default") -> Callable[..., Any]:
    """torch.compile of `function` for each shape by itself, which raises where it would run it as it is."""
    import torch

    torch._dynamo.config.recompile_limit = RECOMPILED
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    return torch.compile(function, dynamic=False, mode=mode)  # type: ignore[no-any-return]


OUT_OF_MEMORY = ("out of memory", "RESOURCE_EXHAUSTED", "Resource exhausted", "OOM when allocating",
                 "Failed to allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")  # fmt: skip
"""How PyTorch, JAX, TensorFlow, ONNX Runtime and CUDA say so; only Python and PyTorch have a class for it."""


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory did not suffice, of the host or of the device."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)


def release() -> None:
    """Give PyTorch's cached memory on a GPU back, if PyTorch is what runs here, and count its peak anew."""
    import gc
    import sys

    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def timed(call: Callable[[], Any], device: str, calls: int) -> list[float]:
    """The seconds of `calls` calls of PyTorch code, one after another; between CUDA events on a GPU, by the clock else.

    On a GPU nothing waits in between, so that launching is hidden behind computing, as it is in a network.
    """
    if device != "cuda":
        found = []
        for _ in range(calls):
            began = time.perf_counter()
            call()
            found.append(time.perf_counter() - began)
        return found
    import torch

    marks = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]
    torch.cuda.synchronize()
    marks[0].record()
    for mark in marks[1:]:
        call()
        mark.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) / 1e3 for before, after in pairwise(marks)]
