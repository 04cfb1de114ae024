"""Which tests share a process where several run side by side (`pytest -n 2`): those that share what is dear to make."""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)  # before the marks are read
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one file stay together, for their fixtures; of one that many backends answer, those on the same job."""
    for item in items:
        group = item.location[0]
        asked = getattr(item, "callspec", None)
        if asked is not None and "backend" in asked.params:
            job = [getattr(value, "__name__", value) for name, value in asked.params.items() if name != "backend"]
            group = " ".join(map(str, [item.nodeid.partition("[")[0], *job]))
        item.add_marker(pytest.mark.xdist_group(group))
