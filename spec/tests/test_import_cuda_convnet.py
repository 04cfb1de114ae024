"""Importing cuda-convnet's pairs of files: every value sourced, what is left out named; texts in their grammar."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import spec
from spec.errors import SpecError
from spec.importers import (
    Imported,
    Inexpressible,
    compare,
    import_files,
    report,
    write_new,
    yaml_text,
)
from spec.structure import padding_of

Fields = Mapping[str, Any]
TOWERS = "ab"


# --- texts ------------------------------------------------------------------------------------------------------------


def cfg(sections: Mapping[str, Fields]) -> str:
    return "\n".join(
        f"[{name}]\n" + "".join(f"{k}={v}\n" for k, v in fields.items()) for name, fields in sections.items()
    )


def twice(name: str, fields: Fields) -> dict[str, Fields]:
    """A layer in two towers; ``@`` in a value stands for the tower's letter."""
    return {name + t: {k: str(v).replace("@", t) for k, v in fields.items()} for t in TOWERS}


def conv(inputs: str, channels: int, filters: int, size: int, std: float, padding: int = 0, **more: object) -> Fields:
    n = len(inputs.split(","))
    each = {"filters": filters, "padding": padding, "filterSize": size, "channels": channels, "initW": std}
    lists = {key: ",".join([str(value)] * n) for key, value in each.items()}
    return {"type": "conv", "inputs": inputs, "stride": ",".join(["1"] * n), **lists, "partialSum": 1, **more}


def pool(inputs: str, channels: int, size: int = 3, **more: object) -> Fields:
    return {"type": "pool", "pool": "max", "inputs": inputs, "sizeX": size, "stride": 2, "channels": channels, **more}


def fc(inputs: str, outputs: int, **more: object) -> Fields:
    stds = ",".join(["0.01"] * len(inputs.split(",")))
    return {"type": "fc", "inputs": inputs, "outputs": outputs, "initW": stds, **more}


def norm(inputs: str, channels: int, kind: str = "cmrnorm") -> Fields:
    return {"type": kind, "inputs": inputs, "channels": channels, "size": 5}


RELU: dict[str, Any] = {"neuron": "relu"}
ENDING: dict[str, Fields] = {
    "probs": {"type": "softmax", "inputs": "fc8"},
    "logprob": {"type": "cost.logreg", "inputs": "labels,probs"},
}
NETWORK: dict[str, Fields] = {
    "data": {"type": "data", "dataIdx": 0},
    "labels": {"type": "data", "dataIdx": 1},
    **twice("conv1", conv("data", 3, 48, 11, 0.01, stride=4)),
    **twice("rnorm1", norm("conv1@", 48)),
    **twice("pool1", pool("rnorm1@", 48, **RELU)),
    **twice("conv2", conv("pool1@", 48, 128, 5, 0.01, 2, initB=1, **RELU)),
    **twice("rnorm2", norm("conv2@", 128)),
    **twice("cnorm2", norm("rnorm2@", 128, "rnorm")),
    **twice("pool2", pool("cnorm2@", 128)),
    **twice("conv3", conv("pool2a,pool2b", 128, 192, 3, 0.03, 1, **RELU)),
    **twice("conv4", conv("conv3@", 192, 192, 3, 0.03, 1, initB=1, **RELU)),
    **twice("conv5", conv("conv4@", 192, 128, 3, 0.03, 1, initB=1)),
    **twice("pool5", pool("conv5@", 128, **RELU)),
    **twice("fc6", fc("pool5a,pool5b", 2048, initB=1, **RELU)),
    **twice("drop6", {"type": "hs", "keep": 0.5, "inputs": "fc6@"}),
    **twice("fc7", fc("drop6a,drop6b", 2048, initB=1, **RELU)),
    **twice("drop7", {"type": "hs", "keep": 0.5, "inputs": "fc7@"}),
    "fc8": fc("drop7a,drop7b", 1000, gpu=0),
    **ENDING,
}
"""The network that number 145 of the 2012 source is, told in its own words: two towers, detached neurons."""


def parameters(network: Mapping[str, Fields]) -> dict[str, Fields]:
    """A parameter file for `network`."""
    found: dict[str, Fields] = {"logprob": {"coeff": 1, "topk": 5}}
    for name, fields in network.items():
        n = len(str(fields.get("inputs", "")).split(","))
        if fields["type"] in ("conv", "fc", "local"):
            lists = {
                key: ",".join([value] * n) for key, value in (("epsW", "0.001"), ("momW", "0.9"), ("wc", "0.0005"))
            }
            found[name] = {**lists, "epsB": 0.02, "momB": 0.9, "wball": ",".join(["0.00"] * n)}
        elif fields["type"] == "hs":
            found[name] = {"enable": "true"}
        elif fields["type"] == "cmrnorm":
            found[name] = {"scale": 0.0001, "pow": 0.75, "minDiv": 2}
        elif fields["type"] == "rnorm":
            found[name] = {"scale": 0.001, "pow": 0.75}
    return found


@pytest.fixture
def pair(tmp_path: Path) -> Callable[..., Imported]:
    """Writes and imports a pair of files: changes to the definition's and the parameters' sections."""

    def make(
        network: Mapping[str, Fields] | None = None,
        params: Mapping[str, Fields] | None = None,
        base: Mapping[str, Fields] = NETWORK,
        shape: tuple[int, int, int] | None = None,
    ) -> Imported:
        merged = {name: {**base.get(name, {}), **(network or {}).get(name, {})} for name in {**base, **(network or {})}}
        stated = {name: {**fields, **(params or {}).get(name, {})} for name, fields in parameters(merged).items()}
        one, other = tmp_path / "layers-x.cfg", tmp_path / "layer-params-x.cfg"
        one.write_text(cfg(merged))
        other.write_text(cfg(stated))
        return import_files([other, one], shape)

    return make


def layers(imported: Imported) -> list[tuple[str, str]]:
    return [(layer.name, layer.op) for layer in imported.spec.layers]


# --- cuda-convnet -----------------------------------------------------------------------------------------------------


def test_two_towers_are_one_layer_with_groups(pair):
    imported = pair()
    assert imported.whole
    groups = {layer.name: layer.groups for layer in imported.spec.layers if hasattr(layer, "groups")}
    assert groups == {
        "conv1": 1,
        "rnorm1": 2,
        "conv2": 2,
        "rnorm2": 2,
        "conv3": 1,
        "conv4": 2,
        "conv5": 2,
        "fc6": 1,
        "fc7": 1,
        "fc8": 1,
    }
    assert spec.geometry(imported.spec).parameter_count == 60_965_224
    assert spec.geometry(imported.spec)["conv1"].output_shape == (96, 55, 55)


def test_neurons_stand_behind_the_layer_that_declares_them(pair):
    named = [name for name, _ in layers(pair())]
    assert named[:4] == ["conv1", "rnorm1", "pool1", "pool1_neuron"]
    assert named.index("pool5_neuron") == named.index("pool5") + 1
    assert "conv1_neuron" not in named
    assert "conv5_neuron" not in named


def test_the_network_told_in_towers_is_source_2012_value_for_value(pair):
    assert compare(pair().spec, spec.load("source-2012")) == []


@pytest.mark.parametrize(
    ("network", "params", "path"),
    [
        (twice("conv1", {"stride": 2, "partialSum": 0}), {}, "architecture: layer 0 (conv) stride"),
        (twice("conv2", {"initB": 0}), {}, "initialisation: layer 4 bias"),
        (twice("conv3", {"initW": "0.01,0.01"}), {}, "initialisation: layer 9 weight"),
        ({}, twice("rnorm1", {"minDiv": 1}), "architecture: layer 1 (lrn) k"),
        ({}, twice("conv4", {"wc": 0.001}), "weight decay: layer 11 weight"),
        (twice("drop6", {"keep": 0.6}), {}, "architecture: layer 19 (dropout) rate"),
    ],
)
def test_every_value_that_differs_is_found(pair, network, params, path):
    assert path in [difference.path for difference in compare(pair(network, params).spec, spec.load("source-2012"))]


def test_a_momentum_of_its_own_is_found(pair):
    changed = {name: {"momW": "0.8", "momB": 0.8} for name in ("conv1a", "conv1b")}
    imported = pair(params=changed)
    assert not imported.whole
    assert {item.field for item in imported.left_out if item.matters} == {"[conv1a] momW", "[conv1b] momW"}
    assert imported.spec.training.optimizer.momentum == 0.9


def test_every_value_has_a_source_that_names_file_section_and_key(pair):
    imported = pair()
    lacking = [path for path, origin in imported.spec.origins.items() if origin.source is None]
    assert lacking == []
    source = imported.spec.provenance["layers.conv3.kernel"]
    assert source == "layers-x.cfg [conv3a, conv3b] filterSize"
    assert imported.spec.provenance["layers.rnorm1.k"] == "layer-params-x.cfg [rnorm1a, rnorm1b] minDiv"
    assert imported.spec.provenance["layers.pool1.padding"] == "layer.py, default of start"


def test_what_is_left_out_is_said_with_its_line(pair):
    imported = pair({"conv1a": {"gpu": 0, "initWFunc": "initw.makew(conv1a)"}})
    left = {(item.field, item.matters) for item in imported.left_out}
    assert ("[conv1a] gpu", False) in left
    assert ("[conv1a] partialSum", False) in left
    assert ("[conv1a] initWFunc", True) in left
    assert not imported.whole
    said = report(imported)
    assert "initWFunc = 'initw.makew(conv1a)': values that a program gives" in said
    assert "input.height, input.width: the 224 pixels of the paper" in said
    gpu = next(item for item in imported.left_out if item.field == "[conv1a] gpu")
    assert gpu.line is not None
    assert gpu.line > 8


def test_another_order_of_inputs_is_told_because_weights_would_need_it(pair):
    imported = pair({"fc7b": {"inputs": "drop6b,drop6a"}})
    assert compare(imported.spec, spec.load("source-2012")) == []
    (item,) = [item for item in imported.left_out if item.field == "[fc7b] inputs"]
    assert "weight matrices" in item.why


def test_every_field_of_the_files_is_taken_over_or_left_out_with_a_reason(pair, tmp_path):
    imported = pair(params={"conv1a": {"frobnicate": 3}})
    stated = {
        (path.name, f"[{section}] {key}")
        for path, text in ((p, p.read_text()) for p in tmp_path.iterdir())
        for section, key in _keys(text)
    }
    cited = "\n".join(imported.spec.provenance.values())
    left = {(item.file, item.field) for item in imported.left_out}
    structure = ("type", "inputs", "neuron", "enable", "momB", "outputs")
    unknown = [
        (file, field)
        for file, field in stated - left
        if not any(file in line and field.split("] ")[1] in line for line in cited.splitlines())
        and field.rpartition(" ")[2] not in structure
    ]
    assert unknown == []
    assert ("layer-params-x.cfg", "[conv1a] frobnicate") in left


def _keys(text: str) -> list[tuple[str, str]]:
    section, found = "", []
    for line in text.splitlines():
        if line.startswith("["):
            section = line[1:-1]
        elif "=" in line:
            found.append((section, line.split("=")[0]))
    return found


def test_the_text_of_an_import_loads_as_the_same_specification(pair, tmp_path):
    imported = pair()
    path = tmp_path / "imported.yaml"
    write_new(path, yaml_text(imported.values))
    loaded = spec.load(path)
    assert loaded.hash == imported.spec.hash
    assert loaded.provenance == imported.spec.provenance
    with pytest.raises(SpecError, match="does not exist yet"):
        write_new(path, "")
    assert path.read_text() == yaml_text(imported.values)


def test_learning_rates_are_the_end_state_and_frozen_layers_stay_frozen(pair):
    imported = pair(params=twice("conv1", {"epsW": "0.000", "epsB": 0}))
    rates = {name: rate.model_dump() for name, rate in imported.spec.training.learning_rate.items()}
    assert rates["conv1.weight"] == {"kind": "constant", "rate": 0}
    assert rates["*.weight"] == {"kind": "constant", "rate": 0.001}
    assert "when its run ended" in imported.spec.notes


def test_schedules_that_the_language_has_are_taken_and_others_are_left(pair):
    stepped = pair(params=twice("conv2", {"schedW": "dexp[tgtFactor=250,noiseStdev=0,numSteps=4]"}))
    schedule = stepped.spec.training.learning_rate["conv2.weight"]
    assert schedule.model_dump() == {"kind": "exponential_steps", "rate": 0.001, "target_factor": 250, "steps": 4}
    assert stepped.whole
    assert not pair(params=twice("conv2", {"schedW": "exp[tgtFactor=250,noiseStdev=0]"})).whole


SMALL: dict[str, Fields] = {
    "data": {"type": "data", "dataIdx": 0},
    "labels": {"type": "data", "dataIdx": 1},
    "conv1": conv("data", 3, 16, 5, 0.01, 2, neuron="tanh[2,0.5]"),
    "pool1": pool("conv1", 16, start=0, outputsX=0),
    "fc8": fc("pool1", 10),
    **ENDING,
}
CIFAR = (3, 32, 32)


def test_one_tower_tanh_and_the_option_for_the_input(pair):
    imported = pair(base=SMALL, shape=CIFAR)
    assert imported.spec.input.height == 32
    tanh = imported.spec.layer("conv1_neuron")
    assert (tanh.amplitude, tanh.slope) == (2, 0.5)
    assert spec.geometry(imported.spec)["pool1"].output_shape == (16, 16, 16)
    assert imported.spec.data.storage.size == 32


@pytest.mark.parametrize(
    ("fields", "output", "padding"),
    [
        ({"sizeX": 3, "stride": 2}, 16, (0, 1, 0, 1)),
        ({"sizeX": 3, "stride": 2, "start": -1}, 16, (1, 0, 1, 0)),
        ({"sizeX": 3, "stride": 2, "outputsX": 15}, 15, (0, -1, 0, -1)),
        ({"sizeX": 3, "stride": 2, "start": -1, "outputsX": 17}, 17, (1, 2, 1, 2)),
        ({"sizeX": 2, "stride": 2}, 16, (0, 0, 0, 0)),
    ],
)
def test_pools_start_and_end_where_the_file_says(pair, fields, output, padding):
    layer = spec.geometry(pair({"pool1": fields}, base=SMALL, shape=CIFAR).spec)["pool1"]
    assert layer.output_shape == (16, output, output)
    assert padding_of(layer) == padding


def test_average_pools_divide_by_what_lies_inside(pair):
    assert pair({"pool1": {"pool": "avg"}}, base=SMALL, shape=CIFAR).spec.layer("pool1").divisor == "inside"


def test_locally_connected_and_grouped_layers(pair):
    network = {
        "conv1": {"neuron": "ident"},
        "local2": {**conv("pool1", 16, 16, 3, 0.04, 1), "type": "local", "groups": 2},
        "fc8": {"inputs": "local2"},
    }
    base = {name: SMALL[name] for name in ("data", "labels", "conv1", "pool1")} | {"local2": {}} | {"fc8": SMALL["fc8"]}
    imported = pair(network, base=base | ENDING, shape=CIFAR)
    assert [op for _, op in layers(imported)] == ["conv", "max_pool", "local", "flatten", "dense"]
    assert imported.spec.layer("local2").groups == 2
    assert imported.spec.layer("local2").out_channels == 32


def test_towers_that_end_in_a_concatenation_of_unequal_parts(pair):
    network = {
        "fc8": fc("pool1", 6),
        "fc8b": fc("pool1", 4),
        "joined": {"type": "concat", "inputs": "fc8,fc8b"},
        "probs": {"inputs": "joined"},
    }
    base = {**{name: SMALL[name] for name in list(SMALL)[:5]}, "fc8b": {}, "joined": {}, **ENDING}
    imported = pair(network, base=base, shape=CIFAR)
    assert imported.spec.layers[-1].out_features == 10


@pytest.mark.parametrize(
    ("network", "params", "words"),
    [
        ({"pool1": {"pool": "rand"}}, {}, "pool: must be max or avg"),
        ({"conv1": {"neuron": "softrelu"}}, {}, "neuron: must be relu, tanh"),
        ({"conv1": {"sharedBiases": 0}}, {}, "one bias for each map"),
        ({"conv1": {"randSparse": 1}}, {}, "must not be drawn at random"),
        ({"logprob": {"type": "cost.crossent2"}}, {}, "one softmax cross-entropy"),
        ({"blur0": {"type": "blur", "inputs": "data"}, "conv1": {"inputs": "blur0"}}, {}, "Received: blur"),
    ],
)
def test_what_the_language_cannot_say_is_named(pair, network, params, words):
    base = {"data": SMALL["data"], "labels": SMALL["labels"], **{name: {} for name in network}} | SMALL
    with pytest.raises(Inexpressible, match=words):
        pair(network, params, base=base, shape=CIFAR)


@pytest.mark.parametrize(
    ("network", "params", "words"),
    [
        ({"conv2b": conv("pool1a,pool1b", 48, 128, 5, 0.01, 2)}, {}, "share the layers before them out"),
        (twice("conv4", {"inputs": "conv3a,pool2a", "channels": "192,128"}), {}, "at another depth"),
        ({"conv4a": {"initW": 0.02}}, {}, "must be the same in every tower"),
        ({"conv4a": {"neuron": "ident"}}, {}, "must be the same in every tower"),
        ({}, {"rnorm1a": {"scale": 0.1}}, "must be the same in every tower"),
        ({}, {"drop6a": {"enable": "false"}}, "switched off"),
        ({"conv4a": {"filters": 64}, "conv5a": {"channels": 64}}, {}, "must be the same in every tower"),
    ],
)
def test_towers_that_are_not_alike_are_named(pair, network, params, words):
    with pytest.raises(Inexpressible, match=words):
        pair(network, params)


@pytest.mark.parametrize(
    ("network", "params", "words"),
    [
        ({"conv1": {"channels": 4}}, {}, r"\[conv1\] channels: must be the"),
        ({"conv1": {"filterSize": "eleven"}}, {}, r"layers-x.cfg:\d+: \[conv1\] filterSize: must be a whole number"),
        ({"conv1": {"filterSize": 99}}, {}, "must fit a map of 32"),
        ({"conv1": {"partialSum": 7}}, {}, "is the input's size right"),
        ({"conv1": {"initW": "1e999"}}, {}, "must be finite"),
        ({"conv1": {"initW": "0.1,0.2"}}, {}, "one value for each of the 1 inputs"),
        ({}, {"conv1": {"momW": "much"}}, r"layer-params-x.cfg:\d+: \[conv1\] momW: must be a number"),
        ({"fc8": {"outputs": -5}}, {}, "out_features"),
        ({"probs": {"inputs": "nowhere"}}, {}, "must name layers"),
    ],
)
def test_wrong_files_are_named_with_file_and_field(pair, network, params, words):
    with pytest.raises(SpecError, match=words):
        pair(network, params, base=SMALL, shape=(4, 32, 32) if "Z" in network else CIFAR)


WORDS = (
    "conv",
    "fc",
    "data",
    "softmax",
    "cost.logreg",
    "labels,probs",
    "0.01",
    "3",
    "-1",
    "a,b",
    "relu",
    "hs",
    "pool",
    "max",
    "",
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_change_of_a_definition_ends_in_a_traceback(pair, data):
    """One to three fields of a good pair replaced: it imports, or it is refused."""
    base = {name: dict(fields) for name, fields in SMALL.items()}
    params: dict[str, dict[str, object]] = {}
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(list(base)))
        values = st.sampled_from(WORDS) | st.text("0123456789.,-e[]=", max_size=8)
        if data.draw(st.booleans()) or name not in parameters(SMALL):
            base[name][data.draw(st.sampled_from(list(base[name])))] = data.draw(values)
        else:
            keys = list(parameters(SMALL)[name])
            params.setdefault(name, {})[data.draw(st.sampled_from(keys))] = data.draw(values)
    with contextlib.suppress(SpecError):
        pair({}, params, base=base, shape=CIFAR)
