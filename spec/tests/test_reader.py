"""README, "Files": the part of YAML that is read, and the rest that is refused by name."""

from __future__ import annotations

import math
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spec.errors import Problem, SpecError
from spec.reader import MAX_BYTES, MAX_NODES, Node, dotted, read_file, read_text

SCALARS = [
    ("1", 1),
    ("-12", -12),
    ("+3", 3),
    ("007", 7),
    ("1.5", 1.5),
    ("1e-4", 1e-4),  # a string to PyYAML
    ("1.0E+3", 1000.0),
    (".5", 0.5),
    ("5.", 5.0),
    ("true", True),
    ("False", False),
    ("null", None),
    ("~", None),
    ("", None),
    ("yes", "yes"),  # booleans to PyYAML
    ("off", "off"),
    ("1_000", "1_000"),
    ("0x10", "0x10"),
    ("1:30", "1:30"),
    ("2012-09-30", "2012-09-30"),  # a date to PyYAML
    ("'1e-4'", "1e-4"),
    ('"null"', "null"),
    ("[1, [2.0, x]]", (1, (2.0, "x"))),
    ("{a: 1, b: {c: }}", {"a": 1, "b": {"c": None}}),
]


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_values(text: str, value: Any) -> None:
    found = read_text(f"x: {text}\n").plain()["x"]
    assert found == value
    assert type(found) is type(value)


def test_every_value_knows_its_line() -> None:
    root = read_text("a: 1\nb:\n  - x\n  -\n    c: 2\nd: &n {e: 3}\nf: *n\n", "file.yaml")
    assert root.value["a"].line == 1
    assert root.value["b"].line == 2
    assert root.value["b"].value[1].value["c"].line == 5
    assert root.value["f"].line == 7
    assert root.value["f"].value["e"] == Node(3, "file.yaml", 6)


REFUSED = [
    ("a: .nan", 1, "A number must be finite", ".nan"),
    ("a: 1\nb: -.inf", 2, "A number must be finite", "-.inf"),
    ("a: 1e999", 1, "A number must be finite", "1e999"),
    ("a: " + "9" * 21, 1, "at most 20 digits", "21 digits"),
    ("a: 1\na: 2", 2, "A field must be stated once", "a second statement"),
    ("a: {b: 1,\n c: 2, b: 3}", 2, "A field must be stated once", "a second statement"),
    ("a: !!python/object/apply:os.system [x]", 1, "Values must have no YAML tag", "python/object"),
    ("a: !!str 5", 1, "Values must have no YAML tag", "str"),
    ("a: *b", 1, "An alias must follow its anchor", "*b"),
    ("a: &a [*a]", 1, "An alias must follow its anchor", "*a"),
    ("? [a, b]\n: 1", 1, "A field name must be plain text", "a composite key"),
    ("a: 1\n---\nb: 2", 2, "must be one YAML document", "a second document"),
    ("", 1, "must be a mapping of fields", "an empty document"),
    ("# nothing", 1, "must be a mapping of fields", "an empty document"),
    ("- a\n- b", 1, "must be a mapping of fields", "('a', 'b')"),
    ("just words", 1, "must be a mapping of fields", "'just words'"),
    ("a: 1\nb: [1, 2}", 2, "well-formed YAML", ""),
    ("a: 1\n\tb: 2", 2, "well-formed YAML", ""),
    ("a: 'unfinished", 1, "well-formed YAML", "unexpected end of stream"),
    ("a: \x01", None, "well-formed YAML", "control characters are not allowed"),
    ("a: " + "[" * 200 + "]" * 200, 1, "nest at most 24 deep", "deeper nesting"),
]


@pytest.mark.parametrize(("text", "line", "required", "received"), REFUSED)
def test_refusals_name_the_line(text: str, line: int | None, required: str, received: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_text(text, "file.yaml")
    (problem,) = caught.value.problems
    assert (problem.file, problem.line) == ("file.yaml", line)
    assert required in problem.required
    assert received in problem.received
    assert "\n" not in str(problem)


def bomb(levels: int) -> str:
    """Each level ten times the one before: ten to the power of `levels` values in a few hundred bytes."""
    lines = ["a0: &a0 x"]
    lines += [f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]" for n in range(levels)]
    return "\n".join(lines)


def test_aliases_count_with_all_that_they_stand_for() -> None:
    assert len(read_text(bomb(3)).value["a3"].value) == 10
    started = time.perf_counter()
    with pytest.raises(SpecError, match=rf"must have at most {MAX_NODES} values\."):
        read_text(bomb(12))
    assert time.perf_counter() - started < 1


def test_a_large_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    with path.open("wb") as stream:
        stream.truncate(100_000_000)
    tracemalloc.start()
    with pytest.raises(
        SpecError, match=rf"large\.yaml: A specification must have at most {MAX_BYTES} bytes\. Received: 100000000"
    ):
        read_file(path)
    assert tracemalloc.get_traced_memory()[1] < 4 * MAX_BYTES
    tracemalloc.stop()


def test_other_encodings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("title: Caf\xe9".encode("latin-1"))
    with pytest.raises(SpecError, match=r"must be UTF-8\. Received: byte 0xe9 at offset 10"):
        read_file(path)


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="must be a readable file"):
        read_file(tmp_path)


def test_paths_are_dotted_and_odd_keys_quoted() -> None:
    assert dotted(("layers", "norm1", "k")) == "layers.norm1.k"
    assert dotted(("training", "learning_rate", "*.bias", "rate")) == 'training.learning_rate."*.bias".rate'
    assert "\n" not in dotted(("a\nb",))
    assert len(dotted(("x" * 1000,))) < 70


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=200), st.text(alphabet="ab:{}[],&*!|>#-?\n \t'\"0.eE%@`", max_size=120)))
def test_no_text_ends_in_anything_but_a_value_or_a_problem(text: str) -> None:
    problems: tuple[Problem, ...] = ()
    try:
        assert isinstance(read_text(text).plain(), dict)
    except SpecError as error:
        problems = error.problems
    assert all("\n" not in str(problem) for problem in problems)


@settings(max_examples=100, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_read_exactly(number: float) -> None:
    found = read_text(f"x: {number!r}").plain()["x"]
    assert found == number
    assert math.copysign(1, found) == math.copysign(1, number)
