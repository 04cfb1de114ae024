"""What the process of the backend ``onnx`` answers of files: networks that ``export`` writes, weights that it reads.

Only that backend is asked: it has ONNX Runtime, and what is written and read is the same whoever trained it.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from backends import checkpoint
from backends.base import Array, Arrays, Unsupported
from conformance import foreign
from conformance.data_answers import Stored
from conformance.exchange import read_arrays

ASKED = "onnx"
SAID, DIGEST, WIDE = "said", "digest", "wide/"
"""Names under which an answer has the file's metadata, what its ``source.sha256`` must be, and whether a layer of a
file of few digits is computed in float32."""
FILES: dict[str, dict[str, Any]] = {
    "pixels": {"pixels": True, "softmax": True},
    "node": {"lrn": "node"},
    "half": {"precision": "float16"},
}
"""The files that are asked for, and the options of each."""


def _require(backend: Any) -> None:
    if getattr(backend, "name", None) != ASKED:
        raise Unsupported(f"files are written and read alike for all: they are asked of {ASKED}")


def exported(backend: Any, stored: Stored, parameters: Arrays, images: Array | None, file: str) -> dict[str, Array]:
    """What the file of a checkpoint gives for images (N, C, H, W), or for `stored` as they are where it takes bytes.

    Every layer's output by name, ``probabilities``, the parameters that it holds (``held/conv1.weight``), and what it
    says of itself. A file of another checkpoint is written before: nothing of it may be left in the second.
    """
    _require(backend)
    import onnx

    from backends.onnx import parameters_of, session, tensor_names
    from backends.onnx.graph import INPUT, PIXELS, PROBABILITIES
    from export import onnx_file
    from export.source import Request, resolve

    spec, options = backend.spec, FILES[file]
    with TemporaryDirectory(prefix="alexnet-files-") as folder:
        for other in (True, False):
            path = Path(folder) / ("other.safetensors" if other else "model.safetensors")
            _save(path, spec, stored, parameters, other)
            request = Request("numpy", path)
            layers = [layer.name for layer in spec.layers]
            model = onnx_file.assemble(request, resolve(request), onnx_file.Form(outputs=layers, **options))
        onnx.save(model, path.with_suffix(".onnx"))
        running = session(path.with_suffix(".onnx"))
        names = [value.name for value in running.get_outputs()]
        feed = {INPUT: images} if images is not None else {PIXELS: np.ascontiguousarray(stored.images)}
        given = dict(zip(names, running.run(names, feed), strict=True))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    found = {layer: np.asarray(given[tensor], np.float32) for layer, tensor in tensor_names(spec).items()}
    found |= {PROBABILITIES: given[PROBABILITIES]} if PROBABILITIES in given else {}
    found |= {f"held/{name}": value for name, value in parameters_of(model, spec).items()}
    said = {entry.key: entry.value for entry in model.metadata_props}
    if options.get("precision", "float32") != "float32":
        found |= {f"{WIDE}{name}": np.array(float(wide)) for name, wide in _computed_wide(model, spec).items()}
    return {**found, SAID: _bytes(json.dumps(said)), DIGEST: _bytes(digest)}


def _computed_wide(model: Any, spec: Any) -> dict[str, bool]:
    """By layer that normalises, whether every node between its input and its output takes float32 alone. No output
    tells: ONNX Runtime's kernels for the CPU compute float16 in float32, and others do not."""
    import onnx
    from onnx import TensorProto

    from backends.onnx import tensor_names
    from backends.onnx.graph import INPUT

    typed = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*typed.value_info, *typed.input, *typed.output)}
    types |= {tensor.name: tensor.data_type for tensor in typed.initializer}
    makers = {name: node for node in typed.node for name in node.output}
    tensors, before, found = tensor_names(spec), INPUT, dict[str, bool]()
    for layer in spec.layers:
        after = tensors[layer.name]
        if layer.op in ("lrn", "spatial_norm"):
            cast = [node for node in typed.node if node.op_type == "Cast"]
            starts = {before} | {node.input[0] for node in cast if node.output[0] == before}
            starts |= {node.output[0] for node in cast if node.input[0] in starts}
            waiting, inside = [after], dict[str, Any]()
            while waiting:
                name = waiting.pop()
                if name not in starts and name in makers and name not in inside:
                    inside[name] = makers[name]
                    waiting += makers[name].input
            nodes = [node for node in inside.values() if node.op_type != "Cast"]
            narrow = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
            found[layer.name] = bool(nodes) and all(types[name] not in narrow for n in nodes for name in n.input)
        before = after
    return found


def imported(backend: Any, stored: Stored, parameters: Arrays, way: str) -> dict[str, Array]:
    """The parameters that come back from a file in which somebody else keeps them, by way of a checkpoint, and its
    names of classes as one text; see :data:`conformance.foreign.WAYS`. Nothing if they cannot be kept so."""
    _require(backend)
    from export import from_weights, importing

    with TemporaryDirectory(prefix="alexnet-files-") as folder:
        written = foreign.write(way, backend.spec, parameters, Path(folder))
        if written is None:
            return {}
        stated = importing.Stated(spec=backend.spec, classes=stored.classes, **written.said)
        found = importing.import_weights(written.path, stated)
        place = Path(folder) / "imported" / from_weights.FILE
        from_weights.save(found, place, written.path.name, "numpy")
        kept = checkpoint.load(place)
    return {**{name: np.array(value) for name, value in kept.parameters.items()}, SAID: _bytes("\n".join(kept.classes))}


def _save(path: Path, spec: Any, stored: Stored, parameters: Arrays, other: bool) -> None:
    """A checkpoint of the network, or another one of it: other parameters, classes and images."""
    values = {name: -value if other else np.asarray(value, np.float32) for name, value in parameters.items()}
    known = {name: np.array(value[::-1] if other else value) for name, value in stored.statistics.items()}
    classes = stored.classes[::-1] if other else stored.classes
    progress = checkpoint.Progress(seed=0, source="none", fingerprint="none")
    zero = {name: np.zeros_like(value) for name, value in values.items()}
    checkpoint.save(path, checkpoint.Checkpoint(spec, values, zero, known, classes, progress, "numpy", {}))


def _bytes(text: str) -> Array:
    return np.frombuffer(text.encode(), np.uint8)


def text(array: Array) -> str:
    """The inverse of what an answer does with texts."""
    return bytes(np.asarray(array, np.uint8)).decode()


Request = dict[str, Any]


class Answers(ABC):
    """The requests of a worker for these."""

    backend: Any

    @abstractmethod
    def _written(self, request: Request, arrays: dict[str, Array]) -> Request:
        """Write arrays where the request says. Returns the answer that names them."""

    def exported(self, request: Request) -> Request:
        images = _read(request, "inputs")["images"] if "inputs" in request else None
        stored = Stored.of(_read(request, "stored"), request["classes"])
        found = exported(self.backend, stored, _read(request, "parameters"), images, request["file"])
        return self._written(request, found)

    def imported(self, request: Request) -> Request:
        stored = Stored.of(_read(request, "stored"), request["classes"])
        return self._written(request, imported(self.backend, stored, _read(request, "parameters"), request["way"]))


def _read(request: Request, what: str) -> dict[str, Array]:
    folder, names = request[what]
    return dict(read_arrays(Path(folder), names))


class Asks(ABC):
    """The same, asked of a worker."""

    @abstractmethod
    def _fetch(self, do: str, what: str, arrays: Any = None, **request: Any) -> dict[str, Array]:
        """The arrays of the answer to a request."""

    def exported(self, stored: Stored, parameters: Arrays, images: Array | None, file: str) -> Mapping[str, Array]:
        arrays = {"stored": stored.arrays(), "parameters": parameters}
        arrays |= {} if images is None else {"inputs": {"images": images}}
        return self._fetch("exported", "exporting", arrays, classes=list(stored.classes), file=file)

    def imported(self, stored: Stored, parameters: Arrays, way: str) -> Mapping[str, Array]:
        arrays = {"stored": stored.arrays(), "parameters": parameters}
        return self._fetch("imported", "importing", arrays, classes=list(stored.classes), way=way)
