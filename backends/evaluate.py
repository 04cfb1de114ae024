"""``python -m backends.evaluate``: how many images a trained model, or several together, gets wrong, and which.

Exit code 0: evaluated. 1: it failed (scores that are not finite, a disk that is full). 2: asked wrongly (model, data,
option, folder); one line says what, and nothing that existed was touched.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from backends import checkpoint as checkpoints
from backends import options
from backends.evaluation.command import exit_code
from backends.evaluation.images import SPLITS, images_for
from backends.evaluation.models import Model, load_model
from backends.evaluation.report import RESULT, SHEET, Evaluation, say, write
from backends.evaluation.scoring import evaluate
from backends.options import Parser
from backends.reporting import Reporter
from backends.starting import RUNS, RequestError, new_folder
from data.parallel import cores
from spec import Spec, load

COMMAND = "python -m backends.evaluate"
BATCH_SIZE = 128
"""Views at a time."""
_DESCRIPTION = """Count what a trained model gets wrong: top-1 and top-5 error with intervals of 95 %, by class,
which classes are taken for which, and a picture of the mistakes. With no MODEL: the newest checkpoint, on the images
held out from its training, by the protocol of its specification. Of several models the probabilities are averaged.
"""
_EPILOG = f"""examples:
  {COMMAND}
  {COMMAND} runs/torch-fashion-mini/best.safetensors --crops ten
  {COMMAND} a.safetensors b.safetensors c.onnx          each, and all together
  {COMMAND} model.onnx --backend numpy --data DIR       the oracle, on your images

A checkpoint runs on the backend that wrote it and an ONNX file on ONNX Runtime, unless --backend names another.
Ten crops are compared with the central one image by image; the same goes for several models and each alone.
"""


def parser() -> Parser:
    """The options."""
    made = Parser(prog=COMMAND, description=_DESCRIPTION, epilog=_EPILOG)
    made.add_argument("models", nargs="*", metavar="MODEL", help="a checkpoint, a run's folder, or an ONNX file")
    add = made.option
    add("--data", "NAME|DIR", "images, as for training (default: those that the first model was trained on)")
    add("--split", "PART", f"{', '.join(SPLITS)} (default: validation)", choices=SPLITS, default="validation")
    add("--backend", "NAME", "what runs the models: numpy, torch, keras or onnx", type=options.backend)
    add("--device", "NAME", "auto, cpu, or a GPU such as cuda or mps (default: auto)", default="auto")
    add("--crops", "centre|ten", "which views (default: as the specification says)", type=options.crops)
    add("--average", "WHAT", "of crops and models, probabilities or logits (default: as the specification says)",
        choices=("probabilities", "logits"))  # fmt: skip
    add("--spec", "NAME|FILE", "how images are prepared, for ONNX files that do not say so themselves")
    add("--batch-size", "N", f"views at a time (default: {BATCH_SIZE})", type=options.count, default=BATCH_SIZE)
    add("--workers", "N", "threads that make batches (default: half the cores)", type=options.count)
    add("--output-dir", "DIR", "where the result is kept (default: a new folder beside the first model)", type=Path)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`. Returns the exit code."""
    return exit_code(lambda: _run(parser().parse_args(argv), Reporter()))


def _run(asked, reporter: Reporter) -> int:  # type: ignore[no-untyped-def]
    names = asked.models or [_newest(reporter)]
    if len(set(names)) < len(names):
        raise RequestError(f"a model must be named once. Received: {', '.join(names)}")
    stated = load(asked.spec) if asked.spec else None
    models = _load(names, asked.backend, asked.device, stated)
    crops = asked.crops or models[0].spec.evaluation.crops
    average = asked.average or models[0].spec.evaluation.average
    source, models, datasets = images_for(models, asked.data, asked.split, reporter)
    folder, is_new = _folder(asked.output_dir, names[0])
    try:
        with reporter.work("evaluation", len(datasets[0])) as advance:
            outcomes = evaluate(
                models,
                datasets,
                crops=crops,
                average=average,
                batch_size=asked.batch_size,
                workers=asked.workers or max(1, cores() // 2),
                progress=advance,
            )
        evaluation = Evaluation(models, datasets[0], source, asked.split, crops, average, outcomes)
        write(evaluation, folder)
    except BaseException:
        if is_new:
            with suppress(OSError):  # it holds something: that stays
                folder.rmdir()
        raise
    say(evaluation, folder, reporter)
    return 0


def _newest(reporter: Reporter) -> str:
    found = checkpoints.newest(RUNS)
    if found is None:
        raise RequestError(f"a MODEL must be named where {RUNS} holds no checkpoint (python -m backends.torch.train "
                           "makes one)")  # fmt: skip
    return str(found)


def _load(names: Sequence[str], backend: str | None, device: str, stated: Spec | None) -> tuple[Model, ...]:
    """All models. Checkpoints without a stated backend share that of the first: a process runs one framework."""
    chosen: str | None = backend
    models = []
    for name in names:
        path = Path(name)
        of_onnx = path.suffix.lower() == ".onnx"
        path = path / checkpoints.LAST if path.is_dir() else path
        if not of_onnx and chosen is None and path.is_file():
            chosen = checkpoints.header(path)["backend"]
        models.append(load_model(name, backend=backend if of_onnx else chosen, device=device, stated=stated))
    return tuple(models)


def _folder(asked: Path | None, first: str) -> tuple[Path, bool]:
    """The folder for the result, and whether it is new. Raises RequestError."""
    try:
        if asked is None:
            beside = Path(first) if Path(first).is_dir() else Path(first).parent
            return new_folder(beside / "evaluation"), True
        if held := [name for name in (RESULT, SHEET) if (asked / name).exists()]:
            raise RequestError(
                f"--output-dir must hold no evaluation. Received: {asked}, which holds {', '.join(held)}"
            )
        is_new = not asked.exists()
        asked.mkdir(parents=True, exist_ok=True)
        return asked, is_new
    except OSError as error:
        raise RequestError(f"--output-dir must be a folder that can be made. Received: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
