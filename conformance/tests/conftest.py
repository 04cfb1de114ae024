"""One worker per backend for the whole session; each stands on another framework, and starting one takes seconds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NoReturn

import pytest

from conformance.runner import Pool, Result


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    with Pool() as workers:
        yield workers


def without(said: str) -> NoReturn:
    """Skip a test for what is not installed; in CI everything must be, and the test fails."""
    __tracebackhide__ = True
    if os.environ.get("CI"):
        pytest.fail(f"{said}; in CI everything must be")
    pytest.skip(said)


def require(result: Result) -> None:
    """Fail unless `result` is a pass, in its own words. Without its framework it is skipped, but never in CI."""
    __tracebackhide__ = True
    if result.missing is not None:
        without(f"{result.backend} needs {result.missing}, which is not installed")
    if result.unsupported is not None:
        pytest.fail(
            f"{result.backend} does not support {result.job.spec.name} in {result.job.dtype}: {result.unsupported}"
        )
    if result.fault is not None:
        pytest.fail(result.fault)
    assert result.findings, f"{result.backend} was asked nothing about {result.job.spec.name}"
