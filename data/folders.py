"""A folder of photographs, one folder per class: which images it holds and which of them are held out."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data.errors import DataError, some
from data.images import SUFFIXES
from spec import draws

TRAIN = ("train", "training")
VALIDATION = ("val", "valid", "validation", "test", "eval")
"""Names of the split folders, in any case; of several validation folders the first in this order is used."""
HELD_OUT = 10
"""One image in so many is held out where the folder has no split of its own."""


class File(NamedTuple):
    """An image file: where below the root (with ``/``), its class, and what tells an old version from a new one.

    A link to nowhere has size -1.
    """

    path: str
    label: int
    size: int
    modified_ns: int


@dataclass(slots=True)
class Found:
    """The image files of some class folders, and what else lies there."""

    files: list[File] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    """(path, reason) of what is not even tried."""
    passed_over: Counter[str] = field(default_factory=Counter)
    """How many files of which ending are no images; ``hidden`` are those whose names begin with a dot."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a folder of photographs holds. `how` says in words where the validation images come from."""

    root: Path
    classes: tuple[str, ...]
    train: tuple[File, ...]
    validation: tuple[File, ...]
    how: str
    refused: tuple[tuple[str, str], ...] = ()
    passed_over: Mapping[str, int] = field(default_factory=dict)


def list_images(root: Path, seed: int) -> Listing:
    """The images under `root`, by split and class.

    Either `root` has a training folder (one of TRAIN that holds folders) or it holds the class folders itself. Beside a
    training folder, the first of VALIDATION that holds folders is the validation set; otherwise one image in ten of
    each class is held out (:func:`held_out`). Classes and files: :func:`training_files`.

    Raises DataError if there are not two classes, if a class has no training images, if a validation class is not a
    training class, or if nothing is left to validate on.
    """
    base = training_folder(root)
    classes, found = training_files(root, base or "")
    train = found.files
    chosen = _validation_folder(root) if base is not None else None
    if chosen is not None:
        names = subfolders(root / chosen)
        if strangers := sorted(set(names) - set(classes)):
            raise DataError(
                f"every validation class must be a training class. Received: {some(strangers)}. In: {root / chosen}"
            )
        others = _class_files(root, chosen, names, [classes.index(name) for name in names])
        validation = others.files
        found.refused += others.refused
        found.passed_over += others.passed_over
        how = f"validation from {chosen}/"
    else:
        held = held_out([file.label for file in train], seed)
        validation = [file for file, out in zip(train, held, strict=True) if out]
        train = [file for file, out in zip(train, held, strict=True) if not out]
        how = held_out_words(seed)
    if not validation:
        where = root / (chosen or base or "")
        raise DataError(f"at least one validation image is required. Received: none. In: {where}")
    return Listing(root, classes, tuple(train), tuple(validation), how, tuple(found.refused), dict(found.passed_over))


def held_out_words(seed: int) -> str:
    """How a split drawn by :func:`held_out` is called."""
    return f"1 in {HELD_OUT} held out for validation, seed {seed}"


def training_folder(root: Path) -> str | None:
    """The name of the folder in `root` that holds the training class folders. Raises DataError if there are several."""
    training = [name for name in subfolders(root) if name.lower() in TRAIN and subfolders(root / name)]
    if len(training) > 1:
        raise DataError(f"there must be one training folder. Received: {', '.join(training)}. In: {root}")
    return training[0] if training else None


def training_files(root: Path, base: str) -> tuple[tuple[str, ...], Found]:
    """The classes, which are the folders in ``root/base``, and their images.

    Classes are in the order of ``sorted()``, which is torchvision's. Images are the files below a class folder, at any
    depth, with one of SUFFIXES in any case. Names that begin with a dot are passed over. A class folder or an image may
    be a symbolic link; other links to folders are refused. Raises DataError if there are not two classes, or if one has
    no images.
    """
    classes = subfolders(root / base)
    if len(classes) < 2:
        received = _inside(root / base, classes)
        raise DataError(f"at least two class folders with images are required. Received: {received}. In: {root / base}")
    found = _class_files(root, base, classes, range(len(classes)))
    counts = np.bincount([file.label for file in found.files], minlength=len(classes))
    if not counts.all():
        empty = [classes[label] for label in np.flatnonzero(counts == 0)]
        raise DataError(f"every class must have training images ({', '.join(SUFFIXES)}). Without any: {some(empty)}. "
                        f"In: {root / base}")  # fmt: skip
    return tuple(classes), found


def digest_of_files(files: Iterable[File]) -> str:
    """What tells these files from others, or from older ones: SHA-256, in hexadecimal."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(json.dumps(file).encode())
    return digest.hexdigest()


def held_out(labels: Sequence[int], seed: int) -> npt.NDArray[np.bool_]:
    """Which images are held out: of the n of a class the max(1, floor(n / 10)) with the lowest draws, none if n is 1.

    labels: the class of each image (N,). The draw of image i is 64 bits, words 0 (high) and 1 of item i of
    Purpose.SPLIT. Returns bool (N,).
    """
    order = draws.permutation(seed, draws.Purpose.SPLIT, len(labels))
    of = np.asarray(labels)[order]
    held = np.zeros(len(labels), np.bool_)
    for label in np.unique(of):
        members = order[of == label]
        if len(members) > 1:
            held[members[: max(1, len(members) // HELD_OUT)]] = True
    return held


def _validation_folder(root: Path) -> str | None:
    names = {name.lower(): name for name in subfolders(root) if subfolders(root / name)}
    return next((names[wanted] for wanted in VALIDATION if wanted in names), None)


def subfolders(folder: Path) -> list[str]:
    """The names of the folders in `folder`, sorted, without those that begin with a dot. Raises DataError, OSError."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and _is_folder(entry))
    for name in names:
        if not name.isprintable():
            raise DataError(f"a class folder must have a printable UTF-8 name. Received: {name!r}. In: {folder}")
    return names


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _class_files(root: Path, base: str, names: Sequence[str], labels: Sequence[int]) -> Found:
    prefix = f"{base}/" if base else ""
    found = Found()
    for name, label in zip(names, labels, strict=True):
        start = len(found.files)
        _walk(root, prefix + name, label, found)
        found.files[start:] = sorted(found.files[start:])
    found.refused.sort()
    return found


def flat_files(root: Path, folder: str) -> Found:
    """The images that lie in ``root/folder`` itself, with label -1, and what else does."""
    found = Found()
    _look(root, folder, -1, found)
    found.files.sort()
    return found


def _walk(root: Path, below: str, label: int, found: Found) -> None:
    """Add every image file under ``root/below`` to `found`."""
    waiting = [below]
    while waiting:
        waiting += _look(root, waiting.pop(), label, found)


def _look(root: Path, folder: str, label: int, found: Found) -> list[str]:
    """Add every image file in ``root/folder`` to `found`. Returns the folders in it."""
    inside = []
    with os.scandir(root / folder) as entries:
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith("."):
                found.passed_over["hidden"] += entry.name.lower().endswith(SUFFIXES)
            elif _is_folder(entry):
                if entry.is_symlink():
                    found.refused.append((path, "a link to a folder"))
                else:
                    inside.append(path)
            elif entry.name.lower().endswith(SUFFIXES):
                found.files.append(_file(entry, path, label))
            else:
                found.passed_over[os.path.splitext(entry.name)[1].lower()] += 1  # noqa: PTH122
    return inside


def _file(entry: os.DirEntry[str], path: str, label: int) -> File:
    try:
        status = entry.stat()
    except OSError:  # a link to nowhere
        return File(path, label, -1, 0)
    return File(path, label, status.st_size, status.st_mtime_ns)


def _inside(folder: Path, classes: Sequence[str]) -> str:
    """What a folder without enough classes holds instead, in words."""
    if classes:
        return f"only the folder {classes[0]!r}"
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    images = sum(name.lower().endswith(SUFFIXES) for name in names)
    if images:
        return f"{images} images that lie in no class folder"
    return f"{len(names)} files, none of them an image or a folder" if names else "an empty folder"
