"""The specification as an ONNX graph, and the graph run by ONNX Runtime. Inference only."""

import os

# Since 1.29 ONNX Runtime reports models and machines to its makers unless this is set before it is imported
# (microsoft/onnxruntime#27379). Nobody who measures or verifies a network here has agreed to that.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from backends.onnx.backend import OnnxBackend, session
from backends.onnx.graph import build, parameters_of, tensor_names

__all__ = ["OnnxBackend", "build", "parameters_of", "session", "tensor_names"]
