"""From cuda-convnet's pair of ``layers-*.cfg`` and ``layer-params-*.cfg`` to a specification.

The grammar and the arithmetic are those of ``layer.py`` in the 2012 source (computerhistory/AlexNet-Source-Code,
commit 2f8b81f), with the few words that cuda-convnet2 (akrizhevsky/cuda-convnet2, commit 3238bf0) spells differently.
What the files do not have (the size of the input, batches, epochs, data, evaluation) is filled in from ``source-2012``
and said so. Learning rates in a parameter file are those at the end of a run that was steered by hand: they are
imported as they stand there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from spec.errors import SpecError
from spec.importers.cfg import Field, Section, cite, read
from spec.importers.common import Draft, Imported, LeftOut, cannot_say, refuse, shown
from spec.importers.cuda_layers import LAYERS, WEIGHTED, Reading
from spec.importers.cuda_recipe import per_parameter
from spec.importers.towers import DATA, Member, Row, detached, rows
from spec.loading import load

INPUT_SIZE = 224
"""The files do not state it; the 2012 networks saw 224 pixels (the paper, section 4.1; a crop border of 16 on 256)."""
BATCH_SIZE = 128
TEMPLATE = "source-2012"
"""Where data and evaluation come from, which the files do not have."""
MAX_LAYERS = 500
END_STATE = "Learning rates are those that the parameter file held when its run ended, not the schedule of the run."
CONCAT = "concat"
"""Sets maps side by side, as the rows of a chain are already."""


def _members(definitions: Mapping[str, Section]) -> dict[str, Member]:
    """The layers that the loss depends on, in the definition's order, without the loss. Raises Inexpressible for types
    that the language lacks, all of them at once."""
    kinds = {name: section.text("type") for name, section in definitions.items()}
    costs = [name for name, kind in kinds.items() if kind.startswith("cost.")]
    if len(costs) != 1 or kinds[costs[0]] != "cost.logreg":
        received = [kinds[name] for name in costs] or ["no cost"]
        raise _cannot(definitions, "a network must end in one softmax cross-entropy", received)
    (softmax,) = definitions[costs[0]].names("inputs")[1:2] or ("",)
    if kinds.get(softmax) != "softmax":
        raise definitions[costs[0]].cannot_say("inputs", "the cost must read labels and a softmax", shown(softmax))
    needed: set[str] = set()
    pending = definitions[softmax].names("inputs")
    while pending:
        name = pending.pop()
        if name not in definitions:
            raise refuse(definitions[softmax].file, None, "inputs", "must name layers", shown(name))
        if name not in needed:
            needed.add(name)
            pending += definitions[name].names("inputs") if kinds[name] != DATA else []
    lacking = [kind for name, kind in kinds.items() if name in needed and kind not in (*LAYERS, CONCAT, DATA)]
    if lacking:
        raise _cannot(definitions, "every layer must be of a type that the language has", lacking)
    if len(needed) > MAX_LAYERS:
        raise _cannot(definitions, f"a network must have at most {MAX_LAYERS} layers", [str(len(needed))])
    inputs = {name: tuple(definitions[name].names("inputs")) if kinds[name] != DATA else () for name in needed}
    return {name: Member(name, kinds[name], definitions[name], inputs[name]) for name in definitions if name in needed}


def _cannot(definitions: Mapping[str, Section], required: str, received: list[str]) -> SpecError:
    return cannot_say(next(iter(definitions.values())).file, None, "type", required, ", ".join(dict.fromkeys(received)))


def _base(names: list[str]) -> str:
    """What the names of a row have in common: conv1a and conv1b are conv1."""
    length = 0
    while length < min(map(len, names)) and len({name[: length + 1] for name in names}) == 1:
        length += 1
    return names[0][:length].rstrip("_.-")


_WHY: Mapping[str, str] = {
    "gpu": "the card that computes the layer",
    "partialsum": "how the gradient's sum is split; the sum is the same",
    "sumwidth": "how the gradient's sum is split; the sum is the same",
    "sharedbiases": "one bias for each map, as every convolution has",
    "randsparse": "no connections are drawn at random",
    "groups": "one group",
    "channels": "follows from the layer before",
    "coeff": "the loss counts once",
    "topk": "which errors are printed beside the loss",
    "dataidx": "where the data provider keeps it",
    "updateperiod": "weights change after every batch",
    "enable": "the dropout is switched on",
}
_NEUTRAL: Mapping[str, tuple[str, str]] = {
    "wball": ("0", "a penalty that is switched off"),
    "wcnorm": ("0", "a constraint that is switched off"),
    "wcnormmax": ("0", "a constraint that is switched off"),
    "wcnormmin": ("0", "a constraint that is switched off"),
    "supereps": ("0", "a rate that is switched off"),
    "supermom": ("0", "a rate that is switched off"),
    "coeff": ("1", _WHY["coeff"]),
    "updateperiod": ("1", _WHY["updateperiod"]),
    "randsparse": ("0", _WHY["randsparse"]),
}
_SCHEDULE = "names a schedule in a spelling that layer.py does not read"


def _remainder(reading: Reading, definitions: Mapping[str, Section], used: set[str]) -> None:
    """Report every field that nobody read, and those that were only looked at."""
    looked_at = ("gpu", "sharedbiases", "partialsum", "randsparse", "channels")
    for section in definitions.values():
        for key in looked_at if section.name in used else ():
            section.read.discard(key)
        for item in section.unread():
            why, matters = _reason(item)
            if section.name not in used and not section.text("type").startswith(("cost.", "softmax", DATA)):
                why, matters = "the loss does not depend on this layer", False
            reading.draft.left_out.append(_left(section, item, why, matters))
    for name, section in reading.parameters.items():
        for item in section.unread():
            why, matters = _reason(item)
            if name not in used and name not in definitions:
                why, matters = "belongs to no layer of the definition", False
            reading.draft.left_out.append(_left(section, item, why, matters))


def _left(section: Section, item: Field, why: str, matters: bool) -> LeftOut:
    return LeftOut(section.file, item.line, f"[{section.name}] {item.key}", item.text, why, matters)


def _reason(item: Field) -> tuple[str, bool]:
    key = item.key.lower()
    if key in _NEUTRAL:
        neutral, why = _NEUTRAL[key]
        try:
            if all(float(part) == float(neutral) for part in item.text.split(",")):
                return why, False
        except ValueError:
            pass
        return "the language has no such constraint or penalty", True
    if key in ("sched", "schedw", "schedb"):
        return _SCHEDULE, True
    if key.startswith("quant"):
        return "numbers exchanged between cards in half precision", True
    return _WHY.get(key, "nothing in layer.py reads it here"), False


def _fill(reading: Reading, side: int) -> None:
    """What the language requires and the files do not have."""
    draft, template = reading.draft, load(TEMPLATE).statement()
    why = f"not in these files: as in {TEMPLATE}"
    draft.fill(("training", "batch_size"), BATCH_SIZE, "not in these files: convnet.py's default of --mini")
    draft.fill(("training", "epochs"), template["training"]["epochs"], why)
    data = dict(template["data"])
    if side != INPUT_SIZE:
        data |= {"storage": {**data["storage"], "size": side}, "crop": {"kind": "center", "shared_by": 1}}
    draft.fill_tree(("data",), data, why)
    draft.fill_tree(("evaluation",), template["evaluation"], why)


def convert(definition: Path, parameters: Path, input_shape: tuple[int, int, int] | None = None) -> Imported:
    """Import a pair of files. input_shape: (channels, height, width); 224 pixels, and the channels that the first layer
    states, if None.

    Raises Inexpressible if the network is not one that the language can say, SpecError if the files are wrong.
    """
    definitions, params = read(definition), read(parameters)
    channels, side, width = input_shape or (None, INPUT_SIZE, INPUT_SIZE)
    if side != width:
        raise refuse(definition.name, None, "--input", "must be square", f"{side}x{width}")
    members = detached(_members(definitions))
    sources = [member for member in members.values() if member.kind == DATA]
    if len(sources) != 1:
        raise _cannot(definitions, "a network must have one input", [member.name for member in sources])
    draft = Draft(_stem(definition), f"Imported from {definition.name} and {parameters.name}", definition.name)
    reading = Reading(draft, params, parameters.name, side)
    chain = rows(members, sources[0])
    if not chain or chain[0].members[0].kind not in ("conv", "local"):
        received = chain[0].members[0].kind if chain else "nothing"
        raise _cannot(definitions, "a network must begin with a convolution", [received])
    reading.sizes[sources[0].name] = chain[0].first.shared("channels", int, 1)
    if channels not in (None, reading.sizes[sources[0].name]):
        required = "must be the channels that the option --input states"
        raise chain[0].first.refuse("channels", f"{required}, {channels}", str(reading.sizes[sources[0].name]))
    draft.put(("input", "channels"), reading.sizes[sources[0].name], cite(chain[0].sections, "channels"))
    said = "not in these files: " + ("the 224 pixels of the paper" if input_shape is None else "stated at the import")
    draft.fill(("input", "height"), side, said)
    draft.fill(("input", "width"), side, said)
    reading.order = [sources[0].name]
    for row in chain:
        _append(reading, row)
    loss = next(section for section in definitions.values() if section.text("type") == "cost.logreg")
    draft.put(("training", "loss"), "softmax_cross_entropy", cite([loss], "type"))
    per_parameter(reading)
    _fill(reading, side)
    _remainder(reading, definitions, {member.section.name for member in members.values()})
    if any(rate["kind"] == "constant" for rate in draft.values["training"]["learning_rate"].values()):
        draft.values["notes"] = END_STATE
    return draft.finish()


def _append(reading: Reading, row: Row) -> None:
    """Add the layer that a row of members is."""
    kind = row.members[0].kind
    for member in row.members:
        if list(member.inputs) != sorted(member.inputs, key=reading.order.index):
            item = member.section.fields["inputs"]
            why = "the order of its weight matrices; here maps have the order of the layers that give them"
            reading.draft.left_out.append(_left(member.section, item, why, False))
    reading.order = [member.name for member in row.members]
    if kind not in WEIGHTED:
        reading.pass_on(row)
    if kind == CONCAT or (kind == "neuron" and all(section.text("neuron") == "ident" for section in row.sections)):
        return
    if kind not in WEIGHTED and any(len(member.inputs) != 1 for member in row.members):
        raise row.first.refuse("inputs", "must be one layer", ", ".join(row.members[0].inputs))
    if kind not in WEIGHTED and len(row.members) != row.blocks:
        required = "a layer without weights must be the only reader of its input"
        raise row.first.cannot_say("inputs", required, ", ".join(row.members[0].inputs))
    if reading.flat and kind in ("conv", "local", "pool", "cmrnorm", "rnorm"):
        raise row.first.cannot_say("inputs", "maps must not follow on an fc layer", kind)
    op, fields = LAYERS[kind](reading, row)
    where = cite(row.sections, "neuron" if kind == "neuron" else "type")
    wish = _base([member.section.name for member in row.members]) + ("_neuron" if kind == "neuron" else "")
    name = reading.draft.layer(wish, op, fields, where)
    if kind in WEIGHTED:
        reading.weighted[name] = row


def _stem(path: Path) -> str:
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem)[:80]
    return plain if re.match(r"[A-Za-z0-9]", plain) else "imported"


__all__ = ["INPUT_SIZE", "TEMPLATE", "convert"]
