"""CIFAR's pickles are read without Python's unpickler, and nothing in a pickle is ever called."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from data.errors import DataError
from data.pickles import read_pickle
from data.sources import open_source
from data.tests.builders import storage

NAMES = [b"airplane", b"automobile", b"bird"]


def python2(batch: dict[bytes, Any]) -> bytes:
    """`batch` as Python 2 with NumPy 1 pickled it, which is CIFAR's own form: protocol 2, texts as BINSTRING."""
    out = [b"\x80\x02}("]

    def text(value: bytes) -> bytes:
        if len(value) < 256:
            return b"U" + bytes([len(value)]) + value
        return b"T" + len(value).to_bytes(4, "little") + value

    def number(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    for key, value in batch.items():
        out.append(text(key))
        if isinstance(value, np.ndarray):
            rows, width = value.shape
            out += [b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85", text(b"b"), b"\x87R(K\x01"]
            out += [number(rows), number(width), b"\x86cnumpy\ndtype\n", text(b"u1"), b"K\x00K\x01\x87R(K\x03"]
            out += [text(b"|"), b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89", text(value.tobytes()), b"tb"]
        elif isinstance(value, list):
            out += [b"]", b"(", *(number(v) if isinstance(v, int) else text(v) for v in value), b"e"]
        else:
            out.append(text(value))
    return b"".join([*out, b"u."])


def rows(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def batch(count: int, seed: int, key: bytes = b"labels") -> dict[bytes, Any]:
    return {b"batch_label": b"one of", key: [i % 3 for i in range(count)], b"data": rows(count, seed),
            b"filenames": [b"x_%d.png" % i for i in range(count)]}  # fmt: skip


def cifar10(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for i in range(1, 6):
        (folder / f"data_batch_{i}").write_bytes(python2(batch(4, i)))
    (folder / "test_batch").write_bytes(python2(batch(3, 9)))
    (folder / "batches.meta").write_bytes(python2({b"label_names": NAMES, b"num_vis": b"3072"}))
    return folder


def test_the_form_of_the_test_is_one_that_python_reads_alike() -> None:
    made = python2(batch(4, 1))
    received, expected = read_pickle(made), pickle.loads(made, encoding="bytes")
    np.testing.assert_array_equal(received.pop(b"data"), expected.pop(b"data"))
    assert received == expected


@pytest.mark.parametrize("inside", ["", "cifar-10-batches-py"])
def test_cifar10_is_opened(tmp_path: Path, inside: str) -> None:
    folder = cifar10(tmp_path / "source" / inside)
    splits = open_source(str(tmp_path / "source"), storage=storage(32), channels=3, seed=0)
    assert splits.description == (
        f"CIFAR-10 in {folder}: 20 training and 3 validation images, kept at 32x32 RGB, 3 classes: "
        "airplane, automobile, bird"
    )
    assert splits.train.labels.tolist() == [0, 1, 2, 0] * 5
    red, green, blue = rows(4, 2)[1].reshape(3, 32, 32)  # data_batch_2, second image
    np.testing.assert_array_equal(splits.train.images[5], np.stack([red, green, blue], axis=-1))


def test_cifar100_is_opened_with_its_fine_classes(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name, count in (("train", 5), ("test", 2)):
        content = {**batch(count, count, b"fine_labels"), b"coarse_labels": [0] * count}
        (folder / name).write_bytes(python2(content))
    (folder / "meta").write_bytes(python2({b"fine_label_names": NAMES, b"coarse_label_names": [b"all"]}))
    splits = open_source(str(tmp_path), storage=storage(32), channels=1, seed=0)
    assert splits.train.images.shape == (5, 32, 32, 1)
    assert splits.train.classes == ("airplane", "automobile", "bird")


def test_colour_becomes_grey_by_luma(tmp_path: Path) -> None:
    cifar10(tmp_path / "source")
    sets = [open_source(str(tmp_path / "source"), storage=storage(32), channels=c, seed=0) for c in (1, 3)]
    colour = np.asarray(sets[1].train.images, np.float64)
    luma = colour @ np.array([0.299, 0.587, 0.114])
    assert np.abs(np.asarray(sets[0].train.images)[..., 0] - luma).max() <= 0.51


def changed(**entries: Any) -> bytes:
    return python2({**batch(4, 1), **{name.encode(): value for name, value in entries.items()}})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data_batch_3", None, "must be whole. Missing: data_batch_3"),
        ("data_batch_3", b"", "pickled dict of plain data"),
        ("data_batch_3", b"not a pickle", "opcode"),
        ("data_batch_3", python2(batch(4, 1))[:-20], "damaged pickle|exhausted|not enough data"),
        ("data_batch_3", pickle.dumps([1, 2]), "Received: a list"),
        ("data_batch_3", changed(data=[1, 2]), r"must be uint8 \(N, 3072\). Received: a list of 2"),
        ("data_batch_3", changed(data=rows(4, 1)[:, :3000]), r"Received: uint8 \(4, 3000\)"),
        ("data_batch_3", changed(labels=[0, 1]), "each of 4 images. Received: a list of 2"),
        ("data_batch_3", changed(labels=[0, 1, 2, 3]), "a label below 3"),
        ("data_batch_3", changed(labels=[0, 1, 2, -1]), "a label below 3"),
        ("data_batch_3", changed(labels=b"0000"), "Received: bytes"),
        ("batches.meta", python2({b"names": NAMES}), "no label_names"),
        ("batches.meta", python2({b"label_names": [b"one"]}), "different printable names"),
        ("batches.meta", python2({b"label_names": [b"a", b"a"]}), "different printable names"),
        ("batches.meta", python2({b"label_names": [b"a", b"b\n"]}), "different printable names"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    folder = cifar10(tmp_path / "source")
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        open_source(str(folder), storage=storage(32), channels=3, seed=0)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


# --- pickles ----------------------------------------------------------------------------------------------------------

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.binary(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@hypothesis_settings(max_examples=150, deadline=None)
@given(value=PLAIN, protocol=st.integers(0, 4))
def test_plain_data_comes_back(value: Any, protocol: int) -> None:
    assert read_pickle(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", range(5))
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_bytes_come_back(protocol: int, order: Any) -> None:
    array = np.asarray(np.arange(24, dtype=np.uint8).reshape(4, 6), order=order)
    received = read_pickle(pickle.dumps({"a": array}, protocol))["a"]
    np.testing.assert_array_equal(received, array)
    assert received.dtype == np.uint8


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> Any:
        return self._call


def by_hand(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


HOSTILE = {
    "system": pickle.dumps({b"data": Calls(os.system, "touch called")}),
    "eval": pickle.dumps(Calls(eval, "open('called', 'w')")),
    "at the top": pickle.dumps(Calls(os.system, "touch called"), 0),
    "inside a list": pickle.dumps([Calls(os.mkdir, "called")]),
    "a name alone": pickle.dumps({b"x": os.system}),
    "builtins.bytearray": pickle.dumps({b"x": bytearray(b"1")}, 2),
    "a huge bytearray": pickle.dumps({b"x": Calls(bytearray, 10**12)}),
    "an array of objects": pickle.dumps({b"x": np.array([None, {}], object)}),
    "an array of floats": pickle.dumps({b"x": np.zeros(3)}),
    "a module that opens a browser": by_hand(b"cantigravity\nfly\n)R"),
    "persistent": b"\x80\x02U\x01xQ.",
    "inst": b"(S'touch called'\nios\nsystem\n.",
    "obj": b"(cos\nsystem\nS'touch called'\no.",
    "newobj": by_hand(b"cbuiltins\nlist\n)\x81"),
    "extension": by_hand(b"\x82\x01"),
    "a memo as large as the memory": by_hand(b"Nr\xff\xff\xff\x7f"),
    "memo that is not there": by_hand(b"h\x05"),
    "empty stack": by_hand(b"R"),
    "no mark": by_hand(b"Nt"),
    "build of nothing": by_hand(b"NN", b"b"),
    "append to a dict": by_hand(b"}Na"),
    "dict of an odd number": by_hand(b"}(Nu"),
    "a list as a key": by_hand(b"}(]Nu"),
    "tuple of too few": by_hand(b"N\x87"),
    "negative shape": pickle.dumps(np.zeros((2, 3), np.uint8), 2).replace(b"K\x02K\x03", b"J\xff\xff\xff\xffK\x03"),
    "codec": by_hand(b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00utf16\x86R"),
    "no end": b"\x80\x02N",
    "more than the file": b"\x80\x02B\xff\xff\xff\xff",
    "long long": b"\x80\x02\x8b\xff\xff\xff\x7f1",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_and_nothing_is_called(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    with pytest.raises(ValueError, match=r"."):
        read_pickle(HOSTILE[name])
    assert list(tmp_path.iterdir()) == []
    assert "antigravity" not in set(sys.modules) - before


@hypothesis_settings(max_examples=300, deadline=None)
@given(places=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_pickle_is_read_or_refused(places: list[tuple[int, int]]) -> None:
    content = bytearray(python2(batch(1, 0))[:600])
    for place, value in places:
        content[place % len(content)] = value
    try:
        read_pickle(bytes(content))
    except ValueError:
        return
