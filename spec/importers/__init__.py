"""Specifications from other software's files: cuda-convnet's definition and parameters, Caffe's network and solver.

``python -m spec import`` is the command line of :func:`import_files`. :func:`compare` says whether what was imported is
what a variant's file says, value for value: that is how the variants transcribed from such files are checked.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from spec.errors import Problem, SpecError
from spec.importers import caffe, cfg, cuda_convnet, prototxt
from spec.importers.common import Imported, Inexpressible, LeftOut, report, yaml_text
from spec.importers.comparison import SECTIONS, TRANSCRIBED, Difference, compare

CFG, PROTOTXT = ".cfg", ".prototxt"


def import_files(files: Sequence[Path], input_shape: tuple[int, int, int] | None = None) -> Imported:
    """The specification in two files, in either order: ``.cfg`` (layers, parameters) or ``.prototxt`` (net, solver).

    input_shape: (channels, height, width), where the files do not state it. Raises Inexpressible for networks that the
    language cannot say, SpecError for files that are wrong.
    """
    suffixes = {path.suffix for path in files}
    if len(files) != 2 or suffixes not in ({CFG}, {PROTOTXT}):
        required = "must be two .cfg files (layers, parameters) or two .prototxt files (network, solver)"
        raise SpecError([Problem("spec import", None, "FILES", required, " ".join(map(str, files))[:200])])
    first, second = files
    if suffixes == {CFG}:
        typed = [any(section.has("type") for section in cfg.read(path).values()) for path in files]
        definition, parameters = (first, second) if typed[0] else (second, first)
        if typed[0] == typed[1]:
            required = "one file must have a type for each layer, the other their parameters"
            raise SpecError([Problem(first.name, None, "type", required, f"{first.name} and {second.name}")])
        return cuda_convnet.convert(definition, parameters, input_shape)
    layered = [prototxt.parse(path).has("layer") or prototxt.parse(path).has("layers") for path in files]
    if layered[0] == layered[1]:
        required = "one file must have layers, the other a solver"
        raise SpecError([Problem(first.name, None, "layer", required, f"{first.name} and {second.name}")])
    network, solver = (first, second) if layered[0] else (second, first)
    return caffe.convert(network, solver, input_shape)


def write_new(path: Path, text: str) -> None:
    """Write `text` to a file that does not exist yet. Raises SpecError if it does, or cannot be written; a file that
    was begun does not stay behind."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:
        required = "must be the path of a file that does not exist yet"
        raise SpecError([Problem(str(path), None, "", required, error.strerror or str(error))]) from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise SpecError([Problem(str(path), None, "", "must be writable", error.strerror or str(error))]) from None


__all__ = [
    "SECTIONS",
    "TRANSCRIBED",
    "Difference",
    "Imported",
    "Inexpressible",
    "LeftOut",
    "compare",
    "import_files",
    "report",
    "write_new",
    "yaml_text",
]
