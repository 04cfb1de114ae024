"""The numbers of a result that follow from times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from benchmarks.results import (
    Case,
    Latency,
    Measurement,
    Offline,
    Round,
    Scenario,
    SingleStream,
    Throughput,
)


def measurement(
    engine: int,
    batch: int,
    rounds: Sequence[tuple[Sequence[float], float]],
    macs: int | None,
    roof: tuple[float, Literal["compute", "memory"]] | None = None,
) -> Measurement:
    """A measurement from its rounds: the seconds of every call, and the CPU seconds of the round.

    roof: as :func:`benchmarks.roof.attainable` says.
    """
    rates = np.array([batch * len(times) / sum(times) for times, _ in rounds])
    every = 1e3 * np.concatenate([np.asarray(times, np.float64) for times, _ in rounds])
    images = batch * len(every)
    median = float(np.median(rates))
    return Measurement(
        engine=engine,
        batch=batch,
        rounds=tuple(Round(calls=len(times), seconds=sum(times), cpu_seconds=cpu) for times, cpu in rounds),
        images_per_second=Throughput(median=median, low=float(rates.min()), high=float(rates.max())),
        latency_ms=Latency(**{f"p{p}": float(np.percentile(every, p)) for p in (50, 90, 99)}, max=float(every.max())),
        cpu_ms_per_image=1e3 * sum(cpu for _, cpu in rounds) / images,
        gflops=None if macs is None else 2e-9 * macs * median,
        attainable=None if roof is None else roof[0],
        of_roof=None if roof is None else median / roof[0],
        bound=None if roof is None else roof[1],
    )


def scenarios(measurements: Sequence[Measurement]) -> tuple[Scenario, ...]:
    """Both scenarios of every engine that was measured."""
    found = []
    for engine in dict.fromkeys(measured.engine for measured in measurements):
        own = [measured for measured in measurements if measured.engine == engine]
        single = next((measured for measured in own if measured.batch == 1), None)
        best = max(own, key=lambda measured: measured.images_per_second.median)
        stream = None
        if single is not None:
            latency, queries = single.latency_ms, sum(turn.calls for turn in single.rounds)
            stream = SingleStream(queries=queries, p50_ms=latency.p50, p90_ms=latency.p90, p99_ms=latency.p99)
        offline = Offline(batch=best.batch, images_per_second=best.images_per_second.median)
        found.append(Scenario(engine=engine, single_stream=stream, offline=offline))
    return tuple(found)


def rates(case: Case) -> list[float]:
    """Images a second of every call."""
    return [case.items / seconds for seconds in case.seconds]


def case(section: str, where: str, name: str, seconds: Sequence[float], items: int, **rest: Any) -> Case:
    """A case from the seconds of its calls; rest: the other fields of :class:`Case`."""
    speeds = sorted(items / one for one in seconds)
    speed = Throughput(median=items / float(np.median(seconds)), low=speeds[0], high=speeds[-1])
    return Case(
        section=section, where=where, name=name, seconds=tuple(seconds), items=items, images_per_second=speed, **rest
    )
