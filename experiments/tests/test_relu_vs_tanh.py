"""The two networks that are compared, and the run as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest

import spec
from backends.starting import RequestError
from experiments.__main__ import main
from experiments.censored import Time
from experiments.relu_vs_tanh import quickest, unregularised
from experiments.tests.small import run, values
from spec import Place, settings
from spec.schedule import scaled_learning_rates


@pytest.mark.parametrize("name", ["source-2012", "cifar-13pct", "lenet-5"])
def test_nothing_but_the_nonlinearity_differs(name: str) -> None:
    before = spec.load(name)
    relu, tanh = (unregularised(before, kind, 1.0) for kind in ("relu", "tanh"))
    assert relu.hash != tanh.hash
    swapped = {"relu": "tanh", "tanh": "relu"}
    values = relu.statement()
    for layer in values["layers"].values():
        if layer["op"] == "relu":
            layer.clear()
            layer["op"] = swapped["relu"]
    assert spec.from_values({**values, "name": "turned"}).hash == tanh.hash
    assert spec.geometry(relu).parameters == spec.geometry(before).parameters


def test_nothing_regularises() -> None:
    made = unregularised(spec.load("source-2012"), "relu", 2.0)
    assert not [layer for layer in made.layers if layer.op == "dropout"]
    assert (made.data.crop.kind, made.data.flip.probability, made.data.color_noise) == ("center", 0, None)
    for epoch in (0, 80):
        for name, setting in settings(made, Place(epoch, 100 * epoch, 100, 90)).items():
            assert setting.weight_decay == 0
            assert setting.learning_rate == pytest.approx(0.04 if name.endswith(".bias") else 0.02)
    again = scaled_learning_rates(made, 0.02)
    assert {pattern: schedule["rate"] for pattern, schedule in again.items()}


def test_a_network_without_nonlinearities_is_refused() -> None:
    stated = values()
    stated["layers"] = {n: layer for n, layer in stated["layers"].items() if layer["op"] != "relu"}
    with pytest.raises(RequestError, match="relu or tanh"):
        unregularised(spec.from_values(stated), "tanh", 1.0)


def test_the_quickest_rate_is_taken() -> None:
    late = Time(9, censored=True)
    assert quickest([late, Time(4), Time(3), Time(5)], [0.1] * 4) == 2
    assert quickest([late, late, late], [0.5, 0.2, 0.3]) == 1
    assert quickest([Time(3), Time(3)], [0.1, 0.0]) == 0


def test_a_run(small: list[str], tmp_path: Path) -> None:
    result = run(tmp_path / "run", "relu-vs-tanh", *small, "--seeds", "2", "--target", "30")
    numbers = result["numbers"]
    assert numbers["target"] == 0.3
    for kind in ("relu", "tanh"):
        assert numbers["rate_factors_taken"][kind] in numbers["rate_factors_tried"]
        for (epochs, censored), errors in zip(numbers["epochs"][kind], numbers["training_error"][kind], strict=True):
            assert len(errors) <= 3
            assert censored == (errors[-1] > 0.3)
            assert all(error > 0.3 for error in errors[:-1])  # it ends where it arrives
            assert len(errors) - 1 < epochs <= len(errors)
    assert result["finding"].startswith("To a training error of 30 %, small takes ")


@pytest.mark.parametrize("target", ["0", "100", "x", "70"])
def test_targets_that_are_none(
    target: str, small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["relu-vs-tanh", *small, "--target", target, "--output-dir", str(tmp_path / "run")]
    assert main(options) == 2
    assert "target" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
