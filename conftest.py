"""How tests are dealt out where several run side by side (``pytest -n 2``)."""

from __future__ import annotations

from typing import Any

import pytest

from backends import NAMES

ASKED_TOGETHER = "conformance/tests/test_backends.py"
"""Its tests ask every backend the same, and what is expected is worked out once for all."""


def _together(nodeid: str) -> str:
    """What names all tests that share what is dear to make: a file, or one job that many backends are given."""
    if not nodeid.startswith(ASKED_TOGETHER):
        return nodeid.partition("::")[0]
    job = nodeid.removesuffix("]")
    return min((job.removesuffix(name) for name in NAMES), key=len)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One process runs all tests of a group, in the order of the files: the small ones at the end fill the gaps."""
    from xdist.scheduler import LoadScopeScheduling  # only where xdist is, is this hook called

    class Together(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return _together(nodeid)

    config.option.loadscopereorder = False
    return Together(config, log)
