"""A result as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.results import Accuracy, Case, Engine, Measurement, Result

LEFT = ("engine", "way", "what ran", "detail", "precision", "besides")
"""Columns of words."""


def rows(result: Result) -> Iterator[tuple[Engine, Measurement]]:
    """Measurements with their engines, by model and batch size, in the order of the engines."""
    found = [(result.engines[measured.engine], measured) for measured in result.measurements]
    return iter(sorted(found, key=lambda row: (row[0].model, row[1].batch, row[1].engine)))


def number(value: float) -> str:
    """Three significant digits without an exponent; thousands apart."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 10 else f"{value:.2f}"


def share(value: float | None) -> str:
    """As a percentage; nothing where it is not known."""
    return "" if value is None else f"{100 * value:.3g}%"


SPEEDS = ("engine", "precision", "batch", "img/s", "slowest-fastest", "p50 ms", "p90", "p99", "CPU ms/img", "GFLOP/s",
          "of roof", "speed")  # fmt: skip


def speeds(result: Result, model: int) -> list[list[str]]:
    """The cells of SPEEDS for every engine and batch size; the last compares with the first engine at that size."""
    first: dict[int, float] = {}
    found = []
    for engine, measured in rows(result):
        if engine.model != model:
            continue
        rate, latency = measured.images_per_second, measured.latency_ms
        found.append(
            [
                engine.name,
                engine.precision,
                str(measured.batch),
                number(rate.median),
                f"{number(rate.low)}-{number(rate.high)}",
                *(number(value) for value in (latency.p50, latency.p90, latency.p99)),
                number(measured.cpu_ms_per_image),
                "" if measured.gflops is None else number(measured.gflops),
                share(measured.of_roof) + (", memory" if measured.bound == "memory" else ""),
                f"{rate.median / first.setdefault(measured.batch, rate.median):.2f}x",
            ]
        )
    return found


ENGINES = ("engine", "single stream p90", "offline img/s", "logit error", "top-1 changed", "top-1", "load s",
           "peak MiB", "GPU MiB", "what ran")  # fmt: skip


def engines(result: Result, model: int) -> list[list[str]]:
    """The cells of ENGINES for every engine of a model."""
    told = {scenario.engine: scenario for scenario in result.scenarios}
    found = []
    for place, engine in enumerate(result.engines):
        if engine.model != model:
            continue
        scenario, worth = told.get(place), engine.accuracy
        stream = scenario.single_stream if scenario else None
        found.append(
            [
                engine.name,
                "" if stream is None else f"{number(stream.p90_ms)} ms",
                "" if scenario is None
                else f"{number(scenario.offline.images_per_second)} at {scenario.offline.batch}",
                "" if worth is None or worth.logit_error is None else f"{worth.logit_error:.1e}",
                "" if worth is None else share(worth.top1_changed),
                top1(worth),
                f"{engine.load_seconds:.1f}",
                "" if engine.peak_memory_mib is None else f"{engine.peak_memory_mib:,.0f}",
                "" if engine.device_memory_mib is None else f"{engine.device_memory_mib:,.0f}",
                engine.what,
            ]
        )  # fmt: skip
    return found


def top1(worth: Accuracy | None) -> str:
    """How often the best class is the label, and how much less often than the reference's."""
    if worth is None or worth.top1 is None:
        return ""
    lost = worth.top1_lost
    return f"{100 * worth.top1:.2f}%" + ("" if lost is None else f" ({-100 * lost:+.2f})")


CASES = ("way", "detail", "precision", "batch", "median", "img/s", "slowest-fastest", "GFLOP/s", "GB/s", "of roof",
         "peak MiB", "speed", "besides", "what ran")  # fmt: skip


def sections(result: Result) -> list[tuple[str, str, list[Case]]]:
    """(section, where, cases) in the order in which they were measured."""
    found: dict[tuple[str, str], list[Case]] = {}
    for case in result.cases:
        found.setdefault((case.section, case.where), []).append(case)
    return [(*key, cases) for key, cases in found.items()]


def of_baseline(case: Case, cases: Sequence[Case]) -> float | None:
    """How many times as fast as the usual way; None where it is not compared with one that was measured.

    The usual way is compared in its usual layout, the first, and where it has the precision, in the same.
    """
    usual = [
        one for one in cases
        if one.name == case.baseline and (one.batch, one.device) == (case.batch, case.device)
        and (one.section, one.where) == (case.section, case.where)
    ]  # fmt: skip
    usual = [one for one in usual if one.detail.rpartition(", ")[2] == case.detail.rpartition(", ")[2]]
    chosen = next((one for one in usual if one.precision == case.precision), next(iter(usual), None))
    return None if chosen is None else case.images_per_second.median / chosen.images_per_second.median


def ways(cases: Sequence[Case]) -> list[list[str]]:
    """The cells of CASES."""
    found = []
    for case in cases:
        rate, ratio = case.images_per_second, of_baseline(case, cases)
        memory = case.device_memory_mib if case.device_memory_mib is not None else case.peak_memory_mib
        found.append(
            [
                case.name,
                case.detail,
                case.precision,
                str(case.batch),
                milliseconds(case.items / rate.median),
                number(rate.median),
                f"{number(rate.low)}-{number(rate.high)}",
                "" if case.gflops is None else number(case.gflops),
                "" if case.gbytes_per_second is None else number(case.gbytes_per_second),
                share(case.of_roof),
                "" if memory is None else f"{memory:,.0f}",
                "" if ratio is None else f"{ratio:.2f}x",
                ", ".join(f"{name} {value:.4g}" for name, value in case.values.items()),
                case.what,
            ]
        )
    return found


def milliseconds(value: float) -> str:
    """Of a time in seconds."""
    return f"{number(1e3 * value)} ms"


def roofs(result: Result) -> Iterator[str]:
    """What the machine itself can do, a line for each device."""
    for roof in result.roofs:
        products = ", ".join(f"{number(value)} GFLOP/s {name} ({roof.by[name]})" for name, value in roof.gflops.items())
        yield f"roof of {roof.device}: {products}; {number(roof.gbytes_per_second)} GB/s"


def failures(result: Result) -> Iterator[tuple[str, str]]:
    """(kind, line) for whatever was not measured."""
    for failure in result.failures:
        at = "" if failure.batch is None else f" at batch {failure.batch}"
        named = failure.model is not None and failure.section == "inference"
        where = result.models[failure.model or 0].name if named else failure.section
        yield failure.kind, f"{where} on {failure.engine}{at}: {failure.reason}"


def filled(body: Sequence[Sequence[str]]) -> list[int]:
    """The columns in which anything stands."""
    return [i for i in range(len(body[0])) if any(cells[i] for cells in body)] if body else []


def table(header: Sequence[str], body: Sequence[Sequence[str]]) -> Table:
    """For a terminal; columns in which nothing stands are left out, and the long words, which the page has."""
    kept = [i for i in filled(body) if header[i] != "what ran"]
    made = Table(box=None, pad_edge=False, header_style="bold")
    for i in kept:
        made.add_column(header[i], justify="left" if header[i] in LEFT else "right", no_wrap=header[i] != "besides")
    for cells in body:
        made.add_row(*(cells[i] for i in kept))
    return made


def show(result: Result, console: Console) -> None:
    """Print what was measured, where, and what could not be."""
    where = result.environment
    load = "" if where.load is None else f", load {where.load:g} before"
    console.print(f"{where.cpu}, {where.cores} cores, {where.threads} threads{load}; Python {where.python}, "
                  + ", ".join(f"{name} {version}" for name, version in where.versions.items()))  # fmt: skip
    for gpu in where.accelerators:
        console.print(f"{gpu.name}, {gpu.memory_mib:,.0f} MiB, driver {gpu.driver}")
    for line in roofs(result):
        console.print(line)
    for i, model in enumerate(result.models):
        console.print(f"\n{model.name}: {model.origin}, {model.precision}")
        console.print(table(SPEEDS, speeds(result, i)))
        told = engines(result, i)
        if told:
            console.print(f"\nanswers on {model.images}, beside {reference(result, i)}")
            console.print(table(ENGINES, told))
    for section, place, cases in sections(result):
        console.print(f"\n{section}, {place}")
        console.print(table(CASES, ways(cases)))
    for engine in result.engines:
        worth, coarse = engine.accuracy, (engine.precision, result.models[engine.model].precision)
        if worth is not None and worth.logit_error is not None and worth.logit_error > max(map(_alarming, coarse)):
            console.print(f"warning: the logits of {engine.name} are {worth.logit_error:.2g} away from the reference's")
    for kind, line in failures(result):
        console.print(f"{kind}: {line}")


def reference(result: Result, model: int) -> str:
    """What the engines of a model are compared with."""
    found = [engine.accuracy.reference for engine in result.engines if engine.model == model and engine.accuracy]
    return next((f"{words} in float64" for words in found if words), "no reference: its exact parameters are not known")


def _alarming(precision: str) -> float:
    """Errors of logits that no rounding explains: a wrong network, not a coarse one."""
    return {"float32": 1e-3, "tf32": 1e-2, "float16": 1e-2, "bfloat16": 0.1}.get(precision, 0.5)
