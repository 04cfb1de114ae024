"""A report as one HTML page that needs nothing else, neither the network nor a script."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from backends.pages import Cell, document, table
from conformance.alarmed import ACCUSED, ALARMS, alarms
from conformance.baseline import BASELINE, LET_THROUGH, baseline
from conformance.report import (
    TALLY,
    Agreement,
    Grid,
    Kill,
    Summary,
    counted,
    listed,
    sentences,
    short,
    tally,
)

MOST_DIGITS = {"bfloat16": 2.7, "mixed_bfloat16": 2.7, "float32": 7.5, "float64": 16.0}
"""What a dtype has: the deepest colour."""
LEAST = 0.4
"""The share of them at which colours begin."""

STYLE = """
:root { --cold: #fdeec4; --warm: #8fc1e3; --ink: #111; }
@media (prefers-color-scheme: dark) { :root { --cold: #3b3113; --warm: #14577f; --ink: #f2f2f2; } }
table.heat { margin: 1rem 0; }
.heat td, .heat th { text-align: center; border: 2px solid Canvas; padding: .25rem .6rem; min-width: 4.5rem; }
.heat td:first-child, .heat th:first-child { text-align: left; min-width: 11rem; }
.heat .of { background: color-mix(in oklab, var(--warm) calc(var(--d) * 100%), var(--cold)); color: var(--ink); }
.heat .wrong { background: var(--bad); color: #fff; font-weight: 700; }
.heat .none { color: var(--quiet); }
.heat small { display: block; font-size: .72rem; line-height: 1.1; opacity: .8; }
.scale { display: inline-block; width: 9rem; height: .8rem; border-radius: .2rem; vertical-align: middle;
  margin: 0 .5rem; background: linear-gradient(in oklab to right, var(--cold), var(--warm)); }
table.said td { white-space: normal; text-align: left; vertical-align: top; } table.said th { text-align: left; }
table.left td, table.left th { text-align: left; }
details { margin: 1rem 0; } summary { cursor: pointer; font-weight: 600; } code { font-size: .92em; }
li { margin: .3rem 0; } .dead { color: var(--quiet); } .alive { color: var(--bad); font-weight: 700; }
"""


def page(summary: Summary) -> str:
    """The whole page. Everything that comes from evidence is escaped."""
    body = [f"<p>{escape(' '.join(sentences(summary)))}</p>", *_faults(summary)]
    body += [part for dtype in summary.dtypes for part in _agreement(summary, dtype)]
    body += [*_remarks(summary), *_known(summary), *_reasons(summary), *_mutants(summary)]
    body += [*_public(summary), *_alarms(summary), *_made(summary)]
    return document("Conformance to the specifications of AlexNet", body, STYLE)


def _faults(summary: Summary) -> list[str]:
    if not summary.faults:
        return []
    items = [f'<p class="failed">{escape(str(result.fault))}</p>' for result in summary.faults]
    return [f"<h2>What departs first</h2>{''.join(items)}"]


def _agreement(summary: Summary, dtype: str) -> list[str]:
    by_check, by_network = summary.by_check(dtype), summary.by_network(dtype)
    most = MOST_DIGITS.get(dtype, 16.0)
    legend = (
        '<p class="quiet">Decimal digits to which the worst tensor agrees with the float64 oracle, coloured from '
        f'{LEAST * most:g}<span class="scale"></span>{most:g}; below, how near any tensor comes to the bound that is '
        "derived for it: 1.00 is the bound, beyond it the check fails.</p>"
    )
    nearest = [
        [check, short(name, summary.backends), near[1], near[0].tensor, *_numbers(cell)]
        for check, cells in by_check.items()
        for name, cell in cells.items()
        if (near := cell.nearest) and (near[0].error or near[0].bound)  # the others are equal bit for bit
    ]
    header = ("check", "backend", "network", "tensor", "error", "bound", "error / bound", "digits of all")
    return [
        f"<h2>Agreement in {escape(dtype)}</h2>",
        legend,
        _heat(by_check, summary.backends, "check", most),
        _heat(by_network, summary.backends, "network", most),
        f"<details><summary>The tensor nearest to its bound, of every check and backend</summary>"
        f"{table(header, nearest, 'left')}</details>",
    ]


def _numbers(cell: Agreement) -> list[str]:
    assert cell.nearest is not None
    found = cell.nearest[0]
    return [f"{found.error:.1e}", f"{found.bound:.1e}", f"{found.ratio:.2f}", cell.words]


def _heat(grid: Grid, backends: Sequence[str], corner: str, most: float) -> str:
    shown = [name for name in backends if any(name in cells for cells in grid.values())]
    rows = [
        [Cell(f"<td>{escape(row)}</td>"), *(_cell(cells.get(name, Agreement()), most) for name in shown)]
        for row, cells in grid.items()
    ]
    return table([corner, *(short(name, backends) for name in shown)], rows, "heat")


def _cell(agreement: Agreement, most: float) -> Cell:
    near = agreement.nearest
    title = "; ".join(sorted(agreement.reasons))
    if near:
        found, spec = near
        title = f"{spec}: {found.tensor}: error {found.error:.1e}, bound {found.bound:.1e}"
    notes = [counted(agreement.faults, "fault")] if agreement.faults else [agreement.near]
    notes += [f"{agreement.expected} expected"] if agreement.expected else []
    kind = "wrong" if agreement.faults else "of" if near else "none"
    share = max(0.0, min(1.0, (agreement.digits / most - LEAST) / (1 - LEAST)))
    style = f' style="--d:{share:.2f}"' if kind == "of" else ""
    small = f"<small>{escape(', '.join(filter(None, notes)))}</small>" if any(notes) else ""
    return Cell(f'<td class="{kind}"{style} title="{escape(title)}">{escape(agreement.words)}{small}</td>')


def _remarks(summary: Summary) -> list[str]:
    rows = [
        [short(result.backend, summary.backends), result.spec, result.dtype, found.tensor, f"{found.ratio:.2f}"]
        for result, found in summary.remarks
    ]
    if not rows:
        return []
    words = (
        "Free runs of training part sooner or later, whatever one does. This says where they leave an envelope made of "
        "perturbed runs of the oracle; it cannot fail."
    )
    header = ("backend", "network", "dtype", "where", "of the envelope")
    return [f'<h2>Free runs</h2><p class="quiet">{words}</p>', table(header, rows, "left")]


def _link(words: str, link: str | None) -> str:
    """`words`, leading where `link` does if that is an address of the web."""
    if link is None or not link.startswith(("https://", "http://")):
        return escape(f"{words} ({link})" if link else words)
    return f'<a href="{escape(link, quote=True)}">{escape(words)}</a>'


def _known(summary: Summary) -> list[str]:
    rows = [
        [result.backend, result.spec, result.dtype, key, Cell(f"<td>{_link(why.reason, why.link)}</td>")]
        for result, key, why in summary.known
    ]
    header = ("backend", "network", "dtype", "what", "why")
    return [f"<h2>Expected to fail</h2>{table(header, rows, 'said')}"] if rows else []


def _reasons(summary: Summary) -> list[str]:
    rows = [[backend, reason, listed(what)] for (backend, reason), what in summary.reasons.items()]
    header = ("backend", "why", "of what")
    return [f"<h2>What could not be asked</h2>{table(header, rows, 'said')}"] if rows else []


def _mutants(summary: Summary) -> list[str]:
    kills = sorted(summary.kills, key=lambda kill: (kill.killed, kill.backend))
    if not kills:
        return []
    words = (
        "Implementations with one mistake each, made on purpose; those with a link were shipped by somebody. A mutant "
        "is dead if the one check that it names notices it."
    )
    header = ("mutant", "what is wrong", "backend", "check", "noticed by")
    rows = [[_mutant(kill), kill.what, kill.backend, kill.check, _end(kill)] for kill in kills]
    alive = [kill for kill in kills if not kill.killed]
    shut = "" if alive else "All of them"
    return [
        f'<h2>Wrong implementations</h2><p class="quiet">{words}</p>',
        table(TALLY, tally(kills)),
        table(header, rows[: len(alive)], "said") if alive else "",
        f"<details><summary>{shut or 'Those that are dead'}</summary>"
        f"{table(header, rows[len(alive) :], 'said')}</details>",
    ]


def _public(summary: Summary) -> list[str]:
    if not summary.public:
        return []
    header = ("mutant", "backend", "noticed by")
    rows = [
        [survivor.mutant, one.backend, ", ".join(survivor.noticed) or Cell('<td class="alive">nothing</td>')]
        for one in summary.public
        for survivor in one.mutants
    ]
    return [
        f'<h2>What public checks let through</h2><p class="quiet">{escape(LET_THROUGH)}</p>',
        table(BASELINE, baseline(summary.public)),
        f"<details><summary>One by one</summary>{table(header, rows, 'said')}</details>",
    ]


def _alarms(summary: Summary) -> list[str]:
    if not summary.tallies:
        return []
    raised = [f'<p class="failed">{escape(fault)}</p>' for one in summary.tallies for fault in one.faults]
    words = f'<h2>False alarms</h2><p class="quiet">{escape(ACCUSED)}</p>'
    return [words, table(ALARMS, alarms(summary.tallies)), *raised]


def _mutant(kill: Kill) -> Cell:
    return Cell(f"<td><code>{_link(kill.mutant, kill.link)}</code></td>")


def _end(kill: Kill) -> Cell:
    if not kill.killed:
        return Cell('<td class="alive">nothing: it is alive</td>')
    at = f", {kill.tensor}" if kill.tensor else ""
    return Cell(f'<td class="dead" title="{escape(kill.fault or "")}">{escape(f"{kill.case}{at}")}</td>')


def _made(summary: Summary) -> list[str]:
    parts = ["<h2>Made by</h2>"]
    for file in summary.files:
        cores = f", {file.machine.cores} cores" if file.machine.cores else ""
        parts.append(f"<p>{escape(f'{file.created}, {file.machine.system}{cores}')}</p>")
        rows = [
            [name, ", ".join(f"{library} {version}" for library, version in versions.items())]
            for name, versions in file.versions.items()
        ]
        parts += [table(("backend", "stands on"), rows, "said")] if rows else []
    return parts
