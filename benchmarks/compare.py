"""Compare two results of ``run.py``: what became faster, what slower, and what the noise does not let one say.

    python benchmarks/compare.py before.json after.json

Every engine and batch size that is in both is compared by its rounds, and every way to train or to normalise by its
calls. The ratio of speeds is the Hodges-Lehmann estimate, the median of all quotients of a round after by a round
before, and its interval is that of the Mann-Whitney test, which assumes nothing about how times are distributed. Exit
code 0: compared; 2: asked wrongly.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb, sqrt
from pathlib import Path
from statistics import NormalDist

if __package__ in (None, ""):  # run by path: make the rooms importable, and the modules of this one not
    _ROOM = Path(__file__).resolve().parent
    sys.path[:] = [str(_ROOM.parent), *(path for path in sys.path if Path(path or ".").resolve() != _ROOM)]

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.command import Parser, Wrong
from benchmarks.figures import rates
from benchmarks.results import Result, ResultError, read

CONFIDENCE = 0.99
"""Of an interval. A result has a few dozen rows, and few of them may be wrong by chance; it takes five rounds each."""
SAME = 0.03
"""Ratios nearer to 1 than this are called the same whatever their interval: two starts of one program differ as much,
by where its memory comes to lie, and rounds of one start do not show it."""


EXACT = 12
"""Up to so many rounds on one side the distribution of U is counted out; beyond, the normal one is as good."""


@dataclass(frozen=True)
class Comparison:
    """One engine at one batch size, after against before."""

    model: str
    engine: str
    batch: int
    before: float
    after: float
    """Images a second, median rounds."""
    ratio: float
    """Of speeds, after by before: above 1 is faster."""
    low: float
    high: float
    """The interval of the ratio; 0 and infinity where there are too few rounds for one."""
    cpu_ratio: float | None
    """Of CPU seconds per image, before by after: above 1 is better too. Steadier than the clock on a busy machine.
    None for cases, whose CPU time is not taken."""

    @property
    def verdict(self) -> str:
        """``faster``, ``slower``, ``same``, or ``unsure`` when the interval reaches further than that."""
        if self.low > 1 + SAME:
            return "faster"
        if self.high < 1 - SAME:
            return "slower"
        return "same" if self.low >= 1 - SAME and self.high <= 1 + SAME else "unsure"


@lru_cache(maxsize=64)
def _counts(m: int, n: int) -> tuple[int, ...]:
    """In how many of the orders of m and n things the pairs in inverse order number 0, 1, ..., m * n."""
    if m == 0 or n == 0:
        return (1,)
    counts = [0] * (m * n + 1)
    for u, count in enumerate(_counts(m - 1, n)):  # the greatest is of the m: it is behind all n
        counts[u + n] += count
    for u, count in enumerate(_counts(m, n - 1)):
        counts[u] += count
    return tuple(counts)


def _order(m: int, n: int) -> int:
    """The greatest k with 2 P(U < k) <= 1 - CONFIDENCE; exact for few rounds, of the normal distribution for many."""
    if min(m, n) > EXACT:
        z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
        return int(m * n / 2 - z * sqrt(m * n * (m + n + 1) / 12))
    allowed, below = (1 - CONFIDENCE) / 2 * comb(m + n, n), 0
    for k, count in enumerate(_counts(m, n)):
        below += count
        if below > allowed:
            return k
    raise AssertionError("half of all orders are more than allowed")


def interval(before: Sequence[float], after: Sequence[float]) -> tuple[float, float, float]:
    """(ratio, low, high) of the speeds `after` by `before`, each the rounds of one measurement.

    The quotients in ascending order are q[1] to q[mn]; the interval from q[k] to q[mn + 1 - k] holds the true ratio
    with probability 1 - 2 P(U < k), U being the Mann-Whitney statistic of equal distributions (M. Hollander, D. Wolfe
    and E. Chicken, Nonparametric Statistical Methods, 4.3).
    """
    quotients = np.sort(np.divide.outer(np.asarray(after, np.float64), np.asarray(before, np.float64)), axis=None)
    k = _order(len(before), len(after))
    low, high = (float(quotients[k - 1]), float(quotients[-k])) if k else (0.0, float("inf"))
    return float(np.median(quotients)), low, high


@dataclass(frozen=True)
class _Row:
    """What is compared: images a second of every round, and CPU milliseconds of an image where they are known."""

    rates: list[float]
    cpu: float | None = None


def _rows(result: Result) -> dict[tuple[str, str, int], _Row]:
    """By model, engine and batch size, or section, way and batch size; names of models are unique in a result."""
    engines = [(result.models[engine.model].name, engine.name) for engine in result.engines]
    found = {
        (*engines[m.engine], m.batch): _Row(
            [m.batch * turn.calls / turn.seconds for turn in m.rounds], m.cpu_ms_per_image
        )
        for m in result.measurements
    }
    for case in result.cases:
        section, where, name, *rest = case.key
        found[f"{section}, {where}", ", ".join([name, *filter(None, rest)]), case.batch] = _Row(rates(case))
    return found


def compare(before: Result, after: Result) -> Iterator[Comparison]:
    """Whatever is in both results, in the order of the first."""
    second = _rows(after)
    for key, old in _rows(before).items():
        if key not in second:
            continue
        new = second[key]
        yield Comparison(
            *key,
            float(np.median(old.rates)),
            float(np.median(new.rates)),
            *interval(old.rates, new.rates),
            old.cpu / new.cpu if old.cpu and new.cpu else None,
        )


def differences(before: Result, after: Result) -> list[str]:
    """Why two results may differ, apart from the code: machine, threads, versions, load, other networks."""
    found = []
    a, b = before.environment, after.environment
    for field in ("cpu", "machine", "cores", "threads", "python"):
        if getattr(a, field) != getattr(b, field):
            found.append(f"{field}: {getattr(a, field)} before, {getattr(b, field)} after")
    for name in sorted(a.versions.keys() | b.versions.keys()):
        if a.versions.get(name) != b.versions.get(name):
            found.append(f"{name}: {a.versions.get(name, 'none')} before, {b.versions.get(name, 'none')} after")
    for when, where in (("before", a), ("after", b)):
        if where.load is not None and where.load > 0.5 * where.cores:
            found.append(f"the machine was busy {when}: load {where.load:g} on {where.cores} cores")
    hashes = [{model.name: model.spec_hash for model in result.models} for result in (before, after)]
    for name in hashes[0].keys() & hashes[1].keys():
        if hashes[0][name] != hashes[1][name]:
            found.append(f"{name} is another network after")
    gpus = [", ".join(gpu.name for gpu in one.accelerators) or "none" for one in (a, b)]
    if gpus[0] != gpus[1]:
        found.append(f"GPU: {gpus[0]} before, {gpus[1]} after")
    return found


def table(comparisons: Sequence[Comparison]) -> Table:
    """One row for each comparison."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for title in (
        "model",
        "engine",
        "batch",
        "before",
        "after",
        "ratio",
        f"{CONFIDENCE:.0%} interval",
        "cpu",
        "verdict",
    ):
        made.add_column(title, justify="left" if title in ("model", "engine", "verdict") else "right", no_wrap=True)
    for row in comparisons:
        made.add_row(
            row.model, row.engine, str(row.batch), f"{row.before:,.1f}", f"{row.after:,.1f}", f"{row.ratio:.2f}x",
            f"{row.low:.2f}-{row.high:.2f}", "" if row.cpu_ratio is None else f"{row.cpu_ratio:.2f}x", row.verdict,
        )  # fmt: skip
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`. Returns its exit code."""
    parser = Parser("compare.py", "Compare two results of run.py.")
    parser.add_argument("before", type=Path, metavar="BEFORE.json")
    parser.add_argument("after", type=Path, metavar="AFTER.json")
    arguments = parser.parse_args(argv)
    try:
        before, after = read(arguments.before), read(arguments.after)
        comparisons = list(compare(before, after))
        if not comparisons:
            raise Wrong("two results must share an engine, or a way, and a batch size. Received: nothing in common")
    except (Wrong, ResultError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for difference in differences(before, after):
        console.print(f"note: {difference}")
    console.width = max(console.width, 120)
    console.print(table(comparisons))
    left_out = len(_rows(before)) + len(_rows(after)) - 2 * len(comparisons)
    if left_out:
        console.print(f"{left_out} rows are in one of the two only")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
