"""Pages of results: HTML that needs nothing else, neither the network nor a script, and files written in one piece."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from html import escape
from pathlib import Path

STYLE = """
:root { color-scheme: light dark; --line: #8884; --quiet: light-dark(#666, #a0a0a0); --bad: #d55e00; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; } h3 { font-size: 1rem; margin: 0 0 .4rem; }
svg { width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: currentColor; }
.grid { stroke: var(--line); stroke-width: 1; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
th, td { text-align: right; padding: .2rem .7rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.key { display: inline-block; width: .8rem; height: .8rem; border-radius: .2rem; margin: 0 .4rem 0 1rem; }
.quiet { color: var(--quiet); } .failed { border-left: 4px solid var(--bad); padding-left: .7rem; }
"""


def document(title: str, body: Sequence[str], style: str = "") -> str:
    """A whole page. title: text; body: HTML; style: rules beside those that all pages share."""
    return "\n".join(
        [
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
            f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}{style}</style></head>',
            f"<body><h1>{escape(title)}</h1>",
            *body,
            "</body></html>\n",
        ]
    )


def table(header: Sequence[str], body: Sequence[Sequence[str]], kind: str = "") -> str:
    """A table. header: text; body: cells, each ``<td>`` as HTML or text in which nothing is to be read as HTML.

    kind: its class.
    """
    head = "".join(f"<th>{escape(title)}</th>" for title in header)
    lines = ["<tr>" + "".join(map(_cell, cells)) + "</tr>" for cells in body]
    sort = f' class="{kind}"' if kind else ""
    return f"<table{sort}><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


class Cell(str):
    """HTML of a table cell, from ``<td`` to ``</td>``."""


def _cell(words: str) -> str:
    return words if isinstance(words, Cell) else f"<td>{escape(words)}</td>"


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` in one piece. Raises OSError, and then leaves what is there as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
