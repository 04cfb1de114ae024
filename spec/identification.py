"""Which variant a file is: ``python -m spec identify FILE``.

A file of a network (ONNX, Keras) is laid beside every variant by :mod:`spec.departures`: it is one, or the nearest is
named and every departure from it. A file of weights alone fits a set of variants (:mod:`spec.parameter_fit`). Only
structure is looked at; names and metadata are not. The readers live in ``export/`` and are loaded when needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spec.arithmetic import Shape
from spec.departures import Candidate, Found, against, structures
from spec.errors import Problem, SpecError, shown
from spec.loading import load
from spec.parameter_fit import CANNOT_TELL, Fit, fit

NEVER_VISIBLE = "initialisation, training, data and evaluation"
NEXT = 4
"""How many further variants are named, with their distances."""


@dataclass(frozen=True)
class Network:
    """What a file of a network is. `candidates` are all variants, the nearest first."""

    file: str
    kind: str
    input: Shape
    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...]
    invisible: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The variants that it is: more than one where they differ only in what the file cannot show."""
        return tuple(candidate.name for candidate in self.candidates if candidate.distance == 0)


@dataclass(frozen=True)
class Weights:
    """What a file of weights can belong to. `fits` are all variants, the nearest first."""

    file: str
    kind: str
    arrays: int
    fits: tuple[Fit, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The variants whose parameters these can be."""
        return tuple(one.name for one in self.fits if one.fits)


def identify(path: Path) -> Network | Weights:
    """What the file is. Raises SpecError in one line if it cannot be read, or needs a package that is not installed."""
    from export import reading
    from export.tensors import Unreadable

    file = str(path)
    try:
        read = reading.read(path)
    except Unreadable as error:
        required, _, received = str(error).partition(" Received: ")
        raise SpecError([Problem(file, None, "", required.rstrip("."), received)]) from None
    except ModuleNotFoundError as error:
        required = f"reading this file needs the package {error.name}"
        raise SpecError([Problem(file, None, "", required, "an installation without it")]) from None
    if isinstance(read, Found):
        return _network(read, file)
    return Weights(file, read.kind, len(read.shapes), tuple(fit(read.shapes)))


def _network(found: Found, file: str) -> Network:
    invisible = [NEVER_VISIBLE]
    if not found.keeps_dropout:
        invisible.append("dropout that scales in training: graphs for inference leave it out")
    notes = list(found.notes)
    if found.flatten not in ("", "chw"):
        order = ", ".join(found.flatten.upper())
        notes.append(f"maps become a vector in the order {order}, in a specification C, H, W: weights must be permuted")
    candidates = against(found, structures())
    return Network(file, found.kind, found.structure.input, candidates, tuple(notes), tuple(invisible))


# --- words ------------------------------------------------------------------------------------------------------------


def text(found: Network | Weights) -> str:
    """The answer for people."""
    return "\n".join(_network_lines(found) if isinstance(found, Network) else _weight_lines(found))


def _network_lines(found: Network) -> list[str]:
    size = " x ".join(map(str, found.input))
    lines = [f"{found.file}: {_article(found.kind)}, input {size}"]
    nearest = found.candidates[0]
    if found.names:
        lines.append(f"is {_listed(found.names)}")
        lines += [f"  {name}: {load(name).title}" for name in found.names]
    else:
        tied = [candidate.name for candidate in found.candidates if candidate.distance == nearest.distance]
        lines.append(f"is no variant; nearest is {_listed(tied)} at distance {nearest.distance:g}")
        lines.append(f"departs from {nearest.name} in")
        lines += [f"  {departure}" for departure in nearest.departures]
    others = [c for c in found.candidates if c.distance > nearest.distance][:NEXT]
    lines.append("next: " + ", ".join(f"{candidate.name} ({candidate.distance:g})" for candidate in others))
    lines += [f"note: {note}" for note in found.notes]
    return [*lines, *(f"not visible in this file: {thing}" for thing in found.invisible)]


def _weight_lines(found: Weights) -> list[str]:
    lines = [f"{found.file}: {_article(found.kind)}, {found.arrays} arrays"]
    if found.names:
        lines.append(f"fits {_listed(found.names)}")
        lines += [f"  {one.name}: {load(one.name).title}" for one in found.fits if one.fits]
        lines += _remarks(found.fits[0])
    else:
        nearest = found.fits[0]
        lines.append(f"fits no variant; nearest is {nearest.name}, where {nearest.distance} arrays differ")
        lines += [f"  there {name} {_shape(shape)}" for name, shape in nearest.missing[:20]]
        lines += [f"  here {shown(name, 60)} {_shape(shape)}" for name, shape in nearest.extra[:20]]
    return [*lines, *(f"weights cannot tell: {thing}" for thing in CANNOT_TELL)]


def _remarks(one: Fit) -> list[str]:
    found = [f"note: kernels are kept as ({one.layout})"]
    if one.parts:
        found.append(f"note: kept in two parts: {', '.join(one.parts)}")
    if one.copies > 1:
        found.append("note: every array is there twice, as parameters with their velocities are")
    return found


def _shape(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))})"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'AEHIOU' else 'a'} {kind}"


def values(found: Network | Weights) -> dict[str, Any]:
    """The answer for programs."""
    head: dict[str, Any]
    if isinstance(found, Weights):
        fits = [{**asdict(one), "fits": one.fits, "distance": one.distance} for one in found.fits]
        head = {"file": found.file, "kind": found.kind, "fits": list(found.names), "candidates": fits}
        return {**head, "cannot_tell": list(CANNOT_TELL)}
    candidates = [
        {
            "name": candidate.name,
            "distance": candidate.distance,
            "departures": [asdict(departure) for departure in candidate.departures],
        }
        for candidate in found.candidates
    ]
    head = {"file": found.file, "kind": found.kind, "input": list(found.input), "is": list(found.names)}
    return {**head, "candidates": candidates, "notes": list(found.notes), "not_visible": list(found.invisible)}


__all__ = ["Network", "Weights", "identify", "text", "values"]
