"""A tar of class folders is read where it lies, in the forms in which people make one."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.errors import DataError
from data.sources import open_source
from data.tests.archives import jpeg, tar
from data.tests.builders import storage

IMAGES = {f"{part}/{name}/{i}.jpg": jpeg(seed=17 * i + len(part) + ord(name)) for part in ("train", "val")
          for name in "ab" for i in range(3)}  # fmt: skip


def opened(path: Path, **changes: Any) -> Any:
    return open_source(str(path), **{"storage": storage(16), "channels": 3, "seed": 0, **changes})


def unpacked(folder: Path, images: dict[str, bytes]) -> Path:
    for name, content in images.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.mark.parametrize("around", ["", "./", "photos/", "./some/photos/"])
@pytest.mark.parametrize("split", [True, False])
def test_a_tar_gives_what_the_folder_in_it_gives(tmp_path: Path, around: str, split: bool) -> None:
    images = {name if split else name.split("/", 1)[1]: content for name, content in IMAGES.items()}
    path = tmp_path / "x.tar"
    path.write_bytes(tar({around + name: content for name, content in reversed(images.items())}))
    received, expected = opened(path), opened(unpacked(tmp_path / "x", images))
    for one, other in ((received.train, expected.train), (received.validation, expected.validation)):
        assert one.classes == other.classes == ("a", "b")
        assert one.labels.tolist() == other.labels.tolist()
        np.testing.assert_array_equal(one.images[:], other.images[:])
    assert received.description.startswith(f"tar archive {path} (")


def test_train_alone_holds_some_out_and_other_folders_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "x.TAR"
    train = {name: content for name, content in IMAGES.items() if name.startswith("train")}
    path.write_bytes(tar(train | {"extra/a/1.jpg": jpeg(), "train/a/.hidden.jpg": jpeg(), "train/list.txt": b""}))
    splits = opened(path, seed=3)
    assert (len(splits.train), len(splits.validation)) == (4, 2)
    assert "1 in 10 held out for validation, seed 3" in splits.description


def test_what_is_no_ordinary_file_is_refused_and_of_one_name_the_last_counts(tmp_path: Path) -> None:
    link, hard = tarfile.TarInfo("a/link.jpg"), tarfile.TarInfo("a/hard.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hard.type, hard.linkname = tarfile.LNKTYPE, "a/0.jpg"
    good = [(tarfile.TarInfo(f"{name}/{i}.jpg"), jpeg(seed=i)) for name in "ab" for i in range(2)]
    bad = [(tarfile.TarInfo(name), jpeg(seed=9)) for name in ("../a/3.jpg", "/a/4.jpg", "a/0.jpg", "5.jpg")]
    path = tmp_path / "x.tar"
    path.write_bytes(tar([*good, *bad, (link, b""), (hard, b"")]))
    with pytest.raises(DataError, match="6 of 10 unreadable") as caught:
        opened(path)
    for said in ("'../a/3.jpg' (a name that leads out of the archive)", "'/a/4.jpg' (a name that leads out",
                 "'a/0.jpg' (another entry of the same name follows)", "'a/hard.jpg' (a link)",
                 "'a/link.jpg' (a link)", "'5.jpg' (in no class folder)"):  # fmt: skip
        assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.tar", tar({"a/1.jpg": jpeg(), "a/2.jpg": jpeg()}), "at least two class folders .* Received: 'a'"),
        ("x.tar", tar({"1.jpg": jpeg()}), "at least two class folders .* Received: none"),
        ("x.tar", b"", "at least two class folders"),
        ("x.tar", b"not a tar" * 100, "a tar archive must be whole"),
        ("x.tar", tar(IMAGES)[:5000], "a tar archive must be whole"),
        ("x.tar", tar({"a/1.jpg": jpeg(), "b/1.jpg": jpeg()}), "at least one validation image"),
        ("x.tar", tar({**IMAGES, "val/c/1.jpg": jpeg()}), "every validation class must be a training class. .*c"),
        ("x.tar", tar({**IMAGES, "training/a/1.jpg": jpeg()}), "there must be one training folder"),
        ("x.tar.gz", b"", "must be a plain tar, .* unpack it"),
        ("x.zip", b"", "must be a plain tar"),
        ("x.txt", b"", "Received: .*, a file of another kind"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        opened(tmp_path / name)
    assert "\n" not in str(caught.value)
