"""``python -m backends.predict MODEL IMAGE...``: what a trained model sees in photographs.

Exit code 0: every image was answered. 1: it failed (scores that are not finite). 2: asked wrongly: the model or an
option, with one line and no answer; or images that cannot be read, one line each, with the answers to all others.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backends import options
from backends.evaluation.command import exit_code
from backends.evaluation.models import Model, ModelError, load_model
from backends.evaluation.scoring import averaged, softmax, view_scores
from backends.options import Parser, fail
from data import evaluation_batch
from data.dataset import U8
from data.images import MODES, ImageError, read_image
from spec import load

COMMAND = "python -m backends.predict"
BEST = 5
_BAR = 40
"""Columns of a bar of 100 %."""
_EIGHTHS = " ▏▎▍▌▋▊▉"
_DESCRIPTION = (
    f"""Name what a trained model sees in photographs: the {BEST} most probable classes of each, with bars."""
)
_EPILOG = f"""examples:
  {COMMAND} runs/torch-fashion-mini/best.safetensors shoe.png
  {COMMAND} model.onnx *.jpg --crops ten
  {COMMAND} model.onnx photo.jpg --json         one object a line, for programs

Photographs are JPEG or PNG of any size; they are prepared as the model's training images were.
"""


@dataclass(frozen=True)
class Answer:
    """A class and its probability."""

    name: str
    probability: float


def parser() -> Parser:
    """The options."""
    made = Parser(prog=COMMAND, description=_DESCRIPTION, epilog=_EPILOG)
    made.add_argument("model", metavar="MODEL", help="a checkpoint, a run's folder, or an ONNX file")
    made.add_argument("images", nargs="+", metavar="IMAGE", help="a photograph")
    add = made.option
    add(
        "--backend", "NAME", "what runs the model: numpy, torch, keras or onnx (default: its own)", type=options.backend
    )
    add("--device", "NAME", "auto, cpu, or a GPU such as cuda or mps (default: auto)", default="auto")
    add("--crops", "centre|ten", "which views (default: as the specification says)", type=options.crops)
    add("--spec", "NAME|FILE", "how images are prepared, for ONNX files that do not say so themselves")
    made.add_argument("--json", action="store_true", help="print one JSON object a line instead of bars")
    return made


def best_answers(model: Model, image: U8, crops: str) -> tuple[Answer, ...]:
    """The BEST most probable classes of a stored image (S, S, C), the best first."""
    spec = model.spec
    views = evaluation_batch(image[None], data=spec.data, input=spec.input, statistics=model.statistics, crops=crops)
    scores = averaged(view_scores(model, views), spec.evaluation.average)
    (probabilities,) = scores if spec.evaluation.average == "probabilities" else softmax(scores)
    order = (-probabilities).argsort(kind="stable")[:BEST]
    return tuple(Answer(model.named(int(number)), float(probabilities[number])) for number in order)


def bar(share: float, width: int = _BAR, solid: bool = True) -> str:
    """A bar of `width` columns for 1, in eighths of a column, or of ``#`` where those cannot be shown."""
    if not solid:
        return "#" * round(share * width)
    eighths = round(share * width * 8)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`. Returns the exit code."""
    return exit_code(lambda: _run(parser().parse_args(argv)))


def _run(asked: argparse.Namespace) -> int:
    stated = load(asked.spec) if asked.spec else None
    model = load_model(asked.model, backend=asked.backend, device=asked.device, stated=stated)
    channels = model.spec.input.channels
    if channels not in MODES:
        raise ModelError(f"{asked.model}: photographs have 1 channel (grey) or 3 (RGB). Received: {channels}")
    if model.needs_statistics:
        raise ModelError(f"{asked.model}: a model must record the mean of its training images, which this does not")
    code = 0
    for name in asked.images:
        try:
            image = read_image(Path(name), model.spec.data.storage, channels)
        except ImageError as error:
            code = fail(ImageError(f"{_shown(name)}: {error}"), 2)
            continue
        answers = best_answers(model, image, asked.crops or model.spec.evaluation.crops)
        if asked.json:
            best = [{"class": answer.name, "probability": answer.probability} for answer in answers]
            print(json.dumps({"image": name, "best": best}), flush=True)
        else:
            print("\n".join([_shown(name), *_lines(answers)]), flush=True)
    return code


def _lines(answers: Sequence[Answer]) -> list[str]:
    solid = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    names = [_shown(answer.name) for answer in answers]
    wide = max(map(len, names))
    return [
        f"  {name:{wide}}  {100 * answer.probability:6.2f} %  {bar(answer.probability, solid=solid)}".rstrip()
        for name, answer in zip(names, answers, strict=True)
    ]


def _shown(name: str) -> str:
    """`name` so that it stays on one line and can be printed."""
    encoding = sys.stdout.encoding or "ascii"
    safe = name if name.isprintable() else repr(name)
    return safe.encode(encoding, "backslashreplace").decode(encoding)


if __name__ == "__main__":
    sys.exit(main())
