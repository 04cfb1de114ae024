"""A result as a table for people."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from benchmarks.results import Engine, Measurement, Result


def rows(result: Result) -> Iterator[tuple[Engine, Measurement]]:
    """Measurements with their engines, by model and batch size, in the order of the engines."""
    found = [(result.engines[measured.engine], measured) for measured in result.measurements]
    return iter(sorted(found, key=lambda row: (row[0].model, row[1].batch, row[1].engine)))


def number(value: float) -> str:
    """Three significant digits without an exponent; thousands apart."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 10 else f"{value:.2f}"


COLUMNS = ("engine", "batch", "img/s", "slowest-fastest", "p50 ms", "p90", "p99", "cpu ms/img", "GFLOP/s", "speed")


def table(result: Result, model: int) -> Table:
    """One row for every engine and batch size; the last column compares with the first engine at that size."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for title in COLUMNS:
        made.add_column(title, justify="left" if title == "engine" else "right", no_wrap=True)
    first: dict[int, float] = {}
    for engine, measured in rows(result):
        if engine.model != model:
            continue
        rate, latency = measured.images_per_second, measured.latency_ms
        if measured.batch not in first and first:
            made.add_row()
        made.add_row(
            engine.name,
            str(measured.batch),
            number(rate.median),
            f"{number(rate.low)}-{number(rate.high)}",
            *(number(value) for value in (latency.p50, latency.p90, latency.p99)),
            number(measured.cpu_ms_per_image),
            "" if measured.gflops is None else number(measured.gflops),
            f"{rate.median / first.setdefault(measured.batch, rate.median):.2f}x",
        )
    return made


def show(result: Result, console: Console) -> None:
    """Print what was measured, where, and what could not be."""
    where = result.environment
    load = "" if where.load is None else f", load {where.load:g} before"
    console.print(f"{where.cpu}, {where.cores} cores, {where.threads} threads{load}; Python {where.python}, "
                  + ", ".join(f"{name} {version}" for name, version in where.versions.items()))  # fmt: skip
    for i, model in enumerate(result.models):
        console.print(f"\n{model.name}: {model.origin}")
        console.print(table(result, i))
    for engine in result.engines:
        if engine.error is not None and engine.error > 1e-3:
            console.print(f"warning: the logits of {engine.name} are {engine.error:.2g} away from the oracle's")
    for failure in result.failures:
        at = "" if failure.batch is None else f" at batch {failure.batch}"
        console.print(f"failed: {result.models[failure.model].name} on {failure.engine}{at}: {failure.reason}")
