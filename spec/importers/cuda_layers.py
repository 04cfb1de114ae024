"""Each type of layer of cuda-convnet as one of the language: the arithmetic of ``layer.py``, every value sourced."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from spec.importers.cfg import Section, cite
from spec.importers.common import Draft, refuse, shown
from spec.importers.towers import Row

_TANH = re.compile(r"tanh\s*\[([^,\]]+),([^,\]]+)\]")
WEIGHTED = ("conv", "local", "fc")
DROPOUT = ("hs", "dropout2")
"""A mask in training, a factor in evaluation; the second is cuda-convnet2's name. Its ``dropout`` is something else."""
Fields = dict[str, tuple[Any, str]]
N = TypeVar("N", int, float)


class Reading:
    """The state of one import: the draft, the parameter file, and the maps so far: their side, and how many each layer
    of the definition gives (``sizes``)."""

    def __init__(self, draft: Draft, parameters: dict[str, Section], params_file: str, side: int) -> None:
        self.draft, self.parameters, self.params_file = draft, parameters, params_file
        self.side, self.flat = side, False
        self.sizes: dict[str, int] = {}
        self.order: list[str] = []
        """The layers of the definition whose maps, in this order, are the maps so far."""
        self.weighted: dict[str, Row] = {}

    def params(self, section: Section) -> Section:
        """The section of the parameter file that belongs to `section`. Raises SpecError if there is none."""
        found = self.parameters.get(section.name)
        if found is None:
            raise refuse(self.params_file, None, f"[{section.name}]", "is required for this layer", "no such section")
        return found

    def params_of(self, row: Row) -> list[Section]:
        return [self.params(section) for section in row.sections]

    def check_channels(self, row: Row) -> None:
        """What a layer says of its inputs' maps must be so, or the import has misread something."""
        for member in row.members:
            stated = member.section.each("channels", int, len(member.inputs))
            found = [self.sizes[name] for name in member.inputs]
            if stated != found:
                required = f"must be the {', '.join(map(str, found))} maps that its inputs have"
                raise member.section.refuse("channels", required, ", ".join(map(str, stated)))

    def outputs(self, row: Row, key: str, sizes: list[int]) -> int:
        """Note what each member of `row` gives, by its field `key`. Returns the sum. Groups must be equal slices."""
        taken = {sum(self.sizes[name] for name in member.inputs) for member in row.members}
        if row.blocks > 1 and (len(set(sizes)) > 1 or len(taken) > 1):
            raise row.first.cannot_say(key, "must be the same in every tower", ", ".join(map(str, sizes)))
        self.sizes |= {member.name: size for member, size in zip(row.members, sizes)}
        return sum(sizes)

    def pass_on(self, row: Row) -> None:
        """Note that each member of `row` gives as many maps as it takes."""
        self.sizes |= {member.name: sum(self.sizes[name] for name in member.inputs) for member in row.members}


def alike(sections: Sequence[Section], key: str, kind: type[N], default: N | None = None) -> N:
    """A number that all towers state alike."""
    found = [section.number(key, kind, default) for section in sections]
    return _one(sections, key, found)


def shared(row: Row, key: str, kind: type[N], default: N | None = None) -> N:
    """A number that all towers state alike, for every one of their inputs."""
    found = [member.section.shared(key, kind, len(member.inputs), default) for member in row.members]
    return _one(row.sections, key, found)


def _one(sections: Sequence[Section], key: str, found: list[N]) -> N:
    if len(set(found)) != 1:
        raise sections[0].cannot_say(key, "must be the same in every tower", ", ".join(map(str, found)))
    return found[0]


def _groups(row: Row, own: int = 1) -> tuple[int, str]:
    where = cite(row.sections, "inputs")
    if own > 1:
        return row.blocks * own, f"{where}; {cite(row.sections, 'groups')}"
    return row.blocks, f"{where}: {'each tower sees its own' if row.blocks > 1 else 'all maps are seen'}"


def _window(reading: Reading, row: Row) -> tuple[Fields, int]:
    """Kernel, stride and padding of a convolution, and its groups of its own."""
    reading.check_channels(row)
    groups = shared(row, "groups", int, 1)
    for member in row.members:
        inputs = len(member.inputs)
        if any(member.section.each("randSparse", int, inputs, 0)):
            raise member.section.cannot_say("randSparse", "connections must not be drawn at random", "1")
        if groups > 1 and (inputs > 1 or len(row.members) > row.blocks):
            raise member.section.cannot_say("groups", "groups within a tower must have one input", str(groups))
    size, stride, padding = (shared(row, key, int, default) for key, default in _GEOMETRY)
    if min(size, stride, groups) < 1 or padding < 0 or size > reading.side + 2 * padding:
        required = f"filterSize, stride, padding and groups must fit a map of {reading.side}"
        raise row.first.refuse("filterSize", required, f"{size}, {stride}, {padding} and {groups}")
    rounding = "layer.py: modulesX = 1 + ceil((2 * padding + imgSize - filterSize) / stride)"
    fields = {
        "kernel": (size, cite(row.sections, "filterSize")),
        "stride": (stride, cite(row.sections, "stride")),
        "padding": (padding, cite(row.sections, "padding")),
        "rounding": ("ceil", rounding),
    }
    reading.side = 1 + math.ceil((2 * padding + reading.side - size) / stride)
    return fields, groups


_GEOMETRY = (("filterSize", None), ("stride", 1), ("padding", 0))


def _convolution(reading: Reading, row: Row) -> tuple[str, Fields]:
    window, own = _window(reading, row)
    sizes = [member.section.shared("filters", int, len(member.inputs)) * own for member in row.members]
    filters = reading.outputs(row, "filters", sizes)
    for section in row.sections:
        if not section.truth("sharedBiases", row.members[0].kind == "conv") and row.members[0].kind == "conv":
            raise section.cannot_say("sharedBiases", "a convolution must have one bias for each map", "0")
        parts = section.number("partialSum", int, 0)
        if parts and reading.side**2 % parts:
            required = f"must divide the {reading.side}^2 places of the map (is the input's size right?)"
            raise section.refuse("partialSum", required, str(parts))
    groups = _groups(row, own)
    fields = {"out_channels": (filters, cite(row.sections, "filters")), **window, "groups": groups}
    return row.members[0].kind, fields


def _pool(reading: Reading, row: Row) -> tuple[str, Fields]:
    reading.check_channels(row)
    kinds = {section.text("pool") for section in row.sections}
    if len(kinds) > 1 or not kinds <= {"max", "avg"}:
        raise row.first.cannot_say("pool", "must be max or avg", ", ".join(sorted(kinds)))
    size, stride = alike(row.sections, "sizeX", int), alike(row.sections, "stride", int)
    start, stated = alike(row.sections, "start", int, 0), alike(row.sections, "outputsX", int, 0)
    if not 1 <= stride <= size or start > 0 or start <= -size or stated < 0 or size > reading.side - start:
        required = f"sizeX, stride, start and outputsX must fit a map of {reading.side}, start being at most 0"
        raise row.first.cannot_say("sizeX", required, f"{size}, {stride}, {start} and {stated}")
    count = stated or math.ceil((reading.side - start - size) / stride) + 1
    rounding, beyond = "ceil", (count - 1) * stride + size - (reading.side - start)
    if beyond < 0:
        rounding = "floor"
    padding: Any = -start
    if not 0 <= beyond < stride or start:
        padding = {"top": -start, "bottom": max(beyond, 0), "left": -start, "right": max(beyond, 0)}
    if beyond <= -stride or beyond >= size:
        raise row.first.cannot_say("outputsX", "must cover the map and nothing beyond it", str(stated))
    how = "layer.py: outputsX = ceil((imgSize - start - sizeX) / stride) + 1, windows clipped"
    at = cite(row.sections, "outputsX") if stated else how
    fields: Fields = {
        "kernel": (size, cite(row.sections, "sizeX")),
        "stride": (stride, cite(row.sections, "stride")),
        "padding": (padding, cite(row.sections, "start")),
        "rounding": (rounding, at),
    }
    if kinds == {"avg"}:
        fields["divisor"] = ("inside", "cuda-convnet2 cudaconv3/src/conv_util.cu, kLocalPool: regionSize is clipped")
    reading.side = count
    return ("max_pool" if kinds == {"max"} else "avg_pool"), fields


def _norm(reading: Reading, row: Row) -> tuple[str, Fields]:
    reading.check_channels(row)
    across = row.members[0].kind == "cmrnorm"
    params = reading.params_of(row)
    size = alike(row.sections, "size", int)
    widths = {reading.sizes[member.inputs[0]] for member in row.members}
    if not 1 <= size <= (min(widths) if across else reading.side):
        raise row.first.refuse("size", "must fit the maps", str(size))
    if across and len(widths) > 1:
        raise row.first.cannot_say("channels", "must be the same in every tower", ", ".join(map(str, sorted(widths))))
    if any(section.truth("blocked", False) for section in row.sections):
        raise row.first.cannot_say("blocked", "windows must be centred", "1")
    k = alike(params, "minDiv", float, 1.0) if across else 1.0
    divided = "layer.py: scale /= size" if across else "layer.py: scale /= size**2"
    fields: Fields = {
        "size": (size, cite(row.sections, "size")),
        "alpha": (alike(params, "scale", float), cite(params, "scale")),
        "alpha_over": ("size" if across else "area", divided),
        "beta": (alike(params, "pow", float), cite(params, "pow")),
        "k": (k, cite(params, "minDiv") if across else "cuda-convnet src/cudaconv2/conv_util.cu: 1 + scale * sum"),
    }
    if across:
        fields["groups"] = (row.blocks, f"{cite(row.sections, 'inputs')}: a window stays within its tower")
        if size % 2 == 0:
            fields["before"] = (size // 2, "cuda-convnet2 cudaconv3/src/conv_util.cu, kFCNorm: starts at f - sizeF / 2")
    elif size % 2 == 0:
        raise row.first.cannot_say("size", "a window within the map must be centred, its size odd", str(size))
    return ("lrn" if across else "spatial_norm"), fields


def _dense(reading: Reading, row: Row) -> tuple[str, Fields]:
    if not reading.flat:
        reading.draft.layer("flatten", "flatten", {}, "layer.py: fc reads its inputs as vectors, maps in C, H, W order")
        reading.flat = True
    outputs = reading.outputs(row, "outputs", [section.number("outputs", int) for section in row.sections])
    return "dense", {"out_features": (outputs, cite(row.sections, "outputs")), "groups": _groups(row)}


def _dropout(reading: Reading, row: Row) -> tuple[str, Fields]:
    later = row.members[0].kind == "dropout2"
    params = reading.params_of(row)
    for section in params:
        if not section.truth("enable", True if later else None):
            required = "must be true: switched off, it still multiplies by keep (src/layer.cu)"
            raise section.cannot_say("enable", required, "false")
    stating = params if later else row.sections
    keep = alike(stating, "keep", float, 0.5 if later else None)
    rate = round(1 - keep, 12)
    scale = "src/layer.cu, HiddenSexLayer::fpropActs: a mask in training, times keep in evaluation"
    return "dropout", {"rate": (rate, f"{cite(stating, 'keep')}: 1 - keep"), "scale": ("test", scale)}


def _neuron(reading: Reading, row: Row) -> tuple[str, Fields]:
    declared = {section.text("neuron") for section in row.sections}
    if len(declared) > 1:
        raise row.first.cannot_say("neuron", "must be the same in every tower", ", ".join(sorted(declared)))
    (neuron,) = declared
    if found := _TANH.fullmatch(neuron):
        try:
            amplitude, slope = float(found[1]), float(found[2])
        except ValueError:
            raise row.first.refuse("neuron", "tanh[a,b] must have two numbers", neuron) from None
        at = cite(row.sections, "neuron")
        return "tanh", {"amplitude": (amplitude, at), "slope": (slope, at)}
    if neuron != "relu":
        raise row.first.cannot_say("neuron", "must be relu, tanh[a,b] or ident", shown(neuron))
    return "relu", {}


LAYERS: Mapping[str, Callable[[Reading, Row], tuple[str, Fields]]] = {
    "conv": _convolution,
    "local": _convolution,
    "pool": _pool,
    "cmrnorm": _norm,
    "rnorm": _norm,
    "fc": _dense,
    "neuron": _neuron,
    **dict.fromkeys(DROPOUT, _dropout),
}
