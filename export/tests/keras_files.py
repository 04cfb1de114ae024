"""Writes Keras files for the tests of their reader, in a process of its own: ``python keras_files.py FOLDER``.

Files of whole variants are what ``model.save`` writes, without the weights, which nobody reads. In every file all names
of layers are replaced by numbers.
"""

from __future__ import annotations

import json
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from keras import layers, ops

import spec
from backends.keras.model import network


def write(folder: Path, name: str, model: keras.Model) -> None:
    """`model` as ``NAME.keras``: a zip with its configuration and nothing else."""
    names = {layer.name: f"t{number}" for number, layer in enumerate(model.layers)} | {model.name: "m"}
    config = renamed(keras.saving.serialize_keras_object(model), names)
    with zipfile.ZipFile(folder / f"{name}.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", json.dumps(config))


def renamed(value: Any, names: dict[str, str]) -> Any:
    """A configuration whose layers have other names: where they are stated, and where calls refer to them."""
    if isinstance(value, dict):
        return {
            key: names.get(item, item) if key == "name" and isinstance(item, str) else renamed(item, names)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        reference = len(value) == 3 and isinstance(value[0], str) and value[0] in names
        return [names[value[0]], *value[1:]] if reference else [renamed(item, names) for item in value]
    return value


def small(channels_first: bool = False) -> keras.Model:
    """The network of ``test_identify_onnx.small``, as one would write it with Keras' own layers and operations."""
    order = {"data_format": "channels_first" if channels_first else "channels_last"}
    axis = 1 if channels_first else -1
    image = keras.Input((3, 19, 19) if channels_first else (19, 19, 3))
    x = layers.ZeroPadding2D(2, **order)(image)
    x = layers.Conv2D(8, 5, strides=2, activation="relu", **order)(x)
    x = layers.Concatenate(axis=axis)([response(part, axis) for part in ops.split(x, 2, axis=axis)])
    x = layers.MaxPooling2D(3, 2, **order)(x)
    half = x.shape[axis] // 2
    low, high = (x[:, :half], x[:, half:]) if channels_first else (x[..., :half], x[:, :, :, half:])
    x = layers.Concatenate(axis=axis)([layers.Conv2D(6, 3, padding="same", **order)(part) for part in (low, high)])
    x = layers.Activation("relu")(x)
    x = layers.ReLU()(layers.Conv2D(8, 3, padding="same", **order)(x))
    x = layers.Dense(6, activation="relu")(layers.Flatten(**order)(x))
    return keras.Model(image, layers.Dense(4, activation="softmax")(layers.Dropout(0.5)(x)))


def response(x: Any, axis: int) -> Any:
    """x / (2 + 0.01 * sum of squares of three neighbours) ** 0.75, written with keras.ops."""
    size = x.shape[axis]
    none, before, after = (0, 0), (1, 0), (0, 1)
    square = x * x
    total = square
    for shift, pads in ((slice(0, size - 1), before), (slice(1, size), after)):
        index: list[Any] = [slice(None)] * 4
        index[axis] = shift
        sides = [none] * 4
        sides[axis] = pads
        total = ops.add(total, ops.pad(square[tuple(index)], sides))
    return x / ops.power(2.0 + 0.01 * total, 0.75)


@keras.saving.register_keras_serializable(package="elsewhere")
class LocalResponseNormalization(layers.Layer):  # type: ignore[misc]
    """Someone else's, of a name that is also ours."""


@keras.saving.register_keras_serializable(package="elsewhere")
class Conv2D(layers.Conv2D):  # type: ignore[misc]
    """Someone else's, of a name that is also Keras'."""


def foreign() -> keras.Model:
    first, last = layers.Conv2D(6, 5, activation="relu"), Conv2D(6, 5)
    return keras.Sequential([keras.Input((28, 28, 1)), first, LocalResponseNormalization(), last, layers.Flatten()])


def main(folder: Path) -> None:
    for name in spec.names():
        write(folder, name, network(spec.load(name), "float32", lambda _: "zeros"))
        keras.backend.clear_session()
    write(folder, "small", small())
    write(folder, "channels-first", small(channels_first=True))
    hidden = layers.Lambda(lambda t: t / 2)
    inner = keras.Sequential([layers.Conv2D(8, 3, activation="tanh"), hidden, layers.BatchNormalization()])
    write(
        folder,
        "strange",
        keras.Sequential([keras.Input((9, 9, 1)), layers.Rescaling(1 / 255), inner, layers.Flatten()]),
    )
    plain = keras.Sequential(
        [keras.Input((28, 28, 1)), layers.Conv2D(6, 5), layers.AveragePooling2D(2), layers.Flatten()]
    )
    plain.save(folder / "whole.h5")
    plain.save_weights(folder / "plain.weights.h5")
    foreign().save(folder / "foreign.keras")
    foreign().save(folder / "foreign.h5")
    for name in ("fashion-mini", "cifar-11pct", "lenet-5"):
        network(spec.load(name), "float32", lambda _: "zeros").save(folder / f"{name}.h5")
    narrow = {"layers": {"fc6": {"out_features": 16}, "fc7": {"out_features": 16}}}
    network(spec.load("source-2012-nocomm", narrow), "float32", lambda _: "zeros").save(folder / "narrow.h5")
    network(spec.load("fashion-mini"), "float32", lambda _: "zeros").save(folder / "saved.keras")
    network(spec.load("fashion-mini"), "float32", lambda _: "zeros").save_weights(folder / "mini.weights.h5")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
