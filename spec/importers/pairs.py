"""Which networks of the 2012 source the language can say: the table in ``CHM-pairs.md``, made from a checkout of it.

``python -m spec.importers.pairs CHECKOUT`` prints the table.
"""

from __future__ import annotations

import sys
from pathlib import Path

from spec.arithmetic import geometry
from spec.errors import SpecError
from spec.importers.common import Imported
from spec.importers.cuda_convnet import convert

SOURCE = "computerhistory/AlexNet-Source-Code, commit 2f8b81f"
FOLDERS = {"layers": None, "example-layers": (3, 32, 32)}
"""Folders of the source and the input of their networks: the default 224 pixels, or CIFAR-10's 32."""
HEADING = f"""# The networks of the 2012 source in the language

Every definition (`layers-NAME.cfg`) with a parameter file of the same name (`layer-params-NAME.cfg`) in
{SOURCE}, as `python -m spec import` takes it.
*Whole*: nothing that matters is left out; learning rates are those at the end of the run in all of them.
*In part*: the network is imported, and the reason says what is not. *Not*: the reason says what the language
has no word for. Made by `python -m spec.importers.pairs`.
"""


def pairs(checkout: Path, folder: str) -> list[tuple[Path, Path]]:
    """The definitions in a folder that have a parameter file of the same name, with it."""
    definitions = sorted((checkout / folder).glob("layers*.cfg"))
    named = [(path, path.with_name("layer-params" + path.name.removeprefix("layers"))) for path in definitions]
    return [(one, other) for one, other in named if other.is_file()]


def outcome(definition: Path, parameters: Path, input_shape: tuple[int, int, int] | None) -> tuple[str, str]:
    """(whole, in part or not; parameters of the network and the reasons)."""
    try:
        imported = convert(definition, parameters, input_shape)
    except SpecError as error:
        problem = error.problems[0]
        return "not", f"{problem.field}: {problem.required}: {problem.received}"
    return ("whole" if imported.whole else "in part"), _said(imported)


def _said(imported: Imported) -> str:
    reasons: dict[str, dict[str, None]] = {}
    for item in imported.left_out:
        if item.matters:
            reasons.setdefault(item.why, {})[item.field.rpartition(" ")[2]] = None
    left = [f"{', '.join(keys)}: {why}" for why, keys in reasons.items()]
    return "; ".join([f"{geometry(imported.spec).parameter_count:,} parameters", *left])


def table(checkout: Path) -> str:
    """The text of ``CHM-pairs.md``."""
    parts = [HEADING]
    for folder, shape in FOLDERS.items():
        found = [(one.name, *outcome(one, other, shape)) for one, other in pairs(checkout, folder)]
        counts = {kind: sum(row[1] == kind for row in found) for kind in ("whole", "in part", "not")}
        said = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        parts.append(f"## {folder}: {len(found)} pairs, {said}\n\n| definition | imported | |\n|---|---|---|")
        parts[-1] += "".join(f"\n| {name} | {kind} | {why.replace('|', '/')} |" for name, kind, why in found) + "\n"
    return "\n".join(parts)


if __name__ == "__main__":
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "layers").is_dir():
        sys.exit("usage: python -m spec.importers.pairs CHECKOUT, a folder that has layers/")
    sys.stdout.write(table(Path(sys.argv[1])))
