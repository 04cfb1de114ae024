"""``evaluate`` and ``predict`` from the command line: what they say, refuse and leave behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from backends import cli, evaluate, predict
from backends.checkpoint import LAST, load, save
from backends.evaluation.report import RESULT, SHEET
from backends.onnx import build
from backends.tests import small
from benchmarks.engines.base import EngineError, read
from export.ends import add_pixels, add_softmax
from export.onnx_file import metadata
from export.source import Request, resolve
from export.tensors import Unreadable
from export.weight_files import open_file

Command = Callable[..., tuple[int, str, str]]
RUN = "runs/torch-small"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of three epochs on images of stripes, its ONNX file, and another run."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        small.write_spec(folder)
        small.write_images(folder / "images", validation=40)
        for seed in "01":
            asked = ["--spec", "small.yaml", "--data", "images", "--device", "cpu", "--seed", seed]
            assert cli.main("torch", [*asked, "--output-dir", RUN if seed == "0" else f"runs/{seed}"]) == 0
        request = Request("torch", Path(RUN, LAST))
        source = resolve(request)
        said = metadata(request, source)
        onnx.save(build(source.spec, source.parameters, metadata=said), "small.onnx")
        model = build(source.spec, source.parameters, metadata=said)
        add_softmax(model)
        add_pixels(model, source.spec, source.statistics)
        onnx.save(model, "pixels.onnx")
    return folder


@pytest.fixture
def run(trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Run a command in the folder. Returns exit code, stdout and stderr."""
    monkeypatch.chdir(trained)

    def call(main: Callable[[list[str]], int], *options: object) -> tuple[int, str, str]:
        own = ["--output-dir", tmp_path / "result"] if main is evaluate.main and "--output-dir" not in options else []
        capsys.readouterr()
        code = main([*map(str, options), *map(str, own)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def refused(answer: tuple[int, str, str], *words: str) -> None:
    code, _, err = answer
    assert (code, len(err.splitlines())) == (2, 1), answer
    for word in words:
        assert word in err


def test_what_an_evaluation_says_and_leaves(run: Command, trained: Path, tmp_path: Path) -> None:
    code, out, err = run(evaluate.main, RUN)
    assert (code, err) == (0, "")
    assert "ten crops, probabilities averaged over crops; 40 validation images" in out
    assert "the central crop less ten crops" in out
    found = json.loads((tmp_path / "result" / RESULT).read_text())
    assert [error["crops"] for error in found["errors"]] == ["center", "ten"]
    assert found["data"] == {"source": "images", "part": "validation", "images": 40, "classes": ["0", "1", "2", "3"]}
    center = found["errors"][0]["top1_error"]
    assert center["error"] == load(trained / RUN / LAST).progress.validation_errors[-1]
    assert center["interval"][0] <= center["error"] <= center["interval"][1]
    assert sum(row["top1_error"]["wrong"] for row in found["classes"]) == found["errors"][1]["top1_error"]["wrong"]
    if found["errors"][1]["top1_error"]["wrong"]:
        with Image.open(tmp_path / "result" / SHEET) as sheet:
            assert sheet.format == "PNG"


def test_without_an_argument_the_newest_run_is_evaluated_beside_itself(run: Command, trained: Path) -> None:
    for _ in range(2):
        assert evaluate.main([]) == 0
    assert sorted(path.name for path in Path("runs/1").iterdir() if path.is_dir()) == ["evaluation", "evaluation-2"]


@pytest.mark.parametrize("model", ["small.onnx", "pixels.onnx", RUN])
@pytest.mark.parametrize("backend", [None, "numpy", "torch", "onnx"])
def test_every_file_on_every_backend_gives_the_same_answers(
    run: Command, tmp_path: Path, model: str, backend: str | None
) -> None:
    code, out, err = run(evaluate.main, model, *(["--backend", backend] if backend else []))
    assert (code, err) == (0, "")
    found = json.loads((tmp_path / "result" / RESULT).read_text())
    run(evaluate.main, RUN, "--output-dir", tmp_path / "torch")
    wanted = json.loads((tmp_path / "torch" / RESULT).read_text())
    assert found["errors"][1]["top1_error"] == wanted["errors"][1]["top1_error"]
    assert found["confusions"] == wanted["confusions"]
    assert f"{backend or ('torch' if model == RUN else 'onnx')} on cpu" in out


def test_several_models_are_judged_together(run: Command, tmp_path: Path) -> None:
    code, out, _ = run(evaluate.main, RUN, "runs/1", "small.onnx", "--crops", "centre")
    assert code == 0
    found = json.loads((tmp_path / "result" / RESULT).read_text())
    assert [error["who"] for error in found["errors"]] == [RUN, "runs/1", "small.onnx", "all together"]
    assert len(found["comparisons"]) == 3
    assert "the central crop, probabilities averaged over models" in out


def test_other_parts_are_evaluated_and_said_to_be_known(run: Command, tmp_path: Path) -> None:
    for part, count in (("train", 44), ("all", 84)):
        _, out, _ = run(evaluate.main, RUN, "--split", part, "--output-dir", tmp_path / part)
        assert json.loads((tmp_path / part / RESULT).read_text())["data"]["images"] == count
        assert "was trained on images among these" in out


def altered(trained: Path, name: str, **changes: object) -> str:
    path = trained / f"{name}.safetensors"
    save(path, replace(load(trained / RUN / LAST), **changes))  # type: ignore[arg-type]
    return str(path)


def test_another_order_of_classes_is_refused(run: Command, trained: Path, tmp_path: Path) -> None:
    refused(run(evaluate.main, altered(trained, "order", classes=("0", "2", "1", "3"))), "in another order, at 1 '1'")
    refused(run(evaluate.main, altered(trained, "names", classes=("0", "2", "x", "3"))), "'1', which it does not know")
    small.write_images(tmp_path / "two", classes=2)
    refused(run(evaluate.main, RUN, "--data", tmp_path / "two"), "the model's 4 classes", "Received: 2: '0', '1'")
    assert not (tmp_path / "result").exists()


def test_images_that_have_changed_are_refused_unless_they_are_asked_for(run: Command, trained: Path) -> None:
    progress = load(trained / RUN / LAST).progress.model_copy(update={"fingerprint": "0" * 64})
    changed = altered(trained, "changed", progress=progress)
    refused(run(evaluate.main, changed), "have changed since")
    code, out, _ = run(evaluate.main, changed, "--data", "images")
    assert code == 0
    assert "was trained on other images of images" in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["nothing.safetensors"], "no such file"),
        (["small.yaml"], "readable safetensors"),
        (["hostile.onnx"], "no ONNX model"),
        (["empty.onnx"], "a graph of nodes"),
        ([RUN, "--crops", "five"], "centre or ten"),
        ([RUN, "--backend", "caffe"], "must be one of"),
        ([RUN, "--batch-size", "0"], "at least 1"),
        ([RUN, "--data", "nowhere"], "nowhere"),
        ([RUN, "--device", "abacus"], "abacus"),
        ([RUN, RUN], "named once"),
        ([RUN, "--wrong"], "--wrong"),
        ([RUN, "--output-dir", "small.yaml"], "a folder that can be made"),
    ],
)
def test_what_cannot_be_is_one_line(run: Command, trained: Path, options: list[str], words: str) -> None:
    (trained / "hostile.onnx").write_bytes(b"\xff" * 100)
    (trained / "empty.onnx").write_bytes(onnx.ModelProto().SerializeToString())
    refused(run(evaluate.main, *options), words)


@pytest.mark.parametrize("progress", ["", "{}", '{"epoch": "x"}'])
def test_a_damaged_record_of_training_is_one_line(run: Command, trained: Path, tmp_path: Path, progress: str) -> None:
    model = onnx.load(trained / "small.onnx")
    said = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {**said, "source.progress": progress})
    onnx.save(model, tmp_path / "damaged.onnx")
    code, out, err = run(evaluate.main, tmp_path / "damaged.onnx")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "source.progress must be a run's progress. Received: " in err


def test_metadata_that_is_no_text_is_one_line_to_all_who_read_it(run: Command, trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.onnx"
    path.write_bytes((trained / "small.onnx").read_bytes().replace(b'"layers"', b'"lay\xbdrs"'))
    words = "metadata of an ONNX file must be text in UTF-8. Received: bytes that are none, 'spec.json'"
    refused(run(evaluate.main, path), words)
    with pytest.raises(Unreadable, match="must be text in UTF-8"):
        open_file(path)
    with pytest.raises(EngineError, match="must be text in UTF-8"):
        read(path)


def test_an_evaluation_is_never_written_over(run: Command, tmp_path: Path) -> None:
    assert run(evaluate.main, RUN)[0] == 0
    before = (tmp_path / "result" / RESULT).read_bytes()
    refused(run(evaluate.main, RUN, "--crops", "centre"), "must hold no evaluation", RESULT)
    assert (tmp_path / "result" / RESULT).read_bytes() == before


def foreign(path: Path, batch: int | str, softmax: bool) -> None:
    """A file of another program: the mean of each quarter of the image, as scores of four classes."""
    nodes = [
        helper.make_node("AveragePool", ["data"], ["pooled"], kernel_shape=[2, 8], strides=[2, 8]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
    ]
    nodes.append(helper.make_node("Softmax" if softmax else "Identity", ["flat"], ["prob"]))
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, [batch, 1, 8, 8])],
        [helper.make_tensor_value_info("prob", TensorProto.FLOAT, [batch, 4])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)


@pytest.mark.parametrize("batch", [1, 3, "n"])
def test_a_file_of_another_program_needs_a_specification_and_data(
    run: Command, trained: Path, tmp_path: Path, batch: int | str
) -> None:
    foreign(trained / "foreign.onnx", batch, softmax=True)
    refused(run(evaluate.main, "foreign.onnx", "--data", "images"), "--spec")
    refused(run(evaluate.main, "foreign.onnx", "--spec", "small.yaml"), "--data")
    refused(
        run(evaluate.main, "foreign.onnx", "--spec", "small.yaml", "--data", "images", "--backend", "torch"), "onnx"
    )
    refused(run(evaluate.main, "foreign.onnx", "--spec", "paper-2012", "--data", "images"), "3 x 224 x 224")
    code, out, err = run(evaluate.main, "foreign.onnx", "--spec", "small.yaml", "--data", "images")
    assert (code, err) == (0, "")
    assert "names no classes" in out
    assert "records no mean" in out
    found = json.loads((tmp_path / "result" / RESULT).read_text())
    assert found["errors"][-1]["top1_error"]["wrong"] == 0  # the class is the row that is bright


def test_probabilities_of_a_foreign_file_are_not_put_through_a_softmax_again(run: Command, trained: Path) -> None:
    values = small.values()
    values["data"]["mean"] = {"kind": "none"}
    (trained / "bare.yaml").write_text(json.dumps(values))
    Image.fromarray(np.repeat(np.arange(0, 80, 10, dtype=np.uint8)[:, None], 8, axis=1)).save(trained / "ramp.png")
    said = []
    for softmax in (True, False):
        foreign(trained / "foreign.onnx", "n", softmax)
        code, out, _ = run(predict.main, "foreign.onnx", "ramp.png", "--spec", "bare.yaml", "--json")
        assert code == 0
        said.append([(best["class"], round(best["probability"], 5)) for best in json.loads(out)["best"]])
    assert said[0] == said[1]
    assert said[0][0][0] == "class 3"


# --- predict ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def photographs(tmp_path: Path) -> list[Path]:
    """A bright row in the middle of dark ones, in grey and in RGB, upright and on its side."""
    rows = np.zeros((80, 80), np.uint8)
    rows[40:50] = 250
    paths = [tmp_path / "grey.png", tmp_path / "colour.jpg"]
    Image.fromarray(rows).save(paths[0])
    Image.fromarray(np.repeat(rows[..., None], 3, axis=2)).save(paths[1], quality=100)
    return paths


def test_prediction_names_classes_with_bars(run: Command, photographs: list[Path]) -> None:
    code, out, err = run(predict.main, RUN, *photographs)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert (lines[0], lines[5]) == (str(photographs[0]), str(photographs[1]))
    shares = [float(line.split()[1]) for line in lines[1:5]]
    assert sorted(line.split()[0] for line in lines[1:5]) == ["0", "1", "2", "3"]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.05)
    assert len(lines[1].split()[3]) == -(-round(shares[0] * 3.2) // 8)


def test_bad_images_are_a_line_each_and_good_ones_are_answered(
    run: Command, photographs: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "bad.jpg").write_text("no image")
    (tmp_path / "cut.png").write_bytes(photographs[0].read_bytes()[:60])
    bad = [tmp_path / "bad.jpg", tmp_path / "cut.png", tmp_path / "none.png", tmp_path]
    code, out, err = run(predict.main, RUN, bad[0], photographs[0], *bad[1:])
    assert code == 2
    assert [line.split(": ")[1] for line in err.splitlines()] == list(map(str, bad))
    assert out.splitlines()[0] == str(photographs[0])


def test_prediction_is_evaluation_of_one_image(run: Command, photographs: list[Path]) -> None:
    said = [run(predict.main, model, photographs[0], "--json", "--crops", crops)[1]
            for crops in ("centre", "ten") for model in (RUN, "small.onnx", "pixels.onnx")]  # fmt: skip
    answers = [[best["probability"] for best in json.loads(text)["best"]] for text in said]
    for of_crops in (answers[:3], answers[3:]):
        np.testing.assert_allclose(of_crops[1:], [of_crops[0]] * 2, rtol=1e-4)
    assert answers[0] != answers[3]


def test_bars() -> None:
    assert (predict.bar(0), predict.bar(1, 4), predict.bar(0.5, 3), predict.bar(1e-9)) == ("", "████", "█▌", "")
    assert predict.bar(0.5, 4, solid=False) == "##"


def test_wrong_predictions_are_one_line(run: Command, photographs: list[Path]) -> None:
    refused(run(predict.main, RUN), "IMAGE")
    refused(run(predict.main, "nothing", photographs[0]), "no such file")
    refused(run(predict.main, RUN, photographs[0], "--top", "3"), "--top")
