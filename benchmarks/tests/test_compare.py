"""What two results say about each other, and when they say nothing."""

from __future__ import annotations

from math import comb
from pathlib import Path

import numpy as np
import pytest

from benchmarks import compare
from benchmarks.compare import CONFIDENCE, EXACT, _counts, _order, interval
from benchmarks.figures import case, measurement
from benchmarks.results import FORMAT, Engine, Environment, Model, Result, Settings, write


def result(rates: dict[tuple[str, int], list[float]], *, threads: int = 2, load: float = 0.0) -> Result:
    """A result with these images a second, round by round, for engine and batch size."""
    names = list(dict.fromkeys(engine for engine, _ in rates))
    return Result(
        format=FORMAT,
        created="2026-01-01T00:00:00+00:00",
        environment=Environment(
            machine="abacus", system="wood", cpu="beads", cores=2, threads=threads, memory_gib=1.0, load=load,
            python="3.11.0", versions={"numpy": "2"}, revision=None,
        ),
        settings=Settings(suite="inference", batches=(1,), rounds=5, seconds=1.0),
        models=(
            Model(
                name="mini", origin="a", spec_hash="h", lrn=None, precision="float32", parameters=1, macs=1, bytes=1,
                parameter_bytes=1, image_bytes=1, images=None,
            ),
        ),
        engines=tuple(
            Engine(
                model=0, name=name, what="", device="cpu", precision="float32", versions={}, load_seconds=1.0,
                peak_memory_mib=None, accuracy=None,
            )
            for name in names
        ),
        measurements=tuple(
            measurement(names.index(engine), batch, [([batch / rate], 1.0) for rate in rounds], 1)
            for (engine, batch), rounds in rates.items()
        ),
    )  # fmt: skip


def test_orders_are_counted_out():
    assert _counts(2, 2) == (1, 1, 2, 1, 1)
    assert sum(_counts(5, 7)) == comb(12, 5)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    random = np.random.default_rng(0)
    rounds = 1.3 * np.exp(random.normal(0, 0.1, (2000, 14)))
    rounds[:, :7] /= 1.3
    inside = sum(low <= 1.3 <= high for _, low, high in (interval(r[:7], r[7:]) for r in rounds))
    assert CONFIDENCE - 0.01 <= inside / 2000 < 1
    ratios = [interval(r[:7], r[7:])[0] for r in rounds]
    assert np.median(ratios) == pytest.approx(1.3, rel=0.01)


def test_many_rounds_go_on_where_few_end():
    assert abs(_order(EXACT, EXACT) - _order(EXACT + 1, EXACT + 1)) <= 8
    assert _order(300, 300) > 0.4 * 300 * 300


def test_five_rounds_are_enough_for_a_verdict_and_four_are_not():
    assert interval([1.0, 1.1, 1.2, 1.3, 1.4], [3.0, 3.1, 3.2, 3.3, 3.4])[1:] == pytest.approx((3.0 / 1.4, 3.4))
    assert interval([1.0] * 4, [3.0] * 4)[1:] == (0.0, float("inf"))


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        ([200, 205, 210, 215, 220], "faster"),
        ([50, 51, 52, 53, 54], "slower"),
        ([100, 100.2, 100.4, 100.6, 100.8], "same"),
        ([60, 90, 100, 130, 160], "unsure"),
        ([300, 300, 300, 300], "unsure"),
    ],
)
def test_verdicts(after, verdict):
    before = result({("onnxruntime", 1): [100, 100.3, 100.5, 100.7, 101]})
    (row,) = compare.compare(before, result({("onnxruntime", 1): after}))
    assert row.verdict == verdict
    assert (row.model, row.engine, row.batch) == ("mini", "onnxruntime", 1)
    assert row.before == pytest.approx(100.5)


def test_the_command_says_what_differs_and_what_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a.json", result({("onnxruntime", 1): [100.0] * 5, ("torch", 1): [9.0] * 5}))
    write(tmp_path / "b.json", result({("onnxruntime", 1): [200.0] * 5}, threads=1, load=3.0))
    assert compare.main([str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 0
    said = capsys.readouterr().out
    for words in (
        "threads: 2 before, 1 after",
        "busy after: load 3",
        "2.00x",
        "faster",
        "1 rows are in one of the two",
    ):
        assert words in said


def test_what_cannot_be_compared_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a.json", result({("onnxruntime", 1): [100.0]}))
    write(tmp_path / "b.json", result({("onnxruntime", 2): [100.0]}))
    for second, words in (("b.json", "nothing in common"), ("absent.json", "No such file")):
        assert compare.main([str(tmp_path / "a.json"), str(tmp_path / second)]) == 2
        said = capsys.readouterr().err
        assert words in said
        assert len(said.splitlines()) == 1


def trained(seconds: list[float], precision: str = "float32") -> Result:
    """A result of one way to train."""
    way = case("training", "mini", "torch", seconds, 8, what="ours", batch=8, device="cpu", precision=precision)
    return result({}).model_copy(update={"cases": (way,)})


def test_ways_are_compared_by_their_calls_as_engines_are_by_their_rounds():
    before, after = trained([1.0, 1.1, 1.2, 1.3, 1.4]), trained([0.5, 0.55, 0.6, 0.65, 0.7])
    (row,) = compare.compare(before, after)
    assert (row.model, row.engine, row.batch) == ("training, mini", "torch, float32, cpu", 8)
    assert row.ratio == pytest.approx(2.0, rel=0.1)
    assert (row.verdict, row.cpu_ratio) == ("faster", None)
    assert row.before == pytest.approx(8 / 1.2)


def test_another_precision_is_another_way():
    assert list(compare.compare(trained([1.0]), trained([1.0], "bfloat16"))) == []


def test_the_command_prints_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a.json", trained([1.0] * 6))
    write(tmp_path / "b.json", trained([1.001] * 6))
    assert compare.main([str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 0
    said = capsys.readouterr().out
    assert "training, mini" in said
    assert "same" in said
