"""Response normalisation and grouped convolution, measured: every form does the same. Times are not judged."""

from __future__ import annotations

import pytest

import spec
from benchmarks import grouped, lrn_forms, run
from benchmarks.results import read
from benchmarks.ways import Way, measured
from conformance.specs import slim


def test_every_form_of_normalisation_computes_the_same():
    import torch

    for place in lrn_forms.places(slim(spec.load("paper-2012"))):
        x = torch.randn(2, *place.input_shape).mul_(20)
        (_, _, usual), *others = lrn_forms.forms(place)
        assert [name for name, _, _ in others] == ["ours", "banded"]
        for name, _, form in others:
            torch.testing.assert_close(form(x), usual(x), rtol=1e-5, atol=1e-6, msg=name)


def test_the_node_computes_the_same():
    import torch

    (place, *_) = lrn_forms.places(slim(spec.load("paper-2012")))
    given, room = lrn_forms._node(place, 2, "cpu", 1).make()()
    (_, _, usual), *_ = lrn_forms.forms(place)
    torch.testing.assert_close(torch.from_numpy(room.numpy()), usual(torch.from_numpy(given.numpy())),
                               rtol=1e-5, atol=1e-6)  # fmt: skip


def test_every_form_of_grouped_convolution_computes_the_same():
    import torch

    places = grouped.places(spec.load("paper-2012"))
    assert [place.name for place in places] == ["conv2", "conv4", "conv5"]
    for place in grouped.places(slim(spec.load("paper-2012"))):
        x = torch.randn(2, place.input_shape[0], 9, 9)
        kernel = next(shape for name, shape in place.parameters.items() if name.endswith("weight"))
        weight = torch.randn(kernel)
        native, *others = (grouped.function(form, place)(x, weight) for form in grouped.FORMS)
        for other in others:
            torch.testing.assert_close(other, native, rtol=1e-4, atol=1e-4)


def test_ways_take_turns_and_one_that_cannot_is_said():
    seen: list[str] = []

    def way(name: str, **error: Exception) -> Way:
        def call() -> None:
            seen.append(name)
            if error:
                raise error["raised"]

        return Way(name, "", "", "float32", lambda: call, operations=2e9, bytes=1e9)

    broken = way("b", raised=RuntimeError("CUDA out of memory. Tried to allocate 1 GiB"))
    cases, (failure,) = measured("lrn", "here", 4, "cpu", [way("a"), broken, way("c")], 3)
    assert seen == ["a", "a", "b", "c", "c", "a", "c", "a", "c", "a", "c"]
    assert failure.kind == "out of memory"
    assert [(case.name, len(case.seconds)) for case in cases] == [("a", 3), ("c", 3)]
    for case in cases:
        calls_a_second = case.images_per_second.median / 4
        assert case.gflops == pytest.approx(2 * calls_a_second)
        assert case.gbytes_per_second == pytest.approx(calls_a_second)


def test_a_table_of_every_layer(tmp_path, capsys):
    output = tmp_path / "lrn.json"
    options = ["--suite", "lrn", "--spec", "fashion-mini", "--batches", "2", "--rounds", "3", "--threads", "1"]
    assert run.main([*options, "--no-compile", "--output", str(output)]) == 0
    result = read(output)
    assert not result.failures
    layers = lrn_forms.places(spec.load("fashion-mini"))
    both, forward = "forward and backward", "forward"
    ways = [(name, f"{layout}, {both}") for name in ("usual", "ours", "banded") for layout in ("NCHW", "NHWC")]
    ways += [(name, f"NCHW, {forward}") for name in ("usual", "ours", "banded")]  # two towers: no node
    assert [(case.name, case.detail) for case in result.cases] == len(layers) * ways
    for case in result.cases:
        assert len(case.seconds) == 3
        assert case.of_roof is not None
        assert case.gbytes_per_second == pytest.approx(case.of_roof * result.roofs[0].gbytes_per_second)
    assert "1.00x" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--spec", "torchvision"], "torchvision must have a layer of lrn. Received: none"),
        (["--spec", "alexnet-2031"], "alexnet-2031"),
        (["--output", "lrn.txt"], "lrn.txt"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(options, said, capsys):
    assert run.main(["--suite", "lrn", *options]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
