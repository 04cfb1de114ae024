"""What can run a network, by name. Everything here is imported and run in an engine's own process only.

An engine answers NumPy images (N, C, H, W) with NumPy logits, and that is what is measured: with the copies in and out,
which users pay too. Backends read specification and parameters from the same ONNX file that ONNX Runtime runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx

import spec
from backends import create
from backends.base import Array
from backends.onnx import OnnxBackend, parameters_of, session
from backends.onnx.graph import LOGITS, LrnLowering
from spec import Spec, geometry

Run = Callable[[Array], Array]


@dataclass(frozen=True)
class Subject:
    """The file that is measured, and what it says of itself."""

    path: Path
    input_name: str
    input_shape: tuple[int, ...]
    """Without the batch."""
    pixels: bool
    """Whether it takes bytes and prepares them itself."""
    metadata: dict[str, str]

    @property
    def spec(self) -> Spec | None:
        """The specification in the file, None in a file of another program. Raises SpecError."""
        text = self.metadata.get("spec.json")
        return None if text is None else spec.from_values(json.loads(text), self.path.name)


class EngineError(RuntimeError):
    """The engine cannot run this file; one line."""


@dataclass(frozen=True)
class Loaded:
    """An engine ready to run."""

    run: Run
    what: str
    input_shape: tuple[int, ...]
    """Of one image."""
    pixels: bool = False
    """Whether images are bytes."""
    precision: str = "float32"


def read(path: Path) -> tuple[Subject, onnx.ModelProto]:
    """The file at `path`. Raises EngineError if it is not an ONNX model with one image input of known size."""
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf and onnx have no error in common
        raise EngineError(f"{path}: a model must be a readable ONNX file. Received: {error}") from error
    known = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in known]
    shapes = [[d.dim_value for d in value.type.tensor_type.shape.dim] for value in inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or not all(size > 0 for size in shapes[0][1:]):
        raise EngineError(f"{path}: a model must have one input of four dimensions of known size. Received: {shapes}")
    kind = inputs[0].type.tensor_type.elem_type
    if kind not in (onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8):
        received = onnx.TensorProto.DataType.Name(kind)
        raise EngineError(f"{path}: the input of a model must be FLOAT or UINT8. Received: {received}")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return Subject(path, inputs[0].name, tuple(shapes[0][1:]), kind == onnx.TensorProto.UINT8, metadata), model


def _specified(subject: Subject, model: onnx.ModelProto) -> tuple[Spec, dict[str, Array]]:
    stated = subject.spec
    if stated is None:
        raise EngineError(f"{subject.path.name} does not carry its specification: only onnxruntime can run it")
    return stated, parameters_of(model, stated)


def _onnxruntime(subject: Subject, model: onnx.ModelProto, threads: int) -> Loaded:
    made = session(subject.path, threads=threads)
    name, found = subject.input_name, [value.name for value in made.get_outputs()]
    outputs = [LOGITS if LOGITS in found else found[-1]]
    lrn = subject.metadata.get("lrn")
    return Loaded(
        lambda images: made.run(outputs, {name: images})[0],
        f"the file, {made.get_providers()[0]}"
        + (f", LRN as {lrn}" if lrn else "")
        + (", bytes prepared inside" if subject.pixels else ""),
        subject.input_shape,
        subject.pixels,
    )


def _lowered(lrn: LrnLowering) -> Callable[[Subject, onnx.ModelProto, int], Loaded]:
    def load(subject: Subject, model: onnx.ModelProto, threads: int) -> Loaded:
        stated, parameters = _specified(subject, model)
        backend = OnnxBackend(stated, device="cpu", lrn=lrn, threads=threads)
        backend.load(parameters)
        what = f"the file's network anew, CPUExecutionProvider, LRN as {lrn}"
        return Loaded(backend.predict, what, geometry(stated).input_shape)

    return load


def _backend(name: str) -> Callable[[Subject, onnx.ModelProto, int], Loaded]:
    def load(subject: Subject, model: onnx.ModelProto, threads: int) -> Loaded:
        stated, parameters = _specified(subject, model)
        backend = create(name, stated, dtype="float32", device="cpu")
        backend.load(parameters)
        what = "eager" if name == "torch" else "compiled as the backend compiles"
        return Loaded(backend.predict, what, geometry(stated).input_shape)

    return load


def _torch_compiled(subject: Subject, model: onnx.ModelProto, threads: int) -> Loaded:
    import torch

    from backends.torch.model import empty

    stated, parameters = _specified(subject, model)
    network = empty(stated, dtype=torch.float32, device="cpu").eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(torch.tensor(parameters[name]))
    compiled = torch.compile(network, dynamic=False)  # a batch size is measured as it would be deployed

    def run(images: Array) -> Array:
        with torch.inference_mode():
            logits: Array = compiled(torch.from_numpy(images)).numpy()
        return logits

    return Loaded(run, "torch.compile, inductor", geometry(stated).input_shape)


@dataclass(frozen=True)
class EngineKind:
    """How an engine is loaded and what must be installed for it."""

    load: Callable[[Subject, onnx.ModelProto, int], Loaded]
    packages: tuple[str, ...]
    """Modules that must be there; pip knows them by the same names, tensorflow-cpu apart."""


ENGINES = {
    "onnxruntime": EngineKind(_onnxruntime, ("onnxruntime",)),
    "onnxruntime-lrn-ops": EngineKind(_lowered("ops"), ("onnxruntime",)),
    "onnxruntime-lrn-node": EngineKind(_lowered("node"), ("onnxruntime",)),
    "torch": EngineKind(_backend("torch"), ("torch",)),
    "torch-compiled": EngineKind(_torch_compiled, ("torch",)),
    "keras-tensorflow": EngineKind(_backend("keras-tensorflow"), ("keras", "tensorflow")),
    "keras-jax": EngineKind(_backend("keras-jax"), ("keras", "jax")),
    "keras-torch": EngineKind(_backend("keras-torch"), ("keras", "torch")),
}
