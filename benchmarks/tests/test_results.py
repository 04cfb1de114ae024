"""The numbers that follow from times, and the files that hold them."""

from __future__ import annotations

import json

import pytest

from benchmarks.measure import images
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
    measurement,
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
        settings=Settings(batches=(4,), rounds=2, seconds=1.0),
        models=(Model(name="mini", origin="a.onnx", spec_hash=None, lrn=None, parameters=1, macs=10**6, bytes=9),),
        engines=(
            Engine(
                model=0, name="torch", what="eager", precision="float32", versions={}, load_seconds=1.0,
                peak_memory_mib=None, error=1e-7,
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
