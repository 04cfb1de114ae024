"""Measure response normalisation alone: its forms in PyTorch, forward and backward, beside ``F.local_response_norm``.

    python benchmarks/lrn.py                              the shapes of paper-2012 at batch 64: two minutes on two cores
    python benchmarks/lrn.py --spec caffenet --batch 16 --rounds 20 --no-compile

Every response normalisation over channels of the specification is measured on maps of its input's shape. The forms
take turns, one call each, and medians are compared with those of the usual one. Beside the times stands what a form
reaches of the memory traffic that no form can avoid: forward reads x and writes y, backward reads x and its gradient's
cotangent and writes the gradient, five maps in all. Exit code 0: measured; 2: asked wrongly.
"""

# mypy: disallow-untyped-calls=False

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

if __package__ in (None, ""):  # run by path: make the rooms importable, and the modules of this one not
    _ROOM = Path(__file__).resolve().parent
    sys.path[:] = [str(_ROOM.parent), *(path for path in sys.path if Path(path or ".").resolve() != _ROOM)]

import spec as specifications
from backends.allocator import keep_freed_memory
from backends.pages import write_text
from backends.reporting import Reporter
from benchmarks.command import Parser, Wrong, exit_code, require_suffix, whole
from benchmarks.environment import environment
from data.parallel import cores
from spec import LayerGeometry, Spec, geometry
from spec.language import Lrn

USUAL = "usual"
MAPS = 5
"""Passes over a map that no form can avoid."""

Form = Callable[[Any], Any]


def parser() -> Parser:
    """The options."""
    made = Parser("lrn.py", "Measure response normalisation: its forms in PyTorch, forward and backward, by turns.")
    made.add_argument("--spec", default="paper-2012", metavar="NAME|FILE", help="whose shapes (default: paper-2012)")
    made.add_argument("--batch", type=whole, default=64, metavar="N", help="images (default: 64)")
    made.add_argument("--rounds", type=whole, default=9, metavar="N", help="calls of each form (default: 9)")
    made.add_argument("--threads", type=whole, default=cores(), metavar="N", help="default: one per core")
    made.add_argument("--no-compile", action="store_true", help="leave out what torch.compile makes")
    made.add_argument("--output", type=Path, metavar="FILE", help="the result as JSON")
    return made


def forms(place: LayerGeometry, compiled: bool) -> Iterator[tuple[str, str, Form]]:
    """Every form's name, the layout of its maps in memory (``NCHW`` or ``NHWC``), and a function of x (N, C, H, W).

    The usual one is the first. It knows neither towers nor a divisor other than the window's size.
    """
    import torch
    import torch.nn.functional as F

    from backends.torch.normalization import ResponseNorm

    layer, ours = place.layer, ResponseNorm(place)
    assert isinstance(layer, Lrn)

    def usual(x: Any) -> Any:
        return F.local_response_norm(x, layer.size, layer.coefficient * layer.size, layer.beta, layer.k)

    yield USUAL, "NCHW", usual
    yield USUAL, "NHWC", usual
    yield "ours", "NCHW", ours
    yield "ours", "NHWC", ours
    if compiled:
        yield "usual compiled", "NCHW", torch.compile(usual, dynamic=False)
        yield "ours compiled", "NCHW", torch.compile(ours, dynamic=False)
        yield "ours compiled", "NHWC", torch.compile(ours, dynamic=False)


def measure(place: LayerGeometry, arguments: argparse.Namespace, reporter: Reporter) -> list[dict[str, Any]]:
    """The seconds of every call of every form at `place`, forward and backward; first calls do not count."""
    import torch

    torch.manual_seed(0)
    x = torch.randn(arguments.batch, *place.input_shape).relu_().mul_(20)  # as rectified maps are
    cotangent = torch.randn_like(x)
    layouts = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
    found: list[dict[str, Any]] = []
    calls: list[Callable[[], float]] = []
    for name, layout, form in forms(place, not arguments.no_compile):
        mine, g = (tensor.clone(memory_format=layouts[layout]) for tensor in (x, cotangent))
        found.append({"form": name, "layout": layout, "seconds": []})
        calls.append(_call(form, mine.requires_grad_(), g))
    with reporter.work(place.name, len(calls) * (arguments.rounds + 2)) as advance:
        done = 0
        for turn in range(arguments.rounds + 2):
            for one, call in zip(found, calls, strict=True):
                advance(done, f"{one['form']} {one['layout']}")
                took = call()
                if turn >= 2:  # before: compilers, kernels that are chosen, memory that is taken
                    one["seconds"].append(took)
                done += 1
    torch.compiler.reset()
    return found


def _call(form: Form, x: Any, cotangent: Any) -> Callable[[], float]:
    def call() -> float:
        x.grad = None
        began = time.perf_counter()
        form(x).backward(cotangent)
        return time.perf_counter() - began

    return call


def print_table(place: LayerGeometry, found: list[dict[str, Any]], batch: int, reporter: Reporter) -> None:
    """A line for each form; how many times as fast as the usual one in its usual layout, and its bandwidth."""
    shape = " x ".join(map(str, (batch, *place.input_shape)))
    size = 4 * batch
    for extent in place.input_shape:
        size *= extent
    reporter.line(f"{place.name}: {shape}")
    usual = median(found[0]["seconds"])
    for one in found:
        took = median(one["seconds"])
        speed = f"{usual / took:5.1f}x"
        reporter.line(
            f"  {one['form']:15} {one['layout']}  {1000 * took:7.1f} ms  {speed}  {MAPS * size / took / 1e9:5.1f} GB/s"
        )


def places(spec: Spec) -> list[LayerGeometry]:
    """Where `spec` normalises over channels. Raises Wrong if it does nowhere."""
    found = [place for place in geometry(spec).layers if isinstance(place.layer, Lrn)]
    if not found:
        raise Wrong(f"{spec.name} must have a layer of lrn. Received: none")
    return found


def run(arguments: argparse.Namespace, reporter: Reporter) -> int:
    """Measure what `arguments` ask for, and say it. Returns the exit code."""
    if arguments.output is not None:
        require_suffix(arguments.output, ".json")
    chosen = specifications.load(arguments.spec)
    where = places(chosen)
    try:
        import torch
    except ModuleNotFoundError as error:
        raise Wrong(f"this measures PyTorch, which is not installed: {error.name}") from error
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    reporter.line(f"{chosen.name}, batch {arguments.batch}, float32, {arguments.threads} threads; forward and backward")
    measured = {}
    for place in where:
        measured[place.name] = measure(place, arguments, reporter)
        print_table(place, measured[place.name], arguments.batch, reporter)
    if arguments.output is not None:
        result = {
            "environment": environment(arguments.threads, ("torch",)).model_dump(mode="json"),
            "spec": chosen.name,
            "spec_hash": chosen.hash,
            "batch": arguments.batch,
            "layers": measured,
        }
        write_text(arguments.output, json.dumps(result, indent=2) + "\n")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`. Returns the exit code."""
    return exit_code(lambda: run(parser().parse_args(argv), Reporter()))


if __name__ == "__main__":
    sys.exit(main())
