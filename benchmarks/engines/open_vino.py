"""OpenVINO on the CPU. By default it takes bfloat16 where the CPU has it; what it took is asked, not assumed."""

# mypy: disallow-untyped-calls=False

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx

from backends.base import Array
from backends.onnx.graph import LOGITS
from benchmarks.engines.base import EngineError, Loaded, Subject

_PRODUCTS = ("Convolution", "FullyConnected", "MatMul", "GroupConvolution", "Deconvolution")
_NO_WORK = ("Input", "Output", "Const")
_NAMES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "i8": "int8", "u8": "int8"}


def executed_precision(layers: Iterable[Mapping[str, str]]) -> str:
    """In what most products of a runtime model are computed; most of its layers, if none is a product.

    layers: what OpenVINO says of each, ``layerType`` and ``runtimePrecision``. Raises EngineError if it says nothing.
    """
    told = [one for one in layers if one.get("runtimePrecision") and one.get("layerType") not in _NO_WORK]
    products = [one for one in told if one.get("layerType") in _PRODUCTS]
    found = Counter(one["runtimePrecision"] for one in products or told)
    if not found:
        raise EngineError("the runtime model of OpenVINO must say in what it computes. Received: nothing")
    name = found.most_common(1)[0][0]
    return _NAMES.get(name, name)


def load(hints: Mapping[str, str]) -> Callable[[Subject, onnx.ModelProto, int], Loaded]:
    """The file as it is. hints: of OpenVINO's properties, beside one stream and the number of threads."""

    def load(subject: Subject, model: onnx.ModelProto, threads: int) -> Loaded:
        # It reports its use over the network unless a user forbade it; without its reporter it knows that it cannot.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        import openvino

        core = openvino.Core()
        wanted = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": "1", "PERFORMANCE_HINT": "LATENCY", **hints}
        compiled = core.compile_model(str(subject.path), "CPU", wanted)
        layers = [
            {key: str(value.value if hasattr(value, "value") else value) for key, value in op.get_rt_info().items()}
            for op in compiled.get_runtime_model().get_ops()
        ]
        outputs = [port for port in compiled.outputs if LOGITS in port.get_names()] or [compiled.outputs[-1]]
        request = compiled.create_infer_request()

        def run(images: Array) -> Any:
            return request.infer({0: images}, share_inputs=True, share_outputs=True)[outputs[0]]

        asked = hints.get("INFERENCE_PRECISION_HINT")
        return Loaded(
            run,
            "the file, OpenVINO on the CPU, " + (f"asked for {asked}" if asked else "asked for nothing"),
            subject.input_shape,
            executed_precision(layers),
            subject.dtype,
            fetch=lambda logits: np.array(logits, np.float32),
        )

    return load
