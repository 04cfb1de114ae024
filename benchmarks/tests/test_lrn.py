"""The measurement of response normalisation, very briefly: every form does the same. Times are not judged."""

from __future__ import annotations

import json

import pytest

import spec
from benchmarks import lrn
from conformance.specs import slim


def test_every_form_computes_the_same():
    import torch

    for place in lrn.places(slim(spec.load("paper-2012"))):
        x = torch.randn(2, *place.input_shape).mul_(20)
        (_, _, usual), *others = lrn.forms(place, compiled=False)
        for name, _, form in others:
            torch.testing.assert_close(form(x), usual(x), rtol=1e-5, atol=1e-6, msg=name)


def test_a_table_of_every_layer(tmp_path, capsys):
    output = tmp_path / "lrn.json"
    options = ["--spec", "fashion-mini", "--batch", "2", "--rounds", "3", "--threads", "1", "--no-compile"]
    assert lrn.main([*options, "--output", str(output)]) == 0
    result = json.loads(output.read_text())
    assert list(result["layers"]) == [place.name for place in lrn.places(spec.load("fashion-mini"))]
    for found in result["layers"].values():
        assert [(one["form"], one["layout"], len(one["seconds"])) for one in found] == [
            ("usual", "NCHW", 3),
            ("usual", "NHWC", 3),
            ("ours", "NCHW", 3),
            ("ours", "NHWC", 3),
        ]
    assert "  1.0x  " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--spec", "torchvision"], "torchvision must have a layer of lrn. Received: none"),
        (["--spec", "alexnet-2031"], "alexnet-2031"),
        (["--output", "lrn.txt"], "lrn.txt"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(options, said, capsys):
    assert lrn.main(options) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
