"""Every backend on every variant at full size and slim, and on generated networks, against the oracle.

The backends of one specification are asked side by side; what each answered is reported as its own test.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import spec
from backends import NAMES
from backends.numpy.ops import FORWARD
from conformance.checks import CHECKS, Job
from conformance.runner import Pool, Result
from conformance.specs import chooser, generate, slim, ties
from conformance.suite import OF_IMAGES, OPTIMIZERS, deciding, smooth
from conformance.tests.conftest import require
from spec import Spec, geometry

FRAMEWORKS = tuple(name for name in NAMES if name != "numpy")
ON_EVERY_BACKEND = ("caffenet", "fashion-mini", "paper-2012", "single-stream", "source-2012", "torchvision")
"""The others are these with other numbers in them: they are compared slim, and by the command at full size too."""
FULL = bool(os.environ.get("ALEXNET_FULL"))
"""Whether ``tox -e conformance-full`` asks."""
LARGE = tuple(name for name in ON_EVERY_BACKEND if name != "fashion-mini")
AT_FULL_SIZE = LARGE if FULL else ("source-2012",)
"""A full network takes more than a minute. That with two towers and most ops is always asked; the rest slim,
and at full size by ``tox -e conformance-full``."""
DEEP = () if FULL else ("vgg-16",)
"""Slim it still costs as much as ten of the others: left to ``tox -e conformance-full``."""
UNCOMPILED = ("torch", "keras-torch", "onnx")
"""Backends that need no second to compile a network: they see many more."""
COMPILED = tuple(name for name in FRAMEWORKS if name not in UNCOMPILED)
OF_COMPILED = None if FULL else ("evaluation-outputs", "training-gradients", "training-steps")
"""What they are asked of slim networks, each of which costs them a compilation: the rest is asked of other networks."""
TRAINERS = tuple(name for name in FRAMEWORKS if name != "onnx")
OPTIMIZING = TRAINERS if FULL else tuple(name for name in TRAINERS if name in UNCOMPILED)
"""Who is asked every variant of the optimizer: for each a compiled backend makes its step anew."""
WITH_EVERY_OP = 69
"""The number of a generated network with all ops of the language."""
SLIM_CHECKS = ("training-outputs", "loss", "training-steps")
"""What full size leaves open."""


class Answers:
    """What the backends answered to each job. Only findings are kept: a full network's oracle fills memory."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.known: dict[str, dict[str, Result]] = {}

    def of(self, names: tuple[str, ...], job: Job, only: tuple[str, ...] | None = None) -> dict[str, Result]:
        key = f"{job.spec.name} {job.dtype} {job.full} {job.steps} {' '.join(names)}"
        if key not in self.known:
            asked = only or tuple(check for check in CHECKS if check not in OF_IMAGES)  # those: test_images.py
            self.known[key] = {result.backend: result for result in self.pool.run(names, job, asked)}
        return self.known[key]


@pytest.fixture(scope="session")
def answers(pool: Pool) -> Answers:
    return Answers(pool)


@pytest.mark.slow
@pytest.mark.parametrize("backend", FRAMEWORKS)
@pytest.mark.parametrize("variant", AT_FULL_SIZE)
def test_variants_at_full_size(answers, variant, backend):
    require(answers.of(FRAMEWORKS, Job(spec.load(variant), full=True, images=1))[backend])


@pytest.mark.slow
@pytest.mark.parametrize("backend", FRAMEWORKS)
def test_the_network_of_the_quick_start(answers, backend):
    """It is small enough to be asked everything as it is."""
    require(answers.of(FRAMEWORKS, Job(spec.load("fashion-mini")))[backend])


@pytest.mark.slow
@pytest.mark.parametrize("backend", TRAINERS)
@pytest.mark.parametrize("variant", AT_FULL_SIZE)
def test_what_full_size_leaves_open(answers, variant, backend):
    require(answers.of(TRAINERS, Job(slim(spec.load(variant))), SLIM_CHECKS)[backend])


@pytest.mark.slow
@pytest.mark.parametrize("backend", FRAMEWORKS)
@pytest.mark.parametrize("variant", [name for name in LARGE if name not in AT_FULL_SIZE])
def test_variants_made_slim(answers, variant, backend):
    group, only = (UNCOMPILED, None) if backend in UNCOMPILED else (COMPILED, OF_COMPILED)
    require(answers.of(group, Job(slim(spec.load(variant))), only)[backend])


@pytest.mark.parametrize("backend", UNCOMPILED)
@pytest.mark.parametrize("variant", [name for name in spec.names() if name not in (*ON_EVERY_BACKEND, *DEEP)])
def test_other_variants_made_slim(answers, variant, backend):
    require(answers.of(UNCOMPILED, Job(slim(spec.load(variant))))[backend])


@pytest.mark.slow
@pytest.mark.parametrize("backend", TRAINERS)
def test_float64(answers, backend):
    """On one network with every op. A layer that computes in float32 inside is off by nine digits."""
    job = Job(generate(chooser(WITH_EVERY_OP)), dtype="float64")
    require(answers.of(TRAINERS, job)[backend])


@pytest.mark.slow
@pytest.mark.parametrize("backend", TRAINERS)
@pytest.mark.parametrize("network", [smooth, deciding], ids=lambda make: make.__name__)
def test_bfloat16(answers, network, backend):
    """Two networks that have every op, and on which two digits can turn no decision. ONNX Runtime has none."""
    require(answers.of(TRAINERS, Job(network(), dtype="bfloat16"))[backend])


def test_the_networks_for_bfloat16_have_every_op():
    assert {layer.op for network in (smooth(), deciding()) for layer in network.layers} == set(FORWARD)


STEPS = 50


@pytest.mark.slow
@pytest.mark.parametrize("backend", TRAINERS)
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_trajectories(answers, dtype, backend):
    """Fifty steps across a drop, every parameter and velocity after each: free in float64, else each step from the
    oracle's state. A free run besides only says where it leaves its envelope."""
    job = Job(smooth() if dtype == "bfloat16" else generate(chooser(WITH_EVERY_OP)), dtype=dtype, steps=STEPS)
    result = answers.of(TRAINERS, job, ("trajectory", "free-run"))[backend]
    require(result)
    after = [finding.tensor for finding in result.findings if finding.check == "trajectory"]
    assert sum(tensor.endswith(f"after step {STEPS}") for tensor in after) == 2 * len(geometry(job.spec).parameters)
    free = [finding.tensor for finding in result.findings if finding.check == "free-run"]
    assert len(free) == (dtype != "float64")


@pytest.mark.slow
@pytest.mark.parametrize("backend", OPTIMIZING)
@pytest.mark.parametrize("network", OPTIMIZERS)
def test_every_variant_of_the_optimizer(answers, network, backend):
    """Across a drop, with decay, multipliers, and parameters that are frozen and thawed."""
    require(answers.of(OPTIMIZING, Job(OPTIMIZERS[network]), ("training-steps",))[backend])


def test_the_network_for_float64_has_every_op():
    assert {layer.op for layer in generate(chooser(WITH_EVERY_OP)).layers} == set(FORWARD)


@pytest.mark.parametrize("backend", FRAMEWORKS)
def test_of_equal_numbers_the_first_gets_the_gradient(answers, backend):
    only = ("evaluation-outputs", "evaluation-gradients")
    require(answers.of(FRAMEWORKS, Job(ties(), whole=True), only)[backend])


@st.composite
def networks(draw: Any) -> Spec:
    def choose(what: str, options: Sequence[Any]) -> Any:
        return draw(st.sampled_from(list(options)), label=what)

    return generate(choose)


def _examined(pool: Pool, names: tuple[str, ...], network: Spec, seed: int) -> None:
    __tracebackhide__ = True
    wrong = [result for result in pool.run(names, Job(network, seed=seed)) if not result.passed]
    for result in wrong:
        require(result)


@pytest.mark.slow
@given(network=networks(), seed=st.integers(0, 1000))
@settings(
    max_examples=50 if FULL else 3,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_generated_networks(pool, network, seed):
    _examined(pool, FRAMEWORKS, network, seed)


@pytest.mark.slow
@given(network=networks(), seed=st.integers(0, 1000))
@settings(max_examples=150 if FULL else 12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_generated_networks_where_nothing_is_compiled(pool, network, seed):
    _examined(pool, UNCOMPILED, network, seed)
