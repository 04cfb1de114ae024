"""The sources that provenance points into, and which pointers can be checked by a reader with the source at hand.

One pointer, or several joined by ``; ``, of these kinds::

    PAPER §3.5 s12                                  section and sentence of a paper (sentences counted from 1)
    VGG14 §3.1 "The batch size was set to 256"      section and a few words of it
    PAPER Table 2                                   also Figure, fn (footnote), Appendix with a few words
    CHM@2f8b81f layers/layers-145.cfg [conv1a] filters=48      file of a repository, section (or layer), key and value
    CAFFE@9b89154 src/caffe/layers/lrn_layer.cpp "alpha_ / size_"      file and a few words of it
    chosen here: REASON                             nobody's but ours; stands last, and says why
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Source:
    """Where an abbreviation points. `commits`: of a repository, the beginnings of those that pointers name."""

    title: str
    place: str
    commits: tuple[str, ...] = ()


SOURCES = {
    "PAPER": Source(
        "A. Krizhevsky, I. Sutskever, G. E. Hinton: ImageNet Classification with Deep Convolutional Neural Networks",
        "NIPS 2012",
    ),
    "OWT": Source(
        "A. Krizhevsky: One weird trick for parallelizing convolutional neural networks", "arXiv 1404.5997v2, 2014"
    ),
    "ZF13": Source(
        "M. D. Zeiler, R. Fergus: Visualizing and Understanding Convolutional Networks", "arXiv 1311.2901v3"
    ),
    "VGG14": Source(
        "K. Simonyan, A. Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition",
        "arXiv 1409.1556v6",
    ),
    "LECUN98": Source(
        "Y. LeCun, L. Bottou, Y. Bengio, P. Haffner: Gradient-Based Learning Applied to Document Recognition",
        "Proceedings of the IEEE 86(11), 1998",
    ),
    "CS231N": Source("Stanford CS231n, slides of 2017", "http://cs231n.stanford.edu/2017/"),
    "CHM": Source("The 2012 source of AlexNet", "computerhistory/AlexNet-Source-Code", ("2f8b81f",)),
    "CC1": Source("cuda-convnet with dropout", "dnouri/cuda-convnet", ("e4ac0c1",)),
    "CC2": Source("cuda-convnet2, and its wiki as a branch", "akrizhevsky/cuda-convnet2", ("3238bf0", "1bf8229")),
    "CAFFE": Source("Caffe", "BVLC/caffe", ("9b89154",)),
    "TV": Source("torchvision", "pytorch/vision", ("00658a2", "c9ac3a5", "017e9b9", "080836e")),
    "TORCH": Source("PyTorch 2.13.0", "pytorch/pytorch", ("cf30153",)),
    "SLIM": Source("TF-Slim's models", "tensorflow/models", ("1585f2d",)),
    "ONNX": Source("ONNX", "onnx/onnx", ("f754691",)),
}
CHOSEN = "chosen here: "
_LOCATED = r'(?:\[[\w.-]+\] (?:\w+(?:=| = |: )[^\s"]+|\w+: "[^"]+")|"[^"]+")'
_SECTION = r"§(?:\d+(?:\.\d+)*|[IVX]+)"
_PLACE = re.compile(
    rf'{_SECTION}(?: s\d+)+|(?:{_SECTION}|Appendix [A-Z]|\d{{4}} lecture \d+)(?: "[^"]+")+'
    r'|(?:Table|Figure|fn) \d+(?: "[^"]+")?'
)
_FILE = re.compile(rf"(?P<path>[\w./-]+)(?P<located>(?: {_LOCATED})+)")
_LOCATION = re.compile(
    r'\[(?P<section>[\w.-]+)\] (?P<key>\w+)(?:=| = |: )(?P<value>"[^"]+"|[^\s"]+)|"(?P<words>[^"]+)"'
)


@dataclass(frozen=True, slots=True)
class Location:
    """What a pointer says of a file: that it has `words`, or that `section` has `key` with `value`."""

    section: str | None
    key: str | None
    value: str | None
    words: str | None


@dataclass(frozen=True, slots=True)
class FilePointer:
    """A pointer into a file of a repository."""

    repository: str
    commit: str
    path: str
    locations: tuple[Location, ...]


def parts(source: str) -> tuple[str, ...]:
    """The pointers of a source; a choice, which stands last, may itself hold semicolons."""
    before, choice, reason = source.partition(CHOSEN)
    pointers = [part.strip() for part in before.split("; ") if part.strip(" ;")]
    return (*(pointer.rstrip(" ;") for pointer in pointers), *([choice + reason] if choice else []))


def fault(source: str) -> str | None:
    """Why a source cannot be checked; None if it can."""
    found = parts(source)
    if not found:
        return "must say something"
    return next((wrong for pointer in found if (wrong := _fault(pointer))), None)


def _fault(pointer: str) -> str | None:
    if pointer.startswith(CHOSEN):
        reason = pointer.removeprefix(CHOSEN)
        return None if len(reason.split()) >= 4 else "a choice must say why, in four words at least"
    name, commit, rest = _split(pointer)
    source = SOURCES.get(name)
    if source is None:
        return f"{name or pointer!r} is none of the sources ({', '.join(SOURCES)})"
    if source.commits:
        if commit not in source.commits:
            return f"{name} must name one of the commits {', '.join(source.commits)}"
        if not _FILE.fullmatch(rest):
            return "a file must be followed by [section] key=value, or by a few words of it in quotes"
    elif commit or not _PLACE.fullmatch(rest):
        return "a paper must be followed by section and sentence, by a table, or by section and a few words in quotes"
    return None


def _split(pointer: str) -> tuple[str, str, str]:
    found = re.match(r"([A-Z0-9]+)(?:@([0-9a-f]+))? (.+)", pointer, re.DOTALL)
    return (found[1], found[2] or "", found[3]) if found else ("", "", "")


def file_pointers(source: str) -> tuple[FilePointer, ...]:
    """The pointers of `source` that lead into files of repositories. They must be without fault."""
    found = []
    for pointer in parts(source):
        name, commit, rest = _split(pointer)
        matched = _FILE.fullmatch(rest)
        if commit and matched:
            locations = tuple(Location(**one.groupdict()) for one in _LOCATION.finditer(matched["located"]))
            found.append(FilePointer(SOURCES[name].place, commit, matched["path"], locations))
    return tuple(found)


def missing(pointer: FilePointer, read: Callable[[str, str, str], str]) -> tuple[str, ...]:
    """What `pointer` says of a file that the file does not have.

    read: (repository, commit, path) to the text. Quotation marks and white space do not count.
    """
    text = read(pointer.repository, pointer.commit, pointer.path)
    absent = []
    for location in pointer.locations:
        if location.words is not None:
            if _bare(location.words) not in _bare(text):
                absent.append(location.words)
        elif not _has(text, location):
            absent.append(f"[{location.section}] {location.key} {location.value}")
    return tuple(absent)


def _bare(text: str) -> str:
    return re.sub(r'[\s"\\]+|^#', "", re.sub(r"(?m)^\s*(?:#|//)\s?", "", text))


def _has(text: str, location: Location) -> bool:
    """Whether a section of a cuda-convnet file, or a layer of a Caffe network, has a key with a value."""
    block = re.search(rf"(?ms)^\[{re.escape(location.section or '')}\]\s*$(.*?)(?=^\[|\Z)", text)
    if block is None:
        layer = rf'(?ms)^layer {{\s*name: "{re.escape(location.section or "")}"(.*?)^}}'
        block = re.search(layer, text)
    if block is None:
        return False
    wanted = (location.value or "").strip('"')
    return any(
        found[1] == location.key and found[2].strip().strip('"') == wanted
        for found in re.finditer(r"(?m)^\s*(\w+)\s*[=:]\s*(.*?)\s*$", block[1])
    )
