"""What an evaluation says: tables for people, one JSON object for programs, a sheet of the mistakes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from backends.checkpoint import versions
from backends.evaluation.intervals import CONFIDENCE
from backends.evaluation.models import Model
from backends.evaluation.scoring import CENTER, Outcome
from backends.evaluation.sheet import COLUMNS, ROWS, contact_sheet
from backends.evaluation.summary import BEST, Comparison, by_class, comparisons, confusions, error_of, mistakes
from backends.reporting import Reporter
from data import Dataset
from data.shards import taken

RESULT, SHEET = "evaluation.json", "mistakes.png"
FORMAT = "executable-alexnet-evaluation/1"
ROWS_SHOWN = 10
"""Classes and confusions on the terminal; of classes all, if they are no more than twice as many."""
CONFUSIONS_KEPT = 100
INTERVALS = {
    "error": f"Wilson's score interval, {CONFIDENCE:.0%}",
    "difference": f"Tango's score interval for paired proportions, {CONFIDENCE:.0%}; p is McNemar's, exact, two-sided",
}
CROPS = {"center": "centre", "ten": "ten"}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything that a report is made of."""

    models: tuple[Model, ...]
    dataset: Dataset
    """The images as the first model has them stored."""
    source: str
    split: str
    crops: str
    average: str
    outcomes: tuple[Outcome, ...]

    @property
    def protocol(self) -> str:
        """In words."""
        what = "the central crop" if self.crops == CENTER else "ten crops"
        over = [] if self.crops == CENTER else ["crops"]
        over += ["models"] if len(self.models) > 1 else []
        return what + (f", {self.average} averaged over {' and '.join(over)}" if over else "")


def result(evaluation: Evaluation) -> dict[str, Any]:
    """The JSON object; errors are fractions."""
    last, labels = evaluation.outcomes[-1], evaluation.dataset.labels
    names = evaluation.dataset.classes

    def errors(outcome: Outcome) -> dict[str, Any]:
        return {f"{name}_error": asdict(error_of(outcome, best)) for name, best in BEST.items()}

    return {
        "format": FORMAT,
        "data": {"source": evaluation.source, "part": evaluation.split, "images": len(labels), "classes": names},
        "protocol": {"crops": evaluation.crops, "average": evaluation.average},
        "intervals": INTERVALS,
        "models": [
            {
                "file": model.name,
                "spec": model.spec.name,
                "spec_hash": model.spec.hash,
                "runs_on": model.runs_on,
                "epochs": model.origin.epoch if model.origin else None,
            }
            for model in evaluation.models
        ],
        "errors": [{"who": o.who, "crops": o.crops, **errors(o)} for o in evaluation.outcomes],
        "comparisons": [asdict(comparison) for comparison in comparisons(evaluation.outcomes)],
        "classes": [
            {
                "class": names[row.number],
                "top1_error": asdict(row.top1),
                "top5_error": asdict(row.top5),
                "mostly_taken_for": None if row.mostly is None else names[row.mostly],
            }
            for row in by_class(last, labels)
        ],
        "confusions": [
            {"class": names[c.label], "taken_for": names[c.answer], "times": c.times, "share": c.share}
            for c in confusions(last, labels, CONFUSIONS_KEPT)
        ],
        "versions": versions(),
    }


def write(evaluation: Evaluation, folder: Path) -> None:
    """Write RESULT and SHEET (without a mistake, none) into `folder`. Raises OSError."""
    text = json.dumps(result(evaluation), indent=1, ensure_ascii=False)
    (folder / RESULT).write_text(text + "\n", encoding="utf-8")
    last, dataset = evaluation.outcomes[-1], evaluation.dataset
    wrong = mistakes(last)
    if not len(wrong):
        return
    shown = wrong[: COLUMNS * ROWS]
    words = [
        (dataset.classes[dataset.labels[i]], f"{dataset.classes[last.answers[i]]} {last.confidences[i]:.0%}")
        for i in shown.tolist()
    ]
    which = f"the {len(shown)} most confident of {len(wrong):,} mistakes" if len(shown) < len(wrong) else "all mistakes"
    title = f"{which} among {len(dataset):,} images: what it is (green), what it was taken for (red)"
    contact_sheet(folder / SHEET, taken(dataset.images, shown), words, title)


def say(evaluation: Evaluation, folder: Path, reporter: Reporter) -> None:
    """The report on the terminal."""
    for model in evaluation.models:
        trained = f", {model.origin.epoch} epochs" if model.origin else ""
        reporter.line(f"{model.name}: {model.spec.name}{trained}, {model.runs_on}")
    part = {"validation": "validation", "train": "training", "all": "training and validation"}[evaluation.split]
    reporter.line(f"{evaluation.protocol}; {len(evaluation.dataset):,} {part} images\n")
    reporter.table(_errors(evaluation.outcomes))
    if compared := comparisons(evaluation.outcomes):
        reporter.table(_compared(compared))
    reporter.table(_classes(evaluation))
    if worst := confusions(evaluation.outcomes[-1], evaluation.dataset.labels, ROWS_SHOWN):
        reporter.table(_confusions(evaluation.dataset.classes, worst))
    files = f"{RESULT} and {SHEET}" if len(mistakes(evaluation.outcomes[-1])) else RESULT
    reporter.line(f"kept in {folder}: {files}")


def _percent(error: float) -> str:
    return f"{100 * error:.2f} %"


def _interval(interval: tuple[float, float], sign: str = "") -> str:
    low, high = (f"{100 * bound:{sign}.2f}" for bound in interval)
    return f"{low} to {high}"


def _table(*columns: tuple[str, str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, justify in columns:
        table.add_column(name, justify=justify, overflow="fold", no_wrap=justify == "right")  # type: ignore[arg-type]
    return table


def _errors(outcomes: Sequence[Outcome]) -> Table:
    table = _table(
        ("", "left"), ("crops", "left"), ("top-1 error", "right"), ("95 % interval", "right"),
        ("top-5 error", "right"), ("95 % interval", "right"),
    )  # fmt: skip
    for outcome in outcomes:
        found = [error_of(outcome, best) for best in BEST.values()]
        cells = [cell for e in found for cell in (_percent(e.error), _interval(e.interval))]
        table.add_row(outcome.who, CROPS[outcome.crops], *cells)
    return table


def _compared(compared: Sequence[Comparison]) -> Table:
    table = _table(
        ("the same images, one by one", "left"), ("error", "left"), ("difference", "right"), ("95 % interval", "right"),
        ("wrong alone", "right"), ("p", "right"), ("", "left"),
    )  # fmt: skip
    for comparison in compared:
        for name, both in (("top-1", comparison.top1), ("top-5", comparison.top5)):
            table.add_row(
                f"{comparison.first} less {comparison.second}", name, f"{100 * both.difference:+.2f}",
                _interval(both.interval, "+"), f"{both.first_only}, {both.second_only}", f"{both.p:.2g}",
                "" if both.told_apart else "not told apart",
            )  # fmt: skip
    return table


def _classes(evaluation: Evaluation) -> Table:
    names, rows = evaluation.dataset.classes, by_class(evaluation.outcomes[-1], evaluation.dataset.labels)
    all_shown = len(rows) <= 2 * ROWS_SHOWN
    shown = rows if all_shown else sorted(rows, key=lambda row: -row.top1.error)[:ROWS_SHOWN]
    first = "class" if all_shown else f"class, the worst {ROWS_SHOWN} of {len(rows):,}"
    table = _table(
        (first, "left"), ("images", "right"), ("top-1 error", "right"), ("95 % interval", "right"),
        ("top-5 error", "right"), ("mostly taken for", "left"),
    )  # fmt: skip
    for row in shown:
        table.add_row(
            names[row.number], f"{row.top1.images:,}", _percent(row.top1.error), _interval(row.top1.interval),
            _percent(row.top5.error), "" if row.mostly is None else names[row.mostly],
        )  # fmt: skip
    return table


def _confusions(names: Sequence[str], worst: Sequence[Any]) -> Table:
    table = _table(("worst confusions", "left"), ("taken for", "left"), ("times", "right"), ("of the class", "right"))
    for confusion in worst:
        table.add_row(
            names[confusion.label], names[confusion.answer], f"{confusion.times:,}", _percent(confusion.share)
        )
    return table
