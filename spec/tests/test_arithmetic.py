"""README, "Windows" and "Arithmetic": shapes, explicit padding, parameters and MACs."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import spec
from spec import SpecError
from spec.arithmetic import MAX_ELEMENTS, GeometryError, follow
from spec.language import AvgPool, Conv, Dense, Flatten, Layer, Local, Lrn, MaxPool, Padding, Relu, Size, SpatialNorm

# Parameters, MACs, those of the convolutions, outputs of the learned layers, maps after conv1 and the pools.
NUMBERS = {
    "paper-2012": (60_965_224, 724_406_816, 2_334_080, 665_784_864, 659_272, (55, 27, 13, 6)),
    "source-2012": (60_965_224, 724_406_816, 2_334_080, 665_784_864, 659_272, (55, 27, 13, 6)),
    "caffenet": (60_965_224, 724_406_816, 2_334_080, 665_784_864, 659_272, (55, 27, 13, 6)),
    "single-stream": (62_378_344, 1_135_256_096, 3_747_200, 1_076_634_144, 659_272, (55, 27, 13, 6)),
    "torchvision": (61_100_840, 714_188_480, 2_469_696, 655_566_528, 494_184, (55, 27, 13, 6)),
}
LAYERS = {
    "paper-2012": {
        "conv1": (34_944, 105_415_200),
        "conv2": (307_456, 223_948_800),
        "conv3": (885_120, 149_520_384),
        "conv4": (663_936, 112_140_288),
        "conv5": (442_624, 74_760_192),
        "fc6": (37_752_832, 37_748_736),
        "fc7": (16_781_312, 16_777_216),
        "fc8": (4_097_000, 4_096_000),
    },
    "single-stream": {
        "conv2": (614_656, 447_897_600),
        "conv4": (1_327_488, 224_280_576),
        "conv5": (884_992, 149_520_384),
    },
    "torchvision": {
        "conv1": (23_296, 70_276_800),
        "conv2": (307_392, 223_948_800),
        "conv3": (663_936, 112_140_288),
        "conv4": (884_992, 149_520_384),
        "conv5": (590_080, 99_680_256),
    },
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_variant_has_its_published_numbers(name: str) -> None:
    network = spec.geometry(spec.load(name))
    convolutions = [layer for layer in network.layers if layer.layer.op == "conv"]
    learned = [layer for layer in network.layers if layer.parameters]
    maps = [network["conv1"].output_shape[1], *(network[pool].output_shape[1] for pool in ("pool1", "pool2", "pool5"))]
    found = (
        network.parameter_count,
        network.macs,
        sum(layer.parameter_count for layer in convolutions),
        sum(layer.macs for layer in convolutions),
        sum(math.prod(layer.output_shape) for layer in learned),
        tuple(maps),
    )
    assert found == NUMBERS[name]


@pytest.mark.parametrize("name", LAYERS)
def test_the_layers_of_a_variant_have_their_published_numbers(name: str) -> None:
    network = spec.geometry(spec.load(name))
    found = {layer: (network[layer].parameter_count, network[layer].macs) for layer in LAYERS[name]}
    assert found == LAYERS[name]


def test_the_paper_s_224_pixels_give_55_maps_by_three_zeros_at_the_far_edges() -> None:
    conv1 = spec.geometry(spec.load("paper-2012"))["conv1"]
    assert conv1.output_shape == (96, 55, 55)
    assert conv1.padding == Padding(top=0, bottom=3, left=0, right=3)


def test_output_bytes_are_those_of_float32() -> None:
    network = spec.geometry(spec.load("paper-2012"))
    found = {name: network[name].output_bytes for name in ("conv1", "pool1", "conv2", "pool2", "fc8")}
    assert found == {"conv1": 1_161_600, "pool1": 279_936, "conv2": 746_496, "pool2": 173_056, "fc8": 4_000}


# --- windows, against an enumeration that knows nothing of the formulas -----------------------------------------------


def windows(length: int, before: int, after: int, kernel: int, stride: int, rounding: str, pool: bool) -> list[int]:
    """Where each window begins, in padded coordinates, by trying them one after another."""
    end = length + before + after
    begins: list[int] = []
    position = 0
    while position + kernel <= end:
        begins.append(position)
        position += stride
    covered = begins and begins[-1] + kernel >= end
    if rounding == "ceil" and begins and not covered:
        begins.append(position)
    if pool:
        begins = [begin for begin in begins if begin < length + before]
    return begins


@settings(max_examples=400, deadline=None)
@given(
    length=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    kernel=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    stride=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    pads=st.tuples(*[st.integers(0, 6)] * 4),
    rounding=st.sampled_from(["floor", "ceil"]),
    op=st.sampled_from(["conv", "max_pool", "avg_pool"]),
)
def test_windows_are_those_that_enumeration_finds(
    length: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pads: tuple[int, int, int, int],
    rounding: Any,
    op: str,
) -> None:
    top, bottom, left, right = pads
    pool = op != "conv"
    assume(not pool or (max(top, bottom) < kernel[0] and max(left, right) < kernel[1]))
    sides = Padding(top=top, bottom=bottom, left=left, right=right)
    window = {
        "kernel": Size(height=kernel[0], width=kernel[1]),
        "stride": Size(height=stride[0], width=stride[1]),
        "padding": sides,
        "rounding": rounding,
    }
    layer: Layer
    if op == "conv":
        layer = Conv(op="conv", name="x", out_channels=3, **window)
    elif op == "max_pool":
        layer = MaxPool(op="max_pool", name="x", **window)
    else:
        layer = AvgPool(op="avg_pool", name="x", divisor="window", **window)
    rows = windows(length[0], top, bottom, kernel[0], stride[0], rounding, pool)
    columns = windows(length[1], left, right, kernel[1], stride[1], rounding, pool)
    if not rows or not columns:
        with pytest.raises(GeometryError, match="the kernel must fit into the padded map"):
            follow((3, *length), (layer,))
        return
    found = follow((3, *length), (layer,)).layers[0]
    assert found.output_shape == (3, len(rows), len(columns))
    padding = found.padding
    assert padding is not None
    assert (padding.top, padding.left) == (top, left)
    assert padding.bottom >= bottom
    assert padding.right >= right
    # with the explicit padding, rounding down gives the same windows, and each lies inside
    assert windows(length[0], top, padding.bottom, kernel[0], stride[0], "floor", False) == rows
    assert windows(length[1], left, padding.right, kernel[1], stride[1], "floor", False) == columns


def pooled(size: int, **fields: Any) -> tuple[int, ...]:
    return follow((1, size, size), (MaxPool(op="max_pool", name="pool", **fields),)).output_shape


def test_a_last_pooling_window_over_padding_alone_is_dropped() -> None:
    # over 1 + 5 + 1, rounding up adds a fourth window, which begins at 6, behind the map
    assert pooled(5, kernel=2, stride=2, padding=1, rounding="floor") == (1, 3, 3)
    assert pooled(5, kernel=2, stride=2, padding=1, rounding="ceil") == (1, 3, 3)
    assert pooled(6, kernel=2, stride=2, padding=1, rounding="ceil") == (1, 4, 4)
    assert pooled(55, kernel=2, stride=2, rounding="ceil") == (1, 28, 28)
    assert pooled(55, kernel=2, stride=2, rounding="floor") == (1, 27, 27)


# --- parameters, MACs and what does not fit ---------------------------------------------------------------------------


def test_local_layers_have_a_weight_for_every_place() -> None:
    layer = Local(op="local", name="local3", out_channels=8, kernel=Size(height=3, width=3), groups=2)
    found = follow((4, 5, 6), (layer,)).layers[0]
    assert found.parameters == {"local3.weight": (8, 2, 3, 3, 3, 4), "local3.bias": (8, 3, 4)}
    assert found.macs == 8 * 2 * 3 * 3 * 3 * 4


def test_grouped_dense_layers_divide_their_inputs() -> None:
    found = follow((12,), (Dense(op="dense", name="fc", out_features=6, groups=3, bias=False),)).layers[0]
    assert found.parameters == {"fc.weight": (6, 4)}
    assert found.macs == 24


def conv(**fields: Any) -> Conv:
    stated: dict[str, Any] = {"op": "conv", "name": "c", "out_channels": 4, "kernel": Size(height=3, width=3)}
    return Conv(**(stated | fields))


LRN: dict[str, Any] = {"name": "n", "alpha": 1.0, "beta": 0.5, "k": 1.0}
MISFITS: list[tuple[tuple[int, ...], Layer, str]] = [
    ((3, 8, 8), conv(groups=2), "layers.c.groups: groups must divide the 3 input channels. Received: 2."),
    ((6, 8, 8), conv(groups=3), "layers.c.groups: groups must divide the 4 output channels. Received: 3."),
    ((3, 2, 8), conv(), "layers.c.kernel: the kernel must fit into the padded map of 2x8. Received: 3x3."),
    ((9,), conv(), "layers.c.op: conv must stand on maps (C, H, W). Received: (9,)."),
    ((3, 8, 8), Dense(op="dense", name="d", out_features=2), "layers.d.op: dense must stand on a vector"),
    ((9,), Dense(op="dense", name="d", out_features=4, groups=2), "layers.d.groups: groups must divide the 9 input"),
    ((9,), Dense(op="dense", name="d", out_features=4, groups=3), "layers.d.groups: groups must divide the 4 output"),
    ((9,), Lrn(op="lrn", size=3, alpha_over="one", **LRN), "layers.n.op: lrn must stand on maps"),
    ((9,), SpatialNorm(op="spatial_norm", size=3, alpha_over="one", **LRN), "layers.n.op: spatial_norm must stand"),
    ((9, 2, 2), Lrn(op="lrn", size=3, alpha_over="one", groups=2, **LRN), "layers.n.groups: groups must divide the 9"),
    ((3, 8, 8), conv(padding=Padding(top=2**31 - 1, bottom=0, left=2**31 - 1, right=0)), "must have at most"),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "layer", "message"), MISFITS)
def test_a_layer_that_does_not_fit_says_why(shape: tuple[int, ...], layer: Layer, message: str) -> None:
    with pytest.raises(GeometryError) as caught:
        follow(shape, (layer,))
    assert message in str(caught.value)


@pytest.mark.parametrize("side", ["top", "bottom", "left", "right"])
def test_a_pool_s_padding_must_be_less_than_its_kernel(side: str) -> None:
    pads = dict.fromkeys(("top", "bottom", "left", "right"), 0) | {side: 2}
    with pytest.raises(GeometryError, match=f"padding.{side} of a pool must be less than its kernel"):
        pooled(9, kernel=2, stride=2, padding=pads)


def test_no_tensor_has_more_elements_than_the_limit() -> None:
    wide = Dense(op="dense", name="d", out_features=2**20)
    assert follow((MAX_ELEMENTS // 2**20,), (wide,)).macs == MAX_ELEMENTS
    with pytest.raises(GeometryError, match="must have at most"):
        follow((MAX_ELEMENTS // 2**20 + 1,), (wide,))


def test_dropout_shapes_are_of_the_layers_that_drop() -> None:
    alexnet = spec.load("source-2012")
    assert spec.dropout_shapes(alexnet) == {"drop6": (4096,), "drop7": (4096,)}
    undropped = spec.load("source-2012", {"layers": {"drop6": {"rate": 0}}})
    assert spec.dropout_shapes(undropped) == {"drop7": (4096,)}


def test_shapes_follow_from_layer_to_layer() -> None:
    layers = (conv(), Relu(op="relu", name="r"), Flatten(op="flatten", name="f"))
    followed = follow((3, 8, 8), layers).layers
    assert [layer.output_shape for layer in followed] == [(4, 6, 6), (4, 6, 6), (144,)]
    assert [layer.input_shape for layer in followed] == [(3, 8, 8), (4, 6, 6), (4, 6, 6)]


def test_with_classes_changes_the_last_dense_layer_alone() -> None:
    alexnet = spec.load("source-2012")
    narrow = spec.with_classes(alexnet, 10)
    assert spec.geometry(narrow).output_shape == (10,)
    assert narrow.expect.parameters is None
    assert narrow.layers[:-1] == alexnet.layers[:-1]
    assert spec.with_classes(alexnet, 1000) is alexnet
    with pytest.raises(SpecError, match="must be greater than 0"):
        spec.with_classes(alexnet, 0)
