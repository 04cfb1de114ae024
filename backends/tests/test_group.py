"""Several processes that train together: what each is given, what they come to, and what the death of one does."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_rooms import ROOT
from backends import cli
from backends.base import Array, Masks
from backends.checkpoint import BEST, LAST, Progress, header, load
from backends.group import ALONE, Elsewhere, Group
from backends.numpy import NumpyBackend
from backends.reporting import METRICS, Reporter
from backends.tests import small
from backends.tests.small import finish
from backends.trainer import Plan, train
from data import dataset_statistics, open_source
from spec import Settings, initial_parameters


class Threads(Group):
    """One of `ranks` threads of this process."""

    def __init__(self, rank: int, ranks: int, barrier: threading.Barrier, table: dict[int, Array]) -> None:
        self.rank, self.ranks = rank, ranks
        self._barrier, self._table = barrier, table

    def gather(self, array: Array) -> Array:
        self._table[self.rank] = array
        self._barrier.wait(60)
        found = np.stack([self._table[rank] for rank in range(self.ranks)])
        self._barrier.wait(60)
        return found


def in_threads(ranks: int, work: Callable[[Group], Any]) -> list[Any]:
    """``work(group)`` for every member of a group of threads: what it returns, or the exception that it raises."""
    barrier, table, found = threading.Barrier(ranks), dict[int, Array](), dict[int, Any]()

    def run(rank: int) -> None:
        try:
            found[rank] = work(Threads(rank, ranks, barrier, table))
        except Exception as error:
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return [found[rank] for rank in range(ranks)]


# --- collectives ------------------------------------------------------------------------------------------------------


def test_collectives_give_every_process_the_same() -> None:
    def work(group: Group) -> Any:
        largest = group.largest((group.rank, -group.rank))
        return largest, group.text_of_first("ä" * (3 - group.rank)), group.total(np.array([0.1, 10.0**group.rank]))

    for largest, text, total in in_threads(3, work):
        assert largest == [2, 0]
        assert text == "äää"
        np.testing.assert_array_equal(total, [0.1 + 0.1 + 0.1, 111.0])


@pytest.mark.parametrize("failing", [(0,), (1,), (1, 2), (0, 1, 2)])
def test_what_goes_wrong_anywhere_is_said_once_and_ends_all(failing: tuple[int, ...]) -> None:
    def wrong(group: Group) -> int:
        if group.rank in failing:
            raise ValueError(str(group.rank))
        return group.rank

    found = in_threads(3, lambda group: group.together(lambda: wrong(group), (ValueError,)))
    said = [str(one) for one in found if isinstance(one, ValueError)]
    assert said == [str(failing[0])]
    assert sum(isinstance(one, Elsewhere) for one in found) == 2


def test_who_is_alone_asks_nobody() -> None:
    assert ALONE.largest((3, 4)) == [3, 4]
    assert ALONE.text_of_first("text") == "text"
    np.testing.assert_array_equal(ALONE.total(np.arange(3.0)), np.arange(3.0))


# --- what every process is given --------------------------------------------------------------------------------------


class Witness(NumpyBackend):
    """Keeps what it was given."""

    def __init__(self, group: Group) -> None:
        super().__init__(small.spec(batch_size=7), dtype="float64")
        self.group = group
        self.steps: list[tuple[Array, Array, Masks, Mapping[str, Settings], int | None]] = []
        self.evaluated: list[Array] = []

    def step(self, images: Array, labels: Array, settings: Mapping[str, Settings], masks: Masks) -> None:
        self.steps.append((images, labels, masks, settings, self.whole_batch))
        super().step(images, labels, settings, masks)

    def predict(self, images: Array) -> Array:
        self.evaluated.append(images)
        return np.zeros((len(images), 4))


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_parts_of_all_processes_are_the_batches_of_one(tmp_path: Path, ranks: int) -> None:
    """Images, labels, masks and settings bit by bit; every validation image once; one process writes."""
    images = small.write_images(tmp_path / "images")

    def follow(group: Group) -> tuple[Witness, Any]:
        backend = Witness(group)
        backend.load(initial_parameters(backend.spec, 0))
        splits = open_source(str(images), storage=backend.spec.data.storage, channels=1, seed=0)
        folder = tmp_path / f"{group.ranks}-{group.rank}"
        folder.mkdir()
        plan = Plan(backend.spec, splits, dataset_statistics(splits.train), folder, workers=1, max_steps=16)
        progress = Progress(seed=0, source="images", fingerprint="")
        return backend, train(backend, plan, progress, Reporter(StringIO()))

    whole, outcome = follow(ALONE)
    found = in_threads(ranks, follow)
    parts = [backend for backend, _ in found]
    assert [result.progress.step for _, result in found] == [outcome.progress.step] * ranks == [16] * ranks
    assert {result.progress.images for _, result in found} == {outcome.progress.images}
    for step, (batch, labels, masks, settings, _) in enumerate(whole.steps):
        shares = [part.steps[step] for part in parts]
        assert max(len(s[1]) for s in shares) - min(len(s[1]) for s in shares) <= 1
        np.testing.assert_array_equal(np.concatenate([s[0] for s in shares]), batch)
        np.testing.assert_array_equal(np.concatenate([s[1] for s in shares]), labels)
        for name, mask in masks.items():
            np.testing.assert_array_equal(np.concatenate([s[2][name] for s in shares]), mask)
        assert all(s[3] == settings and s[4] == 7 for s in shares)
    assert len({len(part.steps) for part in (whole, *parts)}) == 1
    seen = [np.concatenate(part.evaluated).reshape(2, -1, *whole.evaluated[0].shape[1:]) for part in parts]
    np.testing.assert_array_equal(np.concatenate(seen, axis=1)[0], np.concatenate(whole.evaluated)[:10])
    assert sorted(path.name for path in (tmp_path / f"{ranks}-0").iterdir()) == sorted(
        path.name for path in (tmp_path / "1-0").iterdir()
    )
    assert [list((tmp_path / f"{ranks}-{rank}").iterdir()) for rank in range(1, ranks)] == [[]] * (ranks - 1)


# --- torchrun ---------------------------------------------------------------------------------------------------------

OPTIONS = ("--spec", "small.yaml", "--data", "images", "--device", "cpu", "--batch-size", "7", "--epochs", "12")
"""7 images a step, which two processes cannot share evenly."""


def torchrun(here: Path, *options: str, launch: tuple[str, ...] = ("--nproc-per-node=2",)) -> subprocess.Popen[str]:
    """Processes of training."""
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *launch, "-m", "backends.torch.train", *OPTIONS, *options],
        cwd=here,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """The numbers of the processes that torchrun has started, in the order of their ranks."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return sorted(int(number) for number in children.read_text().split())


def wait_for_epoch(process: subprocess.Popen[str], folder: Path, epoch: int) -> None:
    until = time.monotonic() + 240
    while time.monotonic() < until and process.poll() is None:
        if (folder / LAST).exists() and json.loads(header(folder / LAST)["progress"])["epoch"] >= epoch:
            return
        time.sleep(0.02)
    raise AssertionError(f"no epoch {epoch} in {folder}: {finish(process)}")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Specification, images, and the runs of one process and of two, which nobody disturbed."""
    folder = tmp_path_factory.mktemp("group")
    small.write_spec(folder)
    small.write_images(folder / "images")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main("torch", [*OPTIONS, "--output-dir", "one"]) == 0
    code, said, err = finish(torchrun(folder, "--output-dir", "two"))
    assert code == 0, err
    assert said.count("2 processes") == 1
    return folder


def require_the_run_of_one(here: Path, folder: str) -> None:
    """But for rounding; conformance/ has the bounds of single steps."""
    for name in (LAST, BEST):
        found, expected = load(here / folder / name), load(here / "one" / name)
        assert found.progress == expected.progress
        for key, array in expected.parameters.items():
            np.testing.assert_allclose(found.parameters[key], array, rtol=0, atol=1e-5 * np.abs(array).max())
    logs = [(here / run / METRICS).read_text().splitlines() for run in ("one", folder)]
    one, two = ([line for line in map(json.loads, log) if line["event"] == "step"] for log in logs)
    assert [line["step"] for line in one] == [line["step"] for line in two]
    np.testing.assert_allclose([line["loss"] for line in two], [line["loss"] for line in one], rtol=1e-5)


def test_two_processes_do_what_one_does(here: Path) -> None:
    require_the_run_of_one(here, "two")


def test_two_hosts_meet_and_do_what_one_process_does(here: Path) -> None:
    """Two agents of torchrun, each with a process of its own, as docs/several-devices.md has them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"--rdzv-endpoint=127.0.0.1:{free.getsockname()[1]}"
    launch = ("--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", endpoint, "--rdzv-id=a")
    hosts = [torchrun(here, "--output-dir", "hosts", launch=launch) for _ in range(2)]
    found = [finish(host) for host in hosts]
    assert [code for code, _, _ in found] == [0, 0], found
    assert sum("2 processes" in said for _, said, _ in found) == 1
    require_the_run_of_one(here, "hosts")


def test_the_death_of_a_process_ends_the_others_with_one_line(here: Path) -> None:
    process = torchrun(here, "--epochs", "1000000", "--output-dir", "ended")
    wait_for_epoch(process, here / "ended", 1)
    os.kill(ranks_of(process)[1], signal.SIGKILL)
    began = time.monotonic()
    code, _, err = finish(process, 60)
    assert code == 1
    assert time.monotonic() - began < 30
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: process 0 of 2: another process of this run has ended or cannot be reached. Kept: ")
    load(here / "ended" / LAST)


def test_what_is_killed_is_restarted_and_what_is_stopped_goes_on(here: Path) -> None:
    """Neither --resume nor --output-dir is given: a restart finds what the run has come to. Its end is, bit by bit,
    that of the run that nobody disturbed."""
    process = torchrun(here, "--epochs", "1000000", launch=("--nproc-per-node=2", "--max-restarts=1"))
    folder = here / "runs" / "torch-small"
    wait_for_epoch(process, folder, 2)
    os.kill(ranks_of(process)[0], signal.SIGKILL)
    wait_for_epoch(process, folder, 5)
    process.send_signal(signal.SIGTERM)
    _, said, err = finish(process)
    assert said.count("going on after step") == 1, err
    assert f"stopped after step {load(folder / LAST).progress.step}; go on with: python -m backends.torch.train" in said
    epochs = max(12, load(folder / LAST).progress.epoch + 1)
    for run in ("two", str(folder)):
        code, _, err = finish(torchrun(here, "--resume", run, "--epochs", f"{epochs}"))
        assert code == 0, err
    found, expected = load(folder / LAST), load(here / "two" / LAST)
    assert found.progress == expected.progress
    for name, array in expected.parameters.items():
        np.testing.assert_array_equal(found.parameters[name], array)


def test_what_is_asked_wrongly_is_said_once(here: Path) -> None:
    code, _, err = finish(torchrun(here, "--batch-size", "1", "--output-dir", "wrong"))
    assert code == 1  # torchrun's own
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert lines == ["error: a batch of 1 images must have one at least for every device. Received: 2 devices"]
    assert not (here / "wrong").exists()
