"""Broken specifications and inputs made up at random: each ends in the expected words and in nothing else."""

from __future__ import annotations

import csv
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import spec
from spec import SpecError
from spec.reader import read_file

FOLDER = Path(__file__).with_name("broken")
ROOT = Path(spec.__file__).resolve().parents[1]
with (FOLDER / "expected.tsv").open(encoding="utf-8", newline="") as stream:
    EXPECTED = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))


def as_expected(row: dict[str, str], received: str) -> bool:
    """Whether `received` is what the row says; ``...`` stands for any text."""
    begin, dots, end = row["received"].partition("...")
    return received == row["received"] or bool(dots and received.startswith(begin) and received.endswith(end))


@pytest.mark.parametrize("row", EXPECTED, ids=[row["file"] for row in EXPECTED])
def test_a_broken_file_is_refused_in_the_expected_words(row: dict[str, str]) -> None:
    path = FOLDER / f"{row['file']}.yaml"
    started = time.process_time()
    with pytest.raises(SpecError) as caught:
        spec.load(path)
    assert time.process_time() - started < 1
    (problem,) = caught.value.problems
    place = row["place"] if row["place"] != ":" else ""
    file, _, line = place.rpartition(":")
    assert Path(problem.file).name == (file or path.name)
    assert problem.extended_by == (str(path) if file == "paper-2012.yaml" else "")
    assert (str(problem.line) if problem.line else "") == line
    assert problem.field == row["field"].removeprefix("-")
    required = row["required"].split("...")[0]
    assert problem.required.startswith(required)
    assert "..." in row["required"] or problem.required == required
    assert as_expected(row, problem.received), problem.received
    assert "\n" not in str(problem)


def test_the_corpus_is_whole() -> None:
    assert len(EXPECTED) >= 60
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == sorted(row["file"] for row in EXPECTED)


def measured(path: Path) -> tuple[str, float, float]:
    """The error of ``spec check PATH`` in a process of its own, its processor time in seconds, its memory in MiB."""
    code = (
        "import resource, sys; from spec.__main__ import main; code = main(['check', sys.argv[1]]);"
        "used = resource.getrusage(resource.RUSAGE_SELF); peak = used.ru_maxrss;"
        "print(code, used.ru_utime + used.ru_stime, (own() or peak) / 1024)"
    )
    code = OWN_PEAK + code
    argv = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    code_, seconds, memory = done.stdout.split()
    assert code_ == "2"
    return done.stderr, float(seconds), float(memory)


OWN_PEAK = """
from pathlib import Path
def own():
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)
"""
"""Of the process itself: its ru_maxrss begins with what the process that forked it had, which here is pytest's."""

BOMB = "title: t\na0: &a0 x\n" + "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 40)}]\n" for n in range(30))
WIDE = "extends: paper-2012\ntitle: t\nlayers:\n" + "".join(f"  r{n}: {{op: relu}}\n" for n in range(4000))
PATTERNS = "extends: paper-2012\ntitle: t\ntraining:\n  weight_decay:\n" + "".join(
    f"    '*{'?*' * 20}{n}': 0\n" for n in range(4000)
)
HEAVY = {
    "bomb.yaml": (BOMB.encode(), "must have at most 10000 values"),
    "wide.yaml": (WIDE.encode(), "layers: must have at most 500 items"),
    "patterns.yaml": (PATTERNS.encode(), "training.weight_decay: must have at most 100 items"),
    "deep.yaml": (b"title: " + b"[" * 200_000, "must nest at most 24 deep"),
    "deep-flow.yaml": (b"{a: " * 50_000, "must nest at most 24 deep"),
    "deep-block.yaml": (b"".join(b" " * n + b"a:\n" for n in range(700)), "must nest at most 24 deep"),
    "long-line.yaml": (b"title: " + b"x" * 250_000, "input: is required"),
    "long-key.yaml": (b"x" * 100_000 + b": 1\n", "A specification must be well-formed YAML"),
    "many-keys.yaml": (b"".join(b"k%d: 1\n" % n for n in range(20_000)), "must have at most 10000 values"),
    "latin.yaml": (
        "title: Café\n".encode("latin-1"),
        "A specification must be UTF-8. Received: byte 0xe9 at offset 10",
    ),
    "utf-16.yaml": ("title: t\n".encode("utf-16"), "A specification must be UTF-8. Received: byte 0xff at offset 0"),
    "nul.yaml": (b"title: \0\n", "A specification must be well-formed YAML"),
    "huge.yaml": (b"#" * 100_000_000, "must have at most 262144 bytes. Received: 100000000 bytes"),
}


@pytest.mark.parametrize("name", HEAVY)
def test_no_file_takes_a_second_or_200_mb(name: str, tmp_path: Path) -> None:
    raw, words = HEAVY[name]
    path = tmp_path / name
    path.write_bytes(raw)
    error, seconds, memory = measured(path)
    assert words in error
    assert "Traceback" not in error
    assert str(path) in error
    assert seconds < 1
    assert memory < 200


def test_a_long_chain_of_files_takes_no_second(tmp_path: Path) -> None:
    rows = "".join(f"  conv1: {{kernel: {n}}}\n".replace("conv1", f"r{n}") for n in range(1, 400))
    for n in range(20):
        parent = "paper-2012" if n == 0 else f"f{n - 1}.yaml"
        (tmp_path / f"f{n}.yaml").write_text(f"extends: {parent}\ntitle: t\nlayers:\n{rows}")
    error, seconds, memory = measured(tmp_path / "f19.yaml")
    assert "must not go through more than 6 files" in error
    assert seconds < 1
    assert memory < 200


def test_measuring_measures(tmp_path: Path) -> None:
    """Guards the guard: memory really is in MiB and belongs to the process measured."""
    path = tmp_path / "small.yaml"
    path.write_text("title: 3")
    _, seconds, memory = measured(path)
    assert seconds > 0.05
    assert 10 < memory < 200
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0


# --- made up at random ------------------------------------------------------------------------------------------------

PAPER = spec.load("paper-2012").statement()
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", "conv", "lrn", "floor", "normal", "*", "conv1", "1e-4", "x\ny", "é" * 50]),
    st.text(max_size=8),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=8,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


PLACES = places({key: value for key, value in PAPER.items() if key not in ("expect", "provenance")})[1:]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


def only_problems(values: Any, file: str = "<values>") -> None:
    """Loading ends in a specification or in problems of one line each."""
    problems: tuple[Any, ...] = ()
    try:
        assert spec.from_values(values, file).layers
    except SpecError as error:
        problems = error.problems
        assert problems
    assert all("\n" not in str(problem) and len(str(problem)) < 2000 for problem in problems)


@settings(max_examples=200, deadline=None)
@given(place=st.sampled_from(PLACES), value=VALUES)
def test_any_value_in_any_place(place: tuple[Any, ...], value: Any) -> None:
    only_problems(replaced({**PAPER, "expect": {}, "provenance": {}}, place, value))


@settings(max_examples=150, deadline=None)
@given(values=st.dictionaries(st.sampled_from([*PAPER, "extends", "", "é"]), VALUES, max_size=6))
def test_any_mapping(values: dict[str, Any]) -> None:
    only_problems(values)


@settings(max_examples=150, deadline=None)
@given(overrides=st.dictionaries(st.sampled_from([*PAPER, "extends"]), VALUES, max_size=3))
def test_any_overrides(overrides: dict[str, Any]) -> None:
    try:
        spec.load("paper-2012", overrides)
    except SpecError as error:
        assert all("\n" not in str(problem) for problem in error.problems)  # noqa: PT017


LINES = (FOLDER.parents[1] / "models" / "source-2012.yaml").read_text(encoding="utf-8").splitlines()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_damage_to_a_file(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Lines dropped, doubled, cut short or indented, characters replaced."""
    lines = list(LINES)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(lines) - 1))
        damage = data.draw(st.sampled_from(["drop", "double", "cut", "indent", "replace"]))
        line = lines[at]
        column = data.draw(st.integers(0, len(line)))
        lines[at : at + 1] = {
            "drop": [],
            "double": [line, line],
            "cut": [line[:column]],
            "indent": ["  " + line],
            "replace": [
                line[:column] + data.draw(st.sampled_from(list("{}[]:,'\"*&!|>#-?%@ \t\x00é0"))) + line[column + 1 :]
            ],
        }[damage]
        lines = lines or [""]
    path = tmp_path_factory.mktemp("damage") / "damaged.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    try:
        spec.load(path)
        read_file(path)
    except SpecError as error:
        assert all("\n" not in str(problem) for problem in error.problems)  # noqa: PT017
