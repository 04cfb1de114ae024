"""What is asked about GPUs, on made up answers, since there may be none; and the roof, on made up machines."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.devices import accelerators, compile_strictly, out_of_memory, timed, used_precision
from benchmarks.results import Model, Roof
from benchmarks.roof import attainable, measure, merged


def test_gpus_are_read_from_their_drivers_list():
    said = "NVIDIA H100 80GB HBM3, 81559, 580.95.05, 1980, 700.00\nGRID, 16384, 550.1, [N/A], [N/A]\n"
    first, second = accelerators(lambda command: said)
    assert (first.name, first.memory_mib, first.driver, first.clock_mhz) == (
        "NVIDIA H100 80GB HBM3",
        81559,
        "580.95.05",
        1980,
    )
    assert (second.clock_mhz, second.power_watts) == (None, None)


def _raise(error: Exception) -> str:
    raise error


@pytest.mark.parametrize("error", [FileNotFoundError("nvidia-smi"), subprocess.CalledProcessError(9, "nvidia-smi")])
def test_where_there_is_no_driver_there_is_no_gpu(error):
    assert accelerators(lambda command: _raise(error)) == ()


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"), True),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 123 bytes"), True),
        (RuntimeError("[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 1"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
    ],
)
def test_memory_that_does_not_suffice_is_told_from_other_errors(error, is_it):
    assert out_of_memory(error) is is_it


def test_tf32_is_float32_where_there_are_no_tensor_cores():
    assert [used_precision("tf32", device) for device in ("cuda", "cpu")] == ["tf32", "float32"]
    assert used_precision("bfloat16", "cpu") == "bfloat16"


def test_every_call_is_timed():
    seen: list[int] = []
    assert len(timed(lambda: seen.append(1), "cpu", 3)) == len(seen) == 3


def _model(macs: int | None) -> Model:
    return Model(
        name="m", origin="", spec_hash=None, lrn=None, precision="float32", parameters=None, macs=macs, bytes=0,
        parameter_bytes=200, image_bytes=10, images=None,
    )  # fmt: skip


ROOF = Roof(device="cpu", gflops={"float32": 4e-6, "int8": 1.0}, by={}, gbytes_per_second=1e-6)


def test_the_roof_is_memory_at_small_batches_and_products_at_large_ones():
    # 1,000 bytes a second and 4,000 operations: an image of 100 operations has 210 bytes alone, 12 among a hundred.
    for batch, rate, bound in ((1, 1000 / 210, "memory"), (100, 40.0, "compute")):
        found = attainable(ROOF, _model(50), "float32", batch)
        assert found is not None
        assert found[0] == pytest.approx(rate)
        assert found[1] == bound
    assert attainable(ROOF, _model(50), "float16", 1) is None
    assert attainable(ROOF, _model(None), "float32", 1) is None


@given(st.integers(1, 10**6), st.integers(1, 4096))
def test_no_batch_is_above_its_roof_on_either_side(macs, batch):
    found = attainable(ROOF, _model(macs), "float32", batch)
    assert found is not None
    rate, bound = found
    sides = {"compute": 4000 / (2 * macs), "memory": 1000 / (200 / batch + 10)}
    assert rate == pytest.approx(min(sides.values()))
    assert sides[bound] == pytest.approx(rate)


def test_the_higher_of_two_measurements_is_the_roof():
    other = Roof(device="cpu", gflops={"float32": 9.0}, by={"float32": "NumPy"}, gbytes_per_second=0.5e-6)
    found = merged([ROOF.model_copy(update={"by": {"float32": "a", "int8": "b"}}), other])
    assert found.gflops == {"float32": 9.0, "int8": 1.0}
    assert found.by == {"float32": "NumPy", "int8": "b"}
    assert found.gbytes_per_second == 1e-6


def test_a_roof_is_measured_of_what_is_asked(monkeypatch):
    monkeypatch.setitem(__import__("benchmarks.roof").roof.SIZES, "cpu", 128)
    found = measure("cpu", ["float32"], 1, 0.01)
    assert list(found.gflops) == ["float32"]
    assert found.gflops["float32"] > 0.01
    assert found.gbytes_per_second > 0.1


def test_a_compiler_that_has_enough_says_so_instead_of_compiling_no_more(monkeypatch):
    torch = pytest.importorskip("torch")
    for name in ("recompile_limit", "fail_on_recompile_limit_hit"):
        monkeypatch.setattr(torch._dynamo.config, name, getattr(torch._dynamo.config, name))
    monkeypatch.setattr("benchmarks.devices.RECOMPILED", 2)
    call = compile_strictly(lambda x: x + 1)
    assert [call(torch.ones(n)).sum() for n in (1, 2)] == [2, 4]
    with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
        call(torch.ones(3))
