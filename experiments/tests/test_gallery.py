"""The gallery is what commands made: its pictures lie beside their results, and say the commands that README says."""

from __future__ import annotations

import json
import re

import pytest
from PIL import Image

from alexnet_rooms import ROOT
from experiments.catalogue import NAMES
from experiments.results import FORMAT

GALLERY = ROOT / "docs" / "gallery"
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECORDED = sorted(path.name for path in GALLERY.iterdir() if path.is_dir())


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_run_is_whole(name: str) -> None:
    result = json.loads((GALLERY / name / "result.json").read_text(encoding="utf-8"))
    assert result["format"] == FORMAT
    assert result["experiment"] in NAMES
    assert result["command"] in README
    shown = set(re.findall(rf"docs/gallery/{name}/([\w.-]+\.png)", README))
    assert shown
    assert shown <= set(result["pictures"])
    there = {path.name for path in (GALLERY / name).iterdir()}
    assert there <= {"result.json", *result["pictures"]}
    for picture in shown:
        with Image.open(GALLERY / name / picture) as image:
            assert image.info["Description"].startswith(result["command"])


def test_every_picture_of_the_readme_is_recorded() -> None:
    assert set(re.findall(r"docs/gallery/([\w-]+)/", README)) == set(RECORDED)
