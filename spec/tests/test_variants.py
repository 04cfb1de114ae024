"""README, "Provenance": the variants' numbers to the digit, a checkable source for every value and result."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest

import spec
from spec.items import items, material
from spec.loading import MODELS
from spec.provenance import paths
from spec.sources import SOURCES, fault, file_pointers, missing, parts

# parameters, MACs, those of the convolutions, outputs of the learned layers; see the papers and sources of each
NUMBERS = {
    "paper-2012": (60_965_224, 724_406_816, 2_334_080, 665_784_864, 659_272),
    "source-2012": (60_965_224, 724_406_816, 2_334_080, 665_784_864, 659_272),
    "source-2012-half": (59_798_312, 391_514_384, 1_167_168, 332_892_432, 355_864),
    "source-2012-nonoverlap": (60_965_224, 686_891_552, 2_334_080, 628_269_600, 633_416),
    "source-2012-nolrn": (60_965_224, 724_406_816, 2_334_080, 665_784_864, 659_272),
    # the two towers' second dense layers have 2048 units each, as layers-150.cfg says
    "source-2012-nocomm": (60_714_408, 724_323_872, 2_079_168, 665_701_920, 710_024),
    "source-2012-conv6": (61_555_304, 745_640_480, 2_924_160, 687_018_528, 668_488),
    "caffe-alexnet": (60_965_224, 724_406_816, 2_334_080, 665_784_864, 659_272),
    "caffenet": (60_965_224, 724_406_816, 2_334_080, 665_784_864, 659_272),
    "single-stream": (62_378_344, 1_135_256_096, 3_747_200, 1_076_634_144, 659_272),
    "pool-before-norm": (62_378_344, 1_135_256_096, 3_747_200, 1_076_634_144, 659_272),
    "owt-2014": (61_100_840, 714_188_480, 2_469_696, 655_566_528, 494_184),
    "owt-384": (61_838_248, 838_788_800, 3_207_104, 780_166_848, 515_816),
    "torchvision": (61_100_840, 714_188_480, 2_469_696, 655_566_528, 494_184),
    "slim-v2": (50_303_912, 736_555_776, 3_207_104, 689_468_160, 473_064),
    "onnx-zoo": (60_965_224, 654_560_384, 2_334_080, 595_938_432, 609_640),
    "lenet-5": (61_706, 416_520, 50_692, 405_600, 6_518),
    "zfnet": (62_357_608, 1_168_032_896, 3_726_464, 1_109_410_944, 1_516_904),
    "vgg-16": (138_357_544, 15_470_264_320, 14_714_688, 15_346_630_656, 13_556_712),
}
MAPS = {
    "paper-2012": "conv1 55, pool1 27, conv2 27, pool2 13, conv5 13, pool5 6",
    "source-2012-nonoverlap": "conv1 55, pool1 28, conv2 26, pool2 13, conv5 11, pool5 6",
    "source-2012-conv6": "pool5 6, conv6 6",
    "torchvision": "conv1 55, pool1 27, pool2 13, pool5 6",
    "slim-v2": "conv1 54, pool1 26, pool2 12, pool5 5",
    "onnx-zoo": "conv1 54, pool1 26, pool2 12, pool5 6",
    "caffenet": "conv1 55, pool1 27, norm1 27, pool2 13, norm2 13, pool5 6",
    "cifar-13pct": "pool1 16, pool2 8, local3 8, local4 8",
    "cifar-11pct": "pool1 12, pool2 6, local3 6, local4 6",
    "zfnet": "conv1 110, pool1 55, conv2 26, pool2 13, conv3 13, pool5 6",
    "vgg-16": "pool1 112, pool2 56, pool3 28, pool4 14, pool5 7",
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers(name: str) -> None:
    network = spec.geometry(spec.load(name))
    convolutions = [layer for layer in network.layers if layer.layer.op == "conv"]
    found = (
        network.parameter_count,
        network.macs,
        sum(layer.parameter_count for layer in convolutions),
        sum(layer.macs for layer in convolutions),
        sum(math.prod(layer.output_shape) for layer in network.layers if layer.parameters),
    )
    assert found == NUMBERS[name]


@pytest.mark.parametrize("name", MAPS)
def test_maps(name: str) -> None:
    network = spec.geometry(spec.load(name))
    found = [
        f"{layer} {network[layer].output_shape[1]}" for layer in (word.split()[0] for word in MAPS[name].split(", "))
    ]
    assert ", ".join(found) == MAPS[name]


def test_every_variant_is_here() -> None:
    assert set(spec.names()) == NUMBERS.keys() | {"cifar-13pct", "cifar-11pct", "fashion-mini"}


# --- sources ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", spec.names())
def test_every_value_is_stated_and_sourced(name: str) -> None:
    """No value of a variant is a silent default, and each has a pointer that can be checked."""
    variant = spec.load(name)
    known = items(variant)
    unstated = [path for path in material(variant) if not known[path].origins]
    assert unstated == []
    faults = {
        path: fault(origin.source or "")
        for path in material(variant)
        for origin in known[path].origins
        if fault(origin.source or "")
    }
    assert faults == {}


@pytest.mark.parametrize("name", spec.names())
def test_what_a_variant_removes_and_moves_is_sourced(name: str) -> None:
    faults = {path: fault(o.source or "") for path, o in spec.load(name).origins.items() if fault(o.source or "")}
    assert faults == {}


@pytest.mark.parametrize("name", spec.names())
def test_every_result_has_a_checkable_source(name: str) -> None:
    for result in spec.load(name).expect.results:
        assert fault(result.source) is None, result
        assert not result.source.startswith("chosen here")
        assert result.top1_error is not None or result.top5_error is not None


def test_the_paper_s_results_are_recorded_by_the_source() -> None:
    """To every digit that the paper prints."""
    recorded = [r for name in spec.names() if name.startswith("source") for r in spec.load(name).expect.results]
    for result in spec.load("paper-2012").expect.results:
        if "average" not in result.protocol:
            alike = (r for r in recorded if r.dataset == result.dataset and r.protocol == result.protocol)
            assert any(
                round(r.top1_error or 0, 3) == result.top1_error and round(r.top5_error or 0, 3) == result.top5_error
                for r in alike
            ), result


def test_the_ablations_lose_what_the_paper_says() -> None:
    """README, "Expectations": 1.7 / 1.2 for two GPUs, 1.4 / 1.2 for normalisation, 0.4 / 0.3 for overlap."""

    def error(name: str, dataset: str) -> tuple[float, float]:
        found = next(
            r for r in spec.load(name).expect.results if r.dataset == dataset and r.protocol == "ten crops"
        )  # fmt: skip
        assert found.top1_error is not None
        assert found.top5_error is not None
        return found.top1_error, found.top5_error

    claims = [
        ("source-2012-half", "ILSVRC-2010 test", 1.7, 1.2),
        ("source-2012-nolrn", "ILSVRC-2012 validation", 1.4, 1.2),
        ("source-2012-nonoverlap", "ILSVRC-2012 validation", 0.4, 0.3),
    ]
    for name, dataset, top1, top5 in claims:
        lost = [100 * (a - b) for a, b in zip(error(name, dataset), error("source-2012", dataset), strict=True)]
        assert [round(x, 1) for x in lost] == pytest.approx([top1, top5], abs=0.051), name


@pytest.mark.parametrize(
    "source",
    [
        "PAPER §3.5 s12",
        "PAPER §5 s1 s4",
        "PAPER Table 2",
        "PAPER fn 5",
        'VGG14 §3.1 "The batch size was set to 256"',
        "CHM@2f8b81f layers/layers-145.cfg [conv1a] filters=48",
        'CHM@2f8b81f layers/layers-145.cfg [conv1a] filters=48 "some words"',
        'CAFFE@9b89154 models/bvlc_alexnet/train_val.prototxt [norm1] bottom: "pool1"',
        "chosen here: because nobody says it; nobody at all",
        "PAPER §5 s1; CHM@2f8b81f layers/layers-145.cfg [conv1a] filters=48; chosen here: two sources and a reason",
    ],
)
def test_pointers_that_can_be_checked(source: str) -> None:
    assert fault(source) is None


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("", "must say something"),
        ("PAPER", "none of the sources"),
        ("PAPER §3.5", "section and sentence"),
        ("PAPER somewhere", "section and sentence"),
        ("VGG14 §3.1", "section and sentence"),
        ("CHM layers/layers-145.cfg [conv1a] filters=48", "must name one of the commits 2f8b81f"),
        ("CHM@0000000 layers/layers-145.cfg [conv1a] filters=48", "must name one of the commits 2f8b81f"),
        ("CHM@2f8b81f layers/layers-145.cfg", "must be followed by"),
        ("CHM@2f8b81f layers/layers-145.cfg [conv1a]", "must be followed by"),
        ("BLOG@2f8b81f a.py [x] y=1", "'BLOG' is none of the sources"),
        ("the original code", "none of the sources"),
        ("chosen here: obvious", "must say why"),
        ("PAPER §5 s1; somewhere else", "none of the sources"),
    ],
)
def test_pointers_that_are_too_wide_to_check(source: str, why: str) -> None:
    assert why in (fault(source) or "")


def test_a_choice_may_hold_semicolons() -> None:
    assert parts("PAPER §5 s1; chosen here: a; b; c") == ("PAPER §5 s1", "chosen here: a; b; c")


TEXTS = {
    "layers/layers-145.cfg": (
        "[conv1a]\nfilters=48\ninitW=0.01\n\n[conv2a]\nfilters=128\n\n# epoch 25: set epsw to 0.001\n"
    ),
    "train_val.prototxt": (
        'layer {\n  name: "conv1"\n  convolution_param {\n    value: 0.1\n  }\n}\n'
        'layer {\n  name: "norm1"\n  bottom: "pool1"\n}\n'
    ),
}


@pytest.mark.parametrize(
    ("source", "absent"),
    [
        ("CHM@2f8b81f layers/layers-145.cfg [conv1a] filters=48 [conv2a] filters=128", ()),
        ("CHM@2f8b81f layers/layers-145.cfg [conv1a] filters=128", ("[conv1a] filters 128",)),
        ("CHM@2f8b81f layers/layers-145.cfg [conv1a] outputs=48", ("[conv1a] outputs 48",)),
        ("CHM@2f8b81f layers/layers-145.cfg [conv9a] filters=48", ("[conv9a] filters 48",)),
        ("CHM@2f8b81f layers/layers-145.cfg [conv2a] initW=0.01", ("[conv2a] initW 0.01",)),
        ('CHM@2f8b81f layers/layers-145.cfg "epoch 25: set epsw to 0.001"', ()),
        ('CHM@2f8b81f layers/layers-145.cfg "epoch 26"', ("epoch 26",)),
        ("CAFFE@9b89154 train_val.prototxt [conv1] value: 0.1", ()),
        ("CAFFE@9b89154 train_val.prototxt [norm1] value: 0.1", ("[norm1] value 0.1",)),
        ('CAFFE@9b89154 train_val.prototxt [norm1] bottom: "pool1"', ()),
    ],
)
def test_pointers_are_looked_up(source: str, absent: tuple[str, ...]) -> None:
    (pointer,) = file_pointers(source)
    assert missing(pointer, lambda _, __, path: TEXTS[path]) == absent


def pointers() -> Iterator[tuple[str, str]]:
    for name in spec.names():
        loaded = spec.load(name)
        for path, origin in loaded.origins.items():
            if origin.name == name and origin.source:
                yield f"{name} {path}", origin.source
        yield from ((f"{name} results", result.source) for result in loaded.expect.results)


def test_every_source_is_used_and_every_key_of_provenance_is_a_path() -> None:
    used = {word for _, source in pointers() for word in SOURCES if word in source}
    assert used == SOURCES.keys()
    for name in spec.names():
        text = (MODELS / f"{name}.yaml").read_text(encoding="utf-8")
        assert len(text.splitlines()) < 250
        assert max(map(len, text.splitlines())) <= 330, name
    assert list(itertools.islice(paths("a.{b,c}"), 3)) == [("a", "b"), ("a", "c")]
