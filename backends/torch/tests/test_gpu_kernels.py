"""What only a GPU runs: Triton's kernels in its interpreter, and the forms of convolution in groups, on this CPU."""

from __future__ import annotations

import importlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.torch import grouped, normalization
from backends.torch.compiled import compiled
from backends.torch.normalization import Channels, ResponseNormFunction
from spec.draws import Purpose, words

NAMES = ("backends.torch.channel_norm_gpu", "backends.torch.dropout_gpu")
SLOW = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def interpreted() -> Iterator[SimpleNamespace]:
    """The modules of Triton's kernels, imported anew so that they run in its interpreter."""
    if find_spec("triton") is None:
        (pytest.fail if "ALEXNET_TRITON" in os.environ else pytest.skip)("without Triton: tox -e gpu-kernels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        for name in NAMES:
            patch.delitem(sys.modules, name, raising=False)
        norm, dropout = map(importlib.import_module, NAMES)
        yield SimpleNamespace(norm=norm, dropout=dropout)
        for name in NAMES:  # the next to import them must find no interpreter
            sys.modules.pop(name, None)


CENTRED = Channels(2, 2, 1)
layouts = st.sampled_from((torch.contiguous_format, torch.channels_last))
windows = st.builds(Channels, st.integers(0, 4), st.integers(0, 4), st.sampled_from((1, 2)))
shapes = st.tuples(st.integers(1, 3), st.integers(1, 12).map(lambda n: 2 * n), st.integers(1, 9), st.integers(1, 9))


@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2), (torch.float16, 1e-3)], ids=str
)
@given(window=windows, shape=shapes, layout=layouts, seed=st.integers(0, 99))
@SLOW
def test_response_normalisation_and_its_gradient_are_those_of_the_formula(
    interpreted: SimpleNamespace,
    dtype: torch.dtype,
    error: float,
    window: Channels,
    shape: tuple[int, int, int, int],
    layout: torch.memory_format,
    seed: int,
) -> None:
    drawn = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=drawn).mul_(20).to(dtype).to(memory_format=layout)
    g = torch.randn(shape, generator=drawn).to(dtype)
    exact = x.double().requires_grad_()
    wanted = exact * (0.02 * window.sums(exact * exact) + 2.0).pow(-0.75)
    (slope,) = torch.autograd.grad(wanted, exact, g.double())

    y, d = interpreted.norm.normalise(x, *window, 0.02, 2.0)
    dx = interpreted.norm.differentiate(g, x, d, *window, 0.02, 2.0)
    for found, right in ((y, wanted.detach()), (dx, slope)):
        assert found.dtype == dtype
        assert found.stride() == torch.empty_like(x).stride()
        assert float((found.double() - right).abs().max()) <= error * float(right.abs().max())


def test_a_grid_of_many_programs_covers_every_element_once(interpreted: SimpleNamespace) -> None:
    x = torch.randn(3, 96, 7, 5, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
    assert x.numel() > 4 * interpreted.norm._BLOCK
    assert x.numel() % interpreted.norm._BLOCK
    y, _ = interpreted.norm.normalise(x, 0, 0, 1, 0.0, 1.0)
    assert torch.equal(y, x)


def test_a_loop_is_chosen_for_what_it_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """By stand-ins for tensors of a GPU: nothing is computed."""
    gpu = ModuleType("gpu")
    monkeypatch.setattr(normalization, "compiled", lambda name: gpu if name == "channel_norm_gpu" else None)

    class Tensor:
        device = torch.device("cuda")

        def __init__(self, x: torch.Tensor) -> None:
            self.x = x

        def __getattr__(self, name: str) -> object:
            return getattr(self.x, name)

    monkeypatch.setattr(normalization, "Tensor", Tensor)

    def chosen(x: torch.Tensor, window: normalization.Window = CENTRED, beta: float = 0.75) -> ModuleType | None:
        return normalization.loop(Tensor(x), window, beta)  # type: ignore[arg-type]

    x = torch.zeros(2, 6, 3, 3)
    assert chosen(x) is gpu
    assert chosen(x.to(memory_format=torch.channels_last)) is gpu
    assert chosen(x.bfloat16()) is gpu
    assert chosen(x.double()) is None, "Triton takes k and the coefficient as float32"
    assert chosen(x.transpose(0, 1)) is None
    assert chosen(x, beta=0.5) is None
    assert chosen(x, window=normalization.Square(3)) is None


@given(
    seed=st.sampled_from((0, 1, 16, 2**32 - 1)),
    epoch=st.integers(0, 2**32 - 1),
    rate=st.floats(0, 0.99),
    shape=st.lists(st.integers(1, 12), min_size=1, max_size=3).map(tuple),
)
@SLOW
def test_masks_have_the_bits_of_the_definition(
    interpreted: SimpleNamespace, seed: int, epoch: int, rate: float, shape: tuple[int, ...]
) -> None:
    images, tag, dropped = np.array([0, 1, 7, 2**32 - 1]), 2654435761, int(rate * 2**32)
    expected = words(seed, Purpose.DROPOUT, math.prod(shape), items=images, epoch=epoch, tag=tag) >= dropped
    found = interpreted.dropout.mask(torch.tensor(images), shape, (seed, int(Purpose.DROPOUT)), epoch, tag, dropped)
    assert found.dtype == torch.bool
    np.testing.assert_array_equal(found.numpy(), expected.reshape(len(images), *shape))


@pytest.mark.parametrize("form", [grouped.split, grouped.dense])
@pytest.mark.parametrize("groups", [2, 3])
@pytest.mark.parametrize("biased", [True, False])
def test_convolution_in_groups_is_the_same_in_every_form(form: object, groups: int, biased: bool) -> None:
    drawn = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(shape, generator=drawn, dtype=torch.float64, requires_grad=True)
        for shape in ((2, 4 * groups, 7, 6), (3 * groups, 4, 3, 2), (3 * groups,))
    )
    leaves = (x, weight, bias) if biased else (x, weight)
    found = []
    for way in (F.conv2d, form):
        arguments = (x, weight, bias if biased else None, (2, 1), (1, 0))
        y = way(*arguments, groups=groups)  # type: ignore[operator]
        found.append((y.detach(), *torch.autograd.grad(y.square().sum(), leaves)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_compiler_that_is_there_and_does_not_work_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def launch() -> None:
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.\nand more")

    broken = ModuleType("backends.torch.channel_norm_gpu")
    broken.__dict__["launch"] = launch
    monkeypatch.setitem(sys.modules, broken.__name__, broken)
    compiled.cache_clear()
    try:
        with pytest.warns(UserWarning, match=r"slower without Triton: Failed to find C compiler.*variable\.$"):
            assert compiled("channel_norm_gpu") is None
    finally:
        compiled.cache_clear()


def test_on_a_cpu_the_framework_s_own_groups_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise AssertionError("on a CPU the framework's own are faster")

    monkeypatch.setattr(grouped, "split", fail)
    monkeypatch.setattr(grouped, "dense", fail)
    x, weight = torch.ones(1, 4, 3, 3), torch.ones(2, 2, 3, 3)
    assert grouped.convolution(x, weight, None, (1, 1), (0, 0), 2).flatten().tolist() == [18.0, 18.0]


@pytest.mark.parametrize(
    ("dtype", "groups", "autocast", "form"),
    [
        (torch.float32, 2, None, "split"),
        (torch.bfloat16, 2, None, "dense"),
        (torch.bfloat16, 4, None, "split"),  # four times the products would not pay
        (torch.float32, 2, torch.bfloat16, "dense"),
        (torch.float64, 3, torch.float16, "split"),
    ],
)
def test_on_a_gpu_the_form_follows_what_is_computed_in(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, groups: int, autocast: torch.dtype | None, form: str
) -> None:
    """By a stand-in for a tensor of a GPU: nothing is computed."""
    for name in ("split", "dense"):
        monkeypatch.setattr(grouped, name, lambda *arguments, name=name: name)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: kind == "cuda" and autocast is not None)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda kind: autocast)
    monkeypatch.setattr(F, "conv2d", lambda *arguments, groups: "native")
    weight = torch.ones(groups, 1, 1, 1)

    def chosen(layout: torch.memory_format) -> object:
        x = SimpleNamespace(
            is_cuda=True,
            dtype=dtype,
            is_contiguous=lambda memory_format=torch.contiguous_format: memory_format == layout,
        )
        return grouped.convolution(x, weight, None, (1, 1), (0, 0), groups)  # type: ignore[arg-type]

    assert chosen(torch.channels_last) == form
    assert chosen(torch.contiguous_format) == "native"
    with torch.no_grad():
        assert chosen(torch.channels_last) == "native"


def test_the_function_uses_the_loop_both_ways(interpreted: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 6, 3, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
    found, called = [], list[str]()
    for name in ("normalise", "differentiate"):
        right = getattr(interpreted.norm, name)

        def counted(*given: object, name: str = name, right: Callable[..., object] = right) -> object:
            called.append(name)
            return right(*given)

        monkeypatch.setattr(interpreted.norm, name, counted)
    for loop in (None, interpreted.norm):
        monkeypatch.setattr(normalization, "loop", lambda *arguments, loop=loop: loop)
        y = ResponseNormFunction.apply(x, Channels(1, 2, 2), 0.02, 0.75, 2.0)
        assert y.grad_fn.loop is loop
        found.append((y.detach(), *torch.autograd.grad(y.square().sum(), x)))
    assert called == ["normalise", "differentiate"]
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
