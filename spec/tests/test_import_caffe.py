"""Importing Caffe's network and solver: every value sourced, what is left out named; hostile files of both kinds."""

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
    SECTIONS,
    Imported,
    Inexpressible,
    compare,
    import_files,
)


def caffe_layer(name: str, kind: str, bottom: str, top: str, body: str = "") -> str:
    return f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{top}"\n{body} }}\n'


def filled(std: float, bias: float) -> str:
    return f'weight_filler {{ type: "gaussian" std: {std} }} bias_filler {{ type: "constant" value: {bias} }}'


LEARN = "param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }"


def caffenet(changes: Mapping[str, str] | None = None) -> str:
    """The reference network of Caffe in its words, with replaced pieces of text."""

    def convolution(number: int, bottom: str, body: str, bias: float) -> str:
        name = f"conv{number}"
        param = f"{LEARN} convolution_param {{ {body} {filled(0.01, bias)} }}"
        return caffe_layer(name, "Convolution", bottom, name, param) + caffe_layer(f"relu{number}", "ReLU", name, name)

    def pooled(number: int, bottom: str) -> str:
        body = "pooling_param { pool: MAX kernel_size: 3 stride: 2 }"
        return caffe_layer(f"pool{number}", "Pooling", bottom, f"pool{number}", body)

    def normed(number: int) -> str:
        body = "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }"
        return caffe_layer(f"norm{number}", "LRN", f"pool{number}", f"norm{number}", body)

    def dense(number: int, bottom: str, outputs: int, std: float, bias: float) -> str:
        body = f"{LEARN} inner_product_param {{ num_output: {outputs} {filled(std, bias)} }}"
        return caffe_layer(f"fc{number}", "InnerProduct", bottom, f"fc{number}", body)

    def relu_drop(number: int) -> str:
        name = f"fc{number}"
        drop = caffe_layer(f"drop{number}", "Dropout", name, name, "dropout_param { dropout_ratio: 0.5 }")
        return caffe_layer(f"relu{number}", "ReLU", name, name) + drop

    def data(phase: str, mirror: str, batch: int) -> str:
        transform = f'transform_param {{ mirror: {mirror} crop_size: 227 mean_file: "mean.binaryproto" }}'
        source = f'data_param {{ source: "x" batch_size: {batch} backend: LMDB }}'
        tops = f'name: "data" type: "Data" top: "data" top: "label" include {{ phase: {phase} }}'
        return f"layer {{ {tops} {transform} {source} }}\n"

    text = (
        'name: "Reference"\n'
        + data("TRAIN", "true", 256)
        + data("TEST", "false", 50)
        + convolution(1, "data", "num_output: 96 kernel_size: 11 stride: 4", 0)
        + pooled(1, "conv1")
        + normed(1)
        + convolution(2, "norm1", "num_output: 256 pad: 2 kernel_size: 5 group: 2", 1)
        + pooled(2, "conv2")
        + normed(2)
        + convolution(3, "norm2", "num_output: 384 pad: 1 kernel_size: 3", 0)
        + convolution(4, "conv3", "num_output: 384 pad: 1 kernel_size: 3 group: 2", 1)
        + convolution(5, "conv4", "num_output: 256 pad: 1 kernel_size: 3 group: 2", 1)
        + pooled(5, "conv5")
        + dense(6, "pool5", 4096, 0.005, 1)
        + relu_drop(6)
        + dense(7, "fc6", 4096, 0.005, 1)
        + relu_drop(7)
        + dense(8, "fc7", 1000, 0.01, 0)
        + 'layer { name: "accuracy" type: "Accuracy" bottom: "fc8" bottom: "label" top: "a" include { phase: TEST } }\n'
        + 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc8" bottom: "label" top: "loss" }\n'
    )
    for old, new in (changes or {}).items():
        assert old in text
        text = text.replace(old, new)
    return text


SOLVER = """net: "train_val.prototxt"  # where it is
test_iter: 1000
base_lr: 0.01
lr_policy: "step"
gamma: 0.1
stepsize: 100000
max_iter: 450000
momentum: 0.9
weight_decay: 0.0005
solver_mode: GPU
"""


@pytest.fixture
def prototxt(tmp_path: Path) -> Callable[..., Imported]:
    def make(network: str | None = None, solver: str = SOLVER, shape: tuple[int, int, int] | None = None) -> Imported:
        one, other = tmp_path / "train_val.prototxt", tmp_path / "solver.prototxt"
        one.write_text(caffenet() if network is None else network)
        other.write_text(solver)
        return import_files([other, one], shape)

    return make


def test_the_reference_network_is_caffenet_in_every_section(prototxt):
    imported = prototxt()
    assert compare(imported.spec, spec.load("caffenet"), SECTIONS) == []
    assert imported.whole
    assert imported.spec.training.epochs == spec.load("caffenet").training.epochs
    assert [path for path, origin in imported.spec.origins.items() if origin.source is None] == []


@pytest.mark.parametrize(
    ("changes", "solver", "path"),
    [
        ({"alpha: 0.0001": "alpha: 0.0002"}, {}, "architecture: layer 3 (lrn) alpha"),
        ({"group: 2": "group: 1"}, {}, "architecture: layer 4 (conv) groups"),
        ({"std: 0.005": "std: 0.01"}, {}, "initialisation: layer 16 weight"),
        ({"lr_mult: 2": "lr_mult: 1"}, {}, "learning rate: layer 0 bias"),
        ({"decay_mult: 0": "decay_mult: 1"}, {}, "weight decay: layer 0 bias"),
        ({"mirror: true": "mirror: false"}, {}, "data: flip"),
        ({'mean_file: "mean.binaryproto"': "mean_value: 104 mean_value: 117 mean_value: 123"}, {}, "data: mean"),
        ({"batch_size: 256": "batch_size: 128"}, {}, "batch: size"),
        ({}, {"momentum: 0.9": "momentum: 0.95"}, "momentum: momentum"),
        ({}, {"gamma: 0.1": "gamma: 0.5"}, "learning rate: layer 0 weight"),
        ({"pool: MAX": "pool: AVE"}, {}, "architecture: layer 2 (avg_pool) op"),
    ],
)
def test_every_changed_word_of_caffes_is_found(prototxt, changes, solver, path):
    text = SOLVER
    for old, new in solver.items():
        text = text.replace(old, new)
    found = compare(prototxt(caffenet(changes), text).spec, spec.load("caffenet"), SECTIONS)
    assert path in [difference.path for difference in found]


def test_caffes_test_layers_and_run_settings_are_left_out(prototxt):
    imported = prototxt()
    left = {item.field: item.why for item in imported.left_out}
    assert "test" in left["layer accuracy.type"]
    assert "run" in left["solver_mode"]
    assert not any(item.matters for item in imported.left_out)


def test_a_schedule_that_the_language_lacks_matters(prototxt):
    imported = prototxt(solver=SOLVER.replace('"step"', '"inv"'))
    assert [item.field for item in imported.left_out if item.matters] == ["lr_policy"]


def test_gradients_summed_over_several_passes_are_one_batch(prototxt):
    assert prototxt(solver=SOLVER + "iter_size: 2\n").spec.training.batch_size == 512


LENET = (
    'layer { name: "d" type: "Data" top: "data" top: "label" '
    "transform_param { scale: 0.00390625 } data_param { batch_size: 64 } }"
    + caffe_layer(
        "c",
        "Convolution",
        "data",
        "c",
        'convolution_param { num_output: 20 kernel_h: 5 kernel_w: 3 stride: 1 weight_filler { type: "xavier" } }',
    )
    + caffe_layer("p", "Pooling", "c", "p", "pooling_param { pool: AVE kernel_size: 2 stride: 2 }")
    + caffe_layer("n", "LRN", "p", "n", "lrn_param { local_size: 3 alpha: 5e-05 norm_region: WITHIN_CHANNEL }")
    + caffe_layer(
        "i", "InnerProduct", "n", "i", 'inner_product_param { num_output: 10 weight_filler { type: "msra" } }'
    )
    + 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "i" bottom: "label" }'
)


def test_fillers_shapes_and_norms_of_caffe(prototxt):
    imported = prototxt(LENET, shape=(1, 28, 28))
    built: Any = imported.spec
    assert (built.layer("c").kernel.height, built.layer("c").kernel.width) == (5, 3)
    assert spec.geometry(built).output_shape == (10,)
    assert built.layer("n").coefficient == pytest.approx(5e-5 / 9, rel=1e-12)
    assert built.init.of("c.weight").model_dump() == {
        "kind": "variance_scaling", "scale": 1.0, "fan": "fan_in", "distribution": "uniform"
    }  # fmt: skip
    assert built.init.of("i.weight").distribution == "normal"
    assert built.init.of("i.weight").scale == 2
    assert built.layer("p").divisor == "inside"
    assert built.data.scale == 0.00390625


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (LENET.replace("kernel_h: 5", "kernel_h: 5 dilation: 2"), "dilation: must be 1"),
        (LENET.replace("pool: AVE", "pool: STOCHASTIC"), "must be MAX or AVE"),
        (LENET.replace("pool: AVE", "pool: AVE pad: 1"), "an average must have no padding"),
        (LENET.replace('"LRN"', '"BatchNorm"'), "must be one of Convolution"),
        (LENET.replace('bottom: "p"', 'bottom: "c"'), "must form a chain"),
        (LENET.replace("SoftmaxWithLoss", "EuclideanLoss"), "must be one of"),
        (LENET.replace('"msra"', '"bilinear"'), "must be constant, gaussian"),
    ],
)
def test_what_the_language_cannot_say_of_caffes_is_named(prototxt, network, words):
    with pytest.raises(Inexpressible, match=words):
        prototxt(network, shape=(1, 28, 28))


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (LENET + "}", "must be a field's name"),
        (LENET.replace("num_output: 20", "num_output: many"), r"layer c.convolution_param.num_output: must be a whole"),
        (LENET.replace("num_output: 20", "num_output: { }"), "must be a value"),
        (LENET + "layer { " * 30, "nest at most"),
        (LENET + "layer {", "the end of the file"),
        (LENET.replace('type: "Data"', "type: @"), "protobuf text"),
        ('layers { name: "x" }', "upgrade_net_proto_text"),
        (LENET.replace("local_size: 3", "local_size: 4"), "must be odd"),
        (LENET.replace("stride: 2 }", "stride: 2 } pooling_param { }"), "must be stated once"),
    ],
)
def test_wrong_prototxt_is_named_with_file_and_field(prototxt, network, words):
    with pytest.raises(SpecError, match=words):
        prototxt(network, shape=(1, 28, 28))


def test_a_network_without_a_crop_asks_for_the_inputs_size(prototxt):
    with pytest.raises(SpecError, match="--input"):
        prototxt(LENET)


# --- hostile input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".cfg", ".prototxt"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe\x00", "must be UTF-8"),
        (b"a\x00b", "must be text"),
        (b"x" * (2**20 + 1), "at most 1048576 bytes"),
        (b"", "must have"),
        (b"[a]\nthis is no field\n", "must be"),
        (b"[" + b"a" * 200 + b"]\n", "must be"),
    ],
)
def test_hostile_files_are_refused_in_one_line(tmp_path, suffix, content, words):
    files = [tmp_path / f"one{suffix}", tmp_path / f"two{suffix}"]
    for path in files:
        path.write_bytes(content)
    with pytest.raises(SpecError, match=words) as caught:
        import_files(files)
    assert "\n" not in str(caught.value)


def test_wrong_requests_are_refused(tmp_path):
    for files in ([], [tmp_path / "a.cfg"], [tmp_path / "a.cfg", tmp_path / "b.prototxt"], [tmp_path / "a.txt"] * 2):
        with pytest.raises(SpecError, match=r"must be two \.cfg files"):
            import_files(files)
    with pytest.raises(SpecError, match="readable file"):
        import_files([tmp_path / "a.cfg", tmp_path / "b.cfg"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_change_of_a_prototxt_ends_in_a_traceback(prototxt, data):
    pieces = LENET.split(" ")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(pieces) - 1))
        pieces[at] = data.draw(st.sampled_from(pieces) | st.text('{}:"0123456789.-ab', max_size=6))
    with contextlib.suppress(SpecError):
        prototxt(" ".join(pieces), shape=(1, 28, 28))
