"""What cannot be lost: damaged files, folders of two processes, kills within an epoch, full disks, signals, memory."""

from __future__ import annotations

import dataclasses
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_rooms import ROOT
from backends import cli, create, memory, starting, trainer
from backends.base import Array, Backend, Gradients
from backends.checkpoint import BEST, KEPT, LAST, PREVIOUS, good_ones, load
from backends.divergence import State, layer_where_it_began
from backends.group import Alone, Lost
from backends.options import fail
from backends.starting import claim
from backends.tests import kill, small
from data import Batch
from spec import Spec, dropout_shapes, geometry, initial_parameters
from spec import load as load_spec

RUN = Path("runs", "torch-small")
Train = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Train:
    """Run train.py of PyTorch in a new folder. Returns exit code, stdout and stderr."""
    small.workplace(tmp_path, monkeypatch)

    def call(*options: str) -> tuple[int, str, str]:
        code = cli.main("torch", ["--spec", "small.yaml", "--data", "images", "--device", "cpu", *options])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def child(here: Path, *options: str, before: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    """The same as a process of its own, that trains until it is stopped."""
    command = [sys.executable, "-m", "backends.torch.train", "--data", str(here / "images"), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*command, "--spec", "small.yaml", "--epochs", "1000000", *options],
        cwd=here,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 300
    while not path.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)


# --- checkpoints ------------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (flip, "must have the digest that its header states"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "must be a readable safetensors file"),
        (Path.unlink, "no such file"),
    ],
    ids=["a bit", "truncated", "gone"],
)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_offered(
    run: Train, damage: Callable[[Path], object], named: str
) -> None:
    assert run("--output-dir", "whole")[0] == 0
    assert run("--max-steps", "7")[0] == 0
    damage(RUN / LAST)
    code, _, err = run("--resume", str(RUN))
    assert code == 2
    assert err.startswith(f"error: {RUN / LAST}: a checkpoint must be ")
    assert named in err
    offer = str(RUN / PREVIOUS)
    assert f"previous.safetensors (step 5), best.safetensors (step 5). Go on with: --resume {RUN}" in err or (
        f"best.safetensors (step 5), previous.safetensors (step 5). Go on with: --resume {RUN}" in err
    )
    assert run("--resume", offer)[0] == 0
    found, expected = load(RUN / LAST), load(Path("whole", LAST))
    assert found.progress == expected.progress
    for name, array in expected.parameters.items():
        np.testing.assert_array_equal(found.parameters[name], array)


def test_a_damaged_last_does_not_become_the_previous(run: Train) -> None:
    assert run("--max-steps", "7")[0] == 0
    flip(RUN / LAST)
    assert run("--resume", str(RUN / PREVIOUS), "--max-steps", "6")[0] == 0
    assert {path.name: load(path).progress.step for path in good_ones(RUN)} == {LAST: 6, PREVIOUS: 5, BEST: 5}


def test_there_is_a_checkpoint_from_the_first_moment_on_and_within_an_epoch(run: Train) -> None:
    steps: list[int] = []
    step = trainer._Run._step

    def watched(self: Any, batch: Any) -> None:
        steps.append(load(RUN / LAST).progress.step)
        step(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer._Run, "_step", watched)
        assert run("--checkpoint-every", "0", "--epochs", "2")[0] == 0
    assert steps == list(range(10))


def test_every_so_many_epochs_are_kept(run: Train) -> None:
    assert run("--keep-every", "2", "--epochs", "5")[0] == 0
    kept = [KEPT.format(epoch) for epoch in (2, 4)]
    assert sorted(path.name for path in RUN.glob("epoch-*")) == kept
    assert [load(RUN / name).progress.epoch for name in kept] == [2, 4]


# --- one process at a time --------------------------------------------------------------------------------------------


def test_two_runs_cannot_share_a_folder(run: Train) -> None:
    assert run("--max-steps", "2")[0] == 0
    with ExitStack() as claims:
        claim(RUN, claims)
        code, _, err = run("--resume", str(RUN))
        assert (code, err.count("\n")) == (2, 1)
        assert f"must belong to one process at a time. Received: {RUN}" in err
        claim_other = Path("new")
        claim_other.mkdir()
        claim(claim_other, claims)
        assert run("--output-dir", "new")[0] == 2
    assert run("--resume", str(RUN), "--max-steps", "3")[0] == 0


# --- processes: signals, death, a full disk ---------------------------------------------------------------------------


def test_death_frees_the_folder_and_signals_stop_in_order(run: Train, tmp_path: Path) -> None:
    last = tmp_path / "run" / LAST
    process = child(tmp_path, "--output-dir", "run")
    try:
        wait_for(last, process)
        code, _, err = run("--resume", "run", "--epochs", "1000000")
        assert code == 2
        assert "another one is training" in err
        process.kill()
        process.communicate(timeout=60)
        process = child(tmp_path, "--resume", "run")
        line = process.stdout.readline() if process.stdout else ""  # the images are read: training is about to begin
        assert line.startswith("IDX folder")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, err) == (130, ""), out
    load(last)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_whose_exception_is_swallowed_while_starting_ends_the_run(run, monkeypatch, number, code):
    """Modules that are imported, and calls into C, drop exceptions that are raised in them."""
    start = starting.start

    def swallowing(*arguments: Any) -> Any:
        with suppress(BaseException):
            signal.raise_signal(number)
        return start(*arguments)

    monkeypatch.setattr(cli, "start", swallowing)
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    assert run("--epochs", "1000000")[0] == code
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before


class Dying(Alone):
    """The first of two processes; the other ends before the first step, and whoever started both sends SIGTERM then."""

    ranks, dead = 2, False

    def gather(self, array: Array) -> Array:
        if self.dead:
            raise Lost("another process of this run has ended")
        return np.stack([array, array])

    def die(self, *_: object) -> None:
        self.dead = True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_does_not_silence_a_process_that_is_losing_another(run, monkeypatch, number):
    group = Dying()
    monkeypatch.setattr(cli, "join", lambda backend: group)
    monkeypatch.setattr(cli, "_announce", group.die)

    def signalled(result: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            signal.raise_signal(number)
            return result(*arguments)

        return call

    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr(trainer, "load", signalled(load))
    monkeypatch.setattr(cli, "fail", signalled(fail))
    code, _, err = run("--output-dir", "kept")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("error: process 0 of 2: another process of this run has ended. Kept: ")
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before


def full_disk(step: str) -> str:
    """A program that trains where only 20 kB can be written to a file from the given moment on."""
    return f"""
import resource, signal, sys
from backends import cli, trainer
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
save = trainer.save
def limited(path, checkpoint, **rest):
    if checkpoint.progress.step >= {step}:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
    save(path, checkpoint, **rest)
trainer.save = limited
sys.exit(cli.main("torch", sys.argv[1:]))
"""


def test_a_file_that_cannot_grow_loses_nothing(run: Train, tmp_path: Path) -> None:
    assert run("--output-dir", "whole")[0] == 0
    options = ["--spec", "small.yaml", "--data", "images", "--device", "cpu", "--output-dir", "full"]
    done = small.python(tmp_path, "-c", full_disk("10"), *options)  # as many threads as here: sums are cut by them
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not list(Path("full").glob(".*.partial"))
    assert load(Path("full", LAST)).progress.step == 5
    assert run("--resume", "full")[0] == 0
    for name, array in load(Path("whole", LAST)).parameters.items():
        np.testing.assert_array_equal(load(Path("full", LAST)).parameters[name], array)


# --- memory -----------------------------------------------------------------------------------------------------------


class ResourceExhaustedError(Exception):
    """Named as TensorFlow's."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 2.00 GiB"), True),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 4294967296 bytes."), True),
        (ResourceExhaustedError("{{function_node}} failed to allocate memory"), True),
        (RuntimeError("shapes do not match"), False),
        (OSError(12, "Cannot allocate memory"), False),
        (ValueError("out of memory"), False),
    ],
    ids=str,
)
def test_what_says_that_memory_ran_out(error: Exception, expected: bool) -> None:
    assert memory.is_exhausted(error) is expected


def test_the_estimate_of_memory_is_the_sum_of_its_arrays() -> None:
    spec = small.spec(small.ALEXNET)
    network, factor = geometry(spec), memory.FACTOR
    assert memory.need(spec).fixed == int(factor * 12 * network.parameter_count)
    outputs = 64 + sum(int(np.prod(layer.output_shape)) for layer in network.layers)
    assert memory.need(spec).per_image == int(factor * 8 * outputs)
    need = memory.need(load_spec("source-2012"))
    assert need.fitting(need.of(100)) == 100
    assert need.fitting(need.fixed - 1) == 0
    narrow = memory.need(load_spec("source-2012"), "bf16")
    assert 2 * narrow.per_image == pytest.approx(need.per_image, abs=2)
    assert 12 * narrow.fixed == pytest.approx(14 * need.fixed, abs=14)


def test_out_of_memory_says_which_batch_would_fit(run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    from backends.torch.backend import TorchBackend

    def exhausted(*arguments: Any) -> None:
        raise RuntimeError("CUDA out of memory. GPU 0 has a total capacity of 1.00 GiB of which 0 bytes are free.")

    monkeypatch.setattr(TorchBackend, "step", exhausted)
    code, _, err = run()
    assert (code, err.count("\n")) == (1, 1)
    assert "out of memory at step 0, batch size 8, torch on cpu" in err
    assert "--batch-size 4 would fit, or --accumulation-steps 2 (" in err
    assert f"Kept: {RUN / LAST}, after step 0" in err


def test_real_want_of_memory_is_one_line(run: Train, tmp_path: Path) -> None:
    program = """
import resource, sys
from backends import cli
from backends.torch.backend import TorchBackend
from pathlib import Path
step = TorchBackend.step
def limited(*arguments):
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**20, resource.RLIM_INFINITY))
    import numpy
    held = [numpy.ones(2**17)]
    step(*arguments)
TorchBackend.step = limited
sys.exit(cli.main("torch", sys.argv[1:]))
"""
    small.write_images(tmp_path / "many", train=4000)
    options = ["--spec", "small.yaml", "--data", "many", "--device", "cpu", "--batch-size", "4000"]
    done = small.python(tmp_path, "-c", program, *options, OMP_NUM_THREADS="1")
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: out of memory at step 0, batch size 4000, torch on cpu")
    assert done.stderr.count("\n") == 1
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


# --- kills ------------------------------------------------------------------------------------------------------------


def test_kills_at_random_instants_lose_no_run(tmp_path: Path) -> None:
    """``python -m backends.tests.kill`` does it 100 times."""
    pytest.importorskip("jax")
    outcome = kill.killed(tmp_path, kills=8, seed=int(os.environ.get("PYTEST_SEED", "0")))
    assert outcome.lost == []
    assert (outcome.kills, outcome.finished > 1, outcome.within > 0) == (8, True, True)


# --- where a divergence began -----------------------------------------------------------------------------------------


def states(spec: Spec, **poisoned: float) -> tuple[Backend, list[State]]:
    """A PyTorch backend, and the states before two steps; `poisoned` layers have weights of that size in the second."""
    backend = create("torch", spec, device="cpu")
    assert isinstance(backend, Backend)
    good = initial_parameters(spec, 0)
    bad = {name: np.full_like(w, poisoned.get(name.partition(".")[0], 0.0)) for name, w in good.items()}
    bad = {name: bad[name] if name.partition(".")[0] in poisoned and name.endswith("weight") else good[name]
           for name in good}  # fmt: skip
    images = np.random.default_rng(0).normal(size=(4, 1, 8, 8)).astype("f4")
    batch = Batch(images, np.arange(4), np.arange(4), 0)
    masks = {name: np.ones((4, *shape), bool) for name, shape in dropout_shapes(spec).items()}
    zero = {name: np.zeros_like(w) for name, w in good.items()}
    return backend, [State(6, good, zero, batch, masks), State(7, bad, zero, batch, masks)]


@pytest.mark.parametrize(
    ("poisoned", "expected"),
    [
        ({"conv2": 3e38}, r"It began in the output of layer conv2: \d+ of 384 numbers not finite"),
        ({"fc8": 3e38}, "It began in the output of layer fc8: .*; the parameters before step 7 were finite"),
        (
            {"fc6": np.inf},
            "It began in layer fc6: the update of step 6 made fc6.weight overflow, by a gradient of",
        ),
        (
            {"fc6": np.nan, "conv1": np.nan},
            "in layer conv1: the update of step 6 made conv1.weight, fc6.weight overflow",
        ),
        ({}, r"not known: done again, step 7 has a loss of \d"),
    ],
    ids=["an output", "the last output", "an update", "two updates", "nowhere"],
)
def test_the_layer_where_a_divergence_began_is_named(poisoned: dict[str, float], expected: str) -> None:
    backend, found = states(small.spec(), **poisoned)
    assert re.search(expected, layer_where_it_began(backend, found))


def test_a_gradient_that_is_no_number_is_found_from_behind() -> None:
    backend, (before, after) = states(small.spec(), conv1=np.nan, conv2=np.nan)
    gradients = backend.gradients

    def broken(*arguments: Any) -> Gradients:
        found = gradients(*arguments)
        spoilt = {
            **found.parameters,
            **{name: found.parameters[name] * np.nan for name in ("conv1.bias", "conv2.weight")},
        }
        return dataclasses.replace(found, parameters=spoilt)

    backend.gradients = broken  # type: ignore[method-assign, assignment]
    words = layer_where_it_began(backend, [before, after])
    assert words.startswith("It began in layer conv2, going backward at step 6: the gradient of conv2.weight")


def test_a_loop_finds_the_step_before_though_metrics_were_read_later(
    run: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The update of step 6 breaks a parameter; steps 7 to 9 have been done when the losses are read."""
    import torch

    from backends.torch.backend import TorchBackend

    step = TorchBackend.step
    seen: list[Any] = []

    def broken(self: Any, images: Any, labels: Any, settings: Any, masks: Any) -> None:
        step(self, images, labels, settings, masks)
        if np.array_equal(images, seen[0]):
            with torch.no_grad():
                self._parameters["fc6.weight"].fill_(float("nan"))

    original = trainer._Run._step

    def watched(self: Any, batch: Any) -> None:
        if self.progress.step == 6 and not seen:
            seen.append(batch.images)
        original(self, batch)

    monkeypatch.setattr(TorchBackend, "step", lambda *a: broken(*a) if seen else step(*a))
    monkeypatch.setattr(trainer._Run, "_step", watched)
    monkeypatch.setattr(trainer, "READ_EVERY_S", 1e9)
    code, _, err = run()
    assert (code, err.count("\n")) == (1, 1)
    assert "at step 7 (epoch 2). It began in layer fc6: the update of step 6 made fc6.weight overflow" in err
    assert f"Kept: {RUN / LAST}, after step 5" in err
