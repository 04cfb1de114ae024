"""Questions as files: what comes back is judged as a live backend is, and every file that is not as it should be is
named."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from alexnet_rooms import ROOT
from conformance.__main__ import main

CASE = "fashion-mini-slim.float32"
OUTPUTS = Path(CASE) / "evaluation-outputs" / "02"


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vectors")
    assert main(["vectors", str(folder), "--spec", "fashion-mini"]) == 0
    return folder


@pytest.fixture(scope="module")
def answered(vectors: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the example answers by the oracle in float32."""
    folder = tmp_path_factory.mktemp("answered") / "results"
    command = [sys.executable, str(ROOT / "examples" / "answer_vectors.py"), str(vectors), str(folder)]
    subprocess.run([*command, "--backend", "numpy"], check=True, timeout=120)
    return folder


@pytest.fixture
def results(answered: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(answered, tmp_path / "results"))


def judged(folder: Path, *more: str) -> int:
    return main(["check", str(folder), "--only", "evaluation-outputs", "--only", "prediction", *more])


def test_a_manifest_names_every_file_and_holds_no_answer(vectors):
    manifest = json.loads((vectors / "manifest.json").read_text())
    files = {path.relative_to(vectors).as_posix() for path in vectors.rglob("*.npy")}
    assert files == set(manifest["files"])
    for name, about in manifest["files"].items():
        assert hashlib.sha256((vectors / name).read_bytes()).hexdigest() == about["sha256"]
        array = np.load(vectors / name)
        assert (str(array.dtype), list(array.shape)) == (about["dtype"], about["shape"])
    (case,) = manifest["cases"]
    checks = [question["check"] for question in case["questions"]]
    assert {"evaluation-outputs", "training-gradients", "training-steps"} <= set(checks)
    for question in case["questions"]:
        assert question["requests"][0]["do"] == "load"
        named = [one for request in question["requests"] for one in request["answer"].values()]
        assert named
        assert all(set(one) == {"dtype", "shape"} for one in named)


def test_what_comes_back_right_passes_every_check(answered, capsys, tmp_path):
    evidence = tmp_path / "evidence.json"
    assert main(["check", str(answered), "--evidence", str(evidence)]) == 0
    captured = capsys.readouterr()
    assert "1 of 1 examinations passed, 0 failed" in captured.out
    assert captured.err == ""
    found = json.loads(evidence.read_text())
    assert found["versions"] == {"numpy": {"numpy": np.__version__}}
    (result,) = found["results"]
    assert len({finding["check"] for finding in result["findings"]}) >= 7


def test_a_wrong_answer_is_described_as_a_live_one_is(results, capsys):
    path = results / OUTPUTS / "conv1.npy"
    np.save(path, 2 * np.load(path))
    assert judged(results) == 1
    said = (
        r"numpy, fashion-mini-slim in float32, check evaluation-outputs: the output of conv1 \(conv\) differs in \d+ of"
    )
    error = capsys.readouterr().err
    assert re.match(said, error)
    assert "; it is 2 times what it should be throughout." in error


def _save(path: Path, array: np.ndarray) -> None:
    np.save(path, array, allow_pickle=True)  # what `check` must refuse to read


def _giant(path: Path) -> None:
    """A header that claims more than any memory holds."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 1 << 20)}
        )


SPOILT = {
    "missing": (lambda p: p.unlink(), "is missing"),
    "a folder": (lambda p: (p.unlink(), p.mkdir()), "cannot be read: Is a directory"),
    "empty": (lambda p: p.write_bytes(b""), "is not a .npy file: EOF"),
    "text": (lambda p: p.write_text("1.0 2.0 3.0"), "is not a .npy file: the magic string is not correct"),
    "truncated": (
        lambda p: p.write_bytes(p.read_bytes()[:-100]),
        "is truncated: it has 9308 bytes of numbers, but sho",
    ),
    "too long": (lambda p: p.write_bytes(p.read_bytes() + b"x"), "is too long: it has 9409 bytes of numbers"),
    "no header": (lambda p: p.write_bytes(p.read_bytes()[:9]), "is not a .npy file: EOF"),
    "dtype": (lambda p: _save(p, np.load(p).astype(np.float64)), "has dtype float64, but should have float32"),
    "byte order": (lambda p: _save(p, np.load(p).astype(">f4")), "has dtype >f4, but should have float32"),
    "shape": (lambda p: _save(p, np.load(p)[:1]), "has shape (1, 6, 14, 14), but should have (2, 6, 14, 14)"),
    "giant": (_giant, "has shape (1099511627776, 1048576), but should have (2, 6, 14, 14)"),
    "pickle": (lambda p: _save(p, np.full((2, 6, 14, 14), None)), "has dtype object, but should have float32"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_file_that_cannot_be_used_is_one_line(how, results, capsys):
    spoil, said = SPOILT[how]
    path = results / OUTPUTS / "conv1.npy"
    spoil(path)
    assert judged(results) == 1
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert lines[0].startswith(f"{path}: {said}")
    assert lines[1].startswith(
        f"numpy: {CASE}, evaluation-outputs cannot be judged: one of its files is missing or unus"
    )
    assert len(lines) == 2
    assert "prediction" in captured.out


def test_files_that_nothing_asked_for_and_several_faults_are_all_named(results, capsys):
    (results / OUTPUTS / "conv9.npy").write_bytes(b"")
    (results / "notes.txt").write_text("ours")
    (results / OUTPUTS / "conv1.npy").unlink()
    (results / OUTPUTS / "pool1.npy").unlink()
    assert judged(results) == 1
    lines = capsys.readouterr().err.splitlines()
    found = [line.removeprefix(f"{results}/") for line in lines[:-1]]
    outputs = OUTPUTS.as_posix()
    assert found == [
        f"{outputs}/conv9.npy: is not asked for",
        "notes.txt: is not asked for",
        f"{outputs}/conv1.npy: is missing",
        f"{outputs}/pool1.npy: is missing",
    ]
    assert "2 of its files are missing or unusable" in lines[-1]


def test_one_safetensors_file_may_answer_a_request(results, capsys):
    folder = results / OUTPUTS
    arrays = {path.stem: np.load(path) for path in folder.iterdir()}
    shutil.rmtree(folder)
    whole = folder.with_name("02.safetensors")
    save_file(arrays, whole)
    assert judged(results) == 0
    wrong = {name: array for name, array in arrays.items() if name != "relu1"} | {
        "conv1": arrays["conv1"].astype(np.float64),
        "more": arrays["conv1"],
    }
    save_file(wrong, whole)
    capsys.readouterr()
    assert judged(results) == 1
    assert capsys.readouterr().err.splitlines()[:3] == [
        f"{whole}: conv1 has dtype float64, but should have float32",
        f"{whole}: lacks relu1",
        f"{whole}: more is not asked for",
    ]
    whole.write_bytes(whole.read_bytes()[:-4])
    assert judged(results) == 1
    assert f"{whole}: is not a .safetensors file: " in capsys.readouterr().err


def test_what_a_backend_cannot_answer_needs_a_reason(results, capsys):
    shutil.rmtree(results / CASE / "training-gradients")
    only = ["--only", "training-gradients", "--only", "prediction"]
    assert main(["check", str(results), *only]) == 1
    assert "training-gradients/02: is missing, with all of logits, conv1.weight" in capsys.readouterr().err
    about = {"backend": "chip", "unsupported": {"*-gradients": "it has no backward pass"}}
    (results / "about.json").write_text(json.dumps(about))
    assert main(["check", str(results), *only]) == 0
    out = capsys.readouterr().out
    assert "it has no backward pass" in out
    assert "chip" in out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / "manifest.json").unlink(), "the manifest must be a file "),
        (
            lambda f: (f / "manifest.json").write_text("{}"),
            "must be the manifest of vectors. Received: format: Field req",
        ),
        (
            lambda f: (f / "manifest.json").write_bytes(b"\xff"),
            "must be the manifest of vectors. Received: the file: Inv",
        ),
        (lambda f: altered(f, seed=1), "the inputs must come out as they were written, by NumPy"),
        (lambda f: altered(f, flavour=1), "the options must be those of this version. Received: "),
        (lambda f: (f / "about.json").write_text("[]"), "must be what results say of themselves"),
        (lambda f: shutil.rmtree(f), "the manifest must be a file"),
    ],
)
def test_a_folder_that_cannot_be_judged_is_one_line_and_exit_code_2(change, said, results, capsys):
    change(results)
    assert judged(results) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def altered(folder: Path, **options: int) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["cases"][0]["options"] |= options
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_nothing_is_written_over(vectors, capsys, tmp_path):
    assert main(["vectors", str(vectors), "--spec", "fashion-mini"]) == 2
    assert "the folder for vectors must be new or empty. Received: " in capsys.readouterr().err
    assert main(["vectors", str(tmp_path / "new"), "--spec", "fashion-mini", "--only", "one-step"]) == 2
    assert "the checks must be some that can be asked in files. Received: one-step" in capsys.readouterr().err
