"""``ablations``: what each part of the recipe is worth, each removed alone, beside what was found in 2012."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backends.starting import RequestError
from data import EMBEDDED
from experiments.experiment import Experiment, Finding, Picture, Reference, Size, Table
from experiments.figures import colour, panels, png
from experiments.intervals import Estimate, difference
from experiments.variants import Values, derived
from experiments.work import Job, Trained, Work
from spec import Spec, load

BASE = "everything"
NORMALISATIONS = ("lrn", "spatial_norm")
Change = Callable[[Spec, Values], None]
"""Removes something from the values of a specification, in place; changes nothing if there is nothing of the kind."""


def _without(*ops: str) -> Change:
    def change(spec: Spec, values: Values) -> None:
        values["layers"] = {name: layer for name, layer in values["layers"].items() if layer["op"] not in ops}

    return change


def _pools_apart(spec: Spec, values: Values) -> None:
    """Max-pools whose windows do not overlap, with outputs of the same size: windows as large as the stride."""
    for layer in values["layers"].values():
        if layer["op"] == "max_pool" and layer["kernel"] != layer["stride"]:
            layer.update(kernel=layer["stride"], rounding="floor", padding=0)


def _one_tower(spec: Spec, values: Values) -> None:
    """Every kernel sees all maps of the layer before, and normalisation reaches across: more connections."""
    for layer in values["layers"].values():
        if "groups" in layer:
            layer["groups"] = 1


def _half(spec: Spec, values: Values) -> None:
    """One tower of half the kernels, but for the last convolution: the paper's own comparison (its footnote 2)."""
    if any(layer.get("groups", 1) > 1 for layer in values["layers"].values()):
        convolutions = [layer for layer in values["layers"].values() if layer["op"] == "conv"]
        for layer in convolutions[:-1]:
            layer["out_channels"] //= 2
        _one_tower(spec, values)


def _data(**fields: object) -> Change:
    def change(spec: Spec, values: Values) -> None:
        values["data"].update(fields)

    return change


def _no_decay(spec: Spec, values: Values) -> None:
    values["training"]["weight_decay"] = dict.fromkeys(values["training"]["weight_decay"], 0.0)


_NO_CROPS, _NO_FLIPS, _NO_NOISE = {"kind": "center"}, {"probability": 0.0}, None


@dataclass(frozen=True)
class Ablation:
    """Something to be removed, and what its removal cost on ImageNet."""

    name: str
    change: Change
    recorded: tuple[str, str] | None = None
    """The 2012 source's variant without it, and the dataset on which both were tested."""
    paper: str = ""
    """What the paper says."""


ABLATIONS = (
    Ablation(
        "response normalisation",
        _without(*NORMALISATIONS),
        ("source-2012-nolrn", "ILSVRC-2012 validation"),
        "top-1 and top-5 errors 1.4 and 1.2 points lower with it (section 3.3)",
    ),
    Ablation(
        "overlapping pools",
        _pools_apart,
        ("source-2012-nonoverlap", "ILSVRC-2012 validation"),
        "0.4 and 0.3 points lower with them (section 3.4)",
    ),
    Ablation(
        "dropout",
        _without("dropout"),
        paper='"substantial overfitting" without it; it "roughly doubles the number of iterations" (section 4.2)',
    ),
    Ablation(
        "crops",
        _data(crop=_NO_CROPS),
        paper='with flips: without them "substantial overfitting" (section 4.1)',
    ),
    Ablation("flips", _data(flip=_NO_FLIPS)),
    Ablation("colour noise", _data(color_noise=_NO_NOISE), paper='"over 1 %" of top-1 error (section 4.1)'),
    Ablation("crops, flips, colour noise", _data(crop=_NO_CROPS, flip=_NO_FLIPS, color_noise=_NO_NOISE)),
    Ablation(
        "the second tower",
        _half,
        ("source-2012-half", "ILSVRC-2010 test"),
        "1.7 and 1.2 points lower with two towers than with one of half the kernels (section 3.2)",
    ),
    Ablation("the towers' separation", _one_tower),
    Ablation(
        "weight decay",
        _no_decay,
        paper='"important for the model to learn": it "reduces the model\'s training error" (section 5)',
    ),
)


def removed(spec: Spec, ablation: Ablation) -> Spec | None:
    """`spec` without what `ablation` removes, or None if it has nothing of the kind."""
    values = spec.statement()
    ablation.change(spec, values)
    made = derived(spec, values, "-no-" + re.sub(r"\W+", "-", ablation.name))
    return None if made.hash == spec.hash else made


def recorded(ablation: Ablation) -> tuple[float, str] | None:
    """What the removal cost in top-1 error, a fraction, as the 2012 source recorded both errors, and where."""
    if ablation.recorded is None:
        return None
    name, dataset = ablation.recorded
    errors = {}
    for variant in ("source-2012", name):
        result = next(r for r in load(variant).expect.results if (r.dataset, r.protocol) == (dataset, "ten crops"))
        assert result.top1_error is not None
        errors[variant] = result.top1_error
    return errors[name] - errors["source-2012"], f"{name} against source-2012, {dataset}, ten crops"


@dataclass(frozen=True)
class _Cost:
    """What the removal of something did, over the seeds; fractions."""

    ablation: Ablation
    runs: Sequence[Trained]
    validation: Estimate
    """Validation error without it less that with everything."""
    training: Estimate


def _run(work: Work) -> Finding:
    spec = work.fitting(work.spec)
    variants = [(ablation, removed(spec, ablation)) for ablation in ABLATIONS]
    absent = [ablation.name for ablation, made in variants if made is None]
    there = [(ablation, made) for ablation, made in variants if made is not None]
    if not there:
        raise RequestError(f"--spec must name a network with something to remove. Received: {spec.name}")
    named = [(BASE, spec), *((f"without {ablation.name}", made) for ablation, made in there)]
    done = work.train([Job(name, made, seed) for seed in work.seeds for name, made in named])
    by_variant = [done[i :: len(named)] for i in range(len(named))]
    base = by_variant[0]
    costs = [
        _Cost(
            ablation,
            runs,
            difference([run.validation_error for run in runs], [run.validation_error for run in base]),
            difference([_training_error(run) for run in runs], [_training_error(run) for run in base]),
        )
        for (ablation, _), runs in zip(there, by_variant[1:], strict=True)
    ]
    return Finding(
        _sentence(spec, costs, len(work.seeds)),
        {
            "validation_error": {
                name: [r.validation_error for r in runs] for (name, _), runs in zip(named, by_variant)
            },
            "training_error": {name: [_training_error(r) for r in runs] for (name, _), runs in zip(named, by_variant)},
            "diverged": {name: [r.job.seed for r in runs if r.diverged] for (name, _), runs in zip(named, by_variant)},
            "validation_difference": {cost.ablation.name: cost.validation.numbers() for cost in costs},
            "training_difference": {cost.ablation.name: cost.training.numbers() for cost in costs},
            "recorded_in_2012": {a.name: found[0] for a in ABLATIONS if (found := recorded(a))},
        },
        [_draw(costs, work.provenance(spec))],
        [_table(base, costs)],
        _references(),
        _limits(work, costs, absent),
    )


def _training_error(run: Trained) -> float:
    """Top-1, over the batches of the last epoch; 1 if it diverged."""
    return 1.0 if run.diverged else float(run.epochs[-1]["top1_error"])


def _sentence(spec: Spec, costs: Sequence[_Cost], seeds: int) -> str:
    worse = [cost for cost in costs if cost.validation.low > 0]
    better = [cost for cost in costs if cost.validation.high < 0]
    said = []
    if worse:
        said.append("removing it makes the validation error worse: " + _listed(worse))
    if better:
        said.append("removing it makes it better: " + _listed(better))
    others = len(costs) - len(worse) - len(better)
    if others:
        said.append(f"for {'the other ' if said else 'all '}{others} these {seeds} seeds show no effect")
    return f"{spec.name}, each part removed alone; " + "; ".join(said) + "."


def _listed(costs: Sequence[_Cost]) -> str:
    ordered = sorted(costs, key=lambda cost: -abs(cost.validation.mean))
    return ", ".join(f"{cost.ablation.name} ({_points(cost.validation.mean)})" for cost in ordered)


def _points(fraction: float) -> str:
    return f"{100 * fraction:+.2f}"


def _interval(found: Estimate) -> str:
    return f"{_points(found.low)} to {_points(found.high)}" if found.n > 1 else "one seed: none"


def _verdict(cost: _Cost) -> str:
    if cost.validation.beyond_zero:
        return "worse without" if cost.validation.mean > 0 else "better without"
    return "no effect shown"


def _table(base: Sequence[Trained], costs: Sequence[_Cost]) -> Table:
    mean = sum(run.validation_error for run in base) / len(base)
    trained = sum(map(_training_error, base)) / len(base)
    rows = [[BASE, f"{100 * mean:.2f} %", "", "", f"{100 * trained:.2f} %", "", "", ""]]
    for cost in costs:
        errors = [run.validation_error for run in cost.runs]
        found = recorded(cost.ablation)
        rows.append(
            [
                f"without {cost.ablation.name}",
                f"{100 * sum(errors) / len(errors):.2f} %",
                _points(cost.validation.mean),
                _interval(cost.validation),
                _points(cost.training.mean),
                _interval(cost.training),
                _verdict(cost),
                _points(found[0]) if found else "in words, below" if cost.ablation.paper else "",
            ]
        )
    note = (
        "Differences in percent points, without it less with everything, paired by seed, with intervals of 95 %. Each "
        "interval stands for itself: where nothing has an effect, four tables in ten show one somewhere. The training "
        "error is that of the last epoch's batches, with dropout and augmentation where they are."
    )
    header = ["", "validation error", "difference", "interval", "training", "interval", "verdict", "on ImageNet, 2012"]
    return Table("What each part is worth", header, rows, note)


def _draw(costs: Sequence[_Cost], provenance: str) -> Picture:
    figure, ax = panels(width=9.0, height=1.4 + 0.42 * len(costs))
    for i, cost in enumerate(costs):
        found, y = cost.validation, len(costs) - 1 - i
        shade = colour(1 if found.low > 0 else 0 if found.high < 0 else 6)
        if found.n > 1:
            ax.plot([100 * found.low, 100 * found.high], [y, y], color=shade, linewidth=2)
        ax.plot(100 * found.mean, y, "o", color=shade)
        if past := recorded(cost.ablation):
            ax.plot(100 * past[0], y, "D", color="black", fillstyle="none", zorder=3)
    ax.axvline(0, color="#666666", linewidth=1)
    ax.set_yticks(range(len(costs)), [f"without {cost.ablation.name}" for cost in reversed(costs)])
    ax.set_xlabel("validation error without it, less that with everything, percent points")
    ax.set_ylim(-0.6, len(costs) - 0.4)
    ax.grid(visible=False, axis="y")
    marks = [("o", colour(1), "worse without"), ("o", colour(0), "better without"), ("o", colour(6), "no effect shown")]
    for mark, shade, label in marks:
        ax.plot([], [], mark, color=shade, label=label)
    ax.plot([], [], "D", color="black", fillstyle="none", label="recorded on ImageNet, 2012")
    ax.legend(loc="lower center", bbox_to_anchor=(0.35, 1.0), ncols=4, fontsize=9)
    caption = "The cost of removing each part alone: mean over the seeds and interval of 95 %, paired by seed."
    return Picture("ablations.png", png(figure, provenance), caption)


def _references() -> list[Reference]:
    lines = []
    for ablation in ABLATIONS:
        if found := recorded(ablation):
            value = f"{_points(found[0])} points of top-1 error without"
            lines.append(Reference(ablation.name, value, f"the 2012 source's notes, {found[1]}"))
        if ablation.paper:
            lines.append(Reference(ablation.name, ablation.paper, "the paper"))
    return lines


def _limits(work: Work, costs: Sequence[_Cost], absent: Sequence[str]) -> list[str]:
    said = []
    unseen = [cost.ablation.name for cost in costs if not cost.validation.beyond_zero]
    if unseen:
        said.append(f"The interval contains zero, so that no effect is shown, for: {', '.join(unseen)}.")
    count = len(work.open(work.spec).splits.validation)
    said.append(
        f"Errors are of one training each on {count:,} validation images; the intervals speak of other seeds, not of "
        "other images. ImageNet has a thousand classes and 1.2 million images, and its network 61 million weights."
    )
    if work.spec.input.channels == 1:
        said.append("The images are grey: colour noise only makes them brighter or darker.")
    if absent:
        said.append(f"{work.spec.name} has nothing to remove for: {', '.join(absent)}.")
    return said


EXPERIMENT = Experiment(
    name="ablations",
    question="What is each part of the recipe worth, if it is removed alone?",
    method="""The network is trained with everything, and again without each part: response normalisation, overlapping
pools (windows as large as the stride instead), dropout, crops, flips and colour noise, each and all three, the second
tower (half the kernels in all convolutions but the last, the paper's comparison), the separation of the towers (all
connections), and weight decay. Variants are derived from the specification in code. The error is the last epoch's, on
central crops.""",
    spec="grey-mini",
    data=EMBEDDED,
    size=Size(seeds=5),
    quick=Size(seeds=3, epochs=8, images=1500),
    run=_run,
)
