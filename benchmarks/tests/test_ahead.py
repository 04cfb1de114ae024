"""Processes started before their turn and shared, and compilers' caches."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ahead import CACHES, Compiling, Processes, caches, forget_choices
from benchmarks.process import EngineFailed, EngineProcess, Killed, memory_of

MODULES = {"a": ["json"], "b": ["math"], "c": ["no_such_module"]}


def _number(process: EngineProcess) -> int:
    return process._process.pid


def _ended(process: EngineProcess) -> bool:
    return process._process.poll() is not None


def test_what_is_of_one_kind_shares_a_process_and_the_last_ends_it():
    with Processes({"first": "a", "second": "b", "third": "a", "fourth": "c"}, MODULES, 1) as processes:
        with processes.turn("first") as one:
            assert set(processes._running) == {"a", "b"}, "the next kind imports already"
            assert one.ask("memory")["peak_mib"] > 0, "the answer is to this, not to the import before"
        with processes.turn("second") as other:
            assert _number(other) != _number(one)
        assert _ended(other)
        with processes.turn("third") as again:
            assert _number(again) == _number(one)
            assert "c" in processes._running
        assert _ended(one)
        with processes.turn("fourth") as failing:
            assert failing.ask("memory")["peak_mib"] > 0, "what could not be imported fails when it is needed"
    assert processes._running == {}


def test_a_process_that_is_lost_is_replaced():
    with Processes({"first": "a", "second": "a"}, MODULES, 1) as processes:
        with processes.turn("first") as one:
            one._process.kill()
            with pytest.raises(Killed):
                one.ask("memory")
        with processes.turn("second") as other:
            assert other.ask("memory")["peak_mib"] > 0
            assert _number(other) != _number(one)


def test_leaving_ends_what_has_not_had_its_turn():
    with Processes({"first": "a", "second": "b"}, MODULES, 1) as processes:
        with processes.turn("first"):
            pass
        waiting = processes._running["b"]
        assert not _ended(waiting)
    assert _ended(waiting)


def test_memory_at_its_most_is_that_of_the_last_way():
    with EngineProcess(1) as process:
        large = process.ask("subject", name="usual-torch", spec="fashion-mini", batch=2000, device="cpu")
        most = process.ask("memory")["peak_mib"]
        process.ask("subject", name="usual-torch", spec="fashion-mini", batch=2, device="cpu")
        assert process.ask("memory")["peak_mib"] < most - 100
    assert large["seconds"] > 0


def test_compiling_is_over_in_time():
    began = time.monotonic()
    with Compiling(2, 4.0) as compiling:
        for _ in range(3):  # more than there are threads; nothing of it is done in time, and nothing is raised
            compiling.submit([("subject", {"name": "torch", "spec": "vgg-16", "batch": 256, "device": "cpu"})])
        compiling.submit([("no such request", {})])
    assert time.monotonic() - began < 20


def test_compiling_asks_as_many_at_once_as_there_are_threads(monkeypatch):
    both, seen = threading.Barrier(2, timeout=20), list[int]()

    class Waiting:
        """In place of a process: nobody is answered before two ask."""

        def __init__(self, threads: int) -> None: ...
        def __enter__(self) -> Any:
            return self

        def __exit__(self, *error: object) -> None: ...
        def ask(self, do: str, *, limit: float, number: int) -> None:
            both.wait()
            seen.append(number)

    monkeypatch.setattr("benchmarks.ahead.EngineProcess", Waiting)
    with Compiling(2, 60.0) as compiling:
        for number in range(4):
            compiling.submit([("memory", {"number": number})])
    assert sorted(seen) == [0, 1, 2, 3]


def test_compiling_says_what_was_asked_wrongly():
    with pytest.raises(TypeError), Compiling(1, 30.0) as compiling:
        compiling.submit([("memory", {"limit": 1})])  # `limit` is not the engine's to be told


def test_caches_are_in_the_folder_but_where_users_have_their_own(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", "mine")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    before = dict(os.environ)
    with caches(tmp_path):
        assert os.environ["TRITON_CACHE_DIR"] == "mine"
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / CACHES["TORCHINDUCTOR_CACHE_DIR"])
    assert dict(os.environ) == before


def test_what_was_chosen_by_the_clock_is_forgotten_and_what_was_made_is_not(tmp_path):
    (tmp_path / "inductor" / "ab").mkdir(parents=True)
    chosen, made = (tmp_path / "inductor" / "ab" / name for name in ("c.best_config", "c.py"))
    chosen.write_text("{}")
    made.write_text("")
    forget_choices(tmp_path)
    assert made.exists()
    assert not chosen.exists()


def test_another_process_finds_what_has_been_compiled(monkeypatch, tmp_path):
    pytest.importorskip("torch")
    for name in CACHES:  # PyTorch's compiler, where it has run in this process, has set its own
        monkeypatch.delenv(name, raising=False)
    request: dict[str, Any] = {"name": "usual-torch-tuned-nchw", "spec": "lenet-5", "batch": 2, "device": "cpu"}

    def libraries() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.so")}

    with caches(tmp_path):
        with Compiling(1, 300.0) as compiling:
            compiling.submit([("subject", request)])
        made = libraries()
        assert made
        with EngineProcess(1) as process:
            process.ask("subject", **request)
        assert libraries() == made, "nothing was compiled anew"


def test_what_stays_gives_back_what_it_holds_while_another_has_its_turn(monkeypatch):
    asked: list[str] = []
    ask = EngineProcess.ask

    def noted(self: EngineProcess, do: str, **rest: Any) -> Any:
        asked.append(do)
        return ask(self, do, **rest)

    monkeypatch.setattr(EngineProcess, "ask", noted)
    with Processes({"first": "a", "second": "a", "third": "b", "fourth": "a"}, MODULES, 1) as processes:
        for name, told in (("first", []), ("second", ["release"]), ("third", ["release"]), ("fourth", ["release"])):
            with processes.turn(name):
                pass
            assert asked == told, "only where another kind follows, and one of this kind after it"


def test_a_process_that_was_given_up_is_not_asked_again():
    """Its late answer would be taken for the answer to the next request."""
    with EngineProcess(1) as process:
        with pytest.raises(Killed, match="gave no answer"):
            process.ask("subject", limit=0.01, name="torch", spec="fashion-mini", batch=2, device="cpu")
        with pytest.raises(Killed, match="given up"):
            process.ask("memory")
        assert memory_of(process) == {"peak_mib": None, "device_mib": None}


def test_a_request_that_fails_leaves_its_process_to_the_next():
    with EngineProcess(1) as process:
        with pytest.raises(EngineFailed):
            process.ask("subject", name="no such way", spec="fashion-mini", batch=1, device="cpu")
        assert not process.killed
        assert process.ask("memory")["peak_mib"] > 0
