"""The layers of a cuda-convnet definition as a chain: those that stand side by side (towers) are groups of one layer.

The language has one layer after another; cuda-convnet has a graph. At each step a row of layers takes over from the row
before it. If each block of the new row sees a block of the old one and nothing else, the row is one layer with as many
groups as blocks; the maps of the row are those of its members, in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from spec.importers.cfg import Section

DATA = "data"


@dataclass(frozen=True)
class Member:
    """One layer of the definition: its section, its type (``neuron`` for a detached one) and the names it reads."""

    name: str
    kind: str
    section: Section
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """Members that stand side by side, in the order of their maps, in `blocks` groups that share no input."""

    members: tuple[Member, ...]
    blocks: int

    @property
    def sections(self) -> list[Section]:
        return [member.section for member in self.members]

    @property
    def first(self) -> Section:
        return self.members[0].section


def detached(members: dict[str, Member]) -> dict[str, Member]:
    """Every ``neuron=`` as a member of its own behind the one that declares it, where its readers find it.

    As ``LayerParser.detach_neuron_layers`` of the 2012 source (layer.py).
    """
    renamed: dict[str, str] = {}
    found: dict[str, Member] = {}
    for name, member in members.items():
        found[name] = member
        neuron = "" if member.kind == "neuron" or member.kind.startswith("cost.") else member.section.text("neuron", "")
        if neuron:
            renamed[name] = f"{name}_neuron"
            found[renamed[name]] = Member(renamed[name], "neuron", member.section, (name,))
    return {
        name: member
        if member.kind == "neuron" and member.name in renamed.values()
        else replace(member, inputs=tuple(renamed.get(source, source) for source in member.inputs))
        for name, member in found.items()
    }


def rows(members: dict[str, Member], source: Member) -> list[Row]:
    """The chain from `source` on. Raises Inexpressible where it is none."""
    row, chain = Row((source,), 1), []
    waiting = [member for member in members.values() if member is not source]
    while waiting:
        names = {member.name for member in row.members}
        following = [member for member in waiting if names & set(member.inputs)]
        if not following:
            break
        for member in following:
            beside = [name for name in member.inputs if name not in names]
            if beside:
                required = "must read layers that stand side by side"
                received = f"{', '.join(sorted(names & set(member.inputs)))} and, at another depth, {', '.join(beside)}"
                raise member.section.cannot_say("inputs", required, received)
        row = _joined(row, following)
        chain.append(row)
        waiting = [member for member in waiting if member not in following]
    return chain


def _joined(before: Row, following: Sequence[Member]) -> Row:
    """`following` as the row after `before`."""
    place = {member.name: number for number, member in enumerate(before.members)}
    kinds = dict.fromkeys(member.kind for member in following)
    if len(kinds) > 1:
        raise following[0].section.cannot_say("type", "layers side by side must be of one type", ", ".join(kinds))
    blocks: dict[frozenset[str], list[Member]] = {}
    for member in following:
        blocks.setdefault(frozenset(member.inputs), []).append(member)
    ordered = sorted(blocks.items(), key=lambda item: min(place[name] for name in item[0]))
    seen = [name for names, _ in ordered for name in sorted(names, key=place.__getitem__)]
    if seen != [member.name for member in before.members]:
        first = following[0].section
        required = "layers side by side must share the layers before them out among themselves, in their order"
        raise first.cannot_say("inputs", required, "; ".join(",".join(member.inputs) for member in following))
    for member in following:
        if member.kind == "concat" and list(member.inputs) != sorted(member.inputs, key=place.__getitem__):
            required = "must be in the order of the layers that it joins"
            raise member.section.cannot_say("inputs", required, ",".join(member.inputs))
    if len({(len(names), len(members)) for names, members in ordered}) > 1:
        received = "; ".join(",".join(member.inputs) for member in following)
        raise following[0].section.cannot_say("inputs", "the towers must be of one size", received)
    return Row(tuple(member for _, members in ordered for member in members), len(ordered))


__all__ = ["DATA", "Member", "Row", "detached", "rows"]
