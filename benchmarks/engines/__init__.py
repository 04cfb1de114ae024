"""What can run a network, by name. An engine is loaded and run in a process of its own only.

What is measured is a call: by default with NumPy images in and NumPy logits out, copies included, which users pay too.
Engines that are *bound* leave both on the device. Frameworks read specification and parameters from the same ONNX file
that runtimes run.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import onnx

from benchmarks.engines.base import EngineError, Loaded, Subject, read
from benchmarks.results import Accelerator

Load = Callable[[Subject, onnx.ModelProto, int], Loaded]


@dataclass(frozen=True)
class EngineKind:
    """How an engine is loaded and what must be there for it."""

    make: Callable[[], Load]
    """Imports what it needs, and no more."""
    packages: tuple[str, ...]
    """Modules that must be installed; pip knows most of them by the same names."""
    device: str = "cpu"
    provider: str | None = None
    """The execution provider that ONNX Runtime must have."""


def _ort(provider: str = "cpu", bound: bool = False) -> Callable[[], Load]:
    def make() -> Load:
        from benchmarks.engines.onnx_runtime import of_file

        return of_file(provider, bound)

    return make


def _lowered(lrn: str, provider: str = "cpu", bound: bool = False) -> Callable[[], Load]:
    def make() -> Load:
        from benchmarks.engines.onnx_runtime import lowered

        return lowered("node" if lrn == "node" else "ops", provider, bound)

    return make


def _openvino(**hints: str) -> Callable[[], Load]:
    def make() -> Load:
        from benchmarks.engines.open_vino import load

        return load(hints)

    return make


def _torch(device: str, precision: str, compiled: str | None = None, bound: bool = False) -> Callable[[], Load]:
    def make() -> Load:
        from benchmarks.engines.frameworks import torch

        return torch(device=device, precision=precision, compiled=compiled, bound=bound)

    return make


def _keras(framework: str, device: str, precision: str) -> Callable[[], Load]:
    def make() -> Load:
        from benchmarks.engines.frameworks import keras

        return keras(framework, device=device, precision=precision)

    return make


CUDA, TENSORRT, COREML = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CoreMLExecutionProvider"
_ORT, _KERAS = ("onnxruntime",), ("tensorflow", "jax", "torch")
ENGINES: dict[str, EngineKind] = {
    "onnxruntime": EngineKind(_ort(), _ORT),
    "onnxruntime-bound": EngineKind(_ort(bound=True), _ORT),
    "onnxruntime-lrn-ops": EngineKind(_lowered("ops"), _ORT),
    "onnxruntime-lrn-node": EngineKind(_lowered("node"), _ORT),
    "onnxruntime-cuda": EngineKind(_ort("cuda"), _ORT, "cuda", CUDA),
    "onnxruntime-cuda-float32": EngineKind(_ort("cuda-float32"), _ORT, "cuda", CUDA),
    "onnxruntime-cuda-bound": EngineKind(_ort("cuda", bound=True), _ORT, "cuda", CUDA),
    "onnxruntime-cuda-bound-lrn-node": EngineKind(_lowered("node", "cuda", bound=True), _ORT, "cuda", CUDA),
    "onnxruntime-cuda-graph": EngineKind(_ort("cuda-graph", bound=True), _ORT, "cuda", CUDA),
    "onnxruntime-tensorrt": EngineKind(_ort("tensorrt"), _ORT, "cuda", TENSORRT),
    "onnxruntime-tensorrt-bound": EngineKind(_ort("tensorrt", bound=True), _ORT, "cuda", TENSORRT),
    "onnxruntime-tensorrt-float16": EngineKind(_ort("tensorrt-float16", bound=True), _ORT, "cuda", TENSORRT),
    "onnxruntime-coreml": EngineKind(_ort("coreml"), _ORT, "cpu", COREML),
    "openvino": EngineKind(_openvino(INFERENCE_PRECISION_HINT="f32"), ("openvino",)),
    "openvino-default": EngineKind(_openvino(), ("openvino",)),
    "torch": EngineKind(_torch("cpu", "float32"), ("torch",)),
    "torch-bfloat16": EngineKind(_torch("cpu", "bfloat16"), ("torch",)),
    "torch-compiled": EngineKind(_torch("cpu", "float32", "default"), ("torch",)),
    "torch-compiled-bfloat16": EngineKind(_torch("cpu", "bfloat16", "default"), ("torch",)),
    **{
        f"torch-cuda{way}-{precision}": EngineKind(
            _torch("cuda", precision, mode, bound=True), ("torch",), "cuda"
        )
        for way, mode in (("", None), ("-compiled", "default"), ("-graph", "reduce-overhead"))
        for precision in ("float32", "tf32", "bfloat16", "float16")
    },
    "torch-cuda-copied-tf32": EngineKind(_torch("cuda", "tf32"), ("torch",), "cuda"),
    **{
        f"keras-{framework}{suffix}": EngineKind(_keras(framework, device, precision), ("keras", framework), device)
        for device, precision, suffix in (
            ("cpu", "float32", ""), ("cuda", "tf32", "-cuda-tf32"), ("cuda", "bfloat16", "-cuda-bfloat16"),
        )
        for framework in _KERAS
    },
}  # fmt: skip
"""In the order of the table. PyTorch and Keras on a GPU are named with the precision; those of PyTorch are bound."""
PACKAGES = ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "torch", "keras", "tensorflow",
            "tensorflow-cpu", "jax")  # fmt: skip
"""Whose versions a result records, as pip knows them."""


def missing(packages: Sequence[str]) -> list[str]:
    """Those of `packages` that this Python lacks."""
    return [package for package in packages if importlib.util.find_spec(package) is None]


def lacking(name: str, accelerators: Sequence[Accelerator], providers: Sequence[str]) -> str | None:
    """Why the engine `name` cannot be on this machine, or None. providers: what ONNX Runtime has."""
    kind = ENGINES[name]
    if absent := missing(kind.packages):
        return f"{', '.join(absent)} not installed"
    if kind.provider is not None and kind.provider not in providers:
        return f"this ONNX Runtime lacks {kind.provider}"
    if kind.device == "cuda" and not accelerators:
        return "no NVIDIA GPU"
    return None


def require_one_runtime() -> None:
    """Raise EngineError if both packages that give the module ``onnxruntime`` are installed, one over the other."""
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if _installed(name)]
    if len(both) > 1:
        raise EngineError(
            "onnxruntime and onnxruntime-gpu must not be installed together, because they write the same files. "
            "Received: both (pip uninstall both, then pip install one)"
        )


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


__all__ = [
    "ENGINES",
    "PACKAGES",
    "EngineError",
    "EngineKind",
    "Loaded",
    "Subject",
    "lacking",
    "missing",
    "read",
    "require_one_runtime",
]
