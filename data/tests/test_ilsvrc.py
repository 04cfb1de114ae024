"""ILSVRC-2012 in every form gives the same images in the same classes, and damage is named."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.dataset import Splits
from data.devkit import read_devkit
from data.errors import DataError
from data.images import read_image
from data.matlab import read_mat
from data.sources import open_source, recognise
from data.tests import archives
from data.tests.archives import WNIDS
from data.tests.builders import storage

NUMBERS = (3, 1, 2, 1)
"""Classes of the validation images in the development kit's numbers; in the alphabet's order they are 1, 2, 0, 2."""


def opened(root: Path) -> Splits:
    return open_source(str(root), storage=storage(16), channels=3, seed=0)


def torchvision_layout(root: Path) -> Path:
    archives.train_folders(root / "train")
    for i, number in enumerate(NUMBERS, 1):
        folder = root / "val" / WNIDS[number - 1]
        folder.mkdir(parents=True, exist_ok=True)
        name = f"ILSVRC2012_val_{i:08}.JPEG"
        (folder / name).write_bytes(archives.validation_images(i)[name])
    return root


def folders_with_kit(root: Path) -> Path:
    archives.train_folders(root / "train")
    archives.flat_validation(root / "val", len(NUMBERS))
    (root / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(archives.devkit(NUMBERS))
    return root


def folders_with_unpacked_kit(root: Path) -> Path:
    archives.train_folders(root / "train")
    archives.flat_validation(root / "val", len(NUMBERS))
    for name, content in archives.devkit_files(NUMBERS).items():
        path = root / "ILSVRC2012_devkit_t12" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def tar_beside_folder(root: Path) -> Path:
    archives.train_folders(root / "train")
    (root / "ILSVRC2012_img_val.tar").write_bytes(archives.tar(archives.validation_images(len(NUMBERS))))
    (root / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(archives.devkit(NUMBERS))
    return root


FORMS: dict[str, Callable[[Path], Path]] = {
    "tars": lambda root: archives.ilsvrc_tars(root, NUMBERS),
    "kaggle": lambda root: archives.kaggle(root, NUMBERS),
    "torchvision": torchvision_layout,
    "folders and kit": folders_with_kit,
    "folders and unpacked kit": folders_with_unpacked_kit,
    "tar beside folder": tar_beside_folder,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_images_and_classes(tmp_path: Path, form: str) -> None:
    splits = opened(FORMS[form](tmp_path / "source"))
    assert splits.train.classes == tuple(sorted(WNIDS))
    assert splits.train.labels.tolist() == [2, 2, 0, 0, 1, 1] if form == "tars" else [0, 0, 1, 1, 2, 2]
    found = {image.tobytes(): label for image, label in zip(splits.train.images[:], splits.train.labels)}
    expected_train = {}
    for c, wnid in enumerate(WNIDS):
        for i in range(2):
            expected_train[prepared(archives.jpeg(seed=10 * c + i))] = sorted(WNIDS).index(wnid)
    assert found == expected_train
    expected = {prepared(content): sorted(WNIDS).index(WNIDS[NUMBERS[i] - 1])
                for i, content in enumerate(archives.validation_images(4).values())}  # fmt: skip
    assert {image.tobytes(): label for image, label in
            zip(splits.validation.images[:], splits.validation.labels)} == expected  # fmt: skip


def prepared(content: bytes) -> bytes:
    return read_image(io.BytesIO(content), storage(16), 3).tobytes()


def test_what_was_found_is_described(tmp_path: Path) -> None:
    root = archives.ilsvrc_tars(tmp_path / "source")
    assert opened(root).description == (
        f"ILSVRC-2012 in {root} (ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar, ILSVRC2012_devkit_t12.tar.gz): "
        "6 training and 4 validation images, kept at 16x16 RGB, 3 classes: n01000001, n02000002, n03000003"
    )


@pytest.mark.parametrize("name", ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"])
def test_what_is_missing_is_named(tmp_path: Path, name: str) -> None:
    root = archives.ilsvrc_tars(tmp_path / "source")
    (root / name).unlink()
    missing = "the development kit or LOC_val_solution.csv" if "devkit" in name else name
    with pytest.raises(DataError, match=f"Missing: {missing}"):
        opened(root)


@pytest.mark.parametrize("name", ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"])
@pytest.mark.parametrize("at", [0.3, 0.6, 0.9])
def test_a_cut_archive_is_refused_by_name(tmp_path: Path, name: str, at: float) -> None:
    root = archives.ilsvrc_tars(tmp_path / "source")
    path = root / name
    content = path.read_bytes()
    path.write_bytes(content[: int(at * len(content.rstrip(b"\0")))])
    with pytest.raises(DataError, match=name) as caught:
        opened(root)
    assert "\n" not in str(caught.value)


def test_a_validation_image_without_a_class_is_not_used(tmp_path: Path) -> None:
    root = archives.ilsvrc_tars(tmp_path / "source", NUMBERS)
    (root / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(archives.devkit(NUMBERS[:3]))
    contents = recognise(str(root), 0).contents()
    assert contents.refused == (("ILSVRC2012_val_00000004.JPEG", "no class is known for it"),)
    assert contents.parts["validation"].labels.tolist() == [1, 2, 0]
    with pytest.raises(DataError, match=r"ILSVRC2012_val_00000004.JPEG' \(no class is known for it\)"):
        opened(root)


def test_a_class_that_the_kit_does_not_know_is_refused(tmp_path: Path) -> None:
    root = archives.ilsvrc_tars(tmp_path / "source")
    (root / "ILSVRC2012_img_train.tar").write_bytes(archives.train_tar(wnids=(*WNIDS, "n09999999")))
    with pytest.raises(DataError, match=r"one of the development kit's. Received: n09999999"):
        opened(root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\nc,d\n", "other columns"),
        ("ImageId,PredictionString\nILSVRC2012_val_00000001\n", "index out of range"),
        ("ImageId,PredictionString\nILSVRC2012_val_00000001,\n", "index out of range"),
        ("", "other columns"),
        ("ImageId,PredictionString\nother,n01000001 1 2 3 4\n", "none with a class"),
    ],
)
def test_a_table_without_classes_is_refused(tmp_path: Path, content: str, message: str) -> None:
    root = archives.kaggle(tmp_path / "source")
    (root / "LOC_val_solution.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        opened(root)


def test_only_plain_files_with_harmless_names_are_read(tmp_path: Path) -> None:
    """Links, devices and names that lead out of the archive are named; nothing is written anywhere."""
    root = archives.ilsvrc_tars(tmp_path / "source")
    entries = [(tarfile.TarInfo(name), content) for name, content in archives.validation_images(4).items()]

    def odd(name: str, kind: bytes, target: str = "") -> None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        entries.append((info, b""))

    odd("ILSVRC2012_val_00000001.JPEG", tarfile.SYMTYPE, "/etc/passwd")
    odd("hard.JPEG", tarfile.LNKTYPE, "ILSVRC2012_val_00000001.JPEG")
    odd("null.JPEG", tarfile.CHRTYPE)
    odd("pipe.JPEG", tarfile.FIFOTYPE)
    odd("folder.JPEG", tarfile.DIRTYPE)
    names = ("../../up.JPEG", "/root.JPEG", "a/../../b.JPEG", "C:\\windows.JPEG", "new\nline.JPEG", "x.txt")
    entries += [(tarfile.TarInfo(name), archives.jpeg()) for name in names]
    (root / "ILSVRC2012_img_val.tar").write_bytes(archives.tar(entries))
    before = sorted(tmp_path.rglob("*"))
    contents = recognise(str(root), 0).contents()
    assert dict(contents.refused) == {
        "ILSVRC2012_val_00000001.JPEG": "a link",
        "hard.JPEG": "a link",
        "null.JPEG": "a device",
        "pipe.JPEG": "a device",
        "../../up.JPEG": "a name that leads out of the archive",
        "/root.JPEG": "a name that leads out of the archive",
        "a/../../b.JPEG": "a name that leads out of the archive",
        "C:\\windows.JPEG": "a name that leads out of the archive",
        "new\nline.JPEG": "a name that cannot be printed",
    }
    assert contents.passed_over == {".txt": 1}
    assert len(contents.parts["validation"].labels) == 4
    assert sorted(tmp_path.rglob("*")) == before


# --- the development kit ----------------------------------------------------------------------------------------------


def test_the_kit_gives_wnids_by_number(tmp_path: Path) -> None:
    (tmp_path / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(archives.devkit((2, 3, 1)))
    truth, wnids = read_devkit(tmp_path / "ILSVRC2012_devkit_t12.tar.gz")
    assert truth == (WNIDS[1], WNIDS[2], WNIDS[0])
    assert wnids == tuple(sorted(WNIDS))  # the synset that contains them is no class


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"data/meta.mat": archives.meta_mat()}, "none of data/ILSVRC2012_validation_ground_truth.txt"),
        ({**archives.devkit_files([1]), "data/meta.mat": b"no"}, "no MAT-file of level 5"),
        ({**archives.devkit_files([1]), "data/meta.mat": archives.mat_file(archives.mat_value(1, "x"))}, "no synsets"),
        (archives.devkit_files([1, 9]), "the class number 9"),
        (archives.devkit_files([4]), "the class number 4"),  # what contains classes is none
        ({**archives.devkit_files([1]), "data/ILSVRC2012_validation_ground_truth.txt": b"one"}, "invalid literal"),
        (archives.devkit_files([1], ("n1", "n1")), "'n1' or its number 2 twice"),
    ],
)
def test_a_kit_that_does_not_say_it_is_refused(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    kit = tmp_path / "ILSVRC2012_devkit_t12.tar.gz"
    kit.write_bytes(gzip.compress(archives.tar(files)))
    with pytest.raises(DataError, match=message) as caught:
        read_devkit(kit)
    assert "\n" not in str(caught.value)


def test_a_kit_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    kit = tmp_path / "ILSVRC2012_devkit_t12.tar.gz"
    kit.write_bytes(gzip.compress(bytes(65 << 20)))
    with pytest.raises(DataError, match="at most 67,108,864 bytes"):
        read_devkit(kit)


# --- MAT-files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [False, True])
def test_matlab_files_are_read_as_scipy_writes_them(compress: bool) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    fields = [(name, object) for name in ("ILSVRC2012_ID", "WNID", "words", "num_children", "children")]
    synsets = np.empty((3, 1), dtype=fields)
    for i in range(3):
        synsets[i, 0] = (
            float(i + 1),
            f"n{i:08}",
            "caf\u00e9",
            0 if i < 2 else 2,
            np.arange(2.0 if i == 2 else 0),
        )
    buffer = io.BytesIO()
    scipy_io.savemat(buffer, {"synsets": synsets, "x": 3, "m": np.array([[1, 2], [3, 4]])}, do_compression=compress)
    found = read_mat(buffer.getvalue())
    assert found["x"] == 3
    assert found["m"] == (1, 3, 2, 4)  # column by column
    rows = found["synsets"]
    assert isinstance(rows, list)
    assert [row["WNID"] for row in rows] == ["n00000000", "n00000001", "n00000002"]
    assert rows[2] == {
        "ILSVRC2012_ID": 3,
        "WNID": "n00000002",
        "words": "caf\u00e9",
        "num_children": 2,
        "children": (0, 1),
    }


def test_a_damaged_matlab_file_never_does_more_than_raise() -> None:
    whole = archives.meta_mat(compress=False)
    rng = np.random.default_rng(0)
    for cut in range(0, len(whole), 7):
        try:
            read_mat(whole[:cut])
        except ValueError:
            continue
    for _ in range(300):
        damaged = bytearray(whole)
        for place in rng.integers(128, len(whole), 3):
            damaged[place] = rng.integers(0, 256)
        try:
            read_mat(bytes(damaged))
        except ValueError:
            continue


def test_a_matlab_bomb_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 67,108,864 bytes"):
        read_mat(archives.mat_file(archives.element(14, bytes(65 << 20))))
