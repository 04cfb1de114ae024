"""A stranger's package of the same name is named, not imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_rooms import ROOT


@pytest.mark.parametrize("code", [["-m", "backends.torch.train"], ["-c", "import backends"]], ids=["command", "import"])
def test_a_foreign_package_is_named(code: list[str], tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text("")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert f"needs its own package 'data' from {ROOT / 'data'}; received: {tmp_path / 'data.py'}" in done.stderr
    if code[0] == "-m":
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    else:
        assert "ImportError" in done.stderr
