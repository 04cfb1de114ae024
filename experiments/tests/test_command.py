"""The command: what it lists, refuses and leaves behind; the same command gives the same numbers."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

import pytest

from experiments import results
from experiments.__main__ import main
from experiments.catalogue import NAMES, find
from experiments.tests.small import run


def test_the_list_names_every_experiment_with_its_question(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr().out
    for name in NAMES:
        assert find(name).name == name
        assert f"python -m experiments {name} " in said
        assert find(name).question in said


@pytest.mark.parametrize("name", NAMES)
def test_help_teaches(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for words in (find(name).question, "--quick", "--seeds", "report.html"):
        assert words in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["filter"], "an experiment must be one of"),
        (["filter"], "Did you mean filters?"),
        (["filters", "--seeds", "0"], "must be a whole number of at least 1. Received: '0'"),
        (["filters", "--sed", "1"], "Did you mean --seeds?"),
        (["filters", "--spec", "alexnot"], "A specification must be"),
        (["filters", "--quick", "--data", "nowhere", "--output-dir", "{}/new"], "data must be"),
        (["filters", "--quick", "--backend", "onnx", "--output-dir", "{}/new"], "must be one that trains"),
        (["filters", "--quick", "--device", "cuda:7", "--output-dir", "{}/new"], "a device of PyTorch"),
        (["filters", "--quick", "--output-dir", "{}/full"], "--output-dir must be a new or an empty folder"),
        (["filters", "--quick", "--output-dir", "{}/full/file"], "--output-dir must be a folder that can be made"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("kept")
    assert main([argument.format(tmp_path) for argument in arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert words in said
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full"]
    assert (tmp_path / "full" / "file").read_text() == "kept"


def test_the_same_command_gives_the_same_numbers(small: list[str], tmp_path: Path) -> None:
    first = run(tmp_path / "first", "filters", *small, "--seeds", "2")
    second = run(tmp_path / "second", "filters", *small, "--seeds", "2")
    assert first["numbers"] == second["numbers"]
    for field in ("specs", "data", "seeds", "finding", "references", "limits", "pictures", "format"):
        assert first[field] == second[field]


def test_a_result_says_what_made_it(small: list[str], tmp_path: Path) -> None:
    result = run(tmp_path / "one", "filters", *small, "--seeds", "1")
    assert result["format"] == results.FORMAT
    assert result["command"].startswith("python -m experiments filters --spec")
    assert (result["seeds"], result["backend"], result["device"]) == ([0], "torch", "cpu")
    assert [len(spec["hash"]) for spec in result["specs"]] == [64]
    assert [len(data["fingerprint"]) for data in result["data"]] == [64]
    page = (tmp_path / "one" / "report.html").read_text()
    for words in (result["finding"], result["command"], result["specs"][0]["hash"], result["data"][0]["fingerprint"]):
        assert escape(words) in page
    readme = (Path(results.__file__).parent / "README.md").read_text()
    for field in json.loads((tmp_path / "one" / "result.json").read_text()):
        assert f"`{field}`" in readme


def test_an_interrupt_leaves_nothing(small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.work.train", interrupt)
    assert main(["filters", *small, "--output-dir", str(tmp_path / "stopped")]) == 130
    assert not list(tmp_path.iterdir())
    (tmp_path / "theirs").mkdir()
    assert main(["filters", *small, "--output-dir", str(tmp_path / "theirs")]) == 130
    assert [path.name for path in tmp_path.rglob("*")] == ["theirs"]
