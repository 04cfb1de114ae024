"""From the word after ``--data`` to prepared images.

============================  ========================================================================================
``fashion-mnist-mini``        10,000 + 2,000 images of Fashion-MNIST, in this repository; the default
``photo-patches``             patches of photographs in colour, in this repository
a prepared folder             what ``python -m data.prepare`` made
a folder with class folders   photographs (JPEG, PNG, WebP, BMP, GIF); one image in ten is held out
... in ``train/``, ``val/``     with a split of its own (or ``training``; ``valid``, ``validation``, ``test``, ``eval``)
a tar of such a folder        read where it lies (:mod:`data.packed`)
ILSVRC-2012                   the tars with the development kit, or Kaggle's folders (:mod:`data.ilsvrc`)
Parquet files                 as Hugging Face keeps data sets (:mod:`data.parquet`)
CIFAR-10, CIFAR-100           their "python version", unpacked or not (:mod:`data.cifar`)
a folder with IDX files       MNIST, Fashion-MNIST, KMNIST, gzip or not (:mod:`data.idx`)
============================  ========================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from data import cache, cifar, folders, idx, ilsvrc, images, packed, parquet
from data.contents import Contents, Part, Source, array_part
from data.dataset import U8, Dataset, Splits, sha256_of
from data.embedded.samples import SAMPLES, load_sample
from data.errors import DataError
from data.prepared import CHECKED, describe, is_prepared, open_prepared
from data.statistics import Progress
from spec.language import Storage

EMBEDDED = "fashion-mnist-mini"
"""The name of the embedded sample that is opened where nothing is said."""
PHOTO_PATCHES = "photo-patches"
"""The name of the embedded sample in colour."""
FASHION_TRAIN_LABELS_SHA256 = "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7"


def open_source(
    source: str,
    *,
    storage: Storage,
    channels: int,
    seed: int,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> Splits:
    """The images of `source`, prepared as `storage` says in `channels` (1 grey, 3 RGB).

    source: a name or a path of the table above. seed: decides what is held out of a source without a split, nothing
    else. cache_dir: where prepared images are kept, :func:`data.default_cache_dir` unless stated. progress: called with
    (done, total) while images are being prepared or checked.

    Raises DataError, one line, if the source is none of the table, or cannot be used.
    """
    if channels not in images.MODES:
        raise DataError(f"images come in 1 channel (grey) or 3 (RGB). Received: input.channels = {channels}")
    path = expanded(source)
    if source not in SAMPLES and is_prepared(path):
        checked = (cache_dir or cache.default_cache_dir()) / CHECKED
        named = f"prepared images in {path}, of "
        return open_prepared(path, storage=storage, channels=channels, checked=checked, named=named, progress=progress)
    found = recognise(source, seed)
    if found.arrays is not None:
        native = {name: pictures.shape[1:3] for name, (pictures, _) in found.arrays.items()}
        count = sum(len(labels) for _, labels in found.arrays.values())
        if set(native.values()) == {(storage.size, storage.size)} or (
            count * storage.size**2 * channels <= cache.IN_MEMORY
        ):
            contents = found.contents()
            sets = _as_they_are(found, storage.size, channels, contents) or cache.in_memory(
                contents, storage=storage, channels=channels
            )
            what = found.what + (f" ({contents.how})" if contents.how else "")
            return Splits(sets["train"], sets["validation"], describe(what, sets["train"], sets["validation"]))
    return cache.cached(found, storage=storage, channels=channels, cache_dir=cache_dir, progress=progress)


def recognise(source: str, seed: int) -> Source:
    """What `source` is, any of the table above but a prepared folder. Raises DataError."""
    if source in SAMPLES:
        return _sample(source)
    path = expanded(source)
    known = _KNOWN if path.is_dir() else _KNOWN_FILES if path.is_file() else ()
    try:
        for recognised in known:
            if (found := recognised(path, seed)) is not None:
                return found
    except OSError as error:
        raise DataError(f"the images must be readable. Received: {error}. In: {path}") from error
    kind = "a file of another kind" if path.exists() else "no such name, folder or file"
    names = ", ".join(repr(name) for name in SAMPLES)
    raise DataError(f"data must be {names}, a folder of images, or a tar of one. Received: {source!r}, {kind}")


def expanded(source: str) -> Path:
    """The path that the user wrote, ``~`` being a home. Raises DataError if it can be no path."""
    try:
        path = Path(source).expanduser()
        path.resolve().exists()
        return path
    except (OSError, RuntimeError, ValueError) as error:  # too long; no such user; a NUL
        raise DataError(f"a name or a path is required. Received: {source!r:.200} ({error})") from error


# --- kinds ------------------------------------------------------------------------------------------------------------


def _sample(name: str) -> Source:
    sample = SAMPLES[name]
    arrays = load_sample(name)
    contents = Contents(sample.classes, {part: array_part(*both) for part, both in arrays.items()})
    identity = [sample.classes, {part: [sha256_of(array) for array in both] for part, both in arrays.items()}]
    return Source(sample.title, name, identity, lambda: contents, arrays)


def _idx(root: Path, seed: int) -> Source | None:
    files = idx.idx_files(root)
    if not files:
        return None
    read = {part: idx.read_pair(files, part) for part in ("train", "validation")}
    train_labels, validation_labels = read["train"][1], read["validation"][1]
    values = np.unique(train_labels)
    if len(values) < 2 or not np.isin(validation_labels, values).all():
        others = np.unique(validation_labels).tolist()
        received = f"training labels {values.tolist()}, validation labels {others}"
        raise DataError(
            f"at least two classes, all with training images, are required. Received: {received}. In: {root}"
        )
    fashion = sha256_of(train_labels) == FASHION_TRAIN_LABELS_SHA256
    classes = SAMPLES[EMBEDDED].classes if fashion else tuple(map(str, values.tolist()))
    arrays = {part: (pictures, np.searchsorted(values, labels)) for part, (pictures, labels) in read.items()}
    contents = Contents(classes, {part: array_part(*both) for part, both in arrays.items()})
    identity = {part: [sha256_of(array) for array in both] for part, both in arrays.items()}
    what = f"IDX folder {root}" + (" (Fashion-MNIST)" if fashion else "")
    return Source(what, str(root), [classes, identity], lambda: contents, arrays)


def _image_folder(root: Path, seed: int) -> Source:
    listing = folders.list_images(root, seed)

    def part(files: tuple[folders.File, ...]) -> Part:
        labels = np.array([file.label for file in files], np.int64)
        return Part(labels, lambda i: root / files[i].path, lambda i: files[i].path)

    contents = Contents(
        listing.classes,
        {"train": part(listing.train), "validation": part(listing.validation)},
        listing.how,
        listing.refused,
        listing.passed_over,
    )
    identity = [listing.classes, *(folders.digest_of_files(files) for files in (listing.train, listing.validation))]
    return Source(f"image folder {root}", str(root), identity, lambda: contents)


_KNOWN: tuple[Callable[[Path, int], Source | None], ...] = (
    _idx,
    lambda root, seed: cifar.recognise(root),
    parquet.recognise,
    lambda root, seed: ilsvrc.recognise(root),
    _image_folder,
)
"""In this order; the last takes whatever is left, or says what is missing."""
_KNOWN_FILES: tuple[Callable[[Path, int], Source | None], ...] = (
    lambda path, seed: cifar.recognise_archive(path),
    parquet.recognise_file,
    packed.recognise,
)


def _as_they_are(source: Source, size: int, channels: int, contents: Contents) -> dict[str, Dataset] | None:
    """Arrays of the right size: themselves, in three equal channels if they are grey and RGB is asked for."""
    made = {}
    for name, (pictures, labels) in (source.arrays or {}).items():
        if pictures.shape[1:3] != (size, size) or (pictures.ndim == 4 and channels == 1):
            return None
        colours: U8 = pictures if pictures.ndim == 4 else np.repeat(pictures[..., None], channels, axis=-1)
        made[name] = Dataset(colours, labels, contents.classes)
    return made
