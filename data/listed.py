"""Images by name, class and place, in folders and in tar archives alike."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data.contents import Part, Picture
from data.folders import Found
from data.images import SUFFIXES
from data.tars import Archive, Member, why_unsafe


@dataclass(slots=True)
class Listed:
    """Images, and what lies among them. In arrays, because there may be more than a million."""

    names: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    """The class of each; nothing while it is not known."""
    offsets: array[int] = field(default_factory=lambda: array("q"))
    sizes: array[int] = field(default_factory=lambda: array("q"))
    """Where in the archive each lies; empty if they are files."""
    refused: list[tuple[str, str]] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)

    def add_members(self, archive: Archive, inside: Member | None, before: str, of: str) -> None:
        """The images in `archive`, or in the archive `inside` it."""
        for member in archive.members(inside):
            name = before + member.name
            if member.kind == "folder":
                continue
            if reason := why_unsafe(member):
                self.refused.append((name, reason))
            elif not member.name.lower().endswith(SUFFIXES):
                self.pass_over(name)
            else:
                self.names.append(name)
                self.classes.append(of)
                self.offsets.append(member.offset)
                self.sizes.append(member.size)

    def add_files(self, found: Found, classes: tuple[str, ...]) -> None:
        self.names += [file.path for file in found.files]
        self.classes += [classes[file.label] if classes else "" for file in found.files]
        self.refused += found.refused
        self.passed_over += found.passed_over

    def pass_over(self, name: str) -> None:
        self.passed_over[os.path.splitext(name)[1].lower()] += 1  # noqa: PTH122

    def chosen(self, places: Sequence[int]) -> Listed:
        """Those at `places`, without what is among them."""
        return Listed(
            [self.names[i] for i in places],
            [self.classes[i] for i in places],
            array("q", (self.offsets[i] for i in places)),
            array("q", (self.sizes[i] for i in places)),
        )

    def part(self, where: Path | Archive, numbers: Mapping[str, int]) -> Part:
        """Those whose class is in `numbers`, with that label."""
        places = array("q", (i for i, name in enumerate(self.classes) if name in numbers))
        labels = np.array([numbers[self.classes[i]] for i in places], np.int64)

        def picture(i: int) -> Picture:
            place = places[i]
            if isinstance(where, Path):
                return where / self.names[place]
            return where.open(Member(self.names[place], "file", self.offsets[place], self.sizes[place]))

        return Part(labels, picture, lambda i: self.names[places[i]])
