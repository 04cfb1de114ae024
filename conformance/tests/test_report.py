"""The report: what it says of evidence, that it is one page, and that no other file is taken for evidence."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from conformance.__main__ import main
from conformance.report import Summary, markdown, read

MISBEHAVING = "conformance.tests.misbehaving"
EVIL = '<script>alert("|")</script>'


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a right backend, one that fails, one that only infers, and one that is expected to fail."""
    folder = tmp_path_factory.mktemp("evidence")
    known = folder / "known.yaml"
    known.write_text("- {check: '*', backend: '*:WrongName', reason: 'they say Conv_1', link: 'https://e.org/7'}\n")
    names = [f"{MISBEHAVING}:{name}" for name in ("NotFinite", "OnlyInfers", "WrongName")]
    asked = [word for name in ("numpy", *names) for word in ("--backend", name)]
    only = ["--only", "evaluation-outputs", "--only", "loss", "--spec", "fashion-mini", "--dtype", "float32"]
    found = folder / "run.json"
    assert main(["run", *asked, *only, "--xfails", str(known), "--evidence", str(found)]) == 1
    return found


@pytest.fixture(scope="module")
def kills(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dead = {
        "mutant": "torch-lrn-loops-over-batch",
        "target": "torch",
        "kind": "shipped",
        "what": "LRN runs over the batch",
        "link": "https://example.org/7805",
        "backend": "torch",
        "check": "evaluation-outputs",
        "killed": True,
        "case": "square",
        "tensor": "the output of norm1",
        "fault": "it differs",
    }
    alive = dead | {"mutant": EVIL, "kind": "systematic", "what": EVIL, "link": None, "killed": False, "case": None}
    found = {
        "format": 1,
        "created": "2026-01-01T00:00:00Z",
        "machine": {"system": "Linux", "processor": "x86_64", "cores": None},
        "versions": {},
        "results": [],
        "mutants": [dead, alive | {"tensor": None, "fault": None}],
        "public": [
            {
                "backend": "torch",
                "node_tests": 45,
                "model_test": True,
                "mutants_of_other_things": 7,
                "mutants": [
                    {"mutant": "a", "node_tests_failed": [], "model_passed": True, "shapes_kept": True},
                    {"mutant": EVIL, "node_tests_failed": ["test_lrn"], "model_passed": True, "shapes_kept": False},
                ],
            }
        ],
        "alarms": [
            {"case": "a", "backend": "torch", "seeds": 3, "comparisons": 1200, "faults": [], "nearest": 0.4},
            {"case": "b", "backend": "torch", "seeds": 3, "comparisons": 34, "faults": [EVIL], "nearest": 1.5},
            {"case": "a", "backend": "onnx", "seeds": 3, "comparisons": 0, "faults": [], "nearest": 0.0},
        ],
    }
    path = tmp_path_factory.mktemp("kills") / "kills.json"
    path.write_text(json.dumps(found))
    return path


class _Page(HTMLParser):
    """Whether a page is well formed, what it loads, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self.loads += [tag] if tag in ("script", "link", "img", "iframe") else []
        self.loads += [f"{tag} {name}" for name, _ in attrs if name in ("src", "srcset") or name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def test_the_page_and_the_table_say_what_was_found(evidence, kills, tmp_path, capsys):
    output = tmp_path / "new" / "report.html"
    assert main(["report", str(evidence), str(kills), "--output", str(output)]) == 0
    assert "written to" in capsys.readouterr().out
    text = output.read_text()
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert page.loads == []
    assert not re.search(r"url\(|@import", text)
    said = " ".join(page.text.split())
    table = output.with_suffix(".md").read_text()
    for words in (
        "4 backends, 1 network, float32",
        "3 passed, 1 failed, 0 could not be made",
        "the output of conv1 (conv) is not finite in 1 of",
        "it only infers: this check needs a backend that trains",
        "they say Conv_1",
        "1 of 2 wrong implementations were killed",
        "Public checks let 1 of 2 wrong outputs through.",
        "What public checks let through",
        "1 false alarms in 1,234 comparisons with backends that are right.",
    ):
        assert words in said, words
        assert words in table, words
    assert EVIL not in text
    assert EVIL in page.text
    assert "<script" not in table
    assert 'href="https://e.org/7"' in text
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:] for line in table.splitlines() if line[:2] == "| "}
    assert [cell.strip(" |") for cell in rows["check"]] == ["numpy", "NotFinite", "OnlyInfers", "WrongName"]
    outputs = [cell.strip(" |") for cell in rows["evaluation-outputs"]]
    assert re.fullmatch(r"[67]\.\d \(0\.\d\d\)", outputs[0])
    assert outputs[1] == "**FAIL**"
    assert outputs[3] == "xfail"
    assert rows["loss"][2].strip(" |") == "n/a"
    assert "| torch | 2 | 3 | 1,234 | 1 | 1.50 |" in table
    assert "is alive" in table
    assert "| torch | 2 | 1 | 2 | 1 | 1 | 7 |" in table
    assert "test_lrn, a check of shapes" in said


def test_a_report_without_mutants_has_no_section_of_them(evidence):
    assert "## Mutants" not in markdown(Summary((read(evidence),)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "evidence must be a file that can be read. Received: No such file"),
        (b"", "must be evidence of a run. Received: the file: Invalid JSON"),
        (b"\xff\xfe{}", "must be evidence of a run. Received: the file: Invalid JSON"),
        (b"[]", "must be evidence of a run. Received: the file: Input should be an object"),
        (b"{}", "must be evidence of a run. Received: format: Field required"),
        (b'{"format": 1, "results": [{"backend": 7}]}', "must be evidence of a run. Received: "),
        (b"{" * 100_000, "must be evidence of a run. Received: the file: Invalid JSON"),
    ],
)
def test_bad_evidence_is_one_line_and_exit_code_2(text, said, evidence, tmp_path, capsys):
    path, output = tmp_path / "bad.json", tmp_path / "report.html"
    output.write_text("an earlier one")
    if text is not None:
        path.write_bytes(text)
    assert main(["report", str(evidence), str(path), "--output", str(output)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"{path}: {said}")
    assert captured.err.count("\n") == 1
    assert output.read_text() == "an earlier one"


def test_another_format_and_an_output_that_is_no_page_are_refused(evidence, tmp_path, capsys):
    path = tmp_path / "later.json"
    path.write_text(json.dumps(json.loads(evidence.read_text()) | {"format": 99}))
    assert main(["report", str(path)]) == 2
    assert "evidence must have format 1. Received: 99" in capsys.readouterr().err
    assert main(["report", str(evidence), "--output", str(tmp_path)]) == 2
    assert "--output must be a file that ends in .html" in capsys.readouterr().err
    blocked = tmp_path / "later.json" / "report.html"
    assert main(["report", str(evidence), "--output", str(blocked)]) == 2
    assert "--output must be a file that can be written" in capsys.readouterr().err
