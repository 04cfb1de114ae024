"""What plots are drawn with: SVG without script, font or file from elsewhere; colours follow the page's."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#a0522d")
"""Told apart by the colour-blind too: M. Okabe and K. Ito, Color Universal Design, 2008; two more for many series."""


def colour(index: int) -> str:
    """The colour of series `index`."""
    return COLOURS[index % len(COLOURS)]


def text(x: float, y: float, words: str, anchor: str = "middle", **more: str) -> str:
    """Words at a place, in the page's colour."""
    attributes = "".join(f' {name}="{value}"' for name, value in more.items())
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{attributes}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, **more: str) -> str:
    """A straight line."""
    attributes = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in more.items())
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"{attributes}/>'


def picture(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    """The whole, with a title for those who cannot see it."""
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(title, quote=True)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )
