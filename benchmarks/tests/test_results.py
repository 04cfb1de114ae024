"""The numbers that follow from times, and the files that hold them."""

from __future__ import annotations

import json

import pytest

from benchmarks.accuracy import noise as images
from benchmarks.figures import case, measurement, scenarios
from benchmarks.models import unique
from benchmarks.results import (
    FORMAT,
    SCHEMA,
    Engine,
    Environment,
    Failure,
    Model,
    Result,
    ResultError,
    Settings,
    read,
    schema,
    write,
)


@pytest.fixture
def result() -> Result:
    return Result(
        format=FORMAT,
        created="2026-01-01T00:00:00+00:00",
        environment=Environment(
            machine="abacus", system="wood", cpu="beads", cores=2, threads=1, memory_gib=None, load=None,
            python="3.11.0", versions={"numpy": "2"}, revision=None,
        ),
        settings=Settings(suite="inference", batches=(4,), rounds=2, seconds=1.0),
        models=(
            Model(
                name="mini", origin="a.onnx", spec_hash=None, lrn=None, precision="float32", parameters=1, macs=10**6,
                bytes=9, parameter_bytes=8, image_bytes=4, images=None,
            ),
        ),
        engines=(
            Engine(
                model=0, name="torch", what="eager", device="cpu", precision="float32", versions={}, load_seconds=1.0,
                peak_memory_mib=None, accuracy=None,
            ),
        ),
        measurements=(measurement(0, 4, [([0.5, 0.5], 2.0), ([0.25] * 4, 1.0)], 10**6),),
        failures=(Failure(model=0, engine="keras-jax", batch=None, reason="absent"),),
    )  # fmt: skip


def test_statistics_follow_from_the_times_of_calls(result):
    (found,) = result.measurements
    assert [(r.calls, r.seconds, r.cpu_seconds) for r in found.rounds] == [(2, 1.0, 2.0), (4, 1.0, 1.0)]
    rate = found.images_per_second
    assert (rate.low, rate.median, rate.high) == (8.0, 12.0, 16.0)
    assert (found.latency_ms.p50, found.latency_ms.max) == (250.0, 500.0)
    assert 250.0 < found.latency_ms.p90 <= found.latency_ms.p99 <= 500.0
    assert found.cpu_ms_per_image == pytest.approx(3000 / 24)
    assert found.gflops == pytest.approx(2 * 10**6 * 12 / 1e9)
    assert measurement(0, 4, [([1.0], 1.0)], None).gflops is None


def test_the_single_stream_is_of_batch_1_and_offline_of_the_best_batch():
    measured = [
        measurement(0, 1, [([0.010] * 90 + [0.050] * 10, 1.0)], None),
        measurement(0, 8, [([0.02], 1.0)], None),
        measurement(0, 64, [([0.32], 1.0)], None),
        measurement(1, 8, [([0.08], 1.0)], None),
    ]
    first, second = scenarios(measured)
    assert first.single_stream is not None
    assert (first.single_stream.queries, first.single_stream.p50_ms) == (100, 10.0)
    assert first.single_stream.p90_ms < first.single_stream.p99_ms == pytest.approx(50.0)
    assert first.offline.batch == 8
    assert first.offline.images_per_second == pytest.approx(400.0)
    assert (second.engine, second.single_stream, second.offline.batch) == (1, None, 8)


def test_a_case_follows_from_the_seconds_of_its_calls():
    made = case("lrn", "norm1", "ours", [0.5, 1.0, 2.0], 8, what="", batch=8, device="cpu", precision="float32")
    rate = made.images_per_second
    assert (rate.low, rate.median, rate.high) == (4.0, 8.0, 16.0)


def test_a_result_of_an_earlier_version_is_told_from_a_broken_one(tmp_path, result):
    values = json.loads(result.model_dump_json()) | {"format": "executable-alexnet-benchmark/1"}
    path = tmp_path / "old.json"
    path.write_text(json.dumps(values))
    with pytest.raises(
        ResultError, match=r"benchmark/2\. Received: executable-alexnet-benchmark/1, of another version"
    ):
        read(path)


def test_a_result_is_read_as_it_was_written(tmp_path, result):
    path = tmp_path / "new" / "result.json"
    write(path, result)
    assert read(path) == result
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        (lambda values: values.pop("environment"), "environment"),
        (lambda values: values.update(format="other/1"), "format"),
        (lambda values: values.update(extra=1), "extra"),
        (lambda values: values["measurements"][0].update(batch="4"), "measurements.0.batch"),
        (lambda values: values["measurements"][0].update(rounds=[]), "measurements.0.rounds"),
    ],
)
def test_what_is_no_result_is_refused_with_the_place(tmp_path, result, spoil, where):
    values = json.loads(result.model_dump_json())
    spoil(values)
    path = tmp_path / "result.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ResultError, match=rf"result\.json: a result must be of the format .* Received: {where}: "):
        read(path)


def test_what_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ResultError, match="No such file"):
        read(tmp_path / "absent.json")
    (tmp_path / "text.json").write_text("{")
    with pytest.raises(ResultError, match="the file: Invalid JSON"):
        read(tmp_path / "text.json")


def test_the_schema_in_the_repository_is_that_of_the_code():
    assert SCHEMA.read_text(encoding="utf-8") == schema()


def test_names_are_told_apart():
    assert unique(["a", "b", "a", "a"]) == ["a", "b", "a-2", "a-3"]


def test_images_repeat_after_sixteen():
    made = images((1, 2, 2), 40)
    assert made.shape == (40, 1, 2, 2)
    assert (made[0] == made[16]).all()
    assert (made[0] != made[1]).all()
    assert (images((1, 2, 2), 2) == made[:2]).all()
