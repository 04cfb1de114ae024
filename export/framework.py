"""A network as its framework's own exporter writes it, instead of the graph of :mod:`backends.onnx`.

The exporter runs in a process of its framework (:mod:`export.framework_child`). Whatever it calls things, the file
keeps this project's names: ``input`` (batch, C, H, W), a tensor for every layer that is asked for, ``logits``; operator
set and IR version are those of :mod:`backends.onnx.graph`. Parameters bear whatever names and layouts the exporter
chose.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
from onnx import helper
from safetensors.numpy import save_file

from alexnet_rooms import ROOT
from backends.base import Arrays
from backends.onnx.graph import BATCH, INPUT, IR_VERSION, OPSET, tensor_names
from export.exporters import PROGRAMS, missing
from spec import Spec


class ExporterFailed(RuntimeError):
    """The framework's exporter did not make a file; the message is one line of what it said."""


class ExporterMissing(ExporterFailed):
    """A package that the exporter needs, called ``library``, is not installed."""

    def __init__(self, backend: str, library: str) -> None:
        super().__init__(f"{PROGRAMS[backend]} needs {library}, which is not installed")
        self.library = library


class Exporter:
    """The process of a framework, which exports one network after another. Close it, or use it as a context.

    backend: a key of :data:`export.exporters.PACKAGES`. Raises ExporterMissing.
    """

    def __init__(self, backend: str) -> None:
        if lacking := missing(backend):
            raise ExporterMissing(backend, lacking[0])
        self.backend = backend
        self._folder = tempfile.TemporaryDirectory(prefix="alexnet-exporter-")
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self._said = (Path(self._folder.name) / "said.txt").open("w+", encoding="utf-8", errors="replace")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "export.framework_child", backend],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )

    def export(self, spec: Spec, parameters: Arrays, outputs: Iterable[str] = ()) -> onnx.ModelProto:
        """The network of `spec` in evaluation with `parameters`; outputs: layers that it also returns, in network
        order before ``logits``. Raises ExporterFailed."""
        wanted = set(outputs)
        returned = [layer.name for layer in spec.layers[:-1] if layer.name in wanted] + [spec.layers[-1].name]
        with tempfile.TemporaryDirectory(dir=self._folder.name) as name:
            folder = Path(name)
            arrays = {key: np.ascontiguousarray(value, np.float32) for key, value in parameters.items()}
            save_file(arrays, folder / "parameters.safetensors")
            stated = {"spec": {**spec.statement(), "provenance": {}}, "outputs": returned, "opset": OPSET}
            (folder / "request.json").write_text(json.dumps(stated), encoding="utf-8")
            self._ask(folder)
            try:
                model = onnx.load(folder / "model.onnx", load_external_data=False)
            except Exception as error:  # whatever protobuf raises: the exporter wrote something else
                raise ExporterFailed(f"{PROGRAMS[self.backend]} must write a model. Received: {error}") from error
        tensors = tensor_names(spec)
        return _finished(model, spec, [tensors[layer] for layer in returned])

    def _ask(self, folder: Path) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # how it ended is said below
            self._process.stdin.write(f"{folder}\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            self._said.seek(0)
            lines = [line for line in self._said.read().splitlines() if line.strip()]
            code = self._process.wait()
            raise ExporterFailed(f"its process ended with exit code {code}: {lines[-1] if lines else 'no word'}")
        found = json.loads(answer)
        if "missing" in found:
            raise ExporterMissing(self.backend, found["missing"])
        if "error" in found:
            raise ExporterFailed(f"{PROGRAMS[self.backend]} raised {found['error']}")

    def close(self) -> None:
        """End the process, and remove what it wrote."""
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._folder.cleanup()

    def __enter__(self) -> Exporter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def exported(backend: str, spec: Spec, parameters: Arrays, outputs: Iterable[str] = ()) -> onnx.ModelProto:
    """The same in a process for this file alone. Raises ExporterFailed."""
    with Exporter(backend) as exporter:
        return exporter.export(spec, parameters, outputs)


def _finished(model: onnx.ModelProto, spec: Spec, outputs: Sequence[str]) -> onnx.ModelProto:
    """`model` under this project's names and versions, without the notes of exporters (paths of this machine)."""
    graph = model.graph
    if len(graph.input) != 1 or len(graph.output) != len(outputs):
        received = f"{len(graph.input)} inputs, {len(graph.output)} outputs"
        raise ExporterFailed(f"its graph must have one input and {len(outputs)} outputs. Received: {received}")
    _rename(graph, outputs)
    for value in (*graph.input, *graph.output):
        batch = value.type.tensor_type.shape.dim[0]
        if not batch.HasField("dim_value"):
            batch.dim_param = BATCH
    del graph.value_info[:]  # of tensors whose batch has another name; the checker infers them anew
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        if not isinstance(part, onnx.ModelProto):
            del part.metadata_props[:]
    del model.metadata_props[:]
    model.ir_version = IR_VERSION  # newer exporters state a newer one, of which such a graph has nothing
    graph.name, graph.doc_string = spec.name, spec.title
    return model


def _rename(graph: onnx.GraphProto, outputs: Sequence[str]) -> None:
    """Give the input and the outputs their names, and tensors that have one of these by chance others."""
    names, copies = {graph.input[0].name: INPUT}, []
    for value, name in zip(graph.output, outputs, strict=True):
        if value.name in names:  # a layer that does nothing in evaluation
            copies.append(helper.make_node("Identity", [names[value.name]], [name], name))
            value.name = name
        else:
            names[value.name] = name
    tensors = {name for node in graph.node for name in (*node.input, *node.output)}
    names |= {name: f"{name}.inside" for name in {INPUT, *outputs} & (tensors - names.keys())}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = names.get(value.name, value.name)
    graph.node.extend(copies)
