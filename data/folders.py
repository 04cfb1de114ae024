"""A folder of photographs, one folder per class: which images it holds and which of them are held out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
    """An image file: where below the root (with ``/``), its class, and what tells an old version from a new one."""

    path: str
    label: int
    size: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class Listing:
    """What a folder of photographs holds. `how` says in words where the validation images come from."""

    root: Path
    classes: tuple[str, ...]
    train: tuple[File, ...]
    validation: tuple[File, ...]
    how: str


def list_images(root: Path, seed: int) -> Listing:
    """The images under `root`, by split and class.

    Either `root` has a training folder (one of TRAIN that holds folders) or it holds the class folders itself. Beside a
    training folder, the first of VALIDATION that holds folders is the validation set; otherwise one image in ten of
    each class is held out (:func:`held_out`). Classes are the names of the training class folders in the order of
    ``sorted()``, which is torchvision's. Images are the files below a class folder, at any depth, with one of SUFFIXES
    in any case. Names that begin with a dot are passed over. A class folder or an image may be a symbolic link.

    Raises DataError if there are not two classes, if a class has no training images, if a validation class is not a
    training class, or if nothing is left to validate on.
    """
    training = [name for name in _folders(root) if name.lower() in TRAIN and _folders(root / name)]
    if len(training) > 1:
        raise DataError(f"there must be one training folder. Received: {', '.join(training)}. In: {root}")
    base = training[0] if training else ""
    classes = _folders(root / base)
    if len(classes) < 2:
        received = _inside(root / base, classes)
        raise DataError(f"at least two class folders with images are required. Received: {received}. In: {root / base}")
    train = _class_files(root, base, classes, range(len(classes)))
    counts = np.bincount([file.label for file in train], minlength=len(classes))
    if not counts.all():
        empty = [classes[label] for label in np.flatnonzero(counts == 0)]
        raise DataError(f"every class must have training images ({', '.join(SUFFIXES)}). Without any: {some(empty)}. "
                        f"In: {root / base}")  # fmt: skip
    chosen = _validation_folder(root) if training else None
    if chosen is not None:
        names = _folders(root / chosen)
        if strangers := sorted(set(names) - set(classes)):
            raise DataError(
                f"every validation class must be a training class. Received: {some(strangers)}. In: {root / chosen}"
            )
        validation = _class_files(root, chosen, names, [classes.index(name) for name in names])
        how = f"validation from {chosen}/"
    else:
        held = held_out([file.label for file in train], seed)
        validation = [file for file, out in zip(train, held, strict=True) if out]
        train = [file for file, out in zip(train, held, strict=True) if not out]
        how = f"1 in {HELD_OUT} held out for validation, seed {seed}"
    if not validation:
        raise DataError(f"at least one validation image is required. Received: none. In: {root / (chosen or base)}")
    return Listing(root, tuple(classes), tuple(train), tuple(validation), how)


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
    names = {name.lower(): name for name in _folders(root) if _folders(root / name)}
    return next((names[wanted] for wanted in VALIDATION if wanted in names), None)


def _folders(folder: Path) -> list[str]:
    """The names of the folders in `folder`, sorted."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    for name in names:
        if not name.isprintable():
            raise DataError(f"a class folder must have a printable UTF-8 name. Received: {name!r}. In: {folder}")
    return names


def _class_files(root: Path, base: str, names: Sequence[str], labels: Sequence[int]) -> list[File]:
    prefix = f"{base}/" if base else ""
    return [
        File(path, label, size, modified)
        for name, label in zip(names, labels, strict=True)
        for path, size, modified in sorted(_walk(root, prefix + name))
    ]


def _walk(root: Path, below: str) -> Iterator[tuple[str, int, int]]:
    """(path, size, modified_ns) of every image file under ``root/below``. A dangling link has size -1."""
    waiting = [below]
    while waiting:
        folder = waiting.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                path = f"{folder}/{entry.name}"
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    if entry.is_symlink():
                        raise DataError(
                            f"inside a class folder no link to a folder is followed. Received: {path!r}. In: {root}"
                        )
                    waiting.append(path)
                elif entry.name.lower().endswith(SUFFIXES):
                    try:
                        status = entry.stat()
                    except OSError:
                        yield path, -1, 0
                    else:
                        yield path, status.st_size, status.st_mtime_ns


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
