"""What is not believed of an ONNX file: that its external data lies beside it, and that its metadata is text.

ONNX lets a tensor name a file that holds its values: what a file from elsewhere names could be any file there is. Links
are followed. Protocol buffers hand out bytes, and no error, where a string is not UTF-8.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

EXTERNAL = 1
"""``onnx.TensorProto.EXTERNAL``."""


def require_beside(place: str, folder: Path) -> Path:
    """The file `place` in `folder`. Raises ValueError, one line, unless it lies there and is there."""
    inside = place and not PurePosixPath(place).is_absolute() and "\0" not in place and "\\" not in place
    target = (folder / place).resolve() if inside else folder
    if not inside or folder.resolve() not in target.parents:
        raise ValueError(f"external data must lie beside the file. Received: {place[:60]!r}")
    if not target.is_file():
        raise ValueError(f"external data must lie beside the file. Received: {place[:60]!r}, which is not there")
    return target


def metadata(model: Any) -> dict[str, str]:
    """What an ``onnx.ModelProto`` says of itself. Raises ValueError, one line, if something of it is no text."""
    found = {entry.key: entry.value for entry in model.metadata_props}
    for key, value in found.items():
        if not (isinstance(key, str) and isinstance(value, str)):
            raise ValueError(
                f"the metadata of an ONNX file must be text in UTF-8. Received: bytes that are none, {key!r}"
            )
    return found


def location(tensor: Any) -> str:
    """The place that an ``onnx.TensorProto`` with external data names."""
    return next((str(entry.value) for entry in tensor.external_data if entry.key == "location"), "")


def locations(model: Any) -> Iterator[str]:
    """Every place that an ``onnx.ModelProto`` names, wherever in it."""
    for function in model.functions:
        yield from _of_nodes(function.node)
    yield from _of_graph(model.graph)


def _of_graph(graph: Any) -> Iterator[str]:
    sparse = [part for one in graph.sparse_initializer for part in (one.values, one.indices)]
    for tensor in (*graph.initializer, *sparse):
        if tensor.data_location == EXTERNAL or tensor.external_data:
            yield location(tensor)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Any) -> Iterator[str]:
    for node in nodes:
        for attribute in node.attribute:
            sparse = [part for one in attribute.sparse_tensors for part in (one.values, one.indices)]
            for tensor in (attribute.t, *attribute.tensors, attribute.sparse_tensor.values, *sparse):
                if tensor.data_location == EXTERNAL or tensor.external_data:
                    yield location(tensor)
            for graph in (attribute.g, *attribute.graphs):
                yield from _of_graph(graph)
