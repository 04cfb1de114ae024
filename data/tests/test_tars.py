"""Archives against Python's own tarfile, and what is refused."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from data.errors import DataError
from data.tars import Archive, Member, why_unsafe
from data.tests.archives import tar

LONG = "folder/" + "x" * 150 + "/\u00fc.JPEG"


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_and_contents_are_those_of_tarfile(tmp_path: Path, form: int) -> None:
    long = "p" * 90 + "/" + "n" * 90 + ".JPEG" if form == tarfile.USTAR_FORMAT else LONG
    files = {"a.JPEG": b"one", long: b"two" * 1000, "empty.png": b""}
    path = tmp_path / "a.tar"
    path.write_bytes(tar(files, format=form))
    archive = Archive(path)
    members = list(archive.members())
    with tarfile.open(path) as expected:
        assert [member.name for member in members] == expected.getnames()
    for member in members:
        assert member.kind == "file"
        with archive.open(member) as file:
            assert file.read() == files[member.name]


def test_an_archive_in_an_archive_is_read_in_its_bounds(tmp_path: Path) -> None:
    inner = tar({"x": b"1" * 700, "y": b"2"})
    path = tmp_path / "a.tar"
    path.write_bytes(tar({"one.tar": inner[:2048], "two.tar": inner, "z": b"not inside"}))  # one.tar without its end
    archive = Archive(path)
    one, two, _ = archive.members()
    with pytest.raises(DataError, match="an entry of 1 bytes, where 0 follow"):
        list(archive.members(Member("one.tar", "file", one.offset, 2048 + 0)))
    assert [member.name for member in archive.members(two)] == ["x", "y"]


def test_a_file_in_an_archive_can_be_read_anyhow(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(200_000)
    path = tmp_path / "a.tar"
    path.write_bytes(tar({"before": b"abc", "x": content, "after": b"def"}))
    archive = Archive(path)
    member = list(archive.members())[1]
    with archive.open(member) as file:
        assert file.seek(-10, io.SEEK_END) == len(content) - 10
        assert file.read() == content[-10:]
        assert file.read() == b""
        file.seek(70_000)
        assert file.read(100_000) == content[70_000:170_000]
        assert file.tell() == 170_000


def test_an_unfinished_end_is_an_end(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar({"x": b"1"})[:1024])
    assert [member.name for member in Archive(path).members()] == ["x"]


def header(**fields: bytes) -> bytes:
    """A header of an empty file, with fields overwritten and a right checksum."""
    places = {"name": 0, "size": 124, "type": 156}
    block = bytearray(tar({"x": b""})[:512])
    for field, value in fields.items():
        block[places[field] : places[field] + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x" * 512, "wrong checksum|the number"),
        (b"x" * 100, "a header of 100 bytes"),
        (header(size=b"00000001000\0"), "an entry of 512 bytes, where 0 follow"),
        (header(size=b"\x80" + b"\0" * 3 + b"\x7f" * 8), "where 0 follow"),
        (header(size=b"77777777777\0", type=b"L"), "a name of 8589934591 bytes"),
        (header(size=b"99999999999\0"), "the number"),
        (header(size=b"-0000000001\0"), "the number|an entry of"),
        (header(size=b"00000000010\0", type=b"x") + b"99 path=".ljust(512, b"\0"), "unreadable pax header"),
        (header(size=b"00000000004\0", type=b"x") + b"0 =\n".ljust(512, b"\0"), "unreadable pax header"),
        (
            header(size=b"00000000015\0", type=b"x") + b"13 size=12x3\n".ljust(512, b"\0") + header(),
            "'12x3'",
        ),
    ],
)
def test_damage_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        list(Archive(path).members())
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_archives_never_do_more_than_raise(tmp_path: Path) -> None:
    whole = bytearray(tar({"a.JPEG": b"1" * 600, LONG: b"2" * 600}, format=tarfile.PAX_FORMAT))
    rng = np.random.default_rng(0)
    for _ in range(400):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 4):
            damaged[place] = rng.integers(0, 256)
        archive = Archive(tmp_path / "none", bytes(damaged))
        try:
            for member in archive.members():
                assert 0 <= member.offset <= member.offset + member.size <= archive.size
        except DataError:
            continue


@pytest.mark.parametrize("name", ["../a", "a/../b", "/a", "\\a", "C:/a", "a\nb", "a\udc80"])
def test_names_that_lead_elsewhere_are_unsafe(name: str) -> None:
    assert why_unsafe(Member(name, "file", 0, 0))


@pytest.mark.parametrize("name", ["a", "a/b.JPEG", "a..b", "./a", "\u00fc"])
def test_ordinary_names_are_safe(name: str) -> None:
    assert why_unsafe(Member(name, "file", 0, 0)) == ""
