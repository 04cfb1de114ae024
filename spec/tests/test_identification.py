"""How far structures are from the variants, and which variants parameters fit; files are tested in export/."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import spec
from spec import departures, structure
from spec.__main__ import main
from spec.arithmetic import geometry
from spec.departures import Found, against, structures
from spec.parameter_fit import LAYOUTS, fit
from spec.structure import Step, Structure


def changed(name: str, **overrides: Any) -> Found:
    """The structure of a variant with overrides, as a reader would find it."""
    return Found("test", structure.of_spec(spec.load(name, overrides)))


def candidate(found: Found, name: str) -> departures.Candidate:
    (only,) = against(found, {name: structures()[name]})
    return only


@pytest.mark.parametrize("name", spec.names())
def test_every_variant_is_itself_and_no_other(name):
    zero = [one.name for one in against(changed(name), structures()) if one.distance == 0]
    assert zero == [name]


@pytest.mark.parametrize("name", spec.names())
def test_names_of_steps_do_not_matter(name):
    found = changed(name)
    steps = tuple(replace(step, name=f"x{i}") for i, step in enumerate(found.structure.steps))
    assert candidate(replace(found, structure=replace(found.structure, steps=steps)), name).departures == ()


def test_rounding_and_explicit_padding_are_one_thing():
    explicit = {"conv1": {"padding": {"top": 0, "bottom": 3, "left": 0, "right": 3}, "rounding": "floor"}}
    assert candidate(changed("source-2012", layers=explicit), "source-2012").departures == ()
    unused = {"pool1": {"padding": {"top": 0, "bottom": 1, "left": 0, "right": 0}, "rounding": "floor"}}
    assert candidate(changed("source-2012", layers=unused), "source-2012").departures == ()


@pytest.mark.parametrize(
    ("name", "layers", "said"),
    [
        ("source-2012", {"norm1": {"k": 1}}, ["norm1: k: 1 instead of 2"]),
        ("source-2012", {"norm1": {"groups": 1}}, ["norm1: groups: 1 instead of 2"]),
        (
            "source-2012",
            {"norm1": {"alpha_over": "one"}},
            [
                "norm1: coefficient: 0.0001 (alpha not divided by the 5 channels of the window) instead of "
                "2e-05 (alpha divided by the 5 channels of the window)"
            ],
        ),
        ("caffenet", {"conv2": {"groups": 1}}, ["conv2: groups: 1 instead of 2"]),
        ("caffenet", {"conv3": {"out_channels": 256}}, ["conv3: out_channels: 256 instead of 384"]),
        ("caffenet", {"fc8": {"out_features": 10}}, ["fc8: classes: 10 instead of 1000"]),
        ("caffenet", {"relu6": None}, ["relu6: missing: relu behind dense (fc6)"]),
        (
            "caffenet",
            {"norm2": {"after": "relu2"}},
            ["norm2: place: lrn behind relu (relu2) instead of behind max_pool (pool2)"],
        ),
        (
            "paper-2012",
            {"relu5": {"after": "pool5"}},
            ["relu5: place (it gives the same values): relu behind max_pool (pool5) instead of behind conv (conv5)"],
        ),
        ("torchvision", {"drop7": None}, ["drop7: missing: dropout behind relu (relu6)"]),
        ("torchvision", {"drop6": {"rate": 0.3}}, ["drop6: rate: 0.3 instead of 0.5"]),
    ],
)
def test_every_change_is_said_in_words_and_nothing_else_is(name, layers, said):
    found = candidate(changed(name, layers=layers), name)
    assert [str(departure) for departure in found.departures] == said
    assert found.distance == sum(departure.cost for departure in found.departures) > 0


def test_a_larger_input_shows_in_the_input_and_in_what_windows_reach():
    found = candidate(changed("source-2012", input={"height": 227, "width": 227}), "source-2012")
    assert [str(departure) for departure in found.departures] == [
        "input: 3 x 227 x 227 instead of 3 x 224 x 224",
        "conv1: padding: 0, 0, 0, 0 (top, bottom, left, right; maps of 55 x 55) instead of "
        "0, 3, 0, 3 (top, bottom, left, right; maps of 55 x 55)",
    ]


def test_a_convolution_over_the_whole_map_is_a_dense_layer():
    as_dense = changed("slim-v2")
    steps = []
    for step in as_dense.structure.steps:
        if step.op == "dense":
            side = (5, 5) if step.input == (6400,) else (1, 1)
            channels = math.prod(step.input) // math.prod(side)
            facts = {"kernel": side, "stride": (1, 1), "padding": (0,) * 4, "out_channels": step.facts["out_features"]}
            facts |= {"groups": 1, "bias": True}
            steps.append(Step(step.name, "conv", facts, (channels, *side), (step.facts["out_features"], 1, 1)))
        else:
            steps.append(step)
    found = replace(as_dense, structure=Structure(as_dense.structure.input, tuple(steps)))
    assert candidate(found, "slim-v2").departures == ()


def test_a_graph_without_dropout_is_not_blamed_for_it_unless_it_would_show():
    bare = changed("torchvision", layers={"drop6": None, "drop7": None})
    assert candidate(replace(bare, keeps_dropout=False), "torchvision").departures == ()
    assert len(candidate(bare, "torchvision").departures) == 2


def test_the_papers_dropout_shows_also_in_evaluation():
    bare = changed("paper-2012", layers={"drop6": None})
    (departure,) = candidate(replace(bare, keeps_dropout=False), "paper-2012").departures
    assert str(departure) == "drop6: missing: dropout behind relu (relu6)"


def test_an_op_that_the_language_lacks_is_more():
    found = changed("torchvision")
    steps = list(found.structure.steps)
    steps.insert(1, Step("x", "BatchNormalization", {}, steps[0].output, steps[0].output))
    (departure,) = candidate(Found("test", Structure(found.structure.input, tuple(steps))), "torchvision").departures
    assert str(departure) == "x: more: BatchNormalization behind conv (conv1)"


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_distance_of_a_change_is_that_of_its_departures_and_itself_the_least(data):
    """Any subset of steps removed from a variant: the departures name each of them, at most."""
    name = data.draw(st.sampled_from(["source-2012", "caffenet", "torchvision", "lenet-5"]))
    full = structures()[name]
    kept = data.draw(st.lists(st.booleans(), min_size=len(full.steps), max_size=len(full.steps)))
    steps = tuple(step for step, keep in zip(full.steps, kept) if keep)
    found = candidate(Found("test", Structure(full.input, steps)), name)
    bound = sum(departures.PRESENCE.get(s.op, departures.OTHERWISE) for s, keep in zip(full.steps, kept) if not keep)
    assert found.distance <= bound
    assert found.distance == pytest.approx(sum(departure.cost for departure in found.departures))
    assert (found.distance == 0) == (len(steps) == len(full.steps))


# --- weights alone ----------------------------------------------------------------------------------------------------


def arrays(name: str, layout: str = "out, in, rows, columns") -> list[tuple[str, tuple[int, ...]]]:
    """The parameters of a variant as a file keeps them, under names that say nothing, in another order."""
    axes = LAYOUTS[layout]
    shapes = [
        tuple(shape[axis] for axis in axes[len(shape)]) if len(shape) in axes else shape for shape in shapes_of(name)
    ]
    return [(f"t{i}", shape) for i, shape in enumerate(sorted(shapes))]


@cache
def shapes_of(name: str) -> tuple[tuple[int, ...], ...]:
    return tuple(geometry(spec.load(name)).parameters.values())


def alike(name: str) -> set[str]:
    """The variants whose parameters have the same shapes."""
    return {other for other in spec.names() if sorted(shapes_of(other)) == sorted(shapes_of(name))}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", spec.names())
def test_shapes_fit_exactly_the_variants_that_have_them(name, layout):
    found = fit(arrays(name, layout))
    assert {one.name for one in found if one.fits} == alike(name)
    assert found[0].fits


def test_the_set_for_the_network_of_2012_is_known():
    """The grouped networks of one geometry share their parameters; no other variant has them."""
    assert alike("source-2012") == {
        "caffe-alexnet",
        "caffenet",
        "onnx-zoo",
        "paper-2012",
        "source-2012",
        "source-2012-nolrn",
        "source-2012-nonoverlap",
    }
    assert alike("torchvision") == {"torchvision", "owt-2014"}


def test_parameters_in_two_parts_and_with_velocities_fit():
    towers = []
    for name, shape in arrays("source-2012"):
        towers += [(f"{name}a", (shape[0] // 2, *shape[1:])), (f"{name}b", (shape[0] // 2, *shape[1:]))]
    found = next(one for one in fit(towers) if one.name == "source-2012")
    assert found.fits
    assert len(found.parts) == 16
    twice = [*arrays("caffenet"), *arrays("caffenet"), ("step", ()), ("mean", (3, 256, 256))]
    found = next(one for one in fit(twice) if one.name == "caffenet")
    assert (found.fits, found.copies) == (True, 2)


def test_dense_layers_kept_as_convolutions_fit():
    forms: dict[tuple[int, ...], tuple[int, ...]] = {
        (4096, 6400): (4096, 256, 5, 5),
        (4096, 4096): (4096, 4096, 1, 1),
        (1000, 4096): (1000, 4096, 1, 1),
    }
    stored = [(name, forms.get(shape, shape)) for name, shape in arrays("slim-v2")]
    assert [one.name for one in fit(stored) if one.fits] == ["slim-v2"]


def test_what_does_not_fit_is_named_by_parameter_and_array():
    stored = [
        (name, (384, 192, 3, 3)) if shape == (256, 384, 3, 3) else (name, shape)
        for name, shape in arrays("torchvision")
    ]
    assert not any(one.fits for one in fit(stored))
    found = next(one for one in fit(stored) if one.name == "torchvision")
    assert found.missing == (("conv4.weight", (256, 384, 3, 3)),)
    assert [shape for _, shape in found.extra] == [(384, 192, 3, 3)]
    assert found.distance == 1
    extra = [*arrays("torchvision"), ("running_mean", (64,))]
    assert not any(one.fits for one in fit(extra))


def safetensors(path: Path, shapes: list[tuple[str, tuple[int, ...]]]) -> None:
    """A file whose arrays are announced; the shapes are all that is read."""
    header, offset = {}, 0
    for name, shape in shapes:
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps({"__metadata__": {"spec_name": "misleading"}, **header}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + offset)  # zeros, which take no place on the disk


def test_the_command_says_what_weights_fit_and_what_they_cannot_tell(tmp_path, capsys):
    path = tmp_path / "weights.bin"
    safetensors(path, arrays("torchvision"))
    assert main(["identify", str(path)]) == 0
    said = capsys.readouterr().out
    assert "a safetensors file, 16 arrays\nfits owt-2014 or torchvision\n" in said
    assert "weights cannot tell: normalisation" in said
    assert main(["identify", str(path), str(path), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first == second
    assert first["fits"] == ["owt-2014", "torchvision"]
    assert {one["name"] for one in first["candidates"]} == set(spec.names())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "must be an ONNX file"),
        (b"\x08" * 40, "must be an ONNX file"),
        ((2**40).to_bytes(8, "little") + b"{}", "header must have at most"),
        ((9).to_bytes(8, "little") + b'{"a":1}  ', "must have a shape"),
        ((9).to_bytes(8, "little") + b"{{{{{{{{{", "must be JSON"),
        ((2).to_bytes(8, "little") + b"{}", "one to"),
        ((90_000).to_bytes(8, "little") + b'{"a":' + b"[" * 90_000, "must be JSON"),
    ],
)
def test_files_that_are_nothing_are_refused_in_one_line(tmp_path, capsys, content, words):
    path = tmp_path / "file.bin"
    path.write_bytes(content)
    assert main(["identify", str(path)]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes in folders are of Unix")
def test_what_is_no_file_is_refused_in_one_line(tmp_path, capsys):
    pipe = tmp_path / "pipe.cfg"
    os.mkfifo(pipe)
    for path in (tmp_path / "none.onnx", tmp_path, pipe, Path("/dev/zero")):
        assert main(["identify", str(path)]) == 2
    assert main(["import", str(pipe), str(pipe)]) == 2
    said = capsys.readouterr().err
    assert said.count("must be a readable file") == 5
    assert said.count("\n") == 5
