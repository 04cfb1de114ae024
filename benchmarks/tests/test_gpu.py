"""The suite of the GPU on a CPU: every section runs, and what is not there is said."""

from __future__ import annotations

import pytest

from benchmarks import gpu, run
from benchmarks.engines import ENGINES
from benchmarks.page import page
from benchmarks.results import read
from benchmarks.subjects import GPU_SUBJECTS


def test_a_rehearsal_goes_through_every_section(tmp_path):
    output = tmp_path / "gpu.json"
    asked = ["--suite", "gpu", "--device", "cpu", "--quick", "--threads", "1", "--output", str(output)]
    assert run.main(asked) == 0
    result = read(output)
    assert [failure for failure in result.failures if failure.kind not in ("absent", "skipped")] == []
    assert {case.section for case in result.cases} == {"lrn", "grouped convolution", "training"}
    forms = {case.name for case in result.cases if case.section == "lrn"}
    assert forms == {"usual", "ours", "banded", "ours compiled", "node"}
    assert {case.name for case in result.cases if case.section == "grouped convolution"} == {"native", "split", "dense"}
    assert {case.name for case in result.cases if case.section == "training"} == set(gpu.REHEARSED)
    assert {engine.name for engine in result.engines} == set(gpu.CPU_ENGINES)
    assert result.settings.budget_seconds == 60 * gpu.MINUTES - gpu.RESERVE
    assert "training, fashion-mini" in page(result)


def test_the_gpu_is_asked_for_what_the_rehearsal_is():
    assert set(gpu.REHEARSED) <= set(GPU_SUBJECTS)
    assert all(ENGINES[name].device == "cuda" for name in gpu.GPU_ENGINES)
    assert sum(gpu.SHARES.values()) == pytest.approx(1)
    precisions = {subject.precision for subject in GPU_SUBJECTS.values()}
    assert precisions == {"tf32", "bfloat16"}
    assert {min(gpu.FULL.training_batches), max(gpu.FULL.training_batches)} == {128, 2048}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["--sections", "cooking"], "must be among lrn, grouped, training, inference"),
        (["--minutes", "0"], "from 1 to 65536"),
        (["--spec", "alexnet-2031"], "alexnet-2031"),
    ],
)
def test_wrong_requests_are_one_line(asked, words, capsys):
    try:
        code: object = run.main(["--suite", "gpu", "--device", "cpu", *asked])
    except SystemExit as left:
        code = left.code
    said = capsys.readouterr().err
    assert code == 2
    assert words in said
    assert said.count("\n") == 1


def test_without_a_gpu_it_says_how_to_rehearse(monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.environment.accelerators", tuple)
    assert run.main(["--suite", "gpu"]) == 2
    assert "must have an NVIDIA GPU that nvidia-smi lists. Received: none" in capsys.readouterr().err
