"""What an experiment leaves behind: ``result.json``, its pictures, and ``report.html``, which needs nothing else."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from backends.checkpoint import versions
from backends.pages import document, table, write_text
from data.parallel import cores
from experiments.experiment import Experiment, Finding, Picture
from experiments.work import Work

FORMAT = "executable-alexnet/experiment/1"
RESULT, REPORT = "result.json", "report.html"
_STYLE = """
img { max-width: 100%; height: auto; background: #fff; } figure { margin: 1.5rem 0; }
figcaption { color: var(--quiet); }
.finding { font-size: 1.15rem; border-left: 4px solid #0072b2; padding-left: .8rem; }
td { white-space: normal; } .words th, .words td { text-align: left; } code { overflow-wrap: anywhere; }
"""


def record(experiment: Experiment, work: Work, finding: Finding, seconds: float) -> dict[str, Any]:
    """What ``result.json`` holds; README.md says what each field means."""
    return {
        "format": FORMAT,
        "experiment": experiment.name,
        "question": experiment.question,
        "finding": finding.sentence,
        "command": work.command,
        "backend": work.backend,
        "device": work.ran_on,
        "seeds": list(work.seeds),
        "size": asdict(work.size),
        "specs": [
            {"name": spec.name, "title": spec.title, "hash": digest} for digest, spec in sorted(work.specs.items())
        ],
        "data": [
            {"source": work.source, "what": what, "fingerprint": digest} for digest, what in sorted(work.data.items())
        ],
        "numbers": finding.numbers,
        "pictures": [picture.file for picture in finding.pictures],
        "references": [asdict(reference) for reference in finding.references],
        "limits": list(finding.limits),
        "versions": versions(),
        "machine": {"cores": cores(), "threads": os.environ.get("OMP_NUM_THREADS")},
        "minutes": round(seconds / 60, 2),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write(folder: Path, experiment: Experiment, finding: Finding, result: dict[str, Any]) -> Path:
    """Write pictures, page and, last, ``result.json``. Returns the page's path. Raises OSError."""
    for picture in finding.pictures:
        partial = folder / f".{picture.file}.partial"
        try:
            partial.write_bytes(picture.png)
            partial.replace(folder / picture.file)
        finally:
            partial.unlink(missing_ok=True)
    write_text(folder / REPORT, page(experiment, finding, result))
    write_text(folder / RESULT, json.dumps(result, indent=2, allow_nan=False) + "\n")
    return folder / REPORT


def page(experiment: Experiment, finding: Finding, result: dict[str, Any]) -> str:
    """One page that can be sent to somebody who has neither the repository nor the pictures."""
    body = [
        f"<p>{escape(experiment.question)}</p>",
        f'<p class="finding">{escape(finding.sentence)}</p>',
        *(_figure(picture) for picture in finding.pictures),
    ]
    for one in finding.tables:
        body.append(f"<h2>{escape(one.title)}</h2>{table(one.header, one.rows)}")
        if one.note:
            body.append(f'<p class="quiet">{escape(one.note)}</p>')
    if finding.references:
        rows = [(reference.what, reference.value, reference.source) for reference in finding.references]
        body.append("<h2>What was found before</h2>" + table(("", "what", "source"), rows, "words"))
    body.append("<h2>How it was done</h2>")
    body += [f"<p>{escape(paragraph)}</p>" for paragraph in experiment.method.split("\n\n")]
    if finding.limits:
        body.append("<h2>What this cannot show</h2>" + _items(finding.limits))
    body += ["<h2>What made this page</h2>", f"<p><code>{escape(result['command'])}</code></p>", _items(_facts(result))]
    return document(experiment.name, body, _STYLE)


def _figure(picture: Picture) -> str:
    encoded, words = base64.b64encode(picture.png).decode("ascii"), escape(picture.caption, quote=True)
    image = f'<img alt="{words}" src="data:image/png;base64,{encoded}">'
    return f"<figure>{image}<figcaption>{escape(picture.caption)}</figcaption></figure>"


def _facts(result: dict[str, Any]) -> list[str]:
    facts = [f"specification {spec['name']}, {spec['hash']}" for spec in result["specs"]]
    facts += [f"images: {data['what']}; fingerprint {data['fingerprint']}" for data in result["data"]]
    seeds = ", ".join(map(str, result["seeds"]))
    facts.append(
        f"seeds {seeds}; {result['backend']} on {result['device'] or 'nothing'}; {result['machine']['cores']} cores"
    )
    facts.append("; ".join(f"{name} {version}" for name, version in result["versions"].items()))
    facts.append(f"finished {result['finished']} after {result['minutes']:g} minutes")
    return facts


def _items(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"
