"""The development kit of ILSVRC-2012: which class the validation images are of."""

from __future__ import annotations

from pathlib import Path

from data.errors import DataError
from data.matlab import read_mat
from data.tars import Archive, unpacked, why_unsafe

ARCHIVE = "ILSVRC2012_devkit_t12.tar.gz"
FOLDER = "ILSVRC2012_devkit_t12"
TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
META = "data/meta.mat"
_MAX_BYTES = 64 << 20
"""The most that the kit may hold; it holds 3 MB."""


def find_devkit(root: Path) -> Path | None:
    """The kit in `root`: its archive, the folder that was unpacked from it, or `root` itself if it is that folder."""
    places = [root / ARCHIVE, root / FOLDER / META, root / META]
    found = next((place for place in places if place.is_file()), None)
    return found if found is None or found.name == ARCHIVE else found.parent.parent


def read_devkit(kit: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(the WNID of every validation image in the order of their numbers, the WNIDs of the classes, sorted).

    ``meta.mat`` gives the WNID of each ILSVRC2012_ID; the classes are the synsets without children, which are the
    numbers 1 .. 1000, and the others are what contains them. The ground truth is one number a line.

    Raises DataError if the kit is damaged, or does not say it.
    """
    try:
        files = _unpacked(kit) if kit.is_file() else {name: (kit / name).read_bytes() for name in (TRUTH, META)}
        if missing := [name for name in (TRUTH, META) if name not in files]:
            raise ValueError(f"none of {', '.join(missing)}")
        wnids = _classes(files[META])
        lines = files[TRUTH].decode("ascii").split()
        return tuple(wnids[int(line)] for line in lines), tuple(sorted(wnids.values()))
    except DataError:
        raise
    except (OSError, ValueError, KeyError) as error:
        received = f"the class number {error}" if isinstance(error, KeyError) else error
        required = "the development kit must give the class of every validation image"
        raise DataError(f"{required}. Received: {received}. In: {kit}") from error


def _classes(meta: bytes) -> dict[int, str]:
    """ILSVRC2012_ID -> WNID of the synsets without children."""
    synsets = read_mat(meta).get("synsets")
    if not isinstance(synsets, list):
        raise ValueError(f"no synsets in {META}")
    found: dict[int, str] = {}
    for synset in synsets:
        number, wnid, children = (synset.get(name) for name in ("ILSVRC2012_ID", "WNID", "num_children"))
        if not isinstance(number, int | float) or not isinstance(wnid, str) or not isinstance(children, int | float):
            raise ValueError(f"a synset without ILSVRC2012_ID, WNID or num_children in {META}")
        if children == 0:
            if int(number) in found or wnid in found.values():
                raise ValueError(f"the synset {wnid!r} or its number {int(number)} twice in {META}")
            found[int(number)] = wnid
    return found


def _unpacked(archive: Path) -> dict[str, bytes]:
    """The two files out of the ``.tar.gz``, whose other entries are passed over."""
    tar = Archive(archive, unpacked(archive, _MAX_BYTES))
    return {name: tar.read(member.offset, member.size) for member in tar.members() for name in (TRUTH, META)
            if not why_unsafe(member) and f"/{member.name}".endswith(f"/{name}")}  # fmt: skip
