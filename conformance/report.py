"""Evidence files summed up: which backend agrees in which check to how many digits, and what departs. In Markdown here,
as a page in ``page.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from conformance.alarmed import ACCUSED, ALARMS, Tallied, accused, alarms
from conformance.baseline import BASELINE, LET_THROUGH, Public, baseline
from conformance.checks import CHECKS
from conformance.runner import BUILDING, FORMAT, key_of

MAX_BYTES = 1 << 29
"""Of an evidence file. One of every backend and variant, slim, has some 20 million."""
REPORTING = "free-run"
"""The check that cannot fail: its findings are remarks."""


class EvidenceError(ValueError):
    """A file is no evidence of a run. One line: where, required, received."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Found(_Part):
    """One comparison; see :class:`conformance.comparison.Finding`."""

    check: str
    tensor: str
    error: float
    bound: float
    ratio: float
    digits: float
    fault: str | None


class Known(_Part):
    """Why a failure was expected, and where that is discussed."""

    reason: str
    link: str | None = None


class Examined(_Part):
    """What one backend made of one specification in one dtype."""

    backend: str
    spec: str
    dtype: str
    passed: bool
    fault: str | None
    unsupported: str | None
    missing: str | None
    inapplicable: dict[str, str] = {}
    failures: dict[str, str] = {}
    expected: dict[str, Known] = {}
    findings: tuple[Found, ...]
    seconds: float = 0.0

    def wrong(self, check: str) -> tuple[int, int]:
        """How many faults a check has that were not expected, and how many that were."""
        keys = [key_of(f.check, f.tensor) for f in self.findings if f.check == check and f.fault is not None]
        keys += [key_of(failed) for failed in self.failures if failed == check]
        known = sum(key in self.expected for key in keys)
        return len(keys) - known, known


class Kill(_Part):
    """What came of one mutant on one backend; see :class:`conformance.killing.Kill`."""

    mutant: str
    target: str
    kind: str
    what: str
    link: str | None
    backend: str
    check: str
    killed: bool
    case: str | None
    tensor: str | None
    fault: str | None


class Machine(_Part):
    """Where a run was made."""

    system: str
    processor: str
    cores: int | None


class Evidence(_Part):
    """One file."""

    format: int
    created: str
    machine: Machine
    versions: dict[str, dict[str, str]]
    results: tuple[Examined, ...]
    mutants: tuple[Kill, ...] = ()
    public: tuple[Public, ...] = ()
    alarms: tuple[Tallied, ...] = ()


def read(path: Path) -> Evidence:
    """The evidence in a file. Raises EvidenceError."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise EvidenceError(f"{path}: evidence must have at most {MAX_BYTES >> 20} MiB")
        found = Evidence.model_validate_json(path.read_bytes())
    except OSError as error:
        raise EvidenceError(f"{path}: evidence must be a file that can be read. Received: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise EvidenceError(f"{path}: must be evidence of a run. Received: {where}: {first['msg']}") from None
    if found.format != FORMAT:
        raise EvidenceError(f"{path}: evidence must have format {FORMAT}. Received: {found.format}")
    return found


# --- summing up -----------------------------------------------------------------------------------------------------


@dataclass
class Agreement:
    """What came of some comparisons taken together: of a check over all networks, say."""

    asked: int = 0
    """Examinations in which something was compared."""
    digits: float = math.inf
    """Of the tensor that agrees worst."""
    nearest: tuple[Found, str] | None = None
    """The comparison that comes nearest to its bound, or goes furthest beyond, and of which specification."""
    faults: int = 0
    expected: int = 0
    reasons: set[str] = field(default_factory=set)
    """Why nothing could be compared, where nothing could."""

    @property
    def says_something(self) -> bool:
        """Whether anything was asked."""
        return bool(self.asked or self.faults or self.expected)

    @property
    def near(self) -> str:
        """How near any tensor comes to its bound, in units of it; empty where that says nothing."""
        return f"{self.nearest[0].ratio:.2f}" if self.nearest and self.digits < math.inf else ""

    @property
    def words(self) -> str:
        """Digits, or what there is instead."""
        if self.faults:
            return "FAIL"
        if not self.asked:
            return "xfail" if self.expected else "n/a" if self.reasons else ""
        return "exact" if self.digits == math.inf else f"{self.digits:.1f}"

    def take(self, one: Examined, check: str) -> None:
        """Add what `one` says of `check`."""
        faults, expected = one.wrong(check)
        self.faults, self.expected = self.faults + faults, self.expected + expected
        found = [f for f in one.findings if f.check == check and key_of(check, f.tensor) not in one.expected]
        self.asked += bool(found)
        for finding in found:
            self.digits = min(self.digits, finding.digits)
            if self.nearest is None or finding.ratio > self.nearest[0].ratio:
                self.nearest = finding, one.spec
        reason = one.inapplicable.get(check) or one.unsupported or (one.missing and f"{one.missing} is not installed")
        if reason and not found:
            self.reasons.add(reason)


Grid = dict[str, dict[str, Agreement]]
"""By row and backend."""


@dataclass(frozen=True)
class Summary:
    """Everything that a report says."""

    files: tuple[Evidence, ...]

    @property
    def results(self) -> list[Examined]:
        """Of all files."""
        return [result for file in self.files for result in file.results]

    @property
    def backends(self) -> list[str]:
        """In the order in which they appear."""
        return list(dict.fromkeys(result.backend for result in self.results))

    @property
    def dtypes(self) -> list[str]:
        return list(dict.fromkeys(result.dtype for result in self.results))

    @property
    def kills(self) -> list[Kill]:
        """Of all files; a mutant that was tried again on a backend counts as it came out last."""
        return list({(kill.mutant, kill.backend): kill for file in self.files for kill in file.mutants}.values())

    @property
    def public(self) -> list[Public]:
        """Of all files, of each backend the last."""
        return list({one.backend: one for file in self.files for one in file.public}.values())

    @property
    def tallies(self) -> list[Tallied]:
        """Of all files; a case that was examined again on a backend counts as it came out last."""
        return list({(one.case, one.backend): one for file in self.files for one in file.alarms}.values())

    @property
    def faults(self) -> list[Examined]:
        """The examinations that did not pass."""
        return [result for result in self.results if result.fault is not None]

    @property
    def known(self) -> Iterator[tuple[Examined, str, Known]]:
        """The failures that were expected: where, of what, why."""
        return ((result, key, known) for result in self.results for key, known in result.expected.items())

    @property
    def remarks(self) -> Iterator[tuple[Examined, Found]]:
        """Where free runs went."""
        return ((result, found) for result in self.results for found in result.findings if found.check == REPORTING)

    @property
    def reasons(self) -> dict[tuple[str, str], list[tuple[str, str]]]:
        """Why what could not be asked could not be: of each backend and reason, which dtypes and checks, or all."""
        found: dict[tuple[str, str], dict[tuple[str, str], None]] = {}
        for one in self.results:
            whole = one.unsupported or (one.missing and f"{one.missing} is not installed")
            said = {"every check": whole} if whole else one.inapplicable
            for check, reason in said.items():
                found.setdefault((one.backend, reason), {})[one.dtype, check] = None
        return {key: list(value) for key, value in found.items()}

    def by_check(self, dtype: str) -> Grid:
        """Of each check and backend, all networks together."""
        grid: Grid = {}
        for result in (result for result in self.results if result.dtype == dtype):
            for check in _checks(result):
                grid.setdefault(check, {}).setdefault(result.backend, Agreement()).take(result, check)
        order = [BUILDING, *CHECKS]
        said = [check for check, cells in grid.items() if any(cell.says_something for cell in cells.values())]
        return {check: grid[check] for check in sorted(said, key=lambda c: order.index(c) if c in order else 99)}

    def by_network(self, dtype: str) -> Grid:
        """Of each network and backend, all checks together."""
        grid: Grid = {}
        for result in (result for result in self.results if result.dtype == dtype):
            agreement = grid.setdefault(result.spec, {}).setdefault(result.backend, Agreement())
            for check in _checks(result):
                agreement.take(result, check)
        return grid


def _checks(result: Examined) -> list[str]:
    """The checks of which `result` says anything; every check if nothing could be asked."""
    named = [*(f.check for f in result.findings), *result.inapplicable, *result.failures]
    whole = result.unsupported or result.missing
    return [check for check in dict.fromkeys([*named, *(CHECKS if whole else ())]) if check != REPORTING]


def short(backend: str, others: Sequence[str]) -> str:
    """A backend's name for the head of a column: of ``package.module:Class`` the class, if no other is called so."""
    name = backend.rpartition(":")[2]
    return name if sum(other.rpartition(":")[2] == name for other in others) == 1 else backend


def counted(number: int, what: str) -> str:
    """``1 fault``, ``1,000 faults``."""
    return f"{number:,} {what}" + "s" * (number != 1)


def sentences(summary: Summary) -> list[str]:
    """What came of it, in words."""
    results, kills = summary.results, summary.kills
    compared = sum(len(result.findings) for result in results)
    networks = {result.spec for result in results}
    said = []
    if results:
        passed, faults = sum(result.passed for result in results), len(summary.faults)
        rest = len(results) - passed - faults
        said.append(
            f"{counted(len(summary.backends), 'backend')}, {counted(len(networks), 'network')}, "
            f"{' and '.join(summary.dtypes)}: {counted(compared, 'comparison')} with the float64 oracle in "
            f"{counted(len(results), 'examination')}. "
            f"{passed} passed, {faults} failed, {rest} could not be made."
        )
        expected = len(list(summary.known))
        said += [f"Expected, each with a reason below: {counted(expected, 'failure')}."] if expected else []
    if kills:
        killed = sum(kill.killed for kill in kills)
        shipped = len({kill.mutant for kill in kills if kill.kind == "shipped"})
        said.append(
            f"{killed} of {len(kills)} wrong implementations were killed by the check that each names; "
            f"{shipped} of the {len({kill.mutant for kill in kills})} mistakes among them shipped somewhere."
        )
    if summary.public:
        asked = sum(len(one.mutants) for one in summary.public)
        alive = sum(not survivor.noticed for one in summary.public for survivor in one.mutants)
        said.append(f"Public checks let {alive} of {asked} wrong outputs through.")
    if summary.tallies:
        said.append(accused(summary.tallies))
    return said or ["These files say nothing: no examination and no mutant is in them."]


# --- Markdown -------------------------------------------------------------------------------------------------------


def _escaped(words: str) -> str:
    return words.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _grid(grid: Grid, backends: Sequence[str], corner: str) -> list[str]:
    lines = [
        _row([corner, *(_escaped(short(name, backends)) for name in backends)]),
        "|---" * (1 + len(backends)) + "|",
    ]
    for row, cells in grid.items():
        line = [_escaped(row)]
        for name in backends:
            agreement = cells.get(name, Agreement())
            words = f"**{agreement.words}**" if agreement.faults else agreement.words
            line.append(f"{words} ({agreement.near})" if agreement.near and not agreement.faults else words)
        lines.append(_row(line))
    return lines


def markdown(summary: Summary) -> str:
    """The report as Markdown."""
    lines = ["# Conformance", "", *sentences(summary)]
    if summary.faults:
        lines += ["", "## What departs", "", *(f"- {_escaped(str(result.fault))}" for result in summary.faults)]
    for dtype in summary.dtypes:
        lines += [
            "",
            f"## Agreement in {dtype}",
            "",
            "Digits of the worst tensor; in brackets how far the nearest to its bound goes, 1 being the bound.",
            "",
            *_grid(summary.by_check(dtype), summary.backends, "check"),
            "",
            *_grid(summary.by_network(dtype), summary.backends, "network"),
        ]
    known = list(summary.known)
    if known:
        lines += ["", "## Expected to fail", ""]
        for result, key, why in known:
            link = f" ({why.link})" if why.link else ""
            said = f"{result.backend}, {result.spec} in {result.dtype}, {key}: {why.reason}{link}"
            lines.append(f"- {_escaped(said)}")
    if summary.reasons:
        lines += ["", "## What could not be asked", ""]
        for (backend, reason), what in summary.reasons.items():
            lines.append(f"- {_escaped(f'{backend}: {reason}: {listed(what)}')}")
    if summary.kills:
        lines += ["", "## Mutants", "", *_row_of_kills(summary)]
    if summary.public:
        lines += ["", "## What public checks let through", "", LET_THROUGH, ""]
        lines += [_row(BASELINE), "|---" * len(BASELINE) + "|", *map(_row, baseline(summary.public))]
    if summary.tallies:
        lines += ["", "## False alarms", "", ACCUSED, ""]
        lines += [_row(ALARMS), "|---" * len(ALARMS) + "|", *map(_row, alarms(summary.tallies))]
        lines += [f"- {_escaped(fault)}" for one in summary.tallies for fault in one.faults]
    return "\n".join(lines) + "\n"


def listed(what: Sequence[tuple[str, str]]) -> str:
    """Dtypes and checks as words: ``loss, one-step in float32``."""
    by_dtype: dict[str, list[str]] = {}
    for dtype, check in what:
        by_dtype.setdefault(dtype, []).append(check)
    return "; ".join(f"{', '.join(checks)} in {dtype}" for dtype, checks in by_dtype.items())


def tally(kills: Sequence[Kill]) -> list[tuple[str, ...]]:
    """Of each backend: how many were tried, shipped ones among them, killed and alive."""
    rows = []
    for backend in dict.fromkeys(kill.backend for kill in kills):
        own = [kill for kill in kills if kill.backend == backend]
        counts = (len(own), sum(k.kind == "shipped" for k in own), sum(k.killed for k in own))
        rows.append((backend, *map(str, counts), str(len(own) - counts[2])))
    return rows


TALLY = ("backend", "mutants", "shipped", "killed", "alive")


def _row_of_kills(summary: Summary) -> list[str]:
    alive = [kill for kill in summary.kills if not kill.killed]
    lines = [_row(TALLY), "|---" * len(TALLY) + "|", *map(_row, tally(summary.kills))]
    return lines + [f"- {_escaped(f'**{kill.mutant}** on {kill.backend} is alive: {kill.what}')}" for kill in alive]
