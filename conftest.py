"""Which tests share a process when several run side by side (``pytest -n 2``): those that share what is costly to make."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one file stay together, as their fixtures do; of a test that many backends answer, those of one job."""
    for item in items:
        asked = getattr(item, "callspec", None)
        group = item.location[0]
        if asked is not None and "backend" in asked.params:
            group = " ".join(
                [item.nodeid.partition("[")[0], *(str(v) for k, v in asked.params.items() if k != "backend")]
            )
        item.add_marker(pytest.mark.xdist_group(group))
