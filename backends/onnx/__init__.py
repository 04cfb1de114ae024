"""The specification as an ONNX graph, and the graph run by ONNX Runtime. Inference only."""

from backends.onnx.backend import OnnxBackend, session
from backends.onnx.graph import build, parameters_of, tensor_names

__all__ = ["OnnxBackend", "build", "parameters_of", "session", "tensor_names"]
