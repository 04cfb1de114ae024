"""The normative text speaks of everything in the language, and a test stands behind every section of it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel

import spec
from spec import language
from spec.draws import Purpose
from spec.errors import SpecError
from spec.language import Lrn, SpatialNorm, Spec, Statement

README = Path(spec.__file__).with_name("README.md").read_text(encoding="utf-8")
ROOT = Path(spec.__file__).resolve().parents[1]
STATEMENTS = [kind for kind in vars(language).values() if isinstance(kind, type) and issubclass(kind, Statement)]
IMPLIED = {"Size", "Padding", "Windowed", "LayerBase"}
"""Statements whose fields the text describes in a sentence instead of naming them."""
NAMED = re.compile(r'README(?:\.md)?, ((?:"[A-Z][^"]*"(?:, | and )?)+)')


def sections() -> dict[str, str]:
    parts = re.split(r"^## (.+)$", README, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_field_is_spoken_of() -> None:
    assert len(STATEMENTS) > 30
    missing = [
        f"{kind.__name__}.{field}"
        for kind in STATEMENTS
        if kind.__name__ not in IMPLIED
        for field in kind.model_fields
        if not re.search(rf"`[^`\n]*\b{field}\b[^`\n]*`", README)
    ]
    assert missing == []


def literals(kind: type[BaseModel], field: str) -> list[str]:
    annotation = kind.model_fields[field].annotation
    return [str(value) for value in getattr(annotation, "__args__", ()) if isinstance(value, str)]


def test_every_op_kind_and_choice_is_spoken_of() -> None:
    choices = {word for kind in STATEMENTS for field in kind.model_fields for word in literals(kind, field)}
    assert {"conv", "plateau", "truncated_normal", "ceil", "bgr"} <= choices
    assert sorted(word for word in choices if not re.search(rf"`[^`\n]*\b{word}\b[^`\n]*`", README)) == []


@pytest.mark.parametrize("purpose", Purpose)
def test_every_purpose_is_in_the_table(purpose: Purpose) -> None:
    assert f"| `{purpose.name}` | {purpose.value} |" in sections()["Draws"]


def test_a_test_stands_behind_every_section() -> None:
    named = {
        section
        for room in ("spec", "data", "backends", "conformance", "export", "benchmarks", "experiments")
        for path in (ROOT / room).glob("**/tests/test_*.py")
        for group in NAMED.findall(path.read_text(encoding="utf-8"))
        for section in re.findall(r'"([^"]+)"', group)
    }
    assert sorted(sections().keys() - named) == []
    assert sorted(named - sections().keys()) == []


def test_the_table_of_contents_is_that_of_the_sections() -> None:
    contents = README.split("Contents:", 1)[1].split("##", 1)[0]
    assert re.findall(r"\[([^\]]+)\]\(#", contents) == list(sections())


def test_the_readme_s_own_example_runs() -> None:
    code = README.split("```python\n", 1)[1].split("```", 1)[0]
    last = code.rstrip().splitlines()[-1]
    code += f"\nprint(spec.geometry(alexnet).parameter_count, ({last}).shape)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "60965224 (96, 3, 11, 11)\n", done.stderr


# --- README, "Layers": the windows and coefficients of normalisation --------------------------------------------------


@pytest.mark.parametrize(
    ("size", "before", "window"), [(5, None, (2, 2)), (1, None, (0, 0)), (5, 0, (0, 4)), (4, 2, (2, 1))]
)
def test_the_window_of_lrn(size: int, before: int | None, window: tuple[int, int]) -> None:
    assert lrn(size=size, before=before).window == window


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 4}, "must be odd, or `before` stated"),
        ({"size": 5, "before": 5}, "must be less than the size"),
    ],
)
def test_windows_of_lrn_that_say_too_little_or_too_much(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lrn(**fields)


def lrn(**fields: int | None) -> Lrn:
    return Lrn(op="lrn", name="n", alpha=1.0, alpha_over="size", beta=0.75, k=1.0, **fields)  # type: ignore[arg-type]


def test_whose_alpha() -> None:
    """README, "Whose alpha, whose padding, whose momentum": the paper's words are five times the 2012 source's."""
    paper, source = spec.load("paper-2012").layer("norm1"), spec.load("source-2012").layer("norm1")
    assert paper.alpha == source.alpha
    assert paper.coefficient == pytest.approx(5 * source.coefficient)
    spatial = SpatialNorm(op="spatial_norm", name="s", size=5, alpha=0.001, alpha_over="area", beta=0.75, k=1.0)
    assert spatial.coefficient == pytest.approx(0.001 / 25)


def test_canonical_layout_counts_groups_in_runs_of_neighbours() -> None:
    """README, "Canonical layout": the shapes of every kind of parameter."""
    shapes = spec.geometry(spec.load("paper-2012")).parameters
    assert list(shapes)[:4] == ["conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"]
    assert shapes["conv2.weight"] == (256, 48, 5, 5)
    assert shapes["fc6.weight"] == (4096, 9216)
    value = spec.initial_parameter(spec.load("paper-2012"), "conv2.weight", 0)
    assert value.flags.c_contiguous
    assert value.dtype == np.float32


def test_sections_of_the_readme_are_sections_of_a_file() -> None:
    for name in Spec.model_fields:
        assert f"`{name}`" in sections()["Files"]


def test_expectations_that_do_not_hold_do_not_load() -> None:
    """README, "Expectations"."""
    values = spec.load("paper-2012").statement()
    with pytest.raises(SpecError, match=r"expect\.parameters: must be what the layers give, 60965224"):
        spec.from_values(values | {"expect": {"parameters": 60_000_000}})
