"""What a trained network makes of images: the vector that its classifier is given, and the scores.

The paper calls that vector the features of the last hidden layer and measures distances in it (section 6.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from backends.base import Inference
from backends.starting import RequestError
from data import Dataset, Statistics, evaluation_batches
from data.parallel import cores
from spec import Spec, geometry
from spec.language import Dropout, Flatten

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

BATCH_SIZE = 200


@dataclass(frozen=True, eq=False)
class Seen:
    """Some images, one row each."""

    pixels: F32
    """(N, C * H * W): the central crop as the network is given it."""
    features: F32
    """(N, F): the output of :func:`feature_layer`."""
    scores: F32
    """(N, classes): the logits."""
    labels: I64
    """(N,)"""


def feature_layer(spec: Spec) -> str:
    """The name of the layer whose output the classifier is given: ``relu7`` of the networks of 2012.

    The classifier is the last layer with parameters. Dropout and flatten before it are passed over: in evaluation they
    change no direction and no order of distances. Raises RequestError if nothing but the image stands before it.
    """
    layers = geometry(spec).layers
    classifier = max(place for place, layer in enumerate(layers) if layer.parameters)
    before = [layer.name for layer in layers[:classifier] if not isinstance(layer.layer, Dropout | Flatten)]
    if not before:
        name = layers[classifier].name
        raise RequestError(f"{spec.name} must have a layer before its classifier. Received: {name} on the image itself")
    return before[-1]


def see(backend: Inference, dataset: Dataset, statistics: Statistics | None) -> Iterator[Seen]:
    """What `backend`, with its parameters loaded, makes of the images of `dataset`, in their order, batch by batch."""
    spec = backend.spec
    layer, last = feature_layer(spec), spec.layers[-1].name
    workers = max(1, cores() // 2)
    for batch in evaluation_batches(dataset, spec, statistics, batch_size=BATCH_SIZE, crops="center", workers=workers):
        images = batch.images[:, 0]
        outputs = backend.outputs(images)
        yield Seen(_rows(images), _rows(outputs[layer]), _rows(outputs[last]), batch.labels)


def see_all(backend: Inference, dataset: Dataset, statistics: Statistics | None) -> Seen:
    """:func:`see` in one piece."""
    parts = list(see(backend, dataset, statistics))
    return Seen(*(np.concatenate([getattr(part, name) for part in parts]) for name in Seen.__dataclass_fields__))


def _rows(arrays: npt.NDArray[Any]) -> F32:
    return np.ascontiguousarray(arrays.reshape(len(arrays), -1), np.float32)
