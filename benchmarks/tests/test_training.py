"""The measurement of training, very briefly: every way trains, ours and the usual one alike. Times are not judged."""

from __future__ import annotations

import time

import pytest

import spec
from benchmarks import run, training
from benchmarks.results import read
from benchmarks.subjects import ALL_SUBJECTS, SUBJECTS, without

SHORT = ["--suite", "training", "--spec", "fashion-mini", "--rounds", "2", "--threads", "1"]


def test_subjects_train_and_are_compared(tmp_path, capsys):
    output = tmp_path / "training.json"
    options = [*SHORT, "--batches", "4,2", "--subjects", "torch,usual-torch"]
    assert run.main([*options, "--output", str(output)]) == 0
    result = read(output)
    assert not result.failures
    assert [(case.name, case.batch, len(case.seconds)) for case in result.cases] == [
        ("torch", 4, 2),
        ("usual-torch", 4, 2),
        ("torch", 2, 2),
        ("usual-torch", 2, 2),
    ]
    for case in result.cases:
        operations = training.operations(spec.load("fashion-mini"))
        assert case.gflops == pytest.approx(1e-9 * operations * case.images_per_second.median)
        assert case.peak_memory_mib
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("torch "))
    assert line.rstrip().endswith("x"), "ours is compared with the usual way"


def test_a_step_is_three_times_forward_but_for_the_images_themselves():
    # The two-tower network: 724,406,816 multiply-accumulates, 105,415,200 of them in conv1 (see expect: in its file).
    assert training.operations(spec.load("paper-2012")) == 2 * (3 * 724_406_816 - 105_415_200)


@pytest.mark.parametrize("name", ["usual-torch", "torch-no-lrn", "torch-bf16", "torch-module-tf32"])
def test_the_loss_falls_on_images_seen_again_and_again(name):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)  # the usual ways draw their dropout from PyTorch's generator
    training = ALL_SUBJECTS[name].make(spec.load("fashion-mini"), 4, "cpu")
    losses = []
    for _ in range(30):
        training.step()
        losses.append(training.loss())
    assert sum(losses[-10:]) / 10 < 0.7 * sum(losses[:5]) / 5


def test_a_network_without_normalisation_is_otherwise_the_same():
    chosen = spec.load("paper-2012")
    assert [layer for layer in chosen.layers if layer.op != "lrn"] == list(without(chosen, "lrn").layers)


def test_what_comes_too_late_is_said():
    late = training.measure(
        "fashion-mini",
        {"torch": SUBJECTS["torch"]},
        (2, 4),
        device="cpu",
        rounds=1,
        steps=1,
        threads=1,
        until=time.monotonic() - 1,
    )
    assert late.cases == []
    assert [(failure.batch, failure.kind) for failure in late.failures] == [(2, "skipped"), (4, "skipped")]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--subjects", "tensorflow"], "'tensorflow'"),
        (["--spec", "alexnet-2031"], "alexnet-2031"),
        (["--batches", "0"], "'0'"),
        (["--output", "result.txt"], ".json"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(capsys, options, said):
    try:
        code: object = run.main(["--suite", "training", *options])
    except SystemExit as left:
        code = left.code
    error = capsys.readouterr().err
    assert code == 2
    assert error.count("\n") == 1
    assert said in error
