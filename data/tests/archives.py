"""Small files in the forms in which ImageNet and CIFAR are handed out."""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.tests.builders import picture

WNIDS = ("n03000003", "n01000001", "n02000002")
"""In the order of the development kit's numbers 1, 2, 3, which is not that of the alphabet."""


def jpeg(height: int = 20, width: int = 24, seed: int = 0, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture(height, width, seed=seed).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def tar(entries: Mapping[str, bytes] | Sequence[tuple[tarfile.TarInfo, bytes]], **options: Any) -> bytes:
    """A tar archive of files, or of whatever entries are given."""
    buffer = io.BytesIO()
    if isinstance(entries, Mapping):
        entries = [(tarfile.TarInfo(name), content) for name, content in entries.items()]
    with tarfile.open(fileobj=buffer, mode="w", **options) as archive:
        for info, content in entries:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


# --- MAT-files --------------------------------------------------------------------------------------------------------


def element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def matrix(kind: int, shape: tuple[int, int], name: str, *parts: bytes) -> bytes:
    flags = element(6, struct.pack("<II", kind, 0))
    return element(14, flags + element(5, struct.pack("<ii", *shape)) + element(1, name.encode()) + b"".join(parts))


def mat_value(value: float | str, name: str = "") -> bytes:
    if isinstance(value, str):
        return matrix(4, (1, len(value)), name, element(4, value.encode("utf-16-le")))
    return matrix(6, (1, 1), name, element(9, struct.pack("<d", value)))


def mat_struct(name: str, rows: Sequence[Mapping[str, float | str]]) -> bytes:
    fields = list(rows[0])
    width = max(map(len, fields)) + 1
    names = b"".join(field.encode().ljust(width, b"\0") for field in fields)
    values = b"".join(mat_value(row[field]) for row in rows for field in fields)
    small = struct.pack("<HHi", 5, 4, width)
    return matrix(2, (len(rows), 1), name, small, element(1, names), values)


def mat_file(*variables: bytes, compress: bool = True) -> bytes:
    header = b"MATLAB 5.0 MAT-file, made by a test".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
    if compress:
        packed = [zlib.compress(variable) for variable in variables]
        variables = tuple(struct.pack("<II", 15, len(content)) + content for content in packed)
    return header + b"".join(variables)


def meta_mat(wnids: Sequence[str] = WNIDS, **options: Any) -> bytes:
    """``meta.mat`` of `wnids`, and of one synset that contains them."""
    rows: list[dict[str, float | str]] = [
        {"ILSVRC2012_ID": i, "WNID": wnid, "words": f"word {i}, other", "num_children": 0}
        for i, wnid in enumerate(wnids, 1)
    ]
    rows.append({"ILSVRC2012_ID": len(wnids) + 1, "WNID": "n00000000", "words": "entity", "num_children": len(wnids)})
    return mat_file(mat_struct("synsets", rows), **options)


def devkit_files(numbers: Sequence[int], wnids: Sequence[str] = WNIDS) -> dict[str, bytes]:
    truth = "".join(f"{number}\n" for number in numbers).encode()
    return {"data/meta.mat": meta_mat(wnids), "data/ILSVRC2012_validation_ground_truth.txt": truth}


def devkit(numbers: Sequence[int], wnids: Sequence[str] = WNIDS) -> bytes:
    """``ILSVRC2012_devkit_t12.tar.gz`` of validation images of the classes `numbers`."""
    files = devkit_files(numbers, wnids)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in {"readme.txt": b"read me", **files}.items():
            info = tarfile.TarInfo(f"ILSVRC2012_devkit_t12/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


# --- ILSVRC-2012 ------------------------------------------------------------------------------------------------------


def train_tar(count: int = 2, wnids: Sequence[str] = WNIDS) -> bytes:
    """A tar of a tar of `count` images for each class."""
    inner = {
        f"{wnid}.tar": tar({f"{wnid}_{i}.JPEG": jpeg(seed=10 * c + i) for i in range(count)})
        for c, wnid in enumerate(wnids)
    }
    return tar(inner)


def validation_images(count: int) -> dict[str, bytes]:
    return {f"ILSVRC2012_val_{i:08}.JPEG": jpeg(seed=1000 + i) for i in range(1, count + 1)}


def ilsvrc_tars(root: Path, numbers: Sequence[int] = (3, 1, 2, 1)) -> Path:
    """The three archives, with validation images of the development kit's classes `numbers`."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "ILSVRC2012_img_train.tar").write_bytes(train_tar())
    (root / "ILSVRC2012_img_val.tar").write_bytes(tar(validation_images(len(numbers))))
    (root / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(devkit(numbers))
    return root


def train_folders(base: Path, count: int = 2) -> None:
    for c, wnid in enumerate(WNIDS):
        (base / wnid).mkdir(parents=True)
        for i in range(count):
            (base / wnid / f"{wnid}_{i}.JPEG").write_bytes(jpeg(seed=10 * c + i))


def flat_validation(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for name, content in validation_images(count).items():
        (folder / name).write_bytes(content)


def kaggle(root: Path, numbers: Sequence[int] = (3, 1, 2, 1)) -> Path:
    """Kaggle's folders and its table of validation classes, in another order than the images."""
    base = root / "ILSVRC" / "Data" / "CLS-LOC"
    train_folders(base / "train")
    flat_validation(base / "val", len(numbers))
    (base / "test").mkdir()
    (base / "test" / "ILSVRC2012_test_00000001.JPEG").write_bytes(jpeg())
    rows = [f"ILSVRC2012_val_{i:08},{WNIDS[number - 1]} 1 2 3 4 {WNIDS[number - 1]} 5 6 7 8 "
            for i, number in enumerate(numbers, 1)]  # fmt: skip
    (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *reversed(rows)]) + "\n")
    return root
