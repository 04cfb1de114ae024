"""ILSVRC-2012 (ImageNet's 1000 classes) in the forms in which it is handed out.

Training images: class folders in ``train/``, or ``ILSVRC2012_img_train.tar``, a tar of a tar for each class. Validation
images, which carry no class in their names: a flat folder ``val/``, or ``ILSVRC2012_img_val.tar``; their classes come
from the development kit (:mod:`data.devkit`), or from Kaggle's ``LOC_val_solution.csv``. Validation images in class
folders make an ordinary image folder (:mod:`data.folders`), which is how torchvision keeps it.

Classes are WNIDs in the order of ``sorted()`` in every form, so that one model serves all; it is the order of
torchvision and Caffe, and not that of the development kit's numbers.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data.contents import Contents, Source
from data.devkit import find_devkit, read_devkit
from data.errors import DataError, some
from data.folders import digest_of_files, flat_files, training_files, training_folder
from data.listed import Listed
from data.tars import Archive, why_unsafe

TRAIN_TAR = "ILSVRC2012_img_train.tar"
VALIDATION_TAR = "ILSVRC2012_img_val.tar"
SOLUTION = "LOC_val_solution.csv"
_VALIDATION_FOLDERS = ("val", "ILSVRC2012_img_val")
_INSIDE = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")
"""Where below the given folder Kaggle's archive has train/ and val/."""
_NUMBERED = re.compile(r"ILSVRC2012_val_\d{8}\.JPEG")
_MAX_SOLUTION = 256 << 20


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the pieces lie; None for a piece that is not there."""

    train: Path | None
    """The archive, or the folder of class folders."""
    validation: Path | None
    """The archive, or the flat folder."""
    kit: Path | None
    solution: Path | None


def recognise(root: Path) -> Source | None:
    """ILSVRC-2012 in `root`, in one of the forms above; None if it is something else. Raises DataError and OSError."""
    places = _places(root)
    classes_from = places.kit or places.solution
    an_archive = any(place is not None and place.is_file() for place in (places.train, places.validation))
    if not an_archive and (places.validation is None or classes_from is None):
        return None
    required = {
        f"{TRAIN_TAR} or train/": places.train,
        f"{VALIDATION_TAR} or val/": places.validation,
        f"the development kit or {SOLUTION}": classes_from,
    }
    if missing := [name for name, place in required.items() if place is None]:
        raise DataError(f"ILSVRC-2012 needs its training images, validation images and their classes. "
                        f"Missing: {'; '.join(missing)}. In: {root}")  # fmt: skip
    assert places.train is not None
    assert places.validation is not None
    train = Listed()
    validation = Listed()
    identity: list[object] = ["ILSVRC-2012"]
    if places.train.is_dir():
        classes, found = training_files(places.train.parent, places.train.name)
        train.add_files(found, classes)
        identity += [classes, digest_of_files(found.files)]
    if places.validation.is_dir():
        found = flat_files(places.validation.parent, places.validation.name)
        validation.add_files(found, ())
        identity.append(digest_of_files(found.files))
    files = [place for place in (places.train, places.validation, places.kit, places.solution)
             if place is not None and place.is_file()]  # fmt: skip
    identity += [[place.name, place.stat().st_size, place.stat().st_mtime_ns] for place in files]
    if places.kit is not None and places.kit.is_dir():
        identity.append(read_devkit(places.kit))
    names = ", ".join(place.name + "/" * place.is_dir() for place in required.values() if place is not None)
    return Source(
        f"ILSVRC-2012 in {root} ({names})", str(root), identity, lambda: _contents(root, places, train, validation)
    )


def _places(root: Path) -> _Places:
    base = next((root / inside for inside in _INSIDE if _is_base(root / inside)), root)

    def first(test: Callable[[Path], bool], *names: str) -> Path | None:
        return next((folder / name for name in names for folder in (base, root) if test(folder / name)), None)

    folder = training_folder(base)
    return _Places(
        first(Path.is_file, TRAIN_TAR) or (base / folder if folder else None),
        first(Path.is_file, VALIDATION_TAR) or first(_is_flat, *_VALIDATION_FOLDERS),
        find_devkit(base) or find_devkit(root),
        first(Path.is_file, SOLUTION),
    )


def _is_base(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in ("train", "val")) or (folder / TRAIN_TAR).is_file()


def _is_flat(folder: Path) -> bool:
    """Whether `folder` holds the numbered validation images themselves."""
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(_NUMBERED.fullmatch(entry.name) for entry in entries)


def _contents(root: Path, places: _Places, train: Listed, validation: Listed) -> Contents:
    assert places.train is not None
    assert places.validation is not None
    train_in: Path | Archive = places.train.parent
    validation_in: Path | Archive = places.validation.parent
    if places.train.is_file():
        train_in, train = _training_tar(places.train)
    if places.validation.is_file():
        validation_in, validation = Archive(places.validation), Listed()
        validation.add_members(validation_in, None, "", "")
    wnids = sorted(set(train.classes))
    if len(wnids) < 2:
        raise DataError(f"at least two classes are required. Received: {len(wnids)}. In: {places.train}")
    wanted, known = _classes_of_validation_images(places)
    if known and (strangers := sorted(set(wnids) - set(known))):
        raise DataError(f"every class must be one of the development kit's. Received: {some(strangers)}. In: {root}")
    numbers = {wnid: i for i, wnid in enumerate(wnids)}
    for i, name in enumerate(validation.names):
        wnid = wanted.get(name.rsplit("/", 1)[-1].split(".")[0])
        validation.classes[i] = wnid or ""
        if wnid is None:
            validation.refused.append((name, "no class is known for it"))
        elif wnid not in numbers:
            validation.refused.append((name, f"its class {wnid!r} has no training images"))
    parts = {"train": train.part(train_in, numbers), "validation": validation.part(validation_in, numbers)}
    if not len(parts["validation"].labels):
        raise DataError(f"at least one validation image is required. Received: none with a class. In: {root}")
    refused = tuple(train.refused + validation.refused)
    return Contents(tuple(wnids), parts, "", refused, train.passed_over + validation.passed_over)


def _training_tar(path: Path) -> tuple[Archive, Listed]:
    """The images of the tar of tars: the name of an inner archive is the class of what it holds."""
    outer, images = Archive(path), Listed()
    for member in outer.members():
        if member.kind == "folder":
            continue
        if reason := why_unsafe(member):
            images.refused.append((member.name, reason))
        elif member.name.endswith(".tar"):
            wnid = member.name.rsplit("/", 1)[-1].removesuffix(".tar")
            images.add_members(outer, member, f"{member.name}/", wnid)
        else:
            images.pass_over(member.name)
    return outer, images


def _classes_of_validation_images(places: _Places) -> tuple[dict[str, str], tuple[str, ...]]:
    """(image name without ending -> WNID, the WNIDs of all classes if they are known)."""
    if places.kit is not None:
        truth, wnids = read_devkit(places.kit)
        return {f"ILSVRC2012_val_{number:08}": wnid for number, wnid in enumerate(truth, 1)}, wnids
    assert places.solution is not None
    return _read_solution(places.solution), ()


def _read_solution(path: Path) -> dict[str, str]:
    """Kaggle's ``LOC_val_solution.csv``: ``ImageId,PredictionString``, the latter beginning with the WNID."""
    try:
        if path.stat().st_size > _MAX_SOLUTION:
            raise ValueError(f"{path.stat().st_size:,} bytes")
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            if next(rows, None) != ["ImageId", "PredictionString"]:
                raise ValueError("other columns than ImageId,PredictionString")
            return {row[0]: row[1].split()[0] for row in rows if row}
    except (ValueError, IndexError, csv.Error) as error:
        raise DataError(f"the class of every validation image is required. Received: {error}. In: {path}") from error
