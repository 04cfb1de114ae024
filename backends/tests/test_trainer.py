"""The loop: what it does at a step, and that stopping and going on anywhere changes nothing."""

from __future__ import annotations

import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backends.trainer as trainer
from backends import create
from backends.base import Backend
from backends.checkpoint import BEST, LAST, Checkpoint, Progress, load, save
from backends.reporting import METRICS, MetricsLog, Reporter
from backends.tests import small
from backends.trainer import Diverged, Outcome, Plan, train
from data import dataset_statistics, evaluation_batches, open_source, training_batches
from spec import Place, Spec, draws, from_values, initial_parameters, settings

STEPS_PER_EPOCH, STEPS = 5, 15


class Runs:
    """One data set, and runs on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        spec = small.spec()
        source = str(small.write_images(folder / "images"))
        self.splits = open_source(source, storage=spec.data.storage, channels=1, seed=0)
        self.statistics = dataset_statistics(self.splits.train)

    def plan(self, name: str, spec: Spec, **rest: Any) -> Plan:
        (self.folder / name).mkdir(exist_ok=True)
        return Plan(spec, self.splits, self.statistics, self.folder / name, **rest)

    def begin(self, name: str, backend: Backend | None = None, spec: Spec | None = None, **rest: Any) -> Outcome:
        backend = backend or make("torch", spec)
        backend.load(initial_parameters(backend.spec, 0))
        fresh = Progress(seed=0, source="test", fingerprint="test")
        return train(backend, self.plan(name, backend.spec, **rest), fresh, Reporter(io.StringIO()))

    def go_on(self, name: str, backend: Backend | None = None, **rest: Any) -> Outcome:
        found = self.last(name)
        backend = backend or make("torch", found.spec)
        backend.load(found.parameters, found.velocities)
        return train(backend, self.plan(name, found.spec, **rest), found.progress, Reporter(io.StringIO()))

    def last(self, name: str) -> Checkpoint:
        return load(self.folder / name / LAST)

    def log(self, name: str) -> list[dict[str, Any]]:
        """The metrics of a run, without what depends on the clock and on how often it was stopped."""
        lines = [json.loads(line) for line in (self.folder / name / METRICS).read_text().splitlines()]
        for line in lines:
            line.pop("images_per_second", None)
            line.pop("seconds", None)
        return [line for line in lines if line["event"] != "run"]


def make(name: str, spec: Spec | None = None, dtype: str = "float32") -> Backend:
    backend = create(name, spec or small.spec(), dtype=dtype, device="cpu")
    assert isinstance(backend, Backend)
    return backend


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    made = Runs(tmp_path_factory.mktemp("runs"))
    assert made.begin("whole").finished
    return made


def require_same(found: Checkpoint, expected: Checkpoint) -> None:
    for field in ("parameters", "velocities", "statistics"):
        for name, array in getattr(expected, field).items():
            np.testing.assert_array_equal(getattr(found, field)[name], array, err_msg=f"{field} {name}")
    assert found.progress == expected.progress


@pytest.mark.parametrize("stops", [(1,), (4, 5, 6), (10,), (5, 14), tuple(range(1, STEPS))], ids=str)
def test_a_run_that_is_stopped_anywhere_ends_as_one_that_is_not(runs: Runs, stops: tuple[int, ...]) -> None:
    name = f"stopped at {stops}"
    for number, stop in enumerate(stops):
        outcome = runs.begin(name, max_steps=stop) if number == 0 else runs.go_on(name, max_steps=stop)
        assert not outcome.finished
        assert outcome.progress.step == runs.last(name).progress.step == stop
    assert runs.go_on(name).finished
    require_same(runs.last(name), runs.last("whole"))
    require_same(load(runs.folder / name / BEST), load(runs.folder / "whole" / BEST))
    assert runs.log(name) == runs.log("whole")


def interrupting(at_call: int, method: str, number: int) -> Backend:
    """A PyTorch backend that gets a signal in the midst of the given call of `method`."""
    backend = make("torch")
    original, calls = getattr(backend, method), 0

    def watched(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at_call:
            os.kill(os.getpid(), number)
        return original(*arguments)

    setattr(backend, method, watched)
    return backend


@pytest.mark.parametrize(
    ("method", "at_call", "step"),
    [("parameters", 1, 0), ("step", 1, 1), ("step", 7, 7), ("step", 10, 10), ("predict", 1, 5), ("predict", 3, 10)],
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_step_at_hand_with_a_checkpoint(
    runs: Runs, number: int, method: str, at_call: int, step: int
) -> None:
    name = f"signal {number} in {method} {at_call}"
    handler = signal.getsignal(number)
    outcome = runs.begin(name, interrupting(at_call, method, number))
    assert (outcome.finished, outcome.signal, outcome.progress.step) == (False, number, step)
    assert signal.getsignal(number) is handler
    assert runs.go_on(name).finished
    require_same(runs.last(name), runs.last("whole"))
    assert runs.log(name) == runs.log("whole")


def test_what_was_logged_after_the_checkpoint_is_forgotten_when_a_killed_run_goes_on(runs: Runs) -> None:
    runs.begin("killed", max_steps=7)
    log = runs.folder / "killed" / METRICS
    with log.open("a") as file:
        file.write('{"event": "step", "epoch": 1, "step": 7, "loss": 99.0, "learning_rate": 1.0}\n')
        file.write('{"event": "epoch", "epoch": 1, "step": 10}\n{"event": "st')
    runs.go_on("killed")
    assert runs.log("killed") == runs.log("whole")


def test_how_often_metrics_are_read_changes_nothing(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "READ_EVERY_S", 0.0)
    runs.begin("read at every step")
    monkeypatch.setattr(trainer, "READ_EVERY_S", 1e9)
    runs.begin("read at the end")
    assert runs.log("read at every step") == runs.log("read at the end") == runs.log("whole")


def test_another_backend_goes_on_as_this_one_would_have(runs: Runs) -> None:
    runs.begin("oracle", make("numpy", dtype="float64"))
    runs.begin("handed over", make("torch", dtype="float64"), max_steps=7)
    runs.go_on("handed over", make("numpy", dtype="float64"))
    found, expected = runs.last("handed over"), runs.last("oracle")
    assert found.backend == "numpy"
    for name, value in expected.parameters.items():
        np.testing.assert_allclose(found.parameters[name], value, rtol=1e-9, atol=1e-12)


class Witness:
    """Stands before a backend and remembers what the loop asked of it."""

    def __init__(self, backend: Backend) -> None:
        self.steps: list[tuple[Any, ...]] = []
        self.predicted: list[Any] = []
        step, predict = backend.step, backend.predict

        def see_step(*arguments: Any) -> None:
            self.steps.append(arguments)
            step(*arguments)

        def see_predict(images: Any) -> Any:
            self.predicted.append(images)
            return predict(images)

        backend.step, backend.predict = see_step, see_predict  # type: ignore[method-assign, assignment]


def test_a_step_gets_the_batch_the_settings_and_the_masks_of_its_place(runs: Runs) -> None:
    backend = make("torch")
    witness = Witness(backend)
    runs.begin("witnessed", backend)
    assert len(witness.steps) == STEPS
    for number, (images, labels, chosen, masks) in enumerate(witness.steps):
        epoch, place = divmod(number, STEPS_PER_EPOCH)
        batch = next(
            training_batches(
                runs.splits.train, backend.spec, runs.statistics, seed=0, epoch=epoch, batch_size=8, start=place
            )
        )
        np.testing.assert_array_equal(images, batch.images)
        np.testing.assert_array_equal(labels, batch.labels)
        assert chosen == settings(backend.spec, Place(epoch, number, STEPS_PER_EPOCH, 3))
        expected = draws.dropout_mask(0, "drop6", 0.5, (16,), images=batch.indices, epoch=epoch)
        assert list(masks) == ["drop6"]
        np.testing.assert_array_equal(masks["drop6"], expected)


def test_validation_is_on_central_crops_whatever_the_reported_protocol(runs: Runs) -> None:
    values = small.values(size=6)
    values["data"]["storage"]["size"] = 8  # so that the ten crops differ
    backend = make("torch", from_values(values))
    assert backend.spec.evaluation.crops == "ten"
    witness = Witness(backend)
    runs.begin("validated", backend, max_steps=STEPS_PER_EPOCH + 1)
    batches = evaluation_batches(runs.splits.validation, backend.spec, runs.statistics, batch_size=8, crops="center")
    for found, batch in zip(witness.predicted, batches, strict=True):
        np.testing.assert_array_equal(found, batch.images[:, 0])


def test_the_epochs_line_is_what_its_steps_were(runs: Runs) -> None:
    log = runs.log("whole")
    epochs = [line for line in log if line["event"] == "epoch"]
    steps = [line for line in log if line["event"] == "step"]
    assert [line["step"] for line in steps] == list(range(STEPS))
    for number, epoch in enumerate(epochs):
        own = [line["loss"] for line in steps if line["epoch"] == number]
        assert len(own) == STEPS_PER_EPOCH
        assert epoch["loss"] == pytest.approx(np.mean(own), rel=1e-12)
    assert [epoch["learning_rate"] for epoch in epochs] == [0.05, 0.05, 0.005]
    assert tuple(epoch["validation_top1_error"] for epoch in epochs) == runs.last("whole").progress.validation_errors


def test_best_is_the_checkpoint_of_the_lowest_error(runs: Runs) -> None:
    errors = runs.last("whole").progress.validation_errors
    best = load(runs.folder / "whole" / BEST)
    assert best.progress.epoch == errors.index(min(errors)) + 1
    backend = make("torch")
    backend.load(best.parameters)
    batch = next(evaluation_batches(runs.splits.validation, best.spec, runs.statistics, batch_size=10, crops="center"))
    wrong = (backend.predict(batch.images[:, 0]).argmax(1) != batch.labels).mean()
    assert wrong == pytest.approx(min(errors))


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint(runs: Runs) -> None:
    rates = {"*": {"kind": "stages", "stages": [{"epoch": 0, "rate": 0.01}, {"epoch": 1, "rate": 1e18}]}}
    spec = small.spec(learning_rate=rates)
    with pytest.raises(Diverged, match=r"the loss must be finite. Received: (nan|inf) at step ([67]) \(epoch 2\)"):
        runs.begin("diverged", spec=spec)
    assert runs.last("diverged").progress.step == STEPS_PER_EPOCH
    assert [line["step"] for line in runs.log("diverged") if line["event"] == "step"][:6] == list(range(6))


def test_parameters_that_are_no_numbers_are_not_saved(runs: Runs) -> None:
    """The loss of a step is from before its update, so that the last update of a run shows in no loss."""
    rates = {"*": {"kind": "step", "rate": 0.01, "factor": 1e30, "every": 7, "unit": "step"}}
    spec = small.spec(learning_rate=rates)
    with pytest.raises(Diverged, match="must be finite"):
        runs.begin("overflowed", spec=spec, max_steps=9)
    assert runs.last("overflowed").progress.step == STEPS_PER_EPOCH


def test_a_full_disk_at_the_second_epoch_leaves_the_first_ones_checkpoint(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_to_a_full_disk(path: Path, checkpoint: Checkpoint, **rest: Any) -> None:
        if checkpoint.progress.epoch == 2:
            raise OSError(28, "No space left on device")
        save(path, checkpoint, **rest)

    monkeypatch.setattr(trainer, "save", save_to_a_full_disk)
    with pytest.raises(OSError, match="No space left"):
        runs.begin("disk full")
    assert runs.last("disk full").progress.epoch == 1
    monkeypatch.undo()
    runs.go_on("disk full")
    require_same(runs.last("disk full"), runs.last("whole"))


def test_a_backend_that_keeps_no_losses_is_told_so(runs: Runs) -> None:
    backend = make("torch")
    full = backend.metrics
    backend.metrics = lambda: type(full())(0, 0.0, 0, 0)  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="must hold the loss of each of the"):
        runs.begin("no losses", backend)


def test_plain_output_is_whole_lines_without_escapes() -> None:
    stream = io.StringIO()
    reporter = Reporter(stream)
    with reporter.work("images", 10) as advance:
        advance(5, "[bold]half[/bold]")
    reporter.line("top-1 [red] 50 %")
    assert stream.getvalue() == "top-1 [red] 50 %\n"


def test_long_work_says_now_and_then_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.reporting._PLAIN_EVERY_S", 0.0)
    stream = io.StringIO()
    with Reporter(stream).work("epoch 1/3", 10) as advance:
        advance(5, "loss 1.25")
        advance(6, total=20)
    assert stream.getvalue() == "epoch 1/3 5/10 loss 1.25\nepoch 1/3 6/20\n"


def test_the_log_is_kept_in_memory_until_it_is_flushed(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.add("step", epoch=0, step=0, loss=1.0)
    assert not log.path.exists()
    log.flush()
    log.flush()
    assert len(log.path.read_text().splitlines()) == 1
