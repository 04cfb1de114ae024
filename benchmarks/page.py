"""A result of ``run.py`` as one HTML page that needs nothing else, neither the network nor a script.

    python benchmarks/page.py runs/benchmarks/20260101-120000.json --output result.html

Exit code 0: written; 2: asked wrongly.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

if __package__ in (None, ""):  # run by path: make the rooms importable, and the modules of this one not
    _ROOM = Path(__file__).resolve().parent
    sys.path[:] = [str(_ROOM.parent), *(path for path in sys.path if Path(path or ".").resolve() != _ROOM)]

from backends.pages import Cell, document, table, write_text
from backends.svg import colour
from benchmarks.command import Parser, Wrong, require_suffix
from benchmarks.plots import Point, Series, ranges, scaling
from benchmarks.report import number, rows
from benchmarks.results import Result, ResultError, read

STYLE = """
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr)); gap: 1.5rem; }
"""
PERCENTILES = ("p50", "p90", "p99")


def _keyed(words: str, colour: str) -> Cell:
    """A cell with a patch of colour before its words."""
    return Cell(f'<td><span class="key" style="background:{colour}"></span>{escape(words)}</td>')


def _model(result: Result, model: int) -> str:
    about = result.models[model]
    found = [(engine, measured) for engine, measured in rows(result) if engine.model == model]
    facts = [f"{about.bytes / 1e6:,.1f} MB"]
    facts += [f"{about.parameters:,} parameters"] if about.parameters is not None else []
    facts += [f"{about.macs:,} MACs an image"] if about.macs is not None else []
    facts += [f"specification {about.spec_hash[:12]}"] if about.spec_hash is not None else []
    parts = [f"<h2>{escape(about.name)}</h2><p>{escape(about.origin)}: {escape(', '.join(facts))}</p>"]
    if not found:
        return "".join(parts)
    names = list(dict.fromkeys(engine.name for engine, _ in found))
    series = [
        Series(
            name,
            tuple(
                Point(measured.batch, rate.median, rate.low, rate.high)
                for engine, measured in found
                if engine.name == name
                for rate in [measured.images_per_second]
            ),
        )
        for name in names
    ]
    smallest = min(measured.batch for _, measured in found)
    latencies = [
        (engine.name, tuple(getattr(measured.latency_ms, p) for p in PERCENTILES))
        for engine, measured in found
        if measured.batch == smallest
    ]
    throughput, latency = "Images a second by batch size", f"Latency of batch {smallest}: {', '.join(PERCENTILES)}"
    keys = "".join(f'<span class="key" style="background:{colour(i)}"></span>{escape(n)} ' for i, n in enumerate(names))
    parts.append(
        f'<p>{keys}</p><div class="plots">'
        f"<div><h3>{throughput}</h3>{scaling(throughput, series, 'batch size', 'images / s')}</div>"
        f"<div><h3>{latency}</h3>{ranges(latency, latencies, PERCENTILES, 'milliseconds')}</div></div>"
    )
    first: dict[int, float] = {}
    body = []
    for engine, measured in found:
        rate, delay = measured.images_per_second, measured.latency_ms
        body.append(
            [
                engine.name,
                str(measured.batch),
                number(rate.median),
                f"{number(rate.low)} to {number(rate.high)}",
                *(number(getattr(delay, p)) for p in PERCENTILES),
                number(measured.cpu_ms_per_image),
                "" if measured.gflops is None else number(measured.gflops),
                f"{rate.median / first.setdefault(measured.batch, rate.median):.2f}x",
            ]
        )
    header = (
        "engine",
        "batch",
        "img/s",
        "slowest to fastest round",
        "p50 ms",
        "p90",
        "p99",
        "CPU ms/img",
        "GFLOP/s",
        "speed",
    )
    parts.append(table(header, [[_keyed(cells[0], colour(names.index(cells[0]))), *cells[1:]] for cells in body]))
    engines = [
        [
            engine.name,
            engine.what,
            engine.precision,
            "" if engine.error is None else f"{engine.error:.1e}",
            f"{engine.load_seconds:.1f}",
            "" if engine.peak_memory_mib is None else f"{engine.peak_memory_mib:,.0f}",
        ]
        for engine in result.engines
        if engine.model == model
    ]
    parts.append(table(("engine", "what ran", "precision", "error", "load s", "peak MiB"), engines))
    return "".join(parts)


def page(result: Result) -> str:
    """The whole page. Everything that comes from the result is escaped."""
    where, how = result.environment, result.settings
    title = f"Inference of {', '.join(model.name for model in result.models)}"
    machine = [
        where.cpu,
        f"{where.cores} cores, {where.threads} threads an engine",
        where.system,
        f"Python {where.python}",
        *(f"{name} {version}" for name, version in where.versions.items()),
        *([f"revision {where.revision[:12]}{'+' if where.revision.endswith('+') else ''}"] if where.revision else []),
    ]
    busy = where.load is not None and where.load > 0.5 * where.cores
    quiet = (
        f"{how.seconds:g} s for each engine and batch size in {how.rounds} rounds, engines taking turns, each in a "
        "process of its own; NumPy in, NumPy out. Bars span the slowest and the fastest round. Speed is relative to "
        "the first engine; error is the largest difference of a logit from the float64 oracle's, by the largest logit."
    )
    parts = [
        f"<p>{escape('; '.join(machine))}. {escape(result.created)}.</p>",
        f'<p class="quiet">{escape(quiet)}</p>',
    ]
    if busy:
        words = (
            f"The machine was busy when this began: load {where.load:g} on {where.cores} cores. Trust CPU time more."
        )
        parts.append(f'<p class="failed">{escape(words)}</p>')
    for failure in result.failures:
        at = "" if failure.batch is None else f" at batch {failure.batch}"
        words = f"Not measured: {result.models[failure.model].name} on {failure.engine}{at}: {failure.reason}"
        parts.append(f'<p class="failed">{escape(words)}</p>')
    parts += [_model(result, i) for i in range(len(result.models))]
    return document(title, parts, STYLE)


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
