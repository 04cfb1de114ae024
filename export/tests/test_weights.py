"""Weights in and out: bits survive every way of keeping them, and outputs are those of the networks they come from."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import spec
from backends import checkpoint, create
from export import from_weights, to_weights
from export.conversions import KERAS_AXES, Refused, from_keras, rescaled, to_keras, with_reversed_channels
from export.exporting import export_weights
from export.importing import Imported, Stated, import_weights
from spec import Spec, geometry

torch = pytest.importorskip("torch")
Arrays = dict[str, Any]


def slim(name: str = "torchvision", widths: tuple[int, ...] = (4, 6, 4, 6, 4), dense: int = 8, classes: int = 5,
         **more: Any) -> Spec:  # fmt: skip
    """A variant of eight layers with weights, made narrow."""
    layers: dict[str, Any] = {f"conv{i}": {"out_channels": width} for i, width in enumerate(widths, 1)}
    layers |= {f"fc{i}": {"out_features": width} for i, width in ((6, dense), (7, dense), (8, classes))}
    scale = more.pop("scale", None)
    layers |= {drop: {"scale": scale} for drop in ("drop6", "drop7")} if scale else {}
    return spec.load(name, {"layers": layers, **more})


def draw(of: Spec, seed: int = 0) -> Arrays:
    """Parameters of the size that keeps activations alive through eight layers."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, shape in geometry(of).parameters.items():
        deviation = math.sqrt(2 / math.prod(shape[1:])) if len(shape) > 1 else 0.1
        found[name] = rng.standard_normal(shape, np.float32) * np.float32(deviation)
    return found


def same_bits(found: Arrays, expected: Arrays) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert found[name].tobytes() == np.ascontiguousarray(value).tobytes(), name


def outputs(of: Spec, parameters: Arrays, images: Any) -> Any:
    network = create("torch", of, device="cpu")
    network.load(parameters)
    return network.predict(images)


def close(found: Any, expected: Any) -> None:
    """To the rounding of float32 products of some thousand terms."""
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


# --- torchvision ------------------------------------------------------------------------------------------------------


def published(widths: tuple[int, ...], dense: int, classes: int) -> Any:
    """torchvision's AlexNet, from what torchvision/models/alexnet.py states: two sequences around an adaptive pool."""
    nn = torch.nn
    a, b, c, d, e = widths

    class AlexNet(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(
                nn.Conv2d(3, a, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
                nn.Conv2d(a, b, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
                nn.Conv2d(b, c, 3, padding=1), nn.ReLU(),
                nn.Conv2d(c, d, 3, padding=1), nn.ReLU(),
                nn.Conv2d(d, e, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
            )  # fmt: skip
            self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
            self.classifier = nn.Sequential(
                nn.Dropout(), nn.Linear(e * 36, dense), nn.ReLU(),
                nn.Dropout(), nn.Linear(dense, dense), nn.ReLU(), nn.Linear(dense, classes),
            )  # fmt: skip

        def forward(self, x: Any) -> Any:
            return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))

    torch.manual_seed(1)
    with torch.device("meta"):  # initialised once, not twice
        made = AlexNet().eval()
    made.to_empty(device="cpu")
    for value in made.parameters():
        bound = (6 / value[0].numel()) ** 0.5 if value.ndim > 1 else 0.1
        nn.init.uniform_(value, -bound, bound)
    return made


IMAGES = np.random.default_rng(3).standard_normal((2, 3, 224, 224), np.float32)


def answer(network: Any, images: Any) -> Any:
    with torch.no_grad():
        return network(torch.from_numpy(images)).numpy()


def test_torchvisions_published_network_gives_its_outputs_here(tmp_path):
    network = published((64, 192, 384, 256, 256), 4096, 1000)
    torch.save(network.state_dict(), tmp_path / "a.pth")
    found = import_weights(tmp_path / "a.pth")
    assert found.spec.hash == spec.load("torchvision").hash
    for n in (1, 2):
        close(outputs(found.spec, found.parameters, IMAGES[:n]), answer(network, IMAGES)[:n])


@pytest.mark.parametrize("scale", ["train", "test"])
def test_narrow_ones_do_with_either_kind_of_dropout_and_either_order_of_channels(tmp_path, scale):
    network = published((4, 6, 4, 6, 4), 8, 5)
    torch.save({f"module.{name}": value for name, value in network.state_dict().items()}, tmp_path / "a.pth")
    of = slim(scale=scale, data={"channel_order": "bgr"})
    found = import_weights(tmp_path / "a.pth", Stated(of, channel_order="rgb"))
    close(outputs(of, found.parameters, IMAGES[:, ::-1].copy()), answer(network, IMAGES))
    export_weights(of, found.parameters, tmp_path / "b.pth", to="torchvision")
    back = torch.load(tmp_path / "b.pth", weights_only=True)
    for name, value in network.state_dict().items():
        assert torch.equal(value, back[name])


# --- round trips ------------------------------------------------------------------------------------------------------

SMALL = st.integers(1, 3)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    widths=st.tuples(SMALL, SMALL, SMALL, SMALL, SMALL), dense=SMALL, classes=st.integers(2, 4),
    scale=st.sampled_from(["train", "test"]), order=st.sampled_from(["rgb", "bgr"]),
    to=st.sampled_from([("torchvision", ".pth"), ("torchvision", ".safetensors"), ("safetensors", ".safetensors")]),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_every_bit_comes_back(tmp_path, widths, dense, classes, scale, order, to, seed):
    of = slim(widths=widths, dense=dense, classes=classes, scale=scale, data={"channel_order": order})
    parameters, path = draw(of, seed), tmp_path / f"file{to[1]}"
    path.unlink(missing_ok=True)
    export_weights(of, parameters, path, to=to[0], classes=tuple("abcd"[:classes]))
    if to[0] == "torchvision":
        found = import_weights(path, Stated(of, channel_order="rgb"))
    else:
        found = import_weights(path)
        assert found.classes == tuple("abcd"[:classes])
    same_bits(found.parameters, parameters)
    assert found.spec.hash == of.hash


@settings(max_examples=40, deadline=None)
@given(shape=st.sampled_from([(3,), (2, 3), (2, 3, 4), (2, 3, 4, 5), (2, 3, 4, 5, 2, 3)]))
def test_keras_axes_come_back(shape):
    value = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    same_bits({"a": from_keras(to_keras(value))}, {"a": value})
    assert to_keras(value).shape == tuple(shape[axis] for axis in KERAS_AXES.get(len(shape), range(len(shape))))


WRITER = """
import json, sys
from pathlib import Path
import numpy as np, spec
from export import from_weights, to_weights
folder = Path(sys.argv[1])
for path in sorted(folder.glob("*/imported.safetensors")):
    for ending in (".weights.h5", ".keras") if path.parent.name == "torchvision" else (".weights.h5",):
        code = to_weights.main([str(path), "--to", "keras", "--output", str(path.parent / f"model{ending}")])
        assert code == 0
import keras
images = keras.Input((224, 224, 3))
x = images
for i, (filters, kernel, stride) in enumerate([(4, 11, 4), (6, 5, 1), (4, 3, 1), (6, 3, 1), (4, 3, 1)], 1):
    x = keras.layers.ZeroPadding2D({11: 2, 5: 2, 3: 1}[kernel])(x)
    x = keras.layers.Conv2D(filters, kernel, strides=stride, name=f"conv{i}", activation="relu")(x)
    x = keras.layers.MaxPooling2D(3, 2)(x) if i in (1, 2, 5) else x
x = keras.layers.Flatten()(x)
for i, units in ((6, 8), (7, 8)):
    x = keras.layers.Dense(units, activation="relu", name=f"fc{i}")(keras.layers.Dropout(0.5)(x))
model = keras.Model(images, keras.layers.Dense(5, name="fc8")(x))
model.save(folder / "stock.keras")
model.save_weights(folder / "stock.weights.h5")
given = np.random.default_rng(3).standard_normal((2, 3, 224, 224), np.float32)
np.save(folder / "stock.npy", np.asarray(model.predict(given.transpose(0, 2, 3, 1), verbose=0)))
"""


def test_keras_files_come_back_and_a_stock_models_are_turned(tmp_path):
    pytest.importorskip("keras")
    expected = {}
    for name in ("caffe-alexnet", "fashion-mini", "torchvision"):
        of = spec.load(name) if name == "fashion-mini" else None
        of = of or (slim() if name == "torchvision" else slim("caffe-alexnet", (4, 4, 6, 4, 4), dense=6))
        expected[name] = (of, draw(of))
        found = Imported(of, expected[name][1], tuple(map(str, range(geometry(of).output_shape[0]))), {},
                                      "", ())  # fmt: skip
        from_weights.save(found, tmp_path / name / "imported.safetensors", "test", "torch")
    environment = {**os.environ, "KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", WRITER, str(tmp_path)], check=True, env=environment, timeout=300,
                   cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL)  # fmt: skip
    for name, (of, parameters) in expected.items():
        for ending in (".weights.h5", ".keras") if name == "torchvision" else (".weights.h5",):
            stated = Stated() if name == "fashion-mini" else Stated(of)
            same_bits(import_weights(tmp_path / name / f"model{ending}", stated).parameters, parameters)
    for ending in (".keras", ".weights.h5"):
        found = import_weights(tmp_path / f"stock{ending}", Stated(slim()))
        assert any("H, W, C in the file" in line for line in found.lines)
        close(outputs(found.spec, found.parameters, IMAGES), np.load(tmp_path / "stock.npy"))


# --- what cannot be converted, and commands ---------------------------------------------------------------------------


def test_what_would_round_or_has_no_meaning_is_refused():
    of = spec.load("fashion-mini", {"layers": {"drop6": {"rate": 0.3}}})
    with pytest.raises(Refused, match="power of two"):
        rescaled(draw(of), of, "train", "test")
    tiny = {name: np.full(shape, 1e-45, np.float32) for name, shape in geometry(slim()).parameters.items()}
    with pytest.raises(Refused, match="must be exact"):
        rescaled(tiny, slim(), "test", "train")
    grouped = spec.load("fashion-mini", {"input": {"channels": 2}, "layers": {"conv1": {"groups": 2}}})
    with pytest.raises(Refused, match="begin with a convolution"):
        with_reversed_channels({}, grouped)


def test_a_checkpoint_made_of_weights_predicts_and_goes_out_again(tmp_path, capsys):
    network = published((4, 6, 4, 6, 4), 8, 5)
    torch.save(network.state_dict(), tmp_path / "a.pth")
    names = tmp_path / "names.txt"
    names.write_text("\n".join("abcde"))
    (tmp_path / "slim.yaml").write_text(
        "extends: torchvision\ntitle: narrow\nlayers:\n"
        + "".join(f"  conv{i}: {{out_channels: {n}}}\n" for i, n in enumerate((4, 6, 4, 6, 4), 1))
        + "".join(f"  fc{i}: {{out_features: {n}}}\n" for i, n in ((6, 8), (7, 8), (8, 5)))
    )
    asked = [str(tmp_path / "a.pth"), "--spec", str(tmp_path / "slim.yaml"), "--classes", str(names)]
    assert from_weights.main([*asked, "--output", str(tmp_path / "made")]) == 0
    said = capsys.readouterr().out
    for word in (
        "variant:",
        "names:",
        "layout:",
        "flatten order:",
        "channel order: rgb",
        "dropout:",
        "classes: a ... e",
    ):
        assert word in said
    path = tmp_path / "made" / "imported.safetensors"
    assert checkpoint.load(path).classes == tuple("abcde")

    from backends.evaluation.models import load_model

    close(load_model(str(path)).predict(IMAGES), answer(network, IMAGES))
    assert from_weights.main([*asked, "--output", str(path)]) == 2  # it exists
    out = ["--to", "torchvision", "--output", str(tmp_path / "b.safetensors")]
    assert to_weights.main([str(path), *out]) == 0
    assert to_weights.main([str(path), *out]) == 2
    assert import_weights(path).classes == tuple("abcde")  # a checkpoint is canonical safetensors too


def test_weights_without_names_are_evaluated_in_the_order_of_the_data(tmp_path, capsys):
    """Numbers are no names; where they are, they must be the data's."""
    from safetensors.numpy import save_file

    from backends import evaluate

    save_file(draw(spec.load("fashion-mini")), tmp_path / "w.safetensors")
    asked = [str(tmp_path / "w.safetensors"), "--spec", "fashion-mini", "--output"]
    assert from_weights.main([*asked, str(tmp_path / "made")]) == 0
    path = tmp_path / "made" / "imported.safetensors"
    capsys.readouterr()
    assert evaluate.main([str(path)]) == 2
    assert "--data must be given" in capsys.readouterr().err
    assert evaluate.main([str(path.parent)]) == 2
    assert "which holds imported.safetensors and no last.safetensors" in capsys.readouterr().err
    assert evaluate.main([str(path), "--data", "fashion-mnist-mini"]) == 0
    assert "its scores are taken to be in the order of the data's" in capsys.readouterr().out
    (tmp_path / "names.txt").write_text("\n".join("abcdefghij"))
    named = [*asked, str(tmp_path / "named"), "--classes", str(tmp_path / "names.txt")]
    assert from_weights.main(named) == 0
    assert evaluate.main([str(tmp_path / "named" / path.name), "--data", "fashion-mnist-mini"]) == 2
    assert "which it does not know" in capsys.readouterr().err
