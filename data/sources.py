"""From the word after ``--data`` to prepared images.

============================  ========================================================================================
``fashion-mnist-mini``        10,000 + 2,000 images of Fashion-MNIST, in this repository; the default
a folder with class folders   JPEG and PNG photographs; one image in ten is held out
... in ``train/``, ``val/``     with a split of its own (or ``training``; ``valid``, ``validation``, ``test``, ``eval``)
a folder with IDX files       MNIST, Fashion-MNIST, KMNIST, gzip or not
============================  ========================================================================================
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from data import cache, folders, idx, images
from data.dataset import I64, U8, Dataset, Splits, sha256_of
from data.errors import DataError
from spec.language import Storage

EMBEDDED = "fashion-mnist-mini"
"""The name of the embedded sample."""
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
"""Fashion-MNIST's labels 0 to 9, from its README (zalandoresearch/fashion-mnist@b2617bb)."""
FASHION_TRAIN_LABELS_SHA256 = "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7"
_EMBEDDED_FILE = Path(__file__).parent / "embedded" / "fashion_mnist_mini.npz"
_FIRST_CLASSES = 5


def open_source(
    source: str,
    *,
    storage: Storage,
    channels: int,
    seed: int,
    cache_dir: Path | None = None,
    progress: cache.Progress | None = None,
) -> Splits:
    """The images of `source`, prepared as `storage` says in `channels` (1 grey, 3 RGB).

    source: a name or a path of the table above. seed: decides what is held out of a folder without a split, nothing
    else. cache_dir: where prepared images are kept, :func:`data.default_cache_dir` unless stated. progress: called with
    (done, total) while images are being prepared.

    Raises DataError, one line, if the source is none of the table, or cannot be used.
    """
    if channels not in images.MODES:
        raise DataError(f"images come in 1 channel (grey) or 3 (RGB). Received: input.channels = {channels}")
    if source == EMBEDDED:
        return _open_embedded(storage, channels, cache_dir, progress)
    path = Path(source).expanduser()
    if not path.is_dir():
        kind = "a file" if path.exists() else "no such name or folder"
        raise DataError(f"data must be {EMBEDDED!r} or a folder of images. Received: {source!r}, {kind}")
    try:
        if files := idx.idx_files(path):
            return _open_idx(path, files, storage, channels, cache_dir, progress)
        return _open_folder(path, storage, channels, seed, cache_dir, progress)
    except OSError as error:
        raise DataError(f"the folder must be readable. Received: {error}. In: {path}") from error


def _open_folder(
    root: Path, storage: Storage, channels: int, seed: int, cache_dir: Path | None, progress: cache.Progress | None
) -> Splits:
    listing = folders.list_images(root, seed)
    chosen = {"train": listing.train, "validation": listing.validation}

    def part(files: tuple[folders.File, ...]) -> cache.Part:
        return cache.Part(
            labels=np.array([file.label for file in files], np.int64),
            prepare=lambda i: images.read_image(root / files[i].path, storage, channels),
            name=lambda i: repr(files[i].path),
        )

    identity = {name: list(files) for name, files in chosen.items()}
    sets = cache.prepared(
        {name: part(files) for name, files in chosen.items()},
        cache.cache_key(identity, storage, channels),
        classes=listing.classes,
        storage=storage,
        channels=channels,
        source=str(root),
        cache_dir=cache_dir,
        progress=progress,
    )
    return _splits(sets, f"image folder {root} ({listing.how})")


def _open_idx(
    root: Path,
    files: idx.Parts,
    storage: Storage,
    channels: int,
    cache_dir: Path | None,
    progress: cache.Progress | None,
) -> Splits:
    arrays = {part: idx.read_pair(files, part) for part in ("train", "validation")}
    train_labels, validation_labels = arrays["train"][1], arrays["validation"][1]
    values = np.unique(train_labels)
    if len(values) < 2 or not np.isin(validation_labels, values).all():
        others = np.unique(validation_labels).tolist()
        received = f"training labels {values.tolist()}, validation labels {others}"
        raise DataError(
            f"at least two classes, all with training images, are required. Received: {received}. In: {root}"
        )
    fashion = sha256_of(train_labels) == FASHION_TRAIN_LABELS_SHA256
    classes = FASHION_CLASSES if fashion else tuple(map(str, values.tolist()))
    numbered = {part: (pictures, np.searchsorted(values, labels)) for part, (pictures, labels) in arrays.items()}
    sets = _from_arrays(numbered, classes, storage, channels, str(root), cache_dir, progress)
    return _splits(sets, f"IDX folder {root}" + (" (Fashion-MNIST)" if fashion else ""))


def _open_embedded(storage: Storage, channels: int, cache_dir: Path | None, progress: cache.Progress | None) -> Splits:
    with np.load(_EMBEDDED_FILE, allow_pickle=False) as file:
        arrays = {"train": (file["train_images"], file["train_labels"].astype(np.int64)),
                  "validation": (file["test_images"], file["test_labels"].astype(np.int64))}  # fmt: skip
    sets = _from_arrays(arrays, FASHION_CLASSES, storage, channels, EMBEDDED, cache_dir, progress)
    return _splits(sets, "Fashion-MNIST subset (embedded)")


def _from_arrays(
    arrays: dict[str, tuple[U8, I64]],
    classes: tuple[str, ...],
    storage: Storage,
    channels: int,
    source: str,
    cache_dir: Path | None,
    progress: cache.Progress | None,
) -> dict[str, Dataset]:
    """Grey images (N, H, W), prepared: as they are where the size is right, in memory where few, else cached."""
    size = storage.size
    if all(pictures.shape[1:] == (size, size) for pictures, _ in arrays.values()):
        return {part: Dataset(np.repeat(pictures[..., None], channels, axis=-1), labels, classes)
                for part, (pictures, labels) in arrays.items()}  # fmt: skip

    def part(pictures: U8, labels: I64) -> cache.Part:
        return cache.Part(
            labels=labels,
            prepare=lambda i: images.prepare_image(Image.fromarray(pictures[i]), storage, channels),
            name=lambda i: f"image {i}",
        )

    parts = {name: part(*both) for name, both in arrays.items()}
    if sum(len(labels) for _, labels in arrays.values()) * size * size * channels <= cache.IN_MEMORY:
        return cache.prepared_in_memory(parts, classes=classes, storage=storage, channels=channels)
    identity = {name: [sha256_of(array) for array in both] for name, both in arrays.items()}
    key = cache.cache_key(identity, storage, channels)
    return cache.prepared(
        parts,
        key,
        classes=classes,
        storage=storage,
        channels=channels,
        source=source,
        cache_dir=cache_dir,
        progress=progress,
    )


def _splits(sets: dict[str, Dataset], what: str) -> Splits:
    train, validation = sets["train"], sets["validation"]
    first = ", ".join(train.classes[:_FIRST_CLASSES]) + (", ..." if len(train.classes) > _FIRST_CLASSES else "")
    size, channels = train.images.shape[2:]
    description = (
        f"{what}: {len(train):,} training and {len(validation):,} validation images, kept at {size}x{size} "
        f"{'RGB' if channels == 3 else 'grey'}, {len(train.classes)} classes: {first}"
    )
    return Splits(train, validation, description)
