"""The notebook runs, and what is stored in it is what comes out.

``jupyter execute --inplace docs/walkthrough.ipynb`` stores what comes out now.
"""

from __future__ import annotations

import io
from base64 import b64decode
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

from alexnet_rooms import ROOT

NOTEBOOK = ROOT / "docs" / "walkthrough.ipynb"
ROUNDING = "rounding"
"""Tag of cells that show what was trained: other processors round otherwise."""


def _shown(cell: Any) -> tuple[str, list[Any]]:
    """What a cell shows: text that was printed, and then results: text, and pictures as (size, pixels)."""
    printed, results = "", []
    for output in cell.outputs:
        if output.output_type == "stream":
            printed += output.text  # a kernel sends it in pieces as it likes
        elif "image/png" in output.data:
            with Image.open(io.BytesIO(b64decode(output.data["image/png"]))) as image:
                results.append((image.size, image.tobytes()))
        else:
            results.append(output.data["text/plain"])
    return printed, results


def test_the_walkthrough_comes_out_again() -> None:
    """Every cell runs in a fresh kernel, its assertions hold, and it shows what it showed, but for rounding."""
    stored = nbformat.read(NOTEBOOK, as_version=4)
    fresh = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(fresh, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}).execute()
    cells = [(old, new) for old, new in zip(stored.cells, fresh.cells, strict=True) if new.cell_type == "code"]
    assert len(cells) > 10
    for old, new in cells:
        before, after = _shown(old), _shown(new)
        assert any(before) == any(after), new.source
        if ROUNDING not in new.metadata.get("tags", []):
            assert before == after, new.source


def test_the_walkthrough_is_small_and_names_no_place() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 100_000
    assert str(ROOT) not in text
    assert "/tmp" not in text
