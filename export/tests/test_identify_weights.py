"""Files of torch's: state dictionaries fit the variants that have their parameters; everything else is one line."""

from __future__ import annotations

import contextlib
import warnings
import zipfile
from collections import OrderedDict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import spec
from spec.errors import SpecError
from spec.identification import Weights, identify

torch = pytest.importorskip("torch")


@cache
def state(name: str = "fashion-mini") -> dict[str, Any]:
    """The parameters of a variant under other names, of no size in memory."""
    shapes = spec.geometry(spec.load(name)).parameters.values()
    return OrderedDict((f"features.{i}.p", torch.zeros(1).expand(shape)) for i, shape in enumerate(shapes))


def fits(content: Any, path: Path, **options: Any) -> tuple[str, ...]:
    torch.save(content, path, **options)
    found = identify(path)
    assert isinstance(found, Weights)
    assert found.kind == "PyTorch state dictionary"
    return found.names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("torchvision", ("owt-2014", "torchvision")),
        ("cifar-11pct", ("cifar-11pct",)),
        ("source-2012-nocomm", ("source-2012-nocomm",)),
        ("source-2012-half", ("source-2012-half",)),
    ],
)
def test_a_state_dictionary_fits_the_variants_with_its_parameters(tmp_path, name, expected):
    assert fits(state(name), tmp_path / "state.pth") == expected


def test_wrapped_nested_and_old_checkpoints_fit_as_well(tmp_path):
    only, path = ("fashion-mini",), tmp_path / "file"
    wrapped = {f"module.{name}": value for name, value in state().items()}
    moments = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    assert fits(wrapped, path) == only
    assert fits({"epoch": 3, "state_dict": wrapped, "best": 0.4, "optimizer": moments}, path) == only
    assert fits({"model": state(), "ema": None}, path) == only
    assert fits({**state(), "steps": torch.tensor(7)}, path) == only
    assert fits({name: torch.nn.Parameter(torch.zeros(value.shape)) for name, value in state().items()}, path) == only
    assert fits(state(), path, _use_new_zipfile_serialization=False) == only


class Code(torch.nn.Module):  # type: ignore[misc,name-defined]
    def forward(self, x: Any) -> Any:
        return x + 1


def scripted(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(Code(), torch.zeros(1)).save(str(path))


def exported(path: Path) -> None:
    torch.export.save(torch.export.export(Code(), (torch.zeros(1),)), path)


def compressed(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 200_000_000)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: torch.save(Code(), path), r"Received: a pickle that asks for .*test_identify_weights\.Code"),
        (scripted, "Received: a TorchScript module"),
        (exported, "Received: an exported program"),
        (compressed, "must not be compressed"),
        (lambda path: torch.save([1, 2], path), "one to 20000 arrays"),
        (lambda path: torch.save({}, path), "one to 20000 arrays"),
        (lambda path: path.write_bytes(b"\x80\x02}q\x00."), "state dictionary"),
        (lambda path: path.write_bytes(b"PK\x03\x04 and no more"), "must be a readable zip"),
    ],
)
def test_other_files_of_torch_are_refused_in_one_line(tmp_path, write, words):
    write(tmp_path / "file")
    with pytest.raises(SpecError, match=words) as caught:
        identify(tmp_path / "file")
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), zipped=st.booleans())
def test_no_damage_ends_in_a_traceback(tmp_path, data, zipped):
    path = tmp_path / "file"
    torch.save({"a.weight": torch.zeros(4, 3), "a.bias": torch.zeros(4)}, path, _use_new_zipfile_serialization=zipped)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(raw[: data.draw(st.integers(1, len(raw)))]) if data.draw(st.booleans()) else bytes(raw))
    with contextlib.suppress(SpecError):
        identify(path)
