"""How colour-specific kernels are, and whether towers differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

import spec
from backends.starting import RequestError
from experiments.__main__ import MODELS, main
from experiments.filters import RANDOM_SHARE, chance, colour_shares, towers_of
from experiments.tests.small import run, values


@given(st_np.arrays(np.float64, (3, 1, 4, 4), elements=st.floats(-3, 3, width=16)), st.floats(0.1, 10))
def test_the_share_is_between_0_and_1_and_does_not_depend_on_scale(grey: np.ndarray, scale: float) -> None:
    kernels = np.concatenate([grey, -grey, 2 * grey], axis=1)
    shares = colour_shares(kernels)
    assert ((shares >= -1e-12) & (shares <= 1 + 1e-12)).all()
    np.testing.assert_allclose(colour_shares(scale * kernels), shares, atol=1e-9)


def test_grey_colour_and_random_kernels() -> None:
    one = np.random.default_rng(1).standard_normal((5, 1, 6, 6))
    np.testing.assert_allclose(colour_shares(np.repeat(one, 3, axis=1)), 0, atol=1e-12)
    np.testing.assert_allclose(colour_shares(np.concatenate([one, -one, 0 * one], axis=1)), 1)
    assert colour_shares(np.zeros((1, 3, 2, 2))) == [RANDOM_SHARE]
    many = np.random.default_rng(2).standard_normal((4000, 3, 3, 3))
    assert colour_shares(many).mean() == pytest.approx(RANDOM_SHARE, abs=0.005)
    # By hand: (1, 0, 0) is 1/3 grey.
    assert colour_shares(np.array([1.0, 0, 0]).reshape(1, 3, 1, 1))[0] == pytest.approx(2 / 3)


def test_chance_tells_towers_that_differ_from_towers_that_do_not() -> None:
    apart = np.r_[np.linspace(0.1, 0.3, 8), np.linspace(0.6, 0.9, 8)]
    assert chance(apart, 2, 0) < 0.005
    assert chance(apart.reshape(2, 8).T.ravel(), 2, 0) > 0.2  # every tower has as many of each kind
    assert chance(np.full(8, 0.5), 2, 0) == 1


def test_chance_is_the_share_of_all_divisions() -> None:
    """Four kernels in two towers: of the three divisions into pairs, one has this difference."""
    assert chance(np.array([0.0, 0.1, 0.9, 1.0]), 2, 0) == pytest.approx(1 / 3, abs=0.02)


@pytest.mark.parametrize(
    ("name", "towers"),
    [("source-2012", 2), ("paper-2012", 2), ("caffe-alexnet", 2), ("torchvision", 1), ("single-stream", 1)],
)
def test_towers(name: str, towers: int) -> None:
    conv, found = towers_of(spec.load(name))
    assert (conv.name, found) == ("conv1", towers)


def test_grey_networks_are_refused() -> None:
    with pytest.raises(RequestError, match="red, green and blue"):
        towers_of(spec.load("fashion-mini"))


def test_a_run(small: list[str], tmp_path: Path) -> None:
    result = run(tmp_path / "run", "filters", *small, "--seeds", "2")
    numbers = result["numbers"]
    assert np.shape(numbers["colour_share_by_kernel"]) == (2, 4)
    np.testing.assert_allclose(
        np.mean(np.reshape(numbers["colour_share_by_kernel"], (2, 2, 2)), axis=2), numbers["colour_share_by_tower"]
    )
    assert result["pictures"] == ["filters.png", "colour.png"]


def test_a_checkpoint(small: list[str], tmp_path: Path) -> None:
    from backends import cli

    folder = tmp_path / "trained"
    assert cli.main("torch", [*small[:4], "--epochs", "1", "--seed", "5", "--output-dir", str(folder)]) == 0
    result = run(tmp_path / "run", "filters", "--checkpoint", str(folder))
    assert result["seeds"] == [5]
    assert result["specs"][0]["hash"] == spec.from_values(values(epochs=1)).hash
    assert np.shape(result["numbers"]["colour_share_by_kernel"]) == (1, 4)


def test_a_checkpoint_stands_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["filters", "--checkpoint", "run", "--seeds", "2", "--output-dir", str(tmp_path / "new")]) == 2
    assert "Received: --seeds beside it" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_room_s_own_specifications_are_sound() -> None:
    found = sorted(MODELS.glob("*.yaml"))
    assert found
    for path in found:
        assert spec.load(path).name == path.stem
