"""How training is executed: in pieces, in mixed precision, with masks from a device, on fast paths; every backend."""

from __future__ import annotations

import os

import pytest

from backends import NAMES
from backends.numpy.ops import FORWARD
from conformance.bounds import MIXED, Arithmetic
from conformance.checks import CHECKS, Examination, Job, examine, first_fault
from conformance.recipes import cases, dropping, steep
from conformance.runner import Pool
from conformance.suite import deciding, smooth
from conformance.tests.conftest import require

CASES = cases()
UNCOMPILED = ("torch", "keras-torch")
COMPILED = tuple(name for name in NAMES if name.startswith("keras-") and name not in UNCOMPILED)
SHORTER: dict[str, tuple[str, ...]] = {
    "dropping-accumulated": ("accumulation",),
    "dropping-on-device": ("device-draws",),
    "slow-mixed": ("training-steps",),
    "steep-mixed": ("evaluation-outputs",),
    "smooth-mixed": ("training-gradients",),
}
"""What is asked of those that compile for every question, unless ``tox -e conformance-full`` asks."""
ASKED = [
    *((case, backend, CASES[case].only) for case in CASES for backend in UNCOMPILED),
    *(
        (case, backend, CASES[case].only if os.environ.get("ALEXNET_FULL") else SHORTER[case])
        for case in (CASES if os.environ.get("ALEXNET_FULL") else SHORTER)
        for backend in COMPILED
    ),
]


@pytest.fixture(scope="module")
def examinations() -> dict[str, Examination]:
    return {name: Examination(one.job) for name, one in CASES.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("case", "backend", "only"), ASKED, ids=lambda value: value if isinstance(value, str) else "")
def test_backends_on(
    pool: Pool, examinations: dict[str, Examination], case: str, backend: str, only: tuple[str, ...] | None
) -> None:
    require(pool.ask(backend, examinations[case], only))


def test_the_networks_for_mixed_precision_have_every_op() -> None:
    assert {layer.op for network in (smooth(), deciding()) for layer in network.layers} == set(FORWARD)


def test_what_is_asked_by_name_is_asked_of_no_one_else() -> None:
    named = [name for name, check in CHECKS.items() if check.named]
    assert named == ["accumulation", "device-draws", "export", "import"]
    for name in named:
        assert not CHECKS[name].asked(full=False, name=name, only=None)
        assert CHECKS[name].asked(full=False, name=name, only=(name,))
        assert not CHECKS[name].asked(full=True, name=name, only=(name,))


def test_a_backend_without_pieces_or_device_is_not_asked(pool: Pool) -> None:
    for check, reason in (("accumulation", "takes a batch at once"), ("device-draws", "masks on the host")):
        result = pool.ask("numpy", Examination(Job(dropping())), (check,))
        assert reason in result.inapplicable[check]


def test_mixed_precision_is_between_float32_and_bfloat16() -> None:
    """Where a sum has many terms, bounds that let every partial sum be rounded are looser."""
    wide = {dtype: Examination(Job(smooth(), dtype)) for dtype in ("float32", MIXED, "bfloat16")}
    least, mixed, most = (float(e.evaluation.outputs()["fc4"].bound.max()) for e in wide.values())
    assert 1000 * least < mixed < most
    assert (Arithmetic(MIXED).u, Arithmetic(MIXED).kept) == (Arithmetic("bfloat16").u, Arithmetic("float32").u)


def test_normalisation_in_two_digits_is_far_out_where_the_power_is_high() -> None:
    """And rounding what comes of it is not."""
    import numpy as np

    from backends.numpy import NumpyBackend
    from conformance.bounds import bfloat16

    class Rounded(NumpyBackend):
        def outputs(self, images, masks=None):  # type: ignore[no-untyped-def]
            found = super().outputs(images, masks)
            return {name: bfloat16(array.astype(np.float32)) for name, array in found.items()}

    e = Examination(Job(steep(), MIXED))
    backend = Rounded(e.spec, dtype="float32")
    assert first_fault(examine(e, backend, trains=True, only=("evaluation-outputs",))) is None
