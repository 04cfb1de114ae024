"""The roofline of this machine, measured and not looked up: the fastest matrix product and the widest memory stream.

S. Williams, A. Waterman and D. Patterson, Roofline, CACM 52(4), 2009: a program that does I operations for each byte
that it must move reaches at most ``min(peak, I * bandwidth)``. Here peak is the best of every library that is
installed, on square matrices, and the bytes are those that no engine can avoid: the weights once a call, and each image
and its logits. Maps between layers are left out, so that the roof is one that nothing can pierce, and few come near.
"""

# mypy: disallow-untyped-calls=False

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np

from benchmarks.devices import timed
from benchmarks.results import Model, Roof

SIZES = {"cpu": 1536, "cuda": 8192}
"""Rows of the square matrices."""
SLOWEST = 0.1
"""Seconds that one product may take; a precision without instructions for it is tried with smaller matrices."""
STREAM = {"cpu": 1 << 28, "cuda": 1 << 30}
"""Bytes of an array that is streamed: larger than any cache."""


def attainable(
    roof: Roof, model: Model, precision: str, batch: int
) -> tuple[float, Literal["compute", "memory"]] | None:
    """Images a second that `roof` allows at `batch`, and which side of it; None where its peak was not measured."""
    peak = roof.gflops.get(precision)
    if peak is None or model.macs is None:
        return None
    compute = 1e9 * peak / (2 * model.macs)
    memory = 1e9 * roof.gbytes_per_second / (model.parameter_bytes / batch + model.image_bytes)
    return (compute, "compute") if compute <= memory else (memory, "memory")


def merged(roofs: Sequence[Roof]) -> Roof:
    """The highest of several measurements of one device."""
    gflops: dict[str, float] = {}
    by: dict[str, str] = {}
    for roof in roofs:
        for precision, value in roof.gflops.items():
            if value > gflops.get(precision, 0.0):
                gflops[precision], by[precision] = value, roof.by[precision]
    return Roof(device=roofs[0].device, gflops=gflops, by=by, gbytes_per_second=max(r.gbytes_per_second for r in roofs))


def measure(device: str, precisions: Sequence[str], threads: int, seconds: float) -> Roof:
    """The roof of `device`: `seconds` for each way and for the memory; of `precisions`, what anything here computes.

    Raises RuntimeError where nothing can measure the device.
    """
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise RuntimeError("this PyTorch has no CUDA device")
    gflops: dict[str, float] = {}
    by: dict[str, str] = {}
    for precision, library, make in _products(device, threads):
        if precision in precisions and (found := _peak(make, device, seconds)) > gflops.get(precision, 0.0):
            gflops[precision], by[precision] = found, library
    bandwidth = _bandwidth_of_gpu(seconds) if device == "cuda" else _bandwidth(threads, seconds)
    return Roof(device=device, gflops=gflops, by=by, gbytes_per_second=bandwidth)


def _peak(make: Callable[[int], Callable[[], Any]], device: str, seconds: float) -> float:
    """GFLOP/s of the fastest product; 0 where the library refuses a small one: it has none of this kind."""
    size = SIZES[device]
    try:
        small = make(size // 8)
        small()
    except (RuntimeError, NotImplementedError, TypeError):
        return 0.0
    if device == "cpu":
        (took,) = timed(small, device, 1)
        while size > SIZES[device] // 8 and took * (8 * size / SIZES[device]) ** 3 > SLOWEST:
            size //= 2
    call = make(size)
    call()
    began, best = time.perf_counter(), float("inf")
    while time.perf_counter() - began < seconds or best == float("inf"):
        best = min(best, *timed(call, device, 2))
    return 2e-9 * size**3 / best


def _products(device: str, threads: int) -> Iterator[tuple[str, str, Callable[[int], Callable[[], Any]]]]:
    """(precision, library, function of the size that makes a function to be timed) of all that is installed."""
    if device == "cpu":
        yield "float32", "NumPy", _numpy
        if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnx"):
            yield "float32", "ONNX Runtime", lambda size: _onnxruntime(size, threads, "MatMul")
            yield "int8", "ONNX Runtime", lambda size: _onnxruntime(size, threads, "MatMulInteger")
    if importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(threads)
        for precision in ("float32", "tf32", "bfloat16", "float16", "int8"):
            if precision != "tf32" or device == "cuda":
                yield precision, "PyTorch", lambda size, precision=precision: _torch(size, device, precision)  # type: ignore[misc]


def _numpy(size: int) -> Callable[[], Any]:
    a, b = (np.random.default_rng(i).standard_normal((size, size), np.float32) for i in range(2))
    out = np.empty_like(a)
    return lambda: np.matmul(a, b, out=out)


def _onnxruntime(size: int, threads: int, op: str) -> Callable[[], Any]:
    from onnx import TensorProto, helper, numpy_helper

    from backends.onnx import session

    integer = op == "MatMulInteger"
    kind = TensorProto.UINT8 if integer else TensorProto.FLOAT
    draw = np.random.default_rng(0)
    weight = (
        draw.integers(-63, 64, (size, size), np.int8) if integer else draw.standard_normal((size, size), np.float32)
    )
    graph = helper.make_graph(
        [helper.make_node(op, ["a", "b"], ["c"])],
        "product",
        [helper.make_tensor_value_info("a", kind, [size, size])],
        [helper.make_tensor_value_info("c", TensorProto.INT32 if integer else TensorProto.FLOAT, [size, size])],
        [numpy_helper.from_array(weight, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    made, a = session(model, threads=threads), weight.astype(np.uint8 if integer else np.float32)
    return lambda: made.run(["c"], {"a": a})


def _torch(size: int, device: str, precision: str) -> Callable[[], Any]:
    import torch

    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    if precision == "int8":
        a, b = (torch.randint(-63, 64, (size, size), dtype=torch.int8, device=device) for _ in range(2))
        other = b.t() if device == "cuda" else b  # tensor cores want the second factor by columns
        return lambda: torch._int_mm(a, other)
    dtype = getattr(torch, "float32" if precision == "tf32" else precision)
    x, y = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(x)
    return lambda: torch.mm(x, y, out=out)


def _bandwidth(threads: int, seconds: float) -> float:
    """GB/s of the host's memory: of copying and of reading, whichever is more, each thread its own part."""
    part = STREAM["cpu"] // 4 // threads
    pairs = [(np.ones(part, np.float32), np.ones(part, np.float32)) for _ in range(threads)]
    ways: list[tuple[int, Callable[[Any], Any]]] = [
        (2, lambda pair: np.copyto(pair[0], pair[1])),
        (1, lambda pair: pair[0].view(np.int64).max()),
    ]
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for arrays, way in ways:
            began = time.perf_counter()
            while time.perf_counter() - began < seconds:
                start = time.perf_counter()
                list(pool.map(way, pairs))
                best = max(best, 4e-9 * part * threads * arrays / (time.perf_counter() - start))
    return best


def _bandwidth_of_gpu(seconds: float) -> float:
    import torch

    a, b = (torch.ones(STREAM["cuda"] // 4, device="cuda") for _ in range(2))
    b.copy_(a)
    began, best = time.perf_counter(), float("inf")
    while time.perf_counter() - began < seconds or best == float("inf"):
        best = min(best, *timed(lambda: b.copy_(a), "cuda", 4))
    return 2e-9 * STREAM["cuda"] / best
