"""The page: whole, of itself, and harmless whatever a result says."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import page
from benchmarks.plots import Point, Series, ranges, scaling, ticks
from benchmarks.results import write
from benchmarks.tests.test_compare import result

VOID = {"meta"}


class _Elements(HTMLParser):
    """Fails on a tag that is closed out of order; keeps what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(text: str) -> _Elements:
    reader = _Elements()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def test_a_page_shows_every_engine_and_needs_nothing_else():
    text = page.page(result({("onnxruntime", 1): [100.0, 120.0], ("onnxruntime", 8): [400.0], ("torch", 1): [50.0]}))
    reader = parsed(text)
    assert sum(tag == "svg" for tag, _ in reader.seen) == 2
    assert sum(tag == "circle" for tag, _ in reader.seen) == 3 + 2 * 3  # every point, and three percentiles an engine
    assert {"onnxruntime", "torch", "0.45x"} <= {words.strip() for words in reader.text}
    assert not re.search(r"https?:|<script|<link|<img|@import|url\(", text)


def test_what_a_result_says_cannot_become_markup():
    hostile = '</title><script>alert("1")</script>'
    text = page.page(result({(hostile, 1): [1.0]}))
    assert "<script" not in text
    assert not any(tag == "script" for tag, _ in parsed(text).seen)


def test_a_model_without_measurements_and_a_busy_machine_are_said():
    text = page.page(result({}, load=7.5))
    assert "load 7.5 on 2 cores" in text
    parsed(text)


@given(st.floats(1e-6, 1e6), st.floats(1, 1e6))
def test_ticks_span_what_they_must(low, factor):
    marks = ticks(low, low * factor)
    assert len(marks) >= 2
    assert marks[0] <= low
    assert marks[-1] >= low * factor
    assert marks == sorted(set(marks))
    assert len(marks) == 2 or marks[-2] < low * factor


def test_one_point_alone_can_be_drawn():
    parsed(scaling("one", [Series("a", (Point(1, 1.0, 1.0, 1.0),))], "x", "y"))
    parsed(ranges("one", [("a", (1.0, 1.0))], ("p50", "p99"), "ms"))


def test_higher_is_faster_and_further_right_is_larger():
    drawn = scaling("t", [Series("a", (Point(1, 10.0, 9.0, 11.0), Point(4, 40.0, 39.0, 41.0)))], "x", "y")
    (x1, y1), (x2, y2) = (map(float, pair.split(",")) for pair in re.findall(r'points="([^"]*)"', drawn)[0].split())
    assert x1 < x2
    assert y1 > y2


def test_the_command_writes_beside_the_result_and_refuses_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "a.json", result({("onnxruntime", 1): [100.0]}))
    assert page.main([str(tmp_path / "a.json")]) == 0
    assert "onnxruntime" in (tmp_path / "a.html").read_text()
    for arguments, words in (
        (["absent.json"], "No such file"),
        ([str(tmp_path / "a.json"), "--output", str(tmp_path / "a.json")], "must be a file that ends in .html"),
    ):
        assert page.main(arguments) == 2
        assert words in capsys.readouterr().err
