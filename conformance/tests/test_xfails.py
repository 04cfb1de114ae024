"""Failures that are known: what a file of them may say, what it excuses, and when it is stale."""

from __future__ import annotations

import json

import pytest

from conformance.__main__ import main
from conformance.xfails import Asked, Entry, XfailsError, read, stale

CHECKS, DTYPES = ("evaluation-outputs", "loss", "building"), ("float32", "float64")
NOT_FINITE = "conformance.tests.misbehaving:NotFinite"


def test_an_entry_says_what_why_and_where(tmp_path):
    path = tmp_path / "known.yaml"
    path.write_text(
        "# a comment\n- check: evaluation-*\n  backend: pkg.mod:Mine\n  tensor: the output of norm*\n"
        "  reason: divides alpha by nothing\n  link: https://example.org/7\n- {check: loss, reason: it is late}\n"
    )
    first, second = read(path, CHECKS, DTYPES)
    assert first == Entry(
        "evaluation-*",
        "divides alpha by nothing",
        backend="pkg.mod:Mine",
        tensor="the output of norm*",
        link="https://example.org/7",
        place=f"{path}:2",
    )
    assert first.concerns("pkg.mod:Mine", "any", "float64", "evaluation-outputs")
    assert not first.concerns("pkg.mod:Other", "any", "float64", "evaluation-outputs")
    assert (first.covers("the output of norm1"), first.covers("the output of conv1"), first.covers(None)) == (1, 0, 0)
    assert second.covers("anything")
    assert second.covers(None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"check: loss", ":1: it must be a list of entries. Received: a mapping"),
        (b"- loss", ":1: an entry must be a mapping of fields. Received: a scalar"),
        (b"- {check: loss}", ":1: an entry must have a reason. Received: check"),
        (b"- reason: none\n", ":1: an entry must have a check. Received: reason"),
        (b"- check: loss\n  reason:\n", ":2: reason must be a text. Received: nothing"),
        (b"- check: loss\n  reasons: it\n", ":2: a field must be one of check, reason, backend"),
        (b"- check: loss\n  place: here\n", ":2: a field must be one of"),
        (b"- check: loss\n  check: loss\n", ":2: a field must be stated once. Received: a second check"),
        (b"- check: losses\n  reason: it\n", ":1: check must be one of evaluation-outputs, loss, building, or a patt"),
        (b"- check: loss\n  dtype: float8\n  reason: it\n", ":2: dtype must be one of float32, float64"),
        (b"- check: [loss]\n  reason: it\n", ":1: check must be a text. Received: a sequence"),
        (b"- check: 'loss\n", ":2: it must be well-formed YAML in UTF-8"),
        (b"\xff\xfe", "it must be well-formed YAML in UTF-8"),
        (b"#" * 300_000, ": a file of expected failures must have at most 262144 bytes"),
    ],
)
def test_a_wrong_file_gets_one_line(text, said, tmp_path):
    path = tmp_path / "known.yaml"
    path.write_bytes(text)
    with pytest.raises(XfailsError) as caught:
        read(path, CHECKS, DTYPES)
    assert said in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_what_no_longer_fails_is_stale_and_what_was_not_asked_is_not():
    failed, passed, unasked = (Entry("loss", "it", backend=name) for name in "abc")
    elsewhere = Entry("loss", "it", backend="a", tensor="the loss of saturated logits")
    asked = [
        Asked("a", "caffenet", "float32", "loss", frozenset({"the loss in training"})),
        Asked("b", "caffenet", "float32", "loss", frozenset()),
    ]
    assert stale([failed, passed, unasked, elsewhere], asked) == ([passed, elsewhere], [unasked])


def test_expected_failures_pass_and_stale_ones_are_warned_of(capsys, tmp_path):
    known, evidence = tmp_path / "known.yaml", tmp_path / "evidence.json"
    known.write_text(
        "- {check: evaluation-outputs, backend: '*:NotFinite', reason: one number is none, link: 'https://e.org/7'}\n"
        "- {check: prediction, reason: it used to fail}\n"
    )
    command = ["run", "--backend", NOT_FINITE, "--spec", "fashion-mini", "--evidence", str(evidence)]
    asked = [*command, "--only", "evaluation-outputs", "--only", "prediction"]
    assert main([*asked, "--xfails", str(known)]) == 0
    captured = capsys.readouterr()
    assert "1 of 1 examinations passed (1 with failures that were expected), 0 failed" in captured.out
    assert captured.err == (
        f"warning: {known}:2 is stale: it expects a failure of prediction that did not come. "
        "Its reason: it used to fail\n"
    )
    (result,) = json.loads(evidence.read_text())["results"]
    entry = {"reason": "one number is none", "link": "https://e.org/7"}
    assert result["expected"] == {"evaluation-outputs: the output of conv1": entry}
    assert result["passed"]
    assert main([*asked, "--xfails", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml: a file of expected failures must be readable" in capsys.readouterr().err
