"""Whole files of every kind that is read, and damage to them: each case is a function of its number."""

from __future__ import annotations

import io
import json
import os
import random
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alexnet_rooms import ROOT
from export.tests.checkpoints import write

KINDS = ("own.onnx", "zoo.onnx", "checkpoint.safetensors", "weights.safetensors", "state.pth", "model.weights.h5",
         "model.keras")  # fmt: skip
"""What is damaged. The Keras file is left out where Keras is not installed."""
NARROW = """extends: onnx-zoo
title: narrow
layers: {conv1: {out_channels: 4}, conv2: {out_channels: 4}, conv3: {out_channels: 6}, conv4: {out_channels: 4},
         conv5: {out_channels: 4}, fc6: {out_features: 6}, fc7: {out_features: 6}, fc8: {out_features: 5}}
"""
"""Whose weights the foreign graph holds, and the specification that is stated for it."""
EXTREMES = (0, 1, -1, 2**31 - 1, -(2**31), 2**32, 2**40, 2**62, -(2**63))
PLACES = ("../secret.bin", "/etc/passwd", "../../../../../../etc/passwd", "link.bin", "absent.bin", "", ".", "a\0b",
          "C:\\Windows\\win.ini", "own.onnx")  # fmt: skip
"""Where external data may be said to lie."""


def whole(folder: Path, keras: bool = True) -> dict[str, bytes]:
    """A whole file of each kind, made in `folder`. keras: also one of Keras, which its framework writes."""
    import numpy as np
    import onnx
    import torch
    from safetensors.numpy import save_file

    import spec
    from backends import checkpoint
    from conformance import foreign
    from export.onnx_file import Form, assemble
    from export.source import Request, resolve
    from export.tests.test_weights import draw
    from export.tests.test_weights_onnx import zoo

    (folder / "narrow.yaml").write_text(NARROW)
    narrow, mini = spec.load(str(folder / "narrow.yaml")), spec.load("fashion-mini")
    held = write(folder)
    found = checkpoint.load(held)
    parameters = {name: np.asarray(value) for name, value in found.parameters.items()}
    request = Request("numpy", held)
    onnx.save(assemble(request, resolve(request), Form(softmax=True)), folder / "own.onnx")
    onnx.save(zoo(draw(narrow)), folder / "zoo.onnx")
    (folder / "checkpoint.safetensors").write_bytes(held.read_bytes())
    save_file(parameters, folder / "weights.safetensors", {"format": "np"})
    torch.save({name: torch.from_numpy(value) for name, value in parameters.items()}, folder / "state.pth")
    written = foreign.write("Keras' weights", mini, parameters, folder)
    assert written is not None
    written.path.replace(folder / "model.weights.h5")
    command = [sys.executable, str(ROOT / "export" / "to_weights.py"), str(held), "--to", "keras"]
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    command += ["--output", str(folder / "model.keras")]
    if keras:
        subprocess.run(command, env=environment, capture_output=True, check=False)
    return {kind: (folder / kind).read_bytes() for kind in KINDS if (folder / kind).exists()}


# --- damage to bytes --------------------------------------------------------------------------------------------------

Damage = Callable[[random.Random, bytearray], bytes]


def _near(draw: random.Random, raw: bytearray) -> int:
    """A place, in every third case among the first bytes, where formats keep what they are."""
    return draw.randrange(min(len(raw), draw.choice((200, 4000, len(raw)))))


def _others(draw: random.Random, raw: bytearray) -> bytes:
    for _ in range(draw.randint(1, 8)):
        raw[_near(draw, raw)] = draw.randrange(256)
    return bytes(raw)


def _cut(draw: random.Random, raw: bytearray) -> bytes:
    return bytes(raw[: draw.randrange(len(raw))])


def _repeated(draw: random.Random, raw: bytearray) -> bytes:
    at, size = _near(draw, raw), draw.choice((1, 8, 100, 5000))
    return bytes(raw[:at] + raw[at : at + size] * draw.randint(2, 20) + raw[at + size :])


def _dropped(draw: random.Random, raw: bytearray) -> bytes:
    at = _near(draw, raw)
    return bytes(raw[:at] + raw[at + draw.choice((1, 2, 8, 100, 5000)) :])


def _filled(draw: random.Random, raw: bytearray) -> bytes:
    at, size = _near(draw, raw), draw.choice((1, 4, 8, 64))
    raw[at : at + size] = bytes([draw.choice((0, 0x7F, 0x80, 0xFF))]) * len(raw[at : at + size])
    return bytes(raw)


def _numbers(draw: random.Random, raw: bytearray) -> bytes:
    form = draw.choice(("<i", "<q", ">i", ">q"))
    least, most = (-(2**31), 2**31 - 1) if form[1] == "i" else (-(2**63), 2**63 - 1)
    at = _near(draw, raw)
    packed = struct.pack(form, max(least, min(most, draw.choice(EXTREMES))))
    raw[at : at + len(packed)] = packed
    return bytes(raw)


BYTES: tuple[Damage, ...] = (_others, _cut, _repeated, _dropped, _filled, _numbers)


# --- damage to what bytes mean ----------------------------------------------------------------------------------------


def _zip(draw: random.Random, raw: bytearray) -> bytes:
    """A whole archive around a damaged member, or with members that are strange, or that unpack to much."""
    with zipfile.ZipFile(io.BytesIO(bytes(raw))) as archive:
        members = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    place = draw.randrange(len(members))
    name, content = members[place]
    choice = draw.randrange(5)
    if choice < 3 and content:
        members[place] = (name, draw.choice(BYTES)(draw, bytearray(content)))
    elif choice == 3:
        members[place] = (draw.choice(("../" + name, "/" + name, name + "/", ".", "a" * 5000)), content)
    else:
        members[place] = (name, content + bytes(draw.choice((2**20, 2**26))))
    file = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if choice == 4 and draw.random() < 0.5 else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", method) as archive:
        for one, inside in members:
            archive.writestr(one, inside)
    return file.getvalue()


def _header(draw: random.Random, raw: bytearray) -> bytes:
    """A safetensors header of another meaning, of the size that it says."""
    size = struct.unpack("<Q", raw[:8])[0]
    header: dict[str, Any] = json.loads(bytes(raw[8 : 8 + size]))
    name = draw.choice(list(header))
    entry = header[name]
    value: Any = draw.choice((*EXTREMES, None, "x", [], {}, [1] * 1000, 1e400, "\n", [-1]))
    if name == "__metadata__" or draw.random() < 0.3:
        header[draw.choice((name, "a\nb", "x" * 10_000, ""))] = value
    else:
        entry[draw.choice(list(entry))] = value
        if draw.random() < 0.5 and isinstance(entry.get("shape"), list) and entry["shape"]:
            entry["shape"][draw.randrange(len(entry["shape"]))] = draw.choice(EXTREMES)
    if name == "__metadata__" and isinstance(entry, dict) and draw.random() < 0.8:
        header[name] = entry | {draw.choice(list(entry)): draw.choice(("", "{}", "[]", "[" * 10_000, "1", '"a"'))}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(raw[8 + size :])


def _graph(draw: random.Random, raw: bytearray) -> bytes:
    """A well-formed ONNX file of another meaning."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.ModelProto.FromString(bytes(raw))
    graph = model.graph
    for _ in range(draw.randint(1, 3)):
        node, tensor = draw.choice(graph.node), draw.choice(graph.initializer)
        match draw.randrange(11):
            case 0 if tensor.dims:
                tensor.dims[draw.randrange(len(tensor.dims))] = max(-(2**63), min(2**63 - 1, draw.choice(EXTREMES)))
            case 1:
                tensor.data_location = TensorProto.EXTERNAL
                tensor.external_data.add(key="location", value=draw.choice(PLACES))
                if draw.random() < 0.5:
                    tensor.external_data.add(key=draw.choice(("offset", "length")), value=str(draw.choice(EXTREMES)))
                if draw.random() < 0.5:
                    tensor.ClearField("raw_data")
            case 2:
                tensor.data_type = draw.randrange(-1, 40)
            case 3:
                node.op_type = draw.choice(("Loop", "If", "Conv", "LRN", "Reshape", "Resize", "Nothing", "", "Concat"))
            case 4 if node.attribute:
                one = draw.choice(node.attribute)
                value = draw.choice(([], [0] * 100, [2**40], 0, -1, 2**31, 1e30, "x", float("nan")))
                if value == []:
                    one.Clear()
                else:
                    one.CopyFrom(helper.make_attribute(one.name, value))
            case 5 if node.input:
                other = draw.choice(draw.choice(graph.node).output or [""])
                node.input[draw.randrange(len(node.input))] = draw.choice((other, "", "a\nb", "x" * 10_000))
            case 6:
                graph.node.remove(node)
            case 7:
                graph.node.add().CopyFrom(node)
            case 8:
                dims = draw.choice((graph.input, graph.output))[0].type.tensor_type.shape.dim
                if dims:
                    draw.choice(dims).dim_value = max(-(2**63), min(2**63 - 1, draw.choice(EXTREMES)))
            case 9 if model.metadata_props:
                draw.choice(model.metadata_props).value = draw.choice(("", "{}", "[]", "[" * 10_000, "1", "\n", "nan"))
            case _:
                model.opset_import[0].version = draw.choice((0, -1, 1, 7, 13, 2**31))
        if not graph.node:
            break
    return bytes(model.SerializeToString())


MEANING: dict[str, Damage] = {".onnx": _graph, ".safetensors": _header, ".pth": _zip, ".keras": _zip}


def damaged(files: dict[str, bytes], number: int) -> tuple[str, str, bytes]:
    """Case `number`: (kind, what was done, bytes)."""
    draw = random.Random(number)
    kind = draw.choice(sorted(files))
    raw = bytearray(files[kind])
    own = MEANING.get(Path(kind).suffix)
    if own is not None and draw.random() < 0.5:
        return kind, own.__name__.strip("_"), own(draw, raw)
    damage = draw.choice(BYTES)
    return kind, damage.__name__.strip("_"), damage(draw, raw)
