"""``filters``: the kernels of the first layer as a picture, tower by tower, and how colour-specific each tower is."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from backends import checkpoint as checkpoints
from backends.base import Array
from backends.checkpoint import LAST
from backends.curves import filter_sheet
from backends.starting import RequestError
from data import PHOTO_PATCHES
from experiments.experiment import Experiment, Finding, Picture, Reference, Size, Table
from experiments.figures import colour, panels, png
from experiments.intervals import estimate
from experiments.work import Job, Work
from spec import Spec
from spec.language import Conv, Dense, Local

F64 = npt.NDArray[np.float64]
RANDOM_SHARE = 2 / 3
"""The colour share that weights drawn independently for red, green and blue have on the average."""
SHUFFLES = 10_000
"""Random divisions of the kernels into towers, against which a division is held."""
LETTERS = "ABCDEFGH"


def colour_shares(kernels: Array) -> F64:
    """How colour-specific each of the kernels (O, 3, h, w) is: float64 (O,), 0 to 1.

    The three weights at a place are a vector; its part along (1, 1, 1) answers to grey, the rest to colour alone. The
    share is that of the rest in the sum of squares: 0 for a kernel that is the same for red, green and blue, 1 for one
    that no grey image moves, RANDOM_SHARE on the average for independent weights. A kernel of zeros has RANDOM_SHARE.
    """
    weights = np.asarray(kernels, np.float64)
    grey = (weights.sum(axis=1) ** 2 / 3).sum(axis=(1, 2))
    total = (weights**2).sum(axis=(1, 2, 3))
    return np.where(total > 0, 1 - grey / np.where(total > 0, total, 1), RANDOM_SHARE)


def towers_of(spec: Spec) -> tuple[Conv, int]:
    """The first convolution, and into how many towers the layers before the next weights divide its channels.

    Raises RequestError if there is none, or it does not see colour.
    """
    first = next((i for i, layer in enumerate(spec.layers) if isinstance(layer, Conv)), None)
    if first is None or spec.input.channels != 3:
        required = "filters needs a network whose first weights are a convolution over red, green and blue"
        raise RequestError(f"{required}. Received: {spec.name} (--spec or --checkpoint names another)")
    groups = 1
    for layer in spec.layers[first + 1 :]:
        groups = max(groups, getattr(layer, "groups", 1))
        if isinstance(layer, Conv | Local | Dense):
            break
    conv = spec.layers[first]
    assert isinstance(conv, Conv)
    return conv, groups


def chance(shares: F64, towers: int, seed: int) -> float:
    """How often a random division of the kernels into `towers` equal ones makes their means differ at least as much.

    shares: (O,), in the order of the channels. The difference is that of the largest mean and the smallest. From
    SHUFFLES draws of NumPy's PCG64 with `seed`, the division at hand counted among them.
    """
    rng = np.random.default_rng(seed)
    observed = _spread(shares.reshape(towers, -1).mean(axis=1))
    drawn = np.array([_spread(rng.permutation(shares).reshape(towers, -1).mean(axis=1)) for _ in range(SHUFFLES)])
    return float(((drawn >= observed - 1e-12).sum() + 1) / (SHUFFLES + 1))


def _spread(means: F64) -> float:
    return float(means.max() - means.min())


def _options(parser: argparse.ArgumentParser) -> None:
    what = "look at this checkpoint, or the run in this folder, instead of training (--spec and --data are its own)"
    parser.add_argument("--checkpoint", metavar="PATH", type=Path, help=what)


def _run(work: Work) -> Finding:
    seen = _from_checkpoint(work) if work.options.checkpoint else _from_training(work)
    spec, kernels = work.spec, seen
    conv, towers = towers_of(spec)
    if conv.out_channels % towers:
        towers = 1
    shares = [colour_shares(one) for one in kernels]
    means = [one.reshape(towers, -1).mean(axis=1) for one in shares]
    odds = [chance(one, towers, seed) for one, seed in zip(shares, work.seeds, strict=True)]
    apart = estimate([_spread(one) for one in means])
    sentence = _sentence(conv, towers, means, odds)
    rows = [
        [f"seed {seed}", *(f"{mean:.3f}" for mean in one), f"{_spread(one):.3f}", f"{odd:.2g}"]
        for seed, one, odd in zip(work.seeds, means, odds, strict=True)
    ]
    header = ["", *(f"tower {LETTERS[i]}" for i in range(towers)), "difference", "chance alone"]
    note = (
        "The share of a kernel's squared weights that grey does not move, averaged over the kernels of a tower. "
        f"{RANDOM_SHARE:.3f} is what weights drawn at random have. Chance alone: how often a random division of the "
        "same kernels into towers makes as large a difference."
    )
    provenance = work.provenance(spec)
    pictures = [
        Picture("filters.png", _sheet(kernels[0], shares[0], towers, conv, provenance), _caption(conv, work.seeds[0])),
        Picture("colour.png", _dots(work.seeds, shares, towers, provenance), _COLOUR_CAPTION),
    ]
    numbers = {
        "colour_share_by_kernel": [one.tolist() for one in shares],
        "colour_share_by_tower": [one.tolist() for one in means],
        "difference": apart.numbers(),
        "chance": odds,
    }
    return Finding(sentence, numbers, pictures, [Table("Colour", header, rows, note)], _REFERENCES, _LIMITS)


def _from_training(work: Work) -> list[Array]:
    """The first layer's kernels (O, 3, h, w), red first, of a training with every seed."""
    work.spec = work.fitting(work.spec)
    conv, _ = towers_of(work.spec)
    trained = work.train([Job("training", work.spec, seed) for seed in work.seeds])
    if lost := [one for one in trained if one.diverged]:
        raise RequestError(f"every training must come to its end. Received: {lost[0].diverged}")
    return [_in_rgb(one.parameters, conv, work.spec) for one in trained]


def _from_checkpoint(work: Work) -> list[Array]:
    """The kernels of the checkpoint that was named; what is recorded of the work becomes the checkpoint's."""
    path: Path = work.options.checkpoint
    given = {"--data": work.options.data, "--seeds": work.options.seeds, "--quick": work.options.quick or None}
    if others := [name for name, value in given.items() if value is not None]:
        raise RequestError(
            f"--checkpoint must stand alone: nothing is trained. Received: {', '.join(others)} beside it"
        )
    found = checkpoints.load(path / LAST if path.is_dir() else path)
    conv, _ = towers_of(found.spec)
    work.spec, work.seeds, work.source = found.spec, (found.progress.seed,), found.progress.source
    work.specs[found.spec.hash] = found.spec
    work.data[found.progress.fingerprint] = f"what {path} was trained on, {found.progress.epoch} epochs"
    return [_in_rgb(found.parameters, conv, found.spec)]


def _in_rgb(parameters: Any, conv: Conv, spec: Spec) -> Array:
    kernels: Array = parameters[f"{conv.name}.weight"]
    return kernels[:, ::-1] if spec.data.channel_order == "bgr" else kernels


def _sentence(conv: Conv, towers: int, means: Sequence[F64], odds: Sequence[float]) -> str:
    if towers == 1:
        return (
            f"The {conv.out_channels} kernels of {conv.name}, one tower: {means[0][0]:.2f} of their weight is colour."
        )
    told = sum(odd < 0.05 for odd in odds)
    first = " and ".join(f"{mean:.2f}" for mean in means[0])
    return (
        f"In {told} of {len(means)} trainings the towers differ in colour by more than chance makes of the same "
        f"kernels (one time in twenty): with the first seed, {first} of the towers' weight is colour."
    )


# --- pictures ---------------------------------------------------------------------------------------------------------


def _sheet(kernels: Array, shares: F64, towers: int, conv: Conv, provenance: str) -> bytes:
    each = conv.out_channels // towers
    rows = -(-each // 16)
    figure, axes = panels(towers, 1, width=9.0, height=0.9 + towers * (0.45 + 0.55 * rows), squeeze=False)
    for tower in range(towers):
        own = slice(tower * each, (tower + 1) * each)
        order = np.argsort(shares[own], kind="stable")
        chosen = np.asarray(kernels[own], np.float64)[order]
        chosen = chosen / np.abs(chosen).max(axis=(1, 2, 3), keepdims=True)
        ax = axes[tower][0]
        ax.imshow(np.asarray(filter_sheet(chosen)), interpolation="nearest")
        ax.set_title(f"tower {LETTERS[tower]}: colour share {shares[own].mean():.2f}" if towers > 1 else conv.name)
        ax.axis("off")
    return png(figure, provenance)


def _caption(conv: Conv, seed: int) -> str:
    size = f"{conv.out_channels} kernels of {conv.kernel.height} x {conv.kernel.width}"
    return (
        f"{conv.name}, {size}, seed {seed}; in every tower from the least to the most colour-specific. Each kernel is "
        "scaled by its largest weight; grey is 0."
    )


_COLOUR_CAPTION = (
    "How colour-specific every kernel is (points) and every tower on the average (bars), for each training. The dashed "
    "line is where weights drawn at random are."
)


def _dots(seeds: Sequence[int], shares: Sequence[F64], towers: int, provenance: str) -> bytes:
    figure, ax = panels(width=9.0, height=3.6)
    step = 0.8 / towers
    for i, one in enumerate(shares):
        for tower, own in enumerate(one.reshape(towers, -1)):
            x = i + (tower - (towers - 1) / 2) * step
            label = f"tower {LETTERS[tower]}" if i == 0 and towers > 1 else None
            spread = np.linspace(-0.28, 0.28, len(own)) * step
            ax.plot(x + spread, np.sort(own), ".", color=colour(tower), alpha=0.6, label=label)
            ax.plot([x - 0.36 * step, x + 0.36 * step], [own.mean()] * 2, color=colour(tower), linewidth=3)
    ax.axhline(RANDOM_SHARE, color="#666666", linestyle="--", linewidth=1)
    ax.set_xticks(range(len(seeds)), [f"seed {seed}" for seed in seeds])
    ax.set_ylim(0, 1)
    ax.set_ylabel("colour share of a kernel")
    ax.grid(visible=False, axis="x")
    if towers > 1:
        ax.legend(loc="upper center", ncols=towers, bbox_to_anchor=(0.5, 1.14))
    return png(figure, provenance)


_REFERENCES = (
    Reference(
        "two towers on ImageNet",
        "the kernels on one GPU are largely colour-agnostic, those on the other largely colour-specific, in every run",
        "the paper, section 6.1 and figure 3; it gives no number",
    ),
)
_LIMITS = (
    "A few hundred patches of six photographs are not ImageNet: which colours matter here is a matter of six pictures.",
    "The patches can be told apart by colour alone, so that both towers have a use for it. --data takes other images, "
    "and --checkpoint a network that was trained on them.",
)
EXPERIMENT = Experiment(
    name="filters",
    question="What are the first layer's kernels, and does one tower see colour and the other not?",
    method="""A network of two towers is trained with every seed, or the one in --checkpoint is taken. Each kernel of
the first convolution is split into the part that answers to grey and the part that answers to colour alone.""",
    spec="photo-mini",
    data=PHOTO_PATCHES,
    size=Size(seeds=5),
    quick=Size(seeds=3, epochs=40),
    run=_run,
    options=_options,
)
