"""The command line, very briefly: what it measures, writes and refuses. Times are not judged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

import spec
from alexnet_rooms import ROOT
from backends.onnx import build
from benchmarks import inference, run
from benchmarks.accuracy import Checked, noise
from benchmarks.measure import Entry, measure
from benchmarks.models import describe
from benchmarks.process import EngineFailed, EngineProcess
from benchmarks.results import Settings, read

SCRIPT = ROOT / "benchmarks" / "run.py"
SHORT = ["--seconds", "0.02", "--rounds", "2", "--threads", "1", "--queries", "4"]


@pytest.fixture(autouse=True)
def _brief(monkeypatch):
    """A roof takes its time, and is not what is tested here."""
    monkeypatch.setattr(inference, "ROOF_SECONDS", 0.01)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An exported fashion-mini."""
    mini = spec.load("fashion-mini")
    path = tmp_path_factory.mktemp("torch-mini") / "model.onnx"
    onnx.save(build(mini, spec.initial_parameters(mini, 1), metadata={"source.backend": "torch"}), path)
    return path


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A model of nobody we know: it sums."""
    node = helper.make_node("ReduceSum", ["pixels"], ["sums"], keepdims=0)
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)]
        for name, shape in (("pixels", ["n", 1, 2, 2]), ("sums", []))
    ]
    graph = helper.make_graph([node], "sum", *ends)
    path = tmp_path_factory.mktemp("foreign") / "sum.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def test_by_path_from_elsewhere_without_a_model(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--batches", "1", "--engines", "onnxruntime,torch", *SHORT],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "no exported model in runs" in done.stdout
    (written,) = (tmp_path / "runs" / "benchmarks").glob("*.json")
    assert "onnxruntime" in written.with_suffix(".html").read_text()
    result = read(written)
    assert [engine.name for engine in result.engines] == ["onnxruntime", "torch"]
    for engine in result.engines:
        assert engine.accuracy is not None
        assert engine.accuracy.logit_error is not None
        assert engine.accuracy.logit_error < 1e-5
        assert engine.accuracy.top1_changed == 0
        assert engine.precision == "float32"
    (roof,) = result.roofs
    assert roof.gflops["float32"] > 0.1
    assert roof.gbytes_per_second > 0.1
    for measured in result.measurements:
        assert measured.of_roof is not None
        assert 0 < measured.of_roof < 1
    single = result.scenarios[0].single_stream
    assert single is not None
    assert single.queries >= 4
    assert result.models[0].spec_hash == spec.load("fashion-mini").hash


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals as POSIX has them")
def test_a_run_that_is_terminated_leaves_nothing_behind(tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(SCRIPT), "--spec", "fashion-mini", "--engines", "onnxruntime", "--seconds", "60"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE) as process:
        for _ in range(600):
            if list(tmp_path.glob("alexnet-benchmark-*/*.onnx")):
                break
            time.sleep(0.1)
        process.terminate()
        assert process.wait(timeout=60) == 143
    assert list(tmp_path.iterdir()) == []


def test_both_lowerings_at_two_batch_sizes(tmp_path, model, capsys):
    output = tmp_path / "result.json"
    engines = "onnxruntime-lrn-ops,onnxruntime-lrn-node"
    arguments = ["--model", str(model), "--engines", engines, "--batches", "3,1", "--output", str(output), *SHORT]
    assert run.main(arguments) == 0
    result = read(output)
    assert [(m.engine, m.batch, len(m.rounds)) for m in result.measurements] == [
        (0, 3, 2),
        (0, 1, 2),
        (1, 3, 2),
        (1, 1, 2),
    ]
    assert result.environment.threads == 1
    for measured in result.measurements:
        rate = measured.images_per_second
        assert 0 < rate.low <= rate.median <= rate.high
        assert measured.gflops == pytest.approx(2e-9 * (result.models[0].macs or 0) * rate.median)
        assert sum(turn.seconds for turn in measured.rounds) >= 0.02
    said = capsys.readouterr().out
    assert all(word in said for word in ("torch-mini", "onnxruntime-lrn-node", "slowest-fastest", str(output)))


def test_a_foreign_model_is_run_by_onnxruntime_and_by_nothing_else(tmp_path, foreign, capsys):
    output = tmp_path / "result.json"
    arguments = ["--model", str(foreign), "--batch", "2", "--output", str(output), *SHORT]
    assert run.main([*arguments, "--engines", "onnxruntime,openvino,torch"]) == 1
    result = read(output)
    assert [engine.name for engine in result.engines] == ["onnxruntime", "openvino"]
    for engine in result.engines:
        assert engine.accuracy is None  # it answers one number for all images
    assert result.measurements[0].of_roof is None
    assert [failure.engine for failure in result.failures] == ["torch"]
    assert len(result.measurements) == 2
    assert "failed: sum on torch: EngineError: sum.onnx does not carry its specification" in capsys.readouterr().out


def test_a_file_that_takes_bytes_is_given_bytes_and_its_backend_what_it_takes(tmp_path, capsys):
    mini = spec.load("fashion-mini")
    model = build(mini, spec.initial_parameters(mini, 1))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("bytes", TensorProto.UINT8, ["batch", 1, 28, 28]))
    model.graph.node.insert(0, helper.make_node("Cast", ["bytes"], ["input"], to=TensorProto.FLOAT))
    onnx.save(model, tmp_path / "bytes.onnx")
    output = tmp_path / "result.json"
    engines = ["--engines", "onnxruntime,onnxruntime-lrn-ops"]
    arguments = ["--model", str(tmp_path / "bytes.onnx"), *engines, "--batch", "2", "--output", str(output), *SHORT]
    assert run.main(arguments) == 0, capsys.readouterr()
    taken, anew = read(output).engines
    assert "bytes prepared inside" in taken.what
    assert "bytes" not in anew.what


def _entry(path: Path, engine: str) -> Entry:
    images = noise((1, 28, 28), 2)
    return Entry(0, engine, path, describe(path).model, Checked(images, images, None, "noise"))


def test_a_batch_that_is_too_large_is_said_and_the_next_one_goes_on(model, monkeypatch):
    turn = EngineProcess.ask

    def ask(self: EngineProcess, do: str, **request: Any) -> dict[str, Any]:
        if do == "measure" and request["batch"] == 2:
            failed = EngineFailed("RuntimeError: CUDA out of memory. Tried to allocate 2 GiB")
            failed.kind = "out of memory"
            raise failed
        return turn(self, do, **request)

    monkeypatch.setattr(EngineProcess, "ask", ask)
    settings = Settings(suite="inference", batches=(1, 2, 3), rounds=2, seconds=0.01)
    outcome = measure([_entry(model, "onnxruntime")], settings, 1)
    assert [(failure.batch, failure.kind) for failure in outcome.failures] == [(2, "out of memory")]
    assert [(m.batch, len(m.rounds)) for m in outcome.measurements] == [(1, 2), (3, 2)]


def test_outcomes_of_several_calls_are_one(model):
    settings = Settings(suite="inference", batches=(1,), rounds=1, seconds=0.01)
    first, second = (measure([_entry(model, name)], settings, 1) for name in ("onnxruntime", "onnxruntime-lrn-ops"))
    first.add(second)
    assert [engine.name for engine in first.engines] == ["onnxruntime", "onnxruntime-lrn-ops"]
    assert [measured.engine for measured in first.measurements] == [0, 1]


def test_what_comes_too_late_is_said(model):
    settings = Settings(suite="inference", batches=(1,), rounds=1, seconds=0.01)
    outcome = measure([_entry(model, "onnxruntime")], settings, 1, until=time.monotonic() - 1)
    (failure,) = outcome.failures
    assert (failure.kind, failure.engine) == ("skipped", "onnxruntime")
    assert outcome.measurements == []


def test_a_process_that_dies_is_a_failure_and_the_others_go_on(model, monkeypatch):
    turn = EngineProcess.ask

    def ask(self: EngineProcess, do: str, **request: Any) -> dict[str, Any]:
        if do == "measure" and request["batch"] == 2 and self is processes[0]:
            self._process.kill()
        processes.append(self) if self not in processes else None
        return turn(self, do, **request)

    processes: list[EngineProcess] = []
    monkeypatch.setattr(EngineProcess, "ask", ask)
    entries = [_entry(model, name) for name in ("onnxruntime", "onnxruntime-lrn-ops")]
    outcome = measure(entries, Settings(suite="inference", batches=(1, 2, 3), rounds=1, seconds=0.01), 1)
    (failure,) = outcome.failures
    assert (failure.engine, failure.batch) == ("onnxruntime", 2)
    assert "its process died" in failure.reason
    assert [(m.engine, m.batch) for m in outcome.measurements] == [(0, 1), (1, 1), (1, 2), (1, 3)]


def test_memory_is_the_engines_own_however_large_the_process_that_started_it_is(model):
    mine = bytearray(1 << 30)  # written to, so that it is there
    with EngineProcess(1) as process:
        process.ask("load", engine="onnxruntime", path=str(model), batch=1)
        assert process.ask("memory")["peak_mib"] < len(mine) / 2**20


def test_a_silent_process_is_not_waited_for(model):
    with EngineProcess(1) as process, pytest.raises(EngineFailed, match="no answer to 'load' within 0 s"):
        process.ask("load", engine="onnxruntime", path=str(model), batch=1, limit=0.01)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "absent.onnx"], "absent.onnx: a model must be a readable ONNX file"),
        (["--model", "text.onnx"], "text.onnx: a model must be"),
        (["--spec", "source-2013"], "nearest: source-2012"),
        (["--engines", "abacus", "--spec", "fashion-mini"], "an engine must be one of onnxruntime,"),
        (["--batch", "1,0"], "from 1 to 65536. Received: '0'"),
        (["--seconds", "nan"], "a number above 0"),
        (["--rounds", "0"], "a whole number from 1 to 65536"),
        (["--suite", "nonsense"], "--suite must be one of inference, training, lrn, data, gpu"),
        (["--suite"], "--suite must be one of"),
        (["--output", "result.onnx"], "must be a file that ends in .json"),
        (["--nonsense"], "unrecognized arguments"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_asked_wrongly_is_refused_in_one_line(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    Path("text.onnx").write_text("no model")
    before = sorted(tmp_path.rglob("*"))
    try:
        code: Any = run.main([*arguments, *SHORT] if "--rounds" not in arguments else arguments)
    except SystemExit as left:
        code = left.code
    said = capsys.readouterr()
    assert code == 2
    assert words in said.err
    assert len(said.err.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
