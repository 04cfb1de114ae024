"""Files made to do harm: each reader refuses them in one line, reads and writes nothing else, and stays small."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import spec
from export.tests.damage import NARROW, damaged, whole
from export.tests.fuzz import fuzz
from export.tests.fuzz_child import READERS
from export.tests.test_weights import draw

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")
from onnx import TensorProto, helper  # noqa: E402

from export.tests.test_weights_onnx import outside, zoo  # noqa: E402

SECRET = "secret.bin"
GROWTH = 1 << 30
"""Bytes of memory that no hostile file may make this process take: frameworks are imported meanwhile."""
OPENED: list[str] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(arguments[0], str | os.PathLike):
        OPENED.append(os.fspath(arguments[0]))


sys.addaudithook(_note)  # it cannot be taken back


# --- fixtures ---------------------------------------------------------------------------------------------------------


def _graph(folder: Path) -> Any:
    return zoo(draw(spec.load(str(folder / "narrow.yaml"))))


def _external(place: Callable[[Path], str], **also: str) -> Callable[[Path], Path]:
    """The foreign graph with a bias that lies elsewhere: small, so that readers of the graph alone look at it too."""

    def make(folder: Path) -> Path:
        model = _graph(folder)
        for name in ("conv1_w_0", "conv1_b_0"):
            tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
            outside(tensor, place(folder))
            for key, value in also.items():
                tensor.external_data.add(key=key, value=value)
        return _saved(folder, model)

    return make


def _hidden(folder: Path) -> Path:
    """The place is named in a constant in a branch of an If."""
    model = _graph(folder)
    inner = helper.make_tensor("inner", TensorProto.FLOAT, [4], [0.0] * 4)
    outside(inner, f"../{SECRET}")
    branch = helper.make_graph([helper.make_node("Constant", [], ["y"], value=inner)], "b", [],
                               [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])])  # fmt: skip
    condition = helper.make_tensor("c", TensorProto.BOOL, [], [True])
    model.graph.initializer.append(condition)
    model.graph.node.append(helper.make_node("If", ["c"], ["unused"], then_branch=branch, else_branch=branch))
    return _saved(folder, model)


def _bomb(folder: Path) -> Path:
    """Thirty-four gigabytes in some bytes, added to the image."""
    model = _graph(folder)
    shape = helper.make_tensor("s", TensorProto.INT64, [2], [2**20, 2**13])
    model.graph.initializer.append(shape)
    made = helper.make_node("ConstantOfShape", ["s"], ["big"])
    summed = helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0)
    added = helper.make_node("Add", ["data_0", "sum"], ["louder"])
    first = model.graph.node[0]
    first.input[0] = "louder"
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([made, summed, added, *rest])
    return _saved(folder, model)


def _no_text(folder: Path) -> Path:
    """An operator whose name is no UTF-8, which ONNX Runtime quotes."""
    path = _saved(folder, _graph(folder))
    path.write_bytes(path.read_bytes().replace(b"LRN", b"L\xd3N"))
    return path


def _saved(folder: Path, model: Any) -> Path:
    path = folder / "in" / "a.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def _bytes(name: str, content: bytes | Callable[[], bytes]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "in" / name).write_bytes(content if isinstance(content, bytes) else content())
        return folder / "in" / name

    return make


def _varint(number: int) -> bytes:
    found = b""
    while number > 127:
        found += bytes([number & 127 | 128])
        number >>= 7
    return found + bytes([number])


def _nested() -> bytes:
    """A graph in an attribute of a node of a graph, and so on ten thousand times: field 7, 1, 5, 6, each a message."""
    content = b""
    for _ in range(10_000):
        for field in (6, 5, 1):
            content = bytes([field << 3 | 2]) + _varint(len(content)) + content
    return bytes([7 << 3 | 2]) + _varint(len(content)) + content


def _header(header: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _archive(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), content)
    return file.getvalue()


class _Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch harm.txt",)


def _bomb_of_weights() -> bytes:
    """Zeros, a thousand times as many as bytes in the file."""
    file = io.BytesIO()
    config = json.dumps({"class_name": "Sequential", "config": {"layers": []}})
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", config)
        with archive.open("model.weights.h5", "w", force_zip64=True) as member:
            for _ in range(256):
                member.write(bytes(1 << 20))
    return file.getvalue()


def _torch_bomb() -> bytes:
    return _archive(archive__data_pkl=bytes(1 << 26))


HOSTILE: dict[str, Callable[[Path], Path]] = {
    "traversal": _external(lambda at: f"../{SECRET}"),
    "deeper traversal": _external(lambda at: f"a/../../{SECRET}"),
    "etc passwd": _external(lambda at: "../../../../../../../../etc/passwd"),
    "absolute": _external(lambda at: str(at / SECRET)),
    "link": _external(lambda at: "link.bin"),
    "no place": _external(lambda at: ""),
    "a folder": _external(lambda at: "."),
    "a pipe": _external(lambda at: "pipe"),
    "zero byte": _external(lambda at: "a\0b"),
    "huge offset": _external(lambda at: "beside.bin", offset=str(2**62)),
    "huge length": _external(lambda at: "beside.bin", length=str(2**62)),
    "hidden": _hidden,
    "bomb of constants": _bomb,
    "a name that is no text": _no_text,
    "two gigabytes announced": _bytes("a.onnx", bytes([7 << 3 | 2]) + _varint(2**31 - 1) + b"short"),
    "more than there are": _bytes("a.onnx", bytes([7 << 3 | 2]) + _varint(2**63) + b"short"),
    "nested": _bytes("a.onnx", _nested),
    "no graph": _bytes("a.onnx", b"\x08\x08"),
    "empty": _bytes("a.onnx", b""),
    "header of 2**60": _bytes("a.safetensors", struct.pack("<Q", 2**60) + b"{"),
    "header of 2 gigabytes": _bytes("a.safetensors", struct.pack("<Q", 2**31) + b"{}"),
    "shape of 2**80": _bytes(
        "a.safetensors", _header({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}, bytes(4))
    ),
    "overlapping": _bytes(
        "a.safetensors",
        _header({n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in ("a", "b")}, bytes(8)),
    ),
    "nested header": _bytes("a.safetensors", struct.pack("<Q", 200_000) + b'{"a":' + b"[" * 199_995),
    "pickle that acts": _bytes("a.pth", lambda: pickle.dumps(_Harm())),
    "archive that acts": _bytes("a.pth", lambda: _archive(archive__data_pkl=pickle.dumps(_Harm()))),
    "bomb of torch's": _bytes("a.pth", _torch_bomb),
    "bomb of configuration": _bytes("a.keras", lambda: _archive(config_json=bytes(1 << 26))),
    "bomb of weights": _bytes("a.keras", _bomb_of_weights),
    "nested configuration": _bytes("a.keras", lambda: _archive(config_json=b"[" * 100_000)),
    "climbing members": _bytes("a.keras", lambda: _archive(config_json=b"{}", **{"..__..__evil_txt": b"evil"})),
    "half of HDF5": _bytes("a.weights.h5", b"\x89HDF\r\n\x1a\n" + bytes(1000)),
}
GRAPH_ALONE = (*tuple(HOSTILE)[:12], "a name that is no text")
"""What `identify` may take, as it reads no weights: of these it must only have read nothing."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "narrow.yaml").write_text(NARROW)
    (tmp_path / "out").mkdir()
    (tmp_path / "in").mkdir()
    (tmp_path / SECRET).write_bytes(np.zeros(4 * 3 * 121, np.float32).tobytes())
    (tmp_path / "in" / "beside.bin").write_bytes(bytes(4 * 4 * 3 * 121))
    (tmp_path / "in" / "link.bin").symlink_to(tmp_path / SECRET)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "in" / "pipe")
    monkeypatch.chdir(tmp_path / "in")
    return tmp_path


def _beside(place: Path) -> list[tuple[Path, int]]:
    """What there is, but for what an output is for."""
    files = (path for path in place.rglob("*") if path.parent != place / "out")
    return sorted((path, path.lstat().st_size) for path in files)


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_made_to_do_harm_is_refused_in_one_line(place: Path, capsys: Any, name: str) -> None:
    path = HOSTILE[name](place)
    if name in GRAPH_ALONE or path.name == "a.onnx":  # `narrow` is stated for files of this name
        path = path.rename(path.with_name("zoo.onnx"))
    before, memory = _beside(place), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for reader, (read, endings) in READERS.items():
        if path.suffix not in endings:
            continue
        OPENED.clear()
        code = read(path, place)
        said = capsys.readouterr().err
        if code == 0:
            assert reader == "identify" or (reader, name) == ("from_weights", "hidden")  # no weight lies there
            assert name in GRAPH_ALONE, name
            (place / "out" / "imported.safetensors").unlink(missing_ok=True)
        else:
            assert (code, said.count("\n")) == (2, 1), (reader, said)
            assert not list((place / "out").iterdir())
        assert not [file for file in OPENED if file.endswith((SECRET, "passwd", "link.bin", "pipe"))], reader
    assert _beside(place) == before
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) << 10 < GROWTH


def test_a_few_cases_of_the_fuzzer_find_nothing(tmp_path):
    """``python -m export.tests.fuzz --seconds 600`` is the same for longer."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "work").mkdir()
    counts, findings = fuzz(whole(tmp_path / "whole", keras=False), tmp_path / "work", iter(range(12)))
    assert findings == []
    assert sum(count for what, count in counts.items() if what.endswith(": files")) == 12


def test_a_case_is_made_again_from_its_number():
    files = {"a.safetensors": _header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(8))}
    assert [damaged(files, number) for number in range(50)] == [damaged(files, number) for number in range(50)]
    assert len({damaged(files, number)[2] for number in range(50)}) > 30
