"""What answers are worth, and beside which reference."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import spec
from backends.checkpoint import Progress
from backends.onnx import build
from benchmarks.accuracy import Checked, accuracy, checked
from benchmarks.engines.base import read
from benchmarks.models import describe, with_references
from data import EMBEDDED, dataset_statistics, open_source


def test_answers_are_counted():
    images = np.zeros((4, 1, 1, 1), np.float32)
    expected = np.array([[0.0, 4.0], [1, 0], [0, 1], [2, 1]])
    found = np.array([[0.0, 3.0], [1, 0], [1, 0], [2, 1]])
    worth = accuracy(found, Checked(images, images, np.array([1, 0, 1, 1]), "", "oracle", expected))
    assert (worth.logit_error, worth.top1_changed, worth.top1, worth.reference_top1) == (0.25, 0.25, 0.5, 0.75)
    assert worth.top1_lost == 0.25
    blind = accuracy(found, Checked(images, images, None, ""))
    assert (blind.reference, blind.logit_error, blind.top1_changed, blind.top1, blind.top1_lost) == (None,) * 5


def test_answers_that_are_no_numbers_are_no_small_error():
    images = np.zeros((1, 1, 1, 1), np.float32)
    worth = accuracy(np.array([[np.nan, 1.0]]), Checked(images, images, None, "", "oracle", np.array([[0.0, 1.0]])))
    assert worth.logit_error is not None
    assert worth.logit_error > 1e300


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """fashion-mini as a file that says it was trained on the embedded images."""
    mini = spec.load("fashion-mini")
    images = open_source(EMBEDDED, storage=mini.data.storage, channels=1, seed=0).train
    mean = dataset_statistics(images)
    stated = {"source.progress": Progress(seed=0, source=EMBEDDED, fingerprint="").model_dump_json(), "source": "run"}
    import base64

    if mini.data.mean.kind == "channel":
        stated["preprocessing.channel_mean"] = json.dumps(mean.channel_mean.tolist())
    else:
        stated["preprocessing.mean_image"] = base64.b64encode(mean.mean_image.astype("<f4").tobytes()).decode()
    path = tmp_path_factory.mktemp("trained") / "exact.onnx"
    onnx.save(build(mini, spec.initial_parameters(mini, 1), metadata=stated), path)
    return path


def test_validation_images_are_those_of_the_data_that_the_file_names(trained):
    images = checked(*read(trained))
    assert images.labels is not None
    assert len(images.labels) == len(images.images) == 1000
    assert "validation images of fashion-mnist-mini" in images.words
    assert images.expected is not None
    assert images.expected.shape == (1000, 10)


def test_a_rounded_file_is_compared_with_the_exact_one(trained, tmp_path):
    model = onnx.load(trained)
    for tensor in model.graph.initializer:
        if tensor.name == "fc8.weight":
            values = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        elif tensor.name.endswith(".weight"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    onnx.save(model, tmp_path / "rounded.onnx")
    rounded, exact = describe(tmp_path / "rounded.onnx"), describe(trained)
    assert (rounded.model.precision, exact.model.precision) == ("float16", "float32")
    found, same = with_references([rounded, exact])
    assert found.checked.reference == "the oracle of exact"
    assert found.checked.expected is exact.checked.expected
    assert same.checked is exact.checked
    (alone,) = with_references([rounded])
    assert alone.checked.reference == "oracle"
