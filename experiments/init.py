"""``init``: why the paper's words are so hard to train and the source's numbers not, seen at the initial values."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from backends.base import Array
from backends.options import count
from data import PHOTO_PATCHES, evaluation_batches, steps_per_epoch, training_batches
from data.parallel import cores
from experiments.experiment import Experiment, Finding, Picture, Reference, Size, Table
from experiments.figures import colour, panels, png
from experiments.variants import derived
from experiments.work import Work
from spec import Place, Spec, geometry, initial_parameters, load, settings

COMPARED = ("paper-2012", "source-2012", "caffe-alexnet", "torchvision")
IMAGES = 32
"""So many go through the whole networks."""
JUDGED = "conv4"
"""The first layer of the paper whose biases of 1 meet a signal far below 1."""
BATCH = 128
"""Images a step, for all: the paper's."""
QUICK_STEPS, STEPS = 40, 100
PIXELS = 64
WEIGHTED = ("conv", "local", "dense")
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Signal:
    """What is left of the images behind one layer with weights, before its nonlinearity."""

    layer: str
    deviation: float
    """Between images: the standard deviation of a unit over the images, in the mean over all units."""
    level: float
    """The root mean square of all values, the constant part among them."""
    live: float
    """The share of values above zero, which a ReLU lets through."""
    switching: float
    """The share of units that are above zero for some images and not for others: where a ReLU decides anything."""


def signal(layer: str, values: Array) -> Signal:
    """Of one layer's output for N images: values (N, ...), before the nonlinearity."""
    flat: F64 = np.asarray(values, np.float64).reshape(len(values), -1)
    positive = (flat > 0).mean(axis=0)
    return Signal(
        layer,
        float(flat.std(axis=0).mean()),
        float(np.sqrt((flat**2).mean())),
        float(positive.mean()),
        float(((positive > 0) & (positive < 1)).mean()),
    )


def reduced(spec: Spec, pixels: int) -> Spec:
    """`spec` on images of `pixels` x `pixels`, with the widths of all layers: what a small machine can train.

    The first dense layer has fewer inputs then, and normal initial weights of a deviation larger by the root of the
    ratio, so that it passes on as much. Raises SpecError if the pixels are too few.
    """
    values = spec.statement()
    values["input"].update(height=pixels, width=pixels)
    values["data"]["storage"]["size"] = math.ceil(pixels / spec.input.height * spec.data.storage.size)
    values["training"]["batch_size"] = BATCH
    small = derived(spec, values, f"-{pixels}")
    name = next(f"{layer.name}.weight" for layer in spec.layers if layer.op == "dense")
    before, after = geometry(spec).parameters[name][1], geometry(small).parameters[name][1]
    distribution = spec.init.of(name).model_dump()
    if "std" in distribution:
        distribution["std"] *= math.sqrt(before / after)
    values["init"]["parameters"][name] = distribution
    return derived(spec, values, f"-{pixels}")


def _options(parser: argparse.ArgumentParser) -> None:
    what = f"sides of the images on which the networks are trained (default: {PIXELS}; 224 is the whole)"
    parser.add_argument("--pixels", metavar="N", type=count, default=PIXELS, help=what)


@dataclass(frozen=True)
class _Looked:
    """One initialisation, over all seeds."""

    spec: Spec
    trained: Spec
    """The same on smaller images."""
    signals: Sequence[Sequence[Signal]]
    """By seed, layer by layer."""
    losses: Sequence[Sequence[float]]
    """By seed, step by step, as far as they are finite."""

    def mean(self, field: str) -> list[float]:
        """Of `field` of the signal, layer by layer: the geometric mean of the deviation over seeds, else the mean."""
        values = np.array([[getattr(one, field) for one in layers] for layers in self.signals])
        found = np.exp(np.log(values).mean(axis=0)) if field == "deviation" else values.mean(axis=0)
        means: list[float] = found.tolist()
        return means

    @property
    def end(self) -> float:
        """The mean loss of the last tenth of the steps, over the seeds; infinite if one diverged."""
        if len({len(one) for one in self.losses}) > 1 or not all(self.losses):
            return math.inf
        last = max(1, len(self.losses[0]) // 10)
        return float(np.mean([one[-last:] for one in self.losses]))

    def numbers(self) -> dict[str, Any]:
        """For JSON."""
        layers = [signal.layer for signal in self.signals[0]]
        fields = ("deviation", "level", "live", "switching")
        return {
            "signal": {field: dict(zip(layers, self.mean(field), strict=True)) for field in fields},
            "losses": [list(one) for one in self.losses],
        }


def _run(work: Work) -> Finding:
    specs = [load(name) for name in COMPARED]
    if work.spec.hash not in [spec.hash for spec in specs]:
        specs.append(work.spec)
    small = [work.fitting(reduced(spec, work.options.pixels)) for spec in specs]
    steps = QUICK_STEPS
    if not work.options.quick:
        steps = max(STEPS, steps_per_epoch(len(work.open(small[0]).splits.train), BATCH))
    work.foretell(small[0], steps * len(small) * len(work.seeds), f"{len(small)} networks, {steps:,} steps each")
    looked = []
    for spec, trained in zip(specs, small, strict=True):
        signals, losses = [], []
        for seed in work.seeds:
            signals.append(_signals(work, spec, seed))
            losses.append(first_losses(work, trained, seed, steps))
            scores, last = signals[-1][-1].deviation, losses[-1]
            said = f"loss {last[0]:.3f} at first, {last[-1]:.3f} after {len(last)} steps" if last else "no finite loss"
            work.reporter.line(f"{spec.name}, seed {seed}: scores differ between images by {scores:.2g}; {said}")
        looked.append(_Looked(spec, trained, signals, losses))
    guess = math.log(len(work.open(small[0]).classes))
    return Finding(
        _sentence(looked, guess),
        {
            "guessing_loss": guess,
            "steps": steps,
            "pixels_trained": work.options.pixels,
            **{one.spec.name: one.numbers() for one in looked},
        },
        [_draw(looked, guess, work)],
        [_layers(looked), _losses(looked, guess)],
        _REFERENCES,
        _LIMITS,
    )


def _signals(work: Work, spec: Spec, seed: int) -> list[Signal]:
    """Behind every layer with weights of the whole network, with the initial values of `seed`."""
    images = work.open(spec)
    batches = evaluation_batches(images.splits.validation, spec, images.statistics, batch_size=IMAGES, crops="center")
    views = next(iter(batches)).images[:, 0]
    outputs = work.network(spec, initial_parameters(spec, seed)).outputs(views)
    return [signal(layer.name, outputs[layer.name]) for layer in spec.layers if layer.op in WEIGHTED]


def first_losses(work: Work, spec: Spec, seed: int, steps: int) -> list[float]:
    """The mean loss of the batch of each of the first `steps` steps of training, up to the first that is not finite."""
    images = work.open(spec)
    train, size = images.splits.train, spec.training.batch_size
    each = steps_per_epoch(len(train), size)
    network = work.network(spec, initial_parameters(spec, seed))
    losses: list[float] = []
    with work.reporter.work(spec.name, steps) as advance:
        for step in range(steps):
            epoch, within = divmod(step, each)
            if within == 0:
                batches = training_batches(
                    train,
                    spec,
                    images.statistics,
                    seed=seed,
                    epoch=epoch,
                    batch_size=size,
                    workers=max(1, cores() // 2),
                )
            batch = next(batches)
            masks = network.dropout_masks(seed, batch.indices, epoch)
            chosen = settings(spec, Place(epoch, step, each, spec.training.epochs))
            network.step(batch.images, batch.labels, chosen, masks)
            (loss,) = network.metrics().losses
            if not math.isfinite(loss):
                break
            losses.append(loss)
            advance(step + 1, f"loss {loss:.3f}")
    return losses


# --- words ------------------------------------------------------------------------------------------------------------


def _sentence(looked: Sequence[_Looked], guess: float) -> str:
    words, source = looked[0], looked[1]
    less = source.mean("deviation")[-1] / words.mean("deviation")[-1]
    place = [one.layer for one in words.signals[0]].index(JUDGED)
    switching = [100 * one.mean("switching")[place] for one in (words, source)]
    return (
        f"With the initial values of the paper's words {switching[0]:.1f} % of the units of {JUDGED} switch between "
        f"images ({switching[1]:.0f} % with the source's), and the scores differ by {words.mean('deviation')[-1]:.2g}, "
        f"{less:.0f} times less; after {len(words.losses[0])} steps the loss is {_said(words.end)} and "
        f"{_said(source.end)}, where guessing has {guess:.2f}."
    )


def _said(loss: float) -> str:
    return f"{loss:.2f}" if math.isfinite(loss) else "no number any more"


def _layers(looked: Sequence[_Looked]) -> Table:
    header = ["", *(f"{one.spec.name}: {what}" for one in looked for what in ("deviation", "switching"))]
    rows = []
    for i, one in enumerate(looked[0].signals[0]):
        cells = []
        for other in looked:
            there = i < len(other.signals[0])
            cells.append(f"{other.mean('deviation')[i]:.2g}" if there else "")
            cells.append(f"{100 * other.mean('switching')[i]:.0f} %" if there else "")
        rows.append([one.layer, *cells])
    note = (
        f"Of {IMAGES} images, before each nonlinearity, in evaluation. Deviation: of a unit between images, in the "
        "mean over units. Switching: units that are above zero for some images and not for others."
    )
    return Table("What is left of the images behind each layer", header, rows, note)


def _losses(looked: Sequence[_Looked], guess: float) -> Table:
    rows = []
    for one in looked:
        ends = [f"{np.mean(losses[-max(1, len(losses) // 10) :]):.3f}" if losses else "none" for losses in one.losses]
        began = [f"{losses[0]:.3f}" if losses else "none" for losses in one.losses]
        rows.append([one.trained.name, str(len(one.losses[0])), ", ".join(began), ", ".join(ends)])
    note = (
        f"Of every seed, with each specification's own recipe in batches of {BATCH}; the end is the mean of the last "
        f"tenth of the steps. Guessing has {guess:.3f}."
    )
    return Table("The loss of the first steps", ["network", "steps", "first loss", "at the end"], rows, note)


def _draw(looked: Sequence[_Looked], guess: float, work: Work) -> Picture:
    figure, (left, middle, right) = panels(1, 3, width=13.0, height=4.4)
    names = [one.layer for one in looked[0].signals[0]]
    for i, one in enumerate(looked):
        places = range(len(one.signals[0]))
        left.plot(places, one.mean("deviation"), "o-", color=colour(i), label=one.spec.name)
        middle.plot(places, [100 * share for share in one.mean("switching")], "o-", color=colour(i))
        for losses in one.losses:
            right.plot(range(1, len(losses) + 1), losses, color=colour(i), alpha=0.8)
    left.set_yscale("log")
    left.set(title="how far a unit differs between images", ylabel="standard deviation")
    left.legend()
    middle.set(title="units that switch between images", ylabel="%", ylim=(0, 102))
    for ax in (left, middle):
        ax.set_xticks(range(len(names)), names, rotation=45)
    right.axhline(guess, color="#666666", linestyle="--", linewidth=1)
    right.annotate("guessing", (1, guess), xycoords=("axes fraction", "data"), va="bottom", ha="right")
    right.set(title=f"loss of the first steps, on {work.options.pixels} pixels", xlabel="step", ylim=(0, 2 * guess))
    caption = (
        f"Whole networks at their initial values, {IMAGES} images. Left: how much a unit before its nonlinearity "
        "differs between images. Middle: for how many units a ReLU decides anything. Right: what happens when training "
        "begins."
    )
    return Picture("init.png", png(figure, work.provenance(looked[0].spec)), caption)


_REFERENCES = (
    Reference(
        "weights of conv3, conv4 and conv5",
        "deviation 0.03, where the paper says 0.01 for all layers",
        "the 2012 source, CHM@2f8b81f layers/layers-145.cfg [conv3a] initW=0.03; the paper, section 5",
    ),
    Reference(
        "biases of 1",
        'changed to 0.1: "found necessary for training, as initialization to 1 gave flat loss"',
        "Caffe, models/bvlc_alexnet/readme.md, whose conv3 to conv5 have the paper's 0.01",
    ),
)
_LIMITS = (
    "What is seen at the initial values is a mechanism, not a proof: whether a network leaves the plateau later is for "
    "a longer training to say.",
    "The networks are trained on small images, with the widths of all layers but fewer inputs of the first dense "
    "layer, whose normal weights are larger in proportion; --pixels 224 trains the whole.",
    "Images that were enlarged from a few pixels are smoother than photographs.",
)
EXPERIMENT = Experiment(
    name="init",
    question="Why is the network of the paper's words so hard to train, and that of the source's numbers not?",
    method=f"""A few images go through the whole networks of {", ".join(COMPARED)} at their initial values, each
with its own preparation of images: how much of the difference between images is left behind each layer. Then the same
networks, on smaller images, are trained for their first steps, each by its own recipe. --spec adds another network.""",
    spec=COMPARED[0],
    data=PHOTO_PATCHES,
    size=Size(seeds=3),
    quick=Size(seeds=1),
    run=_run,
    options=_options,
)
