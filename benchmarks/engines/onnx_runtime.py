"""ONNX Runtime on its execution providers, none of which may leave a node to another one unsaid."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from backends.base import Array
from backends.onnx import build
from backends.onnx.backend import RUNTIME_ERRORS
from backends.onnx.graph import LOGITS, LrnLowering
from benchmarks.engines.base import Absent, EngineError, Loaded, Subject, specified
from spec import geometry

CPU = "CPUExecutionProvider"
_TYPES = {"float": "float32", "float16": "float16", "bfloat16": "bfloat16", "double": "float64",
          "int8": "int8", "uint8": "int8"}  # fmt: skip
"""What ONNX Runtime's profiles call the types of tensors."""
_PRODUCTS = ("Conv", "Gemm", "MatMul")
_REFUSALS: tuple[type[Exception], ...] = (*RUNTIME_ERRORS, RuntimeError)
"""The last of the binding itself, which looks for TensorRT's libraries before it makes a session."""


@dataclass(frozen=True)
class Provider:
    """An execution provider, and how it is asked for."""

    name: str
    device: str = "cpu"
    """Where arrays lie that are bound: ``cpu`` or ``cuda``."""
    options: Mapping[str, str] = field(default_factory=dict)
    precision: str | None = None
    """Of float32 products, where its options decide it and no profile shows it."""


PROVIDERS = {
    "cpu": Provider(CPU),
    "cuda": Provider("CUDAExecutionProvider", "cuda", {"use_tf32": "1"}, "tf32"),
    "cuda-float32": Provider("CUDAExecutionProvider", "cuda", {"use_tf32": "0"}),
    "cuda-graph": Provider("CUDAExecutionProvider", "cuda", {"use_tf32": "1", "enable_cuda_graph": "1"}, "tf32"),
    "tensorrt": Provider("TensorrtExecutionProvider", "cuda", {}, "tf32"),
    "tensorrt-float16": Provider("TensorrtExecutionProvider", "cuda", {"trt_fp16_enable": "1"}, "float16"),
    "coreml": Provider("CoreMLExecutionProvider"),
}
"""TensorRT multiplies float32 in TF32 unless it is told otherwise, which its provider has no option for."""


def session(source: str | bytes, provider: Provider, threads: int, **profiled: Any) -> onnxruntime.InferenceSession:
    """A session in which every node runs on `provider`. Raises EngineError where that is not possible.

    Absent, if what lacks is TensorRT: its provider is in the package, but not the libraries behind it.
    """
    available = onnxruntime.get_available_providers()
    if provider.name not in available:
        raise EngineError(f"this ONNX Runtime lacks {provider.name}; it has {', '.join(available)}")
    if provider.device == "cuda" and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA and cuDNN as pip installs them are on no path of the loader's
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; the others are advice on optimisation
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if provider.name != CPU:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    for name, value in profiled.items():
        setattr(options, name, value)
    try:
        made = onnxruntime.InferenceSession(
            source, options, providers=[(provider.name, dict(provider.options))], enable_fallback=0
        )
    except _REFUSALS as error:
        said = next(iter(str(error).splitlines()), type(error).__name__)
        if "install TensorRT libraries" in said:
            raise Absent(f"{provider.name} is there without TensorRT's libraries, which are not installed") from error
        if "fallback to CPU EP has been explicitly disabled" in said:
            raise EngineError(f"{provider.name} leaves nodes of this file to {CPU}: no speed of its own") from error
        raise EngineError(f"{provider.name} cannot run this file: {said}") from error
    require_provider(made, provider.name)
    return made


def require_provider(made: Any, wanted: str) -> None:
    """Raise EngineError unless the session `made` has `wanted` as its first provider."""
    (first, *_) = made.get_providers() or ["none"]
    if first != wanted:
        raise EngineError(f"ONNX Runtime fell back from {wanted} to {first}")


def require_nodes(events: list[dict[str, Any]], wanted: str) -> None:
    """Raise EngineError if a node of a profile was run by another provider than `wanted`, and say which."""
    nodes = [event for event in events if "provider" in event.get("args", {})]
    others = [event for event in nodes if event["args"]["provider"] != wanted]
    if others:
        first = others[0]
        name = str(first["name"]).removesuffix("_kernel_time")
        where = first["args"]["provider"]
        raise EngineError(f"{len(others)} of {len(nodes)} nodes ran on {where} instead of {wanted}, among them {name}")


def executed_precision(events: list[dict[str, Any]]) -> str | None:
    """In which type most products of a profile were computed: that of their weights; None if it shows none."""
    found: Counter[str] = Counter()
    for event in events:
        arguments = event.get("args", {})
        if "provider" in arguments and any(word in arguments.get("op_name", "") for word in _PRODUCTS):
            types = [name for tensor in arguments.get("input_type_shape", []) for name in tensor]
            known = [_TYPES[name] for name in types if name in _TYPES]
            integers = arguments["op_name"].startswith("QLinear") or "Integer" in arguments["op_name"]
            found["int8" if integers or "int8" in known[:2] else (known[1:2] or known or ["float32"])[0]] += 1
    return found.most_common(1)[0][0] if found else None


def probe(source: str | bytes, provider: Provider, feed: Mapping[str, Any], threads: int) -> str | None:
    """Run once under the profiler: raise EngineError if anything ran elsewhere, return the products' precision."""
    with tempfile.TemporaryDirectory(prefix="alexnet-profile-") as folder:
        made = session(
            source, provider, threads, enable_profiling=True, profile_file_prefix=str(Path(folder) / "profile")
        )
        made.run(None, dict(feed))
        events = json.loads(Path(made.end_profiling()).read_text(encoding="utf-8"))
    kernels = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    require_nodes(kernels, provider.name)
    return executed_precision(kernels)


def _dtype(name: str) -> Any:
    import ml_dtypes

    return ml_dtypes.bfloat16 if name == "bfloat16" else np.dtype(name)


def _loaded(
    source: str | bytes, input_name: str, shape: tuple[int, ...], dtype: str, what: str,
    *, provider: Provider, bound: bool, threads: int,
) -> Loaded:  # fmt: skip
    plain = Provider(provider.name, provider.device, {**provider.options, "enable_cuda_graph": "0"}
                     if "enable_cuda_graph" in provider.options else provider.options)  # fmt: skip
    precision = probe(source, plain, {input_name: np.zeros((1, *shape), _dtype(dtype))}, threads) or "float32"
    if provider.precision and precision == "float32":
        precision = provider.precision
    made = session(source, provider, threads)
    found = [value.name for value in made.get_outputs()]
    output = LOGITS if LOGITS in found else found[-1]
    words = f"{what}, {provider.name}" + (", bound to the device" if bound else "")
    if provider.options.get("enable_cuda_graph") == "1":
        words += ", one CUDA graph"
    if not bound:
        return Loaded(
            lambda images: made.run([output], {input_name: images})[0],
            words, shape, precision, dtype, provider.device, fetch=_float32,
        )  # fmt: skip
    width, placed_before = _output_shape(made, output), count()

    def place(images: Array) -> Any:
        """Images and logits in the device's memory, at addresses that stay."""
        binding = made.io_binding()
        given = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(images), provider.device, 0)
        element = dict(zip((v.name for v in made.get_outputs()), (v.type for v in made.get_outputs())))[output]
        kind = np.float16 if element == "tensor(float16)" else np.float32
        room = onnxruntime.OrtValue.ortvalue_from_shape_and_type([len(images), *width], kind, provider.device, 0)
        binding.bind_ortvalue_input(input_name, given)
        binding.bind_ortvalue_output(output, room)
        # A CUDA graph is captured for each of these ids, since it is bound to addresses and to a batch size.
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(next(placed_before)))
        return binding, options, given, room

    def run(placed: Any) -> Any:
        binding, options, _, room = placed
        binding.synchronize_inputs()
        made.run_with_iobinding(binding, options)
        binding.synchronize_outputs()
        return room

    return Loaded(
        run, words, shape, precision, dtype, provider.device, place=place, fetch=lambda room: _float32(room.numpy())
    )


def _output_shape(made: Any, output: str) -> tuple[int, ...]:
    (value,) = (value for value in made.get_outputs() if value.name == output)
    width = tuple(value.shape[1:])
    if not width or not all(isinstance(size, int) for size in width):
        raise EngineError(f"an output that is bound must have a known size beside its batch. Received: {value.shape}")
    return width


def _float32(logits: Any) -> Array:
    return np.asarray(logits, np.float32)


def of_file(provider: str, bound: bool = False) -> Callable[[Subject, onnx.ModelProto, int], Loaded]:
    """The file as it is, on one of PROVIDERS. bound: images and logits stay on the device, through IOBinding."""

    def load(subject: Subject, model: onnx.ModelProto, threads: int) -> Loaded:
        lrn = subject.metadata.get("lrn")
        what = "the file" + (f", LRN as {lrn}" if lrn else "") + (", bytes prepared inside" if subject.pixels else "")
        return _loaded(
            str(subject.path), subject.input_name, subject.input_shape, subject.dtype, what,
            provider=PROVIDERS[provider], bound=bound, threads=threads,
        )  # fmt: skip

    return load


def lowered(
    lrn: LrnLowering, provider: str = "cpu", bound: bool = False
) -> Callable[[Subject, onnx.ModelProto, int], Loaded]:
    """The network of the file built anew, in float32, with another lowering of LRN."""

    def load(subject: Subject, model: onnx.ModelProto, threads: int) -> Loaded:
        stated, parameters = specified(subject, model)
        built = build(stated, parameters, lrn=lrn)
        return _loaded(
            built.SerializeToString(), "input", geometry(stated).input_shape, "float32",
            f"the file's network anew, LRN as {lrn}",
            provider=PROVIDERS[provider], bound=bound, threads=threads,
        )  # fmt: skip

    return load
