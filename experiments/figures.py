"""What pictures are drawn with: matplotlib without a display, one manner for all, and at the foot what made them."""

from __future__ import annotations

import io
import textwrap
from typing import Any

from backends.svg import COLOURS

DPI = 110
QUIET = "#666666"
CHARACTERS = 17
"""Of the foot, an inch."""
_MANNER = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
}


def panels(rows: int = 1, columns: int = 1, width: float = 9.0, height: float = 4.5, **more: Any) -> tuple[Any, Any]:
    """A figure of `width` x `height` inches and its axes, as ``matplotlib.pyplot.subplots`` gives them."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update(_MANNER)
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **more)


def png(figure: Any, provenance: str) -> bytes:
    """`figure` as the bytes of a PNG, with `provenance` at its foot. The same figure gives the same bytes."""
    words = "\n".join(textwrap.wrap(provenance, int(figure.get_figwidth() * CHARACTERS)))
    figure.supxlabel(words, x=0.01, ha="left", fontsize=7, color=QUIET)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None, "Description": provenance})
    return stream.getvalue()


def colour(index: int) -> str:
    """The colour of series `index`, as in the project's other pictures."""
    return COLOURS[index % len(COLOURS)]
