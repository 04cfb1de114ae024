"""Making a folder of prepared images, so that a kill at any instant costs the shard at hand and nothing else.

What an unfinished folder holds besides the files of :mod:`data.prepared`:

    plan.json                 what it is to hold; locked by the process that works on it
    train-00000.json          that the shard is finished: how many images, SHA-256, what was left out or unusual
    train-00000-sums.npy      the sums over its pixels, of which the statistics will be made
    *.partial                 files being written, which get their name when the disk has them

A shard holds the readable ones of a fixed range of the source's images, so that its bytes depend on nothing else.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from data import images
from data.contents import SPLITS, Contents, Part, Source
from data.dataset import I64, sha256_of
from data.errors import DataError, some
from data.locking import Busy, held
from data.npz import npz
from data.parallel import cores
from data.prepared import (
    FORMAT,
    INDEX,
    PLAN,
    REPORT,
    Index,
    PartRecord,
    ShardRecord,
    labels_path,
    read_index,
    shard_path,
    statistics_path,
)
from data.sharding import PARTIAL, Finished, Plan, Records, make_shards, sums_path, write
from data.statistics import Progress, Sums, statistics_of
from spec.language import Storage

SHARD_BYTES = 1 << 30
"""The most that a shard holds."""
_EXAMPLES = 10
"""How many of the images that were out of the ordinary in one way are named in the report."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An image that could not be used."""

    image: str
    reason: str


@dataclass(slots=True)
class Report:
    """What came of a preparation."""

    images: dict[str, int]
    left_out: list[LeftOut] = field(default_factory=list)
    handled: dict[str, list[str]] = field(default_factory=dict)
    """What was out of the ordinary, and the names of the images that were so."""
    passed_over: dict[str, int] = field(default_factory=dict)
    """How many files of which ending were no images."""

    def as_json(self) -> dict[str, Any]:
        handled = {
            what: {"images": len(names), "first": names[:_EXAMPLES]} for what, names in sorted(self.handled.items())
        }
        left_out = [{"image": one.image, "reason": one.reason} for one in self.left_out]
        return {"images": self.images, "left_out": left_out, "handled": handled, "passed_over": self.passed_over}


def plan_key(identity: Any, storage: Storage, channels: int, shard_bytes: int = SHARD_BYTES) -> str:
    """32 hexadecimal digits for all that decides the prepared bytes: what is prepared, how, and by which Pillow."""
    how = {"format": FORMAT, "images": images.VERSION, "pillow": PIL.__version__, "shard_bytes": shard_bytes}
    everything = {**how, "storage": storage.model_dump(), "channels": channels, "identity": identity}
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:32]


def prepare(
    source: Source,
    folder: Path,
    *,
    storage: Storage,
    channels: int,
    leave_out: bool,
    wait: bool = False,
    shard_bytes: int = SHARD_BYTES,
    workers: int | None = None,
    progress: Progress | None = None,
    looked: Callable[[Contents], None] = lambda contents: None,
) -> None:
    """Prepare the images of `source` into `folder`, or finish what was begun there.

    leave_out: whether an image that cannot be read is left out and reported; otherwise it is an error, after all were
    tried. wait: whether to wait for another process that works on the same folder. workers: threads, as many as cores
    unless stated. progress: called with (done, total) images. looked: called with what the source holds, before
    anything is prepared.

    Nothing is written outside `folder`. Raises DataError if `folder` holds anything else, if the disk is too full, if
    an image is unreadable and shall not be left out, or if nothing is left of a class or of the validation images;
    OSError if the disk fails or fills up, after which the same call goes on where it stopped.
    """
    key = plan_key(source.identity, storage, channels, shard_bytes)
    folder.mkdir(parents=True, exist_ok=True)
    if not _claimed(folder, key, source.what):
        try:
            with held(folder / PLAN, wait=wait):
                if not (folder / INDEX).is_file():
                    if not (folder / PLAN).is_file():
                        raise DataError(
                            f"another process must finish what it began. Received: it gave up. In: {folder}"
                        )
                    plan = Plan(key, source.what, source.place, storage, channels, shard_bytes, leave_out)
                    contents = _contents(source)
                    looked(contents)
                    records = make_shards(plan, contents.parts, folder, workers or cores(), progress)
                    _finish(plan, contents, folder, records)
        except Busy:
            raise DataError(f"one process at a time can prepare a folder. Received: a second. In: {folder}") from None
    _remove_the_unfinished(folder)


def read_report(folder: Path) -> dict[str, Any]:
    """``report.json`` of a finished `folder`. Raises DataError."""
    try:
        report = json.loads((folder / REPORT).read_bytes())
        if not isinstance(report, dict):
            raise ValueError("something else")
        return report
    except (OSError, ValueError) as error:
        raise DataError(f"prepared images must have their {REPORT}. Received: {error}. In: {folder}") from error


# --- the folder -------------------------------------------------------------------------------------------------------


def _claimed(folder: Path, key: str, what: str) -> bool:
    """Whether `folder` is finished. If not, it is now one for this plan. Raises DataError if it is another's."""
    if (folder / INDEX).is_file():
        index = read_index(folder)
        if index.key != key:
            raise _occupied(folder, f"others, of {index.what}")
        return True
    if (folder / PLAN).is_file():
        try:
            plan = json.loads((folder / PLAN).read_bytes())
            received = None if plan["key"] == key else f"an unfinished preparation of {plan['what']} as it was then"
        except (ValueError, KeyError, TypeError):
            received = f"an unreadable {PLAN}"
        if received:
            raise _occupied(folder, received)
        return False
    if names := sorted(path.name for path in folder.iterdir() if path.name != PLAN + PARTIAL):
        raise _occupied(folder, some(names))
    write(folder / PLAN, json.dumps({"key": key, "what": what}).encode())
    return False


def _occupied(folder: Path, received: str) -> DataError:
    return DataError(f"the folder must be new, empty or hold the same images. Received: {received}. In: {folder}")


def _contents(source: Source) -> Contents:
    try:
        return source.contents()
    except OSError as error:
        raise DataError(f"the images must be readable. Received: {error}. In: {source.place}") from error


def _remove_the_unfinished(folder: Path) -> None:
    """Remove what only an unfinished folder needs."""
    for path in folder.iterdir():
        if path.name.endswith((PARTIAL, "-sums.npy")) or (path.suffix == ".json" and path.name not in (INDEX, REPORT)):
            path.unlink(missing_ok=True)


# --- the end ----------------------------------------------------------------------------------------------------------


def _finish(plan: Plan, contents: Contents, folder: Path, records: Records) -> None:
    of = {name: [record for (part, _), record in records.items() if part == name] for name in SPLITS}
    report = _report(contents, of)
    write(folder / REPORT, json.dumps(report.as_json(), indent=1).encode())
    if report.left_out and not plan.leave_out:
        total = sum(len(part.labels) for part in contents.parts.values()) + len(contents.refused)
        named = some([f"{one.image!r} ({one.reason})" for one in report.left_out])
        received = f"{len(report.left_out)} of {total} unreadable: {named}"
        required = "every image must be readable, unless python -m data.prepare leaves it out"
        raise DataError(f"{required}. Received: {received}. In: {plan.place}")
    labels = {name: _labels(contents.parts[name], of[name]) for name in SPLITS}
    _require_every_class(contents, labels, folder)
    statistics = npz(statistics_of(_total(folder, of["train"])).arrays())
    write(statistics_path(folder), statistics)
    for name, values in labels.items():
        content = io.BytesIO()
        np.save(content, values)
        write(labels_path(folder, name), content.getvalue())
    parts = {
        name: PartRecord(
            images=len(labels[name]),
            labels_sha256=sha256_of(labels[name]),
            shards=tuple(ShardRecord(images=record.images, sha256=record.sha256) for record in of[name]),
        )
        for name in SPLITS
    }
    index = Index.model_validate({
        "format": FORMAT, "key": plan.key, "what": plan.what, "how": contents.how, "pillow": PIL.__version__,
        "storage": plan.storage, "channels": plan.channels, "classes": contents.classes,
        "left_out": len(report.left_out), "parts": parts,
        "statistics_sha256": hashlib.sha256(statistics).hexdigest(),
    })  # fmt: skip
    write(folder / INDEX, index.model_dump_json(indent=1).encode())


def _report(contents: Contents, records: Mapping[str, Sequence[Finished]]) -> Report:
    report = Report({name: sum(record.images for record in records[name]) for name in SPLITS})
    report.passed_over = dict(sorted(contents.passed_over.items()))
    report.left_out += [LeftOut(name, reason) for name, reason in contents.refused]
    for name in SPLITS:
        for record in records[name]:
            report.left_out += [LeftOut(contents.parts[name].name(i), reason) for i, reason in record.left_out]
            for what, image in record.handled:
                report.handled.setdefault(what, []).append(image)
    return report


def _labels(part: Part, records: Sequence[Finished]) -> I64:
    gone = [i for record in records for i, _ in record.left_out]
    return np.delete(part.labels, gone)


def _require_every_class(contents: Contents, labels: Mapping[str, I64], folder: Path) -> None:
    counts = np.bincount(labels["train"], minlength=len(contents.classes))
    received = ""
    if not counts.all():
        received = "none of " + some([contents.classes[label] for label in np.flatnonzero(counts == 0)])
    elif not len(labels["validation"]):
        received = "no validation image"
    if received:
        required = "every class must keep a readable training image, and some validation images must be readable"
        raise DataError(f"{required}. Received: {received}. In: {folder / REPORT}")


def _total(folder: Path, records: Sequence[Finished]) -> Sums:
    total: Sums | None = None
    for number, record in enumerate(records):
        places = np.load(sums_path(shard_path(folder, "train", number)), allow_pickle=False)
        one = Sums(record.images, places, np.array(record.products, np.int64))
        total = one if total is None else total + one
    assert total is not None
    return total
