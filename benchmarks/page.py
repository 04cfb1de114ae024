"""A result of ``run.py`` as one HTML page that needs nothing else, neither the network nor a script.

    python benchmarks/page.py runs/benchmarks/20260101-120000.json --output result.html

Exit code 0: written; 2: asked wrongly.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run by path: make the rooms importable, and the modules of this one not
    _ROOM = Path(__file__).resolve().parent
    sys.path[:] = [str(_ROOM.parent), *(path for path in sys.path if Path(path or ".").resolve() != _ROOM)]

from backends.pages import Cell, document, table, write_text
from backends.svg import colour
from benchmarks.command import Parser, Wrong, require_suffix
from benchmarks.plots import Point, Series, bars, ranges, roofline, scaling, scatter
from benchmarks.report import (
    CASES,
    ENGINES,
    SPEEDS,
    engines,
    failures,
    filled,
    reference,
    roofs,
    rows,
    sections,
    speeds,
    ways,
)
from benchmarks.results import Case, Engine, Measurement, Result, ResultError, read

STYLE = """
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(30rem, 1fr)); gap: 1.5rem; }
.alone { max-width: 50rem; }
.words td:last-child, .words th:last-child { text-align: left; white-space: normal; min-width: 16rem; }
"""
PERCENTILES = ("p50", "p90", "p99")
Found = list[tuple[Engine, Measurement]]


def _keyed(words: str, colour: str) -> Cell:
    """A cell with a patch of colour before its words."""
    return Cell(f'<td><span class="key" style="background:{colour}"></span>{escape(words)}</td>')


def _figure(title: str, drawn: str) -> str:
    return f"<div><h3>{escape(title)}</h3>{drawn}</div>"


def _throughput(found: Found, names: list[str]) -> str:
    title = "Images a second by batch size"
    return _figure(title, scaling(title, _series(names, [(e.name, m.batch, m.images_per_second) for e, m in found]),
                                  "batch size", "images / s"))  # fmt: skip


def _series(names: Sequence[str], points: Sequence[tuple[str, int, Any]]) -> list[Series]:
    return [
        Series(name, tuple(Point(x, y.median, y.low, y.high) for one, x, y in points if one == name)) for name in names
    ]


def _latency(found: Found, names: list[str]) -> str:
    smallest = min(measured.batch for _, measured in found)
    title = f"Latency of batch {smallest}: {', '.join(PERCENTILES)}"
    lines = [
        (engine.name, tuple(getattr(measured.latency_ms, p) for p in PERCENTILES))
        for engine, measured in found
        if measured.batch == smallest
    ]
    places = [names.index(name) for name, _ in lines]
    return _figure(title, ranges(title, lines, PERCENTILES, "milliseconds", places))


def _roof(result: Result, model: int, found: Found, names: list[str]) -> list[str]:
    """One plot for each device and precision: what was reached of what the machine can do."""
    about, drawn = result.models[model], []
    if about.macs is None:
        return []
    for roof in result.roofs:
        for precision, peak in roof.gflops.items():
            points = [
                (
                    names.index(engine.name),
                    f"{engine.name}, batch {measured.batch}",
                    2 * about.macs / (about.parameter_bytes / measured.batch + about.image_bytes),
                    measured.gflops or 0.0,
                )
                for engine, measured in found
                if (engine.device, engine.precision) == (roof.device, precision)
            ]
            if points:
                title = f"Roofline, {precision} on {roof.device}"
                drawn.append(_figure(title, roofline(title, points, peak, roof.gbytes_per_second)))
    return drawn


def _worth(result: Result, model: int, names: list[str]) -> list[str]:
    """Accuracy against speed, where answers can be compared."""
    points = []
    told = {scenario.engine: scenario.offline.images_per_second for scenario in result.scenarios}
    for place, engine in enumerate(result.engines):
        worth = engine.accuracy
        if engine.model == model and place in told and worth is not None and worth.logit_error:
            points.append((names.index(engine.name), f"{engine.name}, {engine.precision}", told[place],
                           worth.logit_error))  # fmt: skip
    if not points:
        return []
    title = "Error of logits against speed"
    return [_figure(title, scatter(title, points, "images / s, best batch", "largest error / largest logit"))]


def _model(result: Result, model: int) -> str:
    about = result.models[model]
    found = [(engine, measured) for engine, measured in rows(result) if engine.model == model]
    facts = [f"{about.bytes / 1e6:,.1f} MB", about.precision]
    facts += [f"{about.parameters:,} parameters"] if about.parameters is not None else []
    facts += [f"{about.macs:,} MACs an image"] if about.macs is not None else []
    facts += [f"specification {about.spec_hash[:12]}"] if about.spec_hash is not None else []
    parts = [f"<h2>{escape(about.name)}</h2><p>{escape(about.origin)}: {escape(', '.join(facts))}</p>"]
    if not found:
        return "".join(parts)
    names = list(dict.fromkeys(engine.name for engine in result.engines if engine.model == model))
    keys = "".join(f'<span class="key" style="background:{colour(i)}"></span>{escape(n)} ' for i, n in enumerate(names))
    drawn = [_throughput(found, names), _latency(found, names), *_roof(result, model, found, names),
             *_worth(result, model, names)]  # fmt: skip
    parts.append(f'<p>{keys}</p><div class="plots">{"".join(drawn)}</div>')
    body = [[_keyed(cells[0], colour(names.index(cells[0]))), *cells[1:]] for cells in speeds(result, model)]
    parts.append(_table(SPEEDS, body))
    parts.append(f"<p>Answers on {escape(str(about.images))}, beside {escape(reference(result, model))}.</p>")
    parts.append(_table(ENGINES, engines(result, model)))
    return "".join(parts)


def _table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Without the columns in which nothing stands."""
    kept = filled(body)
    if not kept:
        return ""
    kind = "words" if header[kept[-1]] == "what ran" else ""
    return table([header[i] for i in kept], [[cells[i] for i in kept] for cells in body], kind)


def _label(case: Case) -> str:
    return ", ".join(filter(None, (case.name, case.detail, case.precision)))


def _section(section: str, where: str, cases: list[Case]) -> str:
    """Speeds by batch size where there are several, else a bar for each way; and the table."""
    names = list(dict.fromkeys(map(_label, cases)))
    if len({case.batch for case in cases}) > 1:
        points = [(_label(case), case.batch, case.images_per_second) for case in cases]
        keys = "".join(f'<span class="key" style="background:{colour(i)}"></span>{escape(n)} '
                       for i, n in enumerate(names))  # fmt: skip
        drawn = scaling("images a second by batch size", _series(names, points), "batch size", "images / s")
    else:
        keys = ""
        drawn = bars("images a second", [(_label(case), *_spread(case)) for case in cases], "images / s")
    title = f"<h2>{escape(section)}, {escape(where)}</h2>"
    return f'{title}<p>{keys}</p><div class="alone">{drawn}</div>{_table(CASES, ways(cases))}'


def _spread(case: Case) -> tuple[float, float, float]:
    rate = case.images_per_second
    return rate.median, rate.low, rate.high


def page(result: Result) -> str:
    """The whole page. Everything that comes from the result is escaped."""
    where, how = result.environment, result.settings
    networks = ", ".join(model.name for model in result.models)
    title = f"Inference of {networks}" if how.suite == "inference" else f"Benchmark: {how.suite}"
    machine = [
        where.cpu,
        f"{where.cores} cores, {where.threads} threads an engine",
        *(f"{gpu.name}, {gpu.memory_mib:,.0f} MiB, driver {gpu.driver}" for gpu in where.accelerators),
        where.system,
        f"Python {where.python}",
        *(f"{name} {version}" for name, version in where.versions.items()),
        *([f"revision {where.revision[:12]}{'+' if where.revision.endswith('+') else ''}"] if where.revision else []),
    ]
    parts, told = [f"<p>{escape('; '.join(machine))}. {escape(result.created)}.</p>"], list(failures(result))
    parts += [f"<p>{escape(line)}</p>" for line in roofs(result)]
    parts.append(f'<p class="quiet">{escape(_how(result))}</p>')
    if where.load is not None and where.load > 0.5 * where.cores:
        words = (
            f"The machine was busy when this began: load {where.load:g} on {where.cores} cores. Trust CPU time more."
        )
        parts.append(f'<p class="failed">{escape(words)}</p>')
    parts += [f'<p class="failed">{escape(f"Not measured: {line}")}</p>' for kind, line in told if kind == "failed"]
    if others := [f"<p>{escape(f'{kind}: {line}')}</p>" for kind, line in told if kind != "failed"]:
        title = f"{len(others)} not measured: no time left, too little memory, or not here"
        parts.append(f'<details class="quiet"><summary>{escape(title)}</summary>{"".join(others)}</details>')
    parts += [_model(result, i) for i in range(len(result.models))]
    parts += [_section(*one) for one in sections(result)]
    return document(title, parts, STYLE)


def _how(result: Result) -> str:
    """What one must know to read the numbers."""
    how, words = result.settings, []
    if result.measurements:
        turns = "one after another" if how.suite == "gpu" else "taking turns"
        words += [
            f"{how.seconds:g} s for each engine and batch size in {how.rounds} rounds, engines {turns}, each in a "
            "process of its own; NumPy in, NumPy out, but for engines that are bound. Bars span the slowest and the "
            f"fastest round. Scenarios are LoadGen's in short ({how.queries:,} queries), and no MLPerf results. "
            "Speed is relative to the first engine; precision is what the engine really computed in. The roof is "
            "min(peak, intensity x bandwidth), both measured; its bytes are weights, images and logits alone."
        ]
    if result.cases:
        words += ["Ways of one table take turns on the same work; bars span the slowest and the fastest call."]
    return " ".join(words)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`. Returns its exit code."""
    parser = Parser("page.py", "A result of run.py as one HTML page.")
    parser.add_argument("result", type=Path, metavar="RESULT.json")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: beside the result")
    arguments = parser.parse_args(argv)
    output: Path = arguments.output or arguments.result.with_suffix(".html")
    try:
        require_suffix(output, ".html")
        write_text(output, page(read(arguments.result)))
    except (Wrong, ResultError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: the output must be writable. Received: {error}", file=sys.stderr)
        return 2
    print(f"written to {output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
