"""ONNX Runtime as a backend: the graph of :mod:`backends.onnx.graph`, float32, inference only.

float64 is not offered: ONNX Runtime has no float64 convolution.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnxruntime.capi import onnxruntime_pybind11_state as native

from backends.base import Array, Arrays, Inference, Unsupported, check_arrays
from backends.onnx.graph import (
    BFLOAT16_IR_VERSION,
    BFLOAT16_OPSET,
    INPUT,
    LOGITS,
    LrnLowering,
    build,
    tensor_names,
)
from spec import Spec, geometry

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""Devices as users type them, and what ONNX Runtime calls what runs there."""
RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    native.Fail,
    native.InvalidArgument,
    native.InvalidGraph,
    native.InvalidProtobuf,
    native.NoSuchFile,
    native.NotImplemented,
    native.RuntimeException,
    UnicodeDecodeError,  # of a message that quotes a name in the file which is no text
)
"""What ONNX Runtime raises for a file or an input that it cannot take; they have no class in common."""


def session(
    model: onnx.ModelProto | bytes | Path, *, device: str = "cpu", threads: int = 0
) -> onnxruntime.InferenceSession:
    """`model` ready to run on `device`; threads 0 means as many as the machine has cores.

    Its threads block when a call returns instead of spinning on, so that whatever runs next has the cores to itself.
    Raises Unsupported if the device is unknown or this ONNX Runtime cannot run there; it never falls back silently.
    """
    if device not in PROVIDERS:
        raise Unsupported(f"ONNX Runtime runs on {', '.join(PROVIDERS)} here. Received: {device}")
    if PROVIDERS[device] not in onnxruntime.get_available_providers():
        raise Unsupported(
            f"this ONNX Runtime lacks {PROVIDERS[device]}; it has {onnxruntime.get_available_providers()}"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are raised, and would be said twice; the others are advice on optimisation
    options.add_session_config_entry("session.force_spinning_stop", "1")
    source: Any = str(model) if isinstance(model, Path) else model
    if isinstance(model, onnx.ModelProto):
        source = model.SerializeToString()
    made = onnxruntime.InferenceSession(source, options, providers=[PROVIDERS[device]])
    if made.get_providers()[0] != PROVIDERS[device]:
        raise Unsupported(f"ONNX Runtime fell back from {PROVIDERS[device]} to {made.get_providers()[0]}")
    return made


def runs_bfloat16(device: str) -> bool:
    """Whether ONNX Runtime is there for `device` and has a convolution of bfloat16, by trying to load one."""
    value = [helper.make_tensor_value_info(name, TensorProto.BFLOAT16, [1, 1, 1, 1]) for name in "xwy"]
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "bfloat16", value[:2], value[2:])
    opset = [helper.make_opsetid("", BFLOAT16_OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=BFLOAT16_IR_VERSION)
    try:
        session(model, device=device)
    except Unsupported:
        return False
    except RUNTIME_ERRORS:
        return False
    return True


class OnnxBackend(Inference):
    """The network of `spec` run by ONNX Runtime; starts with parameters of zero, as every backend.

    lrn: which operators normalise, see :func:`backends.onnx.graph.build`.
    """

    name = "onnx"
    dtypes = ("float32",)

    def __init__(
        self, spec: Spec, *, dtype: str = "float32", device: str = "auto", lrn: LrnLowering = "ops", threads: int = 0
    ) -> None:
        super().__init__(spec, dtype=dtype, device="cpu" if device == "auto" else device)
        self.lrn, self.threads = lrn, threads
        self._sessions: dict[bool, onnxruntime.InferenceSession] = {}
        shapes = geometry(spec).parameters
        self._parameters: dict[str, Array] = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}

    def load(self, parameters: Arrays, velocities: Arrays | None = None) -> None:
        if velocities is not None:
            raise Unsupported("the onnx backend infers; it has no velocities to load")
        check_arrays(parameters, self.spec, "parameters")
        self._parameters = {name: np.array(parameters[name], np.float32) for name in self._parameters}
        self._sessions.clear()

    def parameters(self) -> dict[str, Array]:
        return {name: value.copy() for name, value in self._parameters.items()}

    def outputs(self, images: Array) -> dict[str, Array]:
        tensors = tensor_names(self.spec)
        values = self._session(every_layer=True).run(list(tensors.values()), {INPUT: np.asarray(images, np.float32)})
        return dict(zip(tensors, values, strict=True))

    def predict(self, images: Array) -> Array:
        (logits,) = self._session(every_layer=False).run([LOGITS], {INPUT: np.asarray(images, np.float32)})
        return np.asarray(logits)

    def _session(self, every_layer: bool) -> onnxruntime.InferenceSession:
        """Made when first needed: with every layer as an output, or without, when the runtime may fuse layers."""
        if every_layer not in self._sessions:
            outputs = [layer.name for layer in self.spec.layers] if every_layer else []
            model = build(self.spec, self._parameters, lrn=self.lrn, outputs=outputs)
            self._sessions[every_layer] = session(model, device=self.device, threads=self.threads)
        return self._sessions[every_layer]


class LrnNodeBackend(OnnxBackend):
    """The same, with ONNX's LRN node where it can say what the layer means.

    The kernel for it on the CPU moves its window by adding the head and subtracting the tail, so that the digits which
    a loud channel takes are lost to all channels behind it; conformance derives a bound for that.
    """

    name = "onnx-lrn-node"
    running_sum_lrn = True

    def __init__(self, spec: Spec, *, dtype: str = "float32", device: str = "auto") -> None:
        super().__init__(spec, dtype=dtype, device=device, lrn="node")
