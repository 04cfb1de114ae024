from __future__ import annotations

import pytest

from experiments.tests.small import workplace


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that make an experiment small."""
    spec, images = workplace(tmp_path_factory.mktemp("small"))
    return ["--spec", spec, "--data", images]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
