"""Checkpoints: what goes in comes out, what is wrong is named, and nothing is lost on the way."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import backends.checkpoint as checkpoints
from backends.checkpoint import Checkpoint, CheckpointError, Progress, differences, load, newest, save
from backends.tests import small
from spec import from_values, geometry, initial_parameters, schedule

PROGRESS = Progress(
    seed=7,
    source="elsewhere",
    fingerprint="0123",
    epoch=2,
    batch_in_epoch=3,
    step=13,
    images=104,
    validation_errors=(0.5, 0.1 + 0.2),
    epoch_loss=1.25,
    epoch_correct1=9,
)


def checkpoint(**changes: Any) -> Checkpoint:
    spec = small.spec()
    rng = np.random.default_rng(0)
    velocities = {name: rng.normal(size=shape).astype("f4") for name, shape in geometry(spec).parameters.items()}
    statistics = {"mean_image": rng.normal(size=(1, 8, 8)), "channel_mean": np.array([np.pi])}
    values = {
        "spec": spec,
        "parameters": initial_parameters(spec, 0),
        "velocities": velocities,
        "statistics": statistics,
        "classes": ("ant", "bee", "Käfer", "wasp"),
        "progress": PROGRESS,
        "backend": "torch",
        "versions": {"python": "3.x"},
    }
    return Checkpoint(**{**values, **changes})


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    path, before = tmp_path / "a.safetensors", checkpoint()
    save(path, before)
    after = load(path)
    for field in ("parameters", "velocities", "statistics"):
        wanted, found = getattr(before, field), getattr(after, field)
        assert set(wanted) == set(found)
        for name in wanted:
            np.testing.assert_array_equal(found[name], wanted[name])
            assert found[name].dtype == wanted[name].dtype
    assert list(after.parameters) == list(geometry(before.spec).parameters)
    assert after.spec.statement() == before.spec.statement()
    for field in ("classes", "progress", "backend", "versions"):
        assert getattr(after, field) == getattr(before, field)


def test_the_names_in_the_file_are_canonical(tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", checkpoint())
    with safe_open(tmp_path / "a.safetensors", framework="numpy") as file:
        names, header = set(file.keys()), file.metadata()
    assert {"conv1.weight", "velocity/conv1.weight", "statistics/mean_image"} <= names
    assert header["format"] == "executable-alexnet/1"
    assert header["spec_hash"] == small.spec().hash
    assert json.loads(header["classes"]) == ["ant", "bee", "Käfer", "wasp"]


def test_a_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    save(tmp_path / "a.safetensors", checkpoint())
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_failed_write_leaves_the_old_checkpoint_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    save(path, checkpoint())
    before = path.read_bytes()

    def disk_full(tensors: Any, partial: Path, header: Any) -> None:
        Path(partial).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", disk_full)
    with pytest.raises(OSError, match="No space left"):
        save(path, checkpoint(backend="keras-jax"))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_checkpoint_stands_until_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the moment of the exchange, which is one system call, both are complete."""
    path = tmp_path / "a.safetensors"
    save(path, checkpoint())
    seen = []
    replace = Path.replace

    def watched(source: Path, target: Path) -> Path:
        seen.append((load(target).backend, load(source).backend))
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", watched)
    save(path, checkpoint(backend="keras-jax"))
    assert seen == [("torch", "keras-jax")]
    assert load(path).backend == "keras-jax"


def rewrite(path: Path, header: dict[str, str | None] | None = None, arrays: dict[str, Any] | None = None) -> None:
    """Change, or remove (None), parts of a checkpoint behind the back of `save`."""
    with safe_open(path, framework="numpy") as file:
        old = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        kept = {**file.metadata(), **(header or {})}
    tensors = {**old, **(arrays or {})}
    save_file(
        {k: v for k, v in tensors.items() if v is not None}, path, {k: v for k, v in kept.items() if v is not None}
    )


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def statement(**changes: Any) -> str:
    return json.dumps({**small.spec().statement(), **changes})


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "no such file"),
    "empty": (lambda path: path.write_bytes(b""), "readable safetensors"),
    "text": (lambda path: path.write_text("hello, this is no checkpoint"), "readable safetensors"),
    "truncated": (truncate, "readable safetensors"),
    "a header of 2**60 bytes": (lambda p: p.write_bytes((2**60).to_bytes(8, "little") + b"{}"), "readable safetensors"),
    "of another program": (lambda p: save_file({"x": np.zeros(2)}, p), "a file of another program"),
    "of another version": (lambda p: rewrite(p, {"format": "executable-alexnet/2"}), "executable-alexnet/2"),
    "without progress": (lambda p: rewrite(p, {"progress": None}), "missing: progress"),
    "spec: no JSON": (lambda p: rewrite(p, {"spec": "{"}), "`spec` must be JSON"),
    "spec: too deep": (lambda p: rewrite(p, {"spec": "[" * 100_000}), "`spec` must be JSON"),
    "spec: a list": (lambda p: rewrite(p, {"spec": "[]"}), "`spec` must be a specification"),
    "spec: wrong": (lambda p: rewrite(p, {"spec": statement(training={})}), "training"),
    "spec: another": (
        lambda p: rewrite(p, {"spec": statement(evaluation={"crops": "center", "average": "logits"})}),
        "spec_hash must be",
    ),
    "progress: negative": (
        lambda p: rewrite(p, {"progress": PROGRESS.model_copy(update={"step": -1}).model_dump_json()}),
        "progress.step",
    ),
    "progress: not a number": (lambda p: rewrite(p, {"progress": '{"seed": "7"}'}), "progress.seed"),
    "classes: numbers": (lambda p: rewrite(p, {"classes": "[1, 2]"}), "`classes` must be a list of names"),
    "versions: a list": (lambda p: rewrite(p, {"versions": "[]"}), "`versions` must map"),
    "a missing parameter": (lambda p: rewrite(p, arrays={"fc6.bias": None}), "Missing: fc6.bias"),
    "a missing velocity": (lambda p: rewrite(p, arrays={"velocity/fc6.bias": None}), "Missing: fc6.bias"),
    "a strange parameter": (lambda p: rewrite(p, arrays={"fc9.bias": np.zeros(3, "f4")}), "Unknown: fc9.bias"),
    "a wrong shape": (
        lambda p: rewrite(p, arrays={"fc6.bias": np.zeros(3, "f4")}),
        r"fc6.bias must have shape \(16,\)",
    ),
    "whole numbers": (lambda p: rewrite(p, arrays={"fc6.bias": np.zeros(16, "i4")}), "fc6.bias must be F32 or F64"),
    "not a number": (lambda p: rewrite(p, arrays={"fc6.bias": np.full(16, np.nan, "f4")}), "fc6.bias must be finite"),
}


@pytest.mark.parametrize(("damage", "named"), HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_wrong_is_named_in_one_line(tmp_path: Path, damage: Callable[[Path], object], named: str) -> None:
    path = tmp_path / "a.safetensors"
    save(path, checkpoint())
    damage(path)
    with pytest.raises(CheckpointError, match=named) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="received: a folder"):
        load(tmp_path)


def test_best_is_the_first_of_the_lowest_errors() -> None:
    assert PROGRESS.best == (1, 0.1 + 0.2)
    assert PROGRESS.model_copy(update={"validation_errors": (0.5, 0.2, 0.2)}).best == (1, 0.2)
    assert PROGRESS.model_copy(update={"validation_errors": ()}).best is None


def test_newest_is_the_last_written_that_fits(tmp_path: Path) -> None:
    other = from_values({**small.values(), "name": "other"})
    written = [("a", "torch", small.spec()), ("b", "keras-jax", small.spec()), ("c", "torch", other)]
    for age, (folder, backend, spec) in enumerate(written):
        (tmp_path / folder).mkdir()
        save(tmp_path / folder / checkpoints.LAST, checkpoint(backend=backend, spec=spec))
        os.utime(tmp_path / folder / checkpoints.LAST, ns=(age, age))
    found = {
        arguments: path and path.parent.name
        for arguments in [
            (None, None),
            ("torch", None),
            ("keras", None),
            ("torch", "small"),
            ("keras-tensorflow", None),
        ]
        if (path := newest(tmp_path, *arguments)) or True
    }
    assert list(found.values()) == ["c", "c", "b", "a", None]
    assert newest(tmp_path / "nowhere") is None


def test_differences_are_named_by_field() -> None:
    ours = small.spec()
    changed = small.values()
    changed["training"]["batch_size"] = 9
    del changed["layers"]
    reordered = small.values({**dict(list(small.ALEXNET.items())[:-2]), "fc8": small.ALEXNET["fc8"]})
    rates = schedule.scaled_learning_rates(ours, 0.1)
    assert differences(ours, ours) == {}
    assert differences(ours, from_values({**changed, "layers": small.ALEXNET})) == {"training.batch_size": (8, 9)}
    assert "layers.drop6.op" in differences(ours, from_values(reordered))
    assert all(
        field.startswith("training.learning_rate.") for field in differences(ours, small.spec(learning_rate=rates))
    )
    assert differences(ours, small.spec(learning_rate=rates))
    moved = {name: small.ALEXNET[name] for name in sorted(small.ALEXNET, key=lambda name: name == "norm1")}
    swapped = {"relu1": moved["relu1"], **{k: v for k, v in small.ALEXNET.items() if k != "relu1"}}
    assert list(differences(ours, small.spec(swapped))) == ["layers"]


def test_renaming_a_specification_changes_nothing() -> None:
    ours = small.spec()
    assert dataclasses.replace(checkpoint(), spec=ours).spec.hash == from_values({**small.values(), "name": "n"}).hash
