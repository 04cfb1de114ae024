"""Triton's kernels become machine code for NVIDIA's GPUs without one: what its interpreter lets pass fails here."""

from __future__ import annotations

import importlib
import os
import sys
from importlib.util import find_spec
from typing import Any

import pytest

from spec.draws import MULTIPLIERS, ROUNDS, WEYL

WINDOW = {"WIDTH": 96, "BEFORE": 2, "AFTER": 2, "BLOCK": 512}
MASK = {
    "PURPOSE": 7, "TAG": 2654435761, "DROPPED": 2**31, "MULTIPLIER0": MULTIPLIERS[0], "MULTIPLIER1": MULTIPLIERS[1],
    "WEYL0": WEYL[0], "WEYL1": WEYL[1], "ROUNDS": ROUNDS, "BLOCK": 1024,
}  # fmt: skip
NORM = {"count": "i64", "a": "fp32", "k": "fp32", "slope": "fp32", "d_at": "*fp32"}


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    ("module", "kernel", "types", "constants"),
    [
        ("channel_norm_gpu", "_forward", {**NORM, "x_at": "*fp32", "y_at": "*fp32"}, {**WINDOW, "STEP": 1}),
        ("channel_norm_gpu", "_forward", {**NORM, "x_at": "*bf16", "y_at": "*bf16"}, {**WINDOW, "STEP": 3025}),
        (
            "channel_norm_gpu",
            "_backward",
            {**NORM, "g_at": "*bf16", "x_at": "*bf16", "dx_at": "*bf16"},
            {**WINDOW, "STEP": 1},
        ),
        (
            "dropout_gpu",
            "_mask",
            {"images_at": "*i64", "kept_at": "*u8", "units": "i32", "epoch": "i32", "seed": "i64"},
            MASK,
        ),
    ],
    ids=["forward, float32", "forward, bfloat16", "backward, bfloat16", "mask"],
)
def test_a_kernel_is_compiled(
    capability: int,
    module: str,
    kernel: str,
    types: dict[str, str],
    constants: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if find_spec("triton") is None:
        (pytest.fail if "ALEXNET_TRITON" in os.environ else pytest.skip)("without Triton: tox -e gpu-kernels")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for name in ("channel_norm_gpu", "dropout_gpu"):  # another test may have left those of the interpreter
        monkeypatch.delitem(sys.modules, f"backends.torch.{name}", raising=False)
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = getattr(importlib.import_module(f"backends.torch.{module}"), kernel)
    names = function.arg_names
    source = ASTSource(
        fn=function,
        signature={name: "constexpr" if name in constants else types[name] for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
    )
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert len(made.asm["cubin"]) > 1000
