"""A tar archive of class folders, read where it lies.

The same forms as :mod:`data.folders`: class folders, or training and validation folders with class folders in them;
folders around all that, as ``tar cf photos.tar photos/`` makes one, are seen through.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.contents import SPLITS, Contents, Source
from data.errors import DataError, some
from data.folders import TRAIN, VALIDATION, held_out, held_out_words
from data.listed import Listed
from data.tars import Archive

SUFFIX = ".tar"
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".zip", ".7z", ".rar")


def recognise(path: Path, seed: int) -> Source | None:
    """The tar archive at `path`; None if it is something else. Raises DataError."""
    name = path.name.lower()
    if name.endswith(_COMPRESSED):
        required = "an archive must be a plain tar, since a compressed one cannot be read in any order; unpack it"
        raise DataError(f"{required}. Received: {path}")
    if not name.endswith(SUFFIX):
        return None
    status = path.stat()
    identity = ["tar", path.name, status.st_size, status.st_mtime_ns, seed]
    return Source(f"tar archive {path}", str(path), identity, lambda: _contents(path, seed))


def _contents(path: Path, seed: int) -> Contents:
    archive, found = Archive(path), Listed()
    found.add_members(archive, None, "", "")
    split = _which_split(found, path)
    classes = sorted({found.classes[i] for i, part in enumerate(split) if part == "train"})
    if len(classes) < 2 or not all(name.isprintable() for name in classes):
        received = some([repr(name) for name in classes]) or "none"
        required = "at least two class folders with images and printable names are required"
        raise DataError(f"{required}. Received: {received}. In: {path}")
    numbers = {name: i for i, name in enumerate(classes)}
    if strangers := sorted({found.classes[i] for i, part in enumerate(split) if part} - set(classes)):
        raise DataError(f"every validation class must be a training class. Received: {some(strangers)}. In: {path}")
    order = sorted((i for i, part in enumerate(split) if part), key=lambda i: (found.classes[i], found.names[i]))
    train, validation = ([i for i in order if split[i] == part] for part in SPLITS)
    how = "validation from a folder of its own"
    if not validation:
        held = held_out([numbers[found.classes[i]] for i in train], seed)
        train, validation = (np.array(train)[mask].tolist() for mask in (~held, held))
        how = held_out_words(seed)
    if not validation:
        raise DataError(f"at least one validation image is required. Received: none. In: {path}")
    parts = {name: found.chosen(places).part(archive, numbers) for name, places in zip(SPLITS, (train, validation))}
    return Contents(tuple(classes), parts, how, tuple(sorted(found.refused)), found.passed_over)


def _which_split(found: Listed, path: Path) -> list[str]:
    """``train``, ``validation`` or nothing for each image of `found`, whose classes are filled in."""
    split = [[part for part in name.split("/") if part not in ("", ".")] for name in found.names]
    last = {"/".join(parts): i for i, parts in enumerate(split)}
    depth = _depth(split)
    folders = {parts[depth].lower() for parts in split if len(parts) > depth + 2}
    training = [name for name in TRAIN if name in folders]
    if len(training) > 1:
        raise DataError(f"there must be one training folder. Received: {', '.join(training)}. In: {path}")
    meaning = {"": "train"}  # of what lies at the depth of the split folders; there are none
    if training:
        meaning = {training[0]: "train"}
        meaning |= dict.fromkeys([name for name in VALIDATION if name in folders][:1], "validation")
    chosen = []
    for i, parts in enumerate(split):
        inside = parts[depth:]
        of = meaning.get(inside.pop(0).lower() if training and inside else "", "")
        if last["/".join(parts)] != i:
            found.refused.append((found.names[i], "another entry of the same name follows"))
        elif any(part.startswith(".") for part in parts):
            found.passed_over["hidden"] += 1
        elif len(inside) < 2:
            found.refused.append((found.names[i], "in no class folder"))
        elif not of:
            found.passed_over[f"in {parts[depth]}/"] += 1
        else:
            found.classes[i] = inside[0]
            chosen.append(of)
            continue
        chosen.append("")
    return chosen


def _depth(split: list[list[str]]) -> int:
    """How many folders lie around the class folders, or around the training folder."""
    depth = 0
    while any(len(parts) > depth + 2 for parts in split):
        folders = {parts[depth] for parts in split if len(parts) > depth + 1}
        if len(folders) != 1 or folders.pop().lower() in TRAIN:
            break
        depth += 1
    return depth
