"""The page of ``hashing``: what codes keep, what they cost, and the sentence about both."""

from __future__ import annotations

from typing import Any

from experiments.experiment import Picture, Table
from experiments.figures import QUIET, colour, panels, png
from experiments.resampling import interval, percent

TOLD = 128
"""Bits of the codes that the sentence is about."""


def sentence(numbers: dict[str, Any]) -> str:
    """What was found."""
    rows = {row["vectors"]: row for row in numbers["precision"]}
    code, whole = rows[f"features-{TOLD}"]["precision"], rows["features"]["precision"]
    kept = percent(rows[f"features-{TOLD}"]["of_features"])
    there = next(one for one in numbers["search"]["codes"] if one["bits"] == TOLD)
    faster = (there["times_faster"][how] for how in ("single", "batch"))
    single, batch = (f"{times:.0f}" if times >= 10 else f"{times:.1f}" for times in faster)
    return (
        f"{TOLD} bits keep {kept} of the precision at {numbers['k']} of {numbers['layer']}'s {numbers['width']:,} "
        f"numbers ({percent(code)} and {percent(whole)}), and "
        f"find their nearest of {numbers['search']['items']:,} items {single} times as fast as brute force over the "
        f"numbers ({batch} times in batches). {_learning(numbers)}"
    )


def _learning(numbers: dict[str, Any]) -> str:
    """At which lengths these queries show that learning is worth something."""
    gains = [one["bits"] for one in numbers["learned_less_random"] if one["low"] > 0]
    if not gains:
        return "Bits along random directions are as good here at every length."
    return f"As far as these queries show, learning is better than random directions at {_listed(gains)} bits."


def _listed(numbers: list[int]) -> str:
    *first, last = map(str, numbers)
    return f"{', '.join(first)} and {last}" if first else last


def pictures(numbers: dict[str, Any], provenance: str) -> list[Picture]:
    """What is found, and what it costs."""
    figure, (left, right) = panels(1, 2, width=9.0, height=4.2)
    lengths = [one["bits"] for one in numbers["search"]["codes"]]
    rows = {row["vectors"]: row["precision"] for row in numbers["precision"]}
    layer = numbers["layer"]
    for i, (kind, mark, words) in enumerate(
        (("features", "o-", f"codes of {layer}"), ("pixels", "^-", "codes of pixels"), ("random", "s:", "no learning"))
    ):
        shown = [rows[f"{kind}-{bits}"] for bits in lengths]
        mean, low, high = ([100 * value[part] for value in shown] for part in ("mean", "low", "high"))
        left.plot(lengths, mean, mark, color=colour(i), label=words)
        left.fill_between(lengths, low, high, color=colour(i), alpha=0.15, linewidth=0)
    for name, i, words in (("features", 0, f"{layer} itself"), ("pixels", 1, "pixels themselves")):
        left.axhline(100 * rows[name]["mean"], color=colour(i), linestyle="--", linewidth=1, label=words)
    left.set_xscale("log", base=2)
    left.set_xticks(lengths, [str(bits) for bits in lengths])
    left.minorticks_off()
    left.set_xlabel("bits of a code")
    left.set_ylabel(f"precision at {numbers['k']}, %")
    left.set_title(f"what is found, among {numbers['items']:,} items")
    left.legend(loc="lower right", fontsize=8)
    _bars(right, numbers)
    caption = (
        f"Left: how many of the {numbers['k']} nearest training images are of the held-out image's class; bands: "
        f"intervals of 95 %; no learning: bits along random directions of {layer}. "
        f"Right: the time of a query among {numbers['search']['items']:,} items on one thread (logarithmic); encoding "
        "the query is counted, the network that makes its vector is not."
    )
    return [Picture("hashing.png", png(figure, provenance), caption)]


def _bars(ax: Any, numbers: dict[str, Any]) -> None:
    found = numbers["search"]
    floats = [(f"{numbers['width']:,} floats,\n{name}", one, QUIET) for name, one in found["float"]["seconds"].items()]
    codes = [(f"{one['bits']} bits", one["seconds"], colour(0)) for one in found["codes"]]
    for place, (_, seconds, shade) in enumerate([*floats, *codes]):
        for how, offset, alpha in (("single", -0.2, 1.0), ("batch", 0.2, 0.5)):
            milliseconds = 1000 * seconds[how]
            words = {"single": "one query alone", "batch": f"of a batch of {found['batch']}"}[how]
            label = words if place == 0 else None
            ax.barh(place + offset, milliseconds, 0.38, color=shade, alpha=alpha, label=label)
            ax.text(1.1 * milliseconds, place + offset, f"{milliseconds:.3g} ms", va="center", fontsize=8)
    ax.set_yticks(range(len(floats) + len(codes)), [name for name, *_ in [*floats, *codes]])
    ax.invert_yaxis()
    ax.set_xscale("log")
    ax.margins(x=0.3)
    ax.set_title(f"what it costs, among {found['items']:,} items")
    ax.set_xlabel("milliseconds a query")
    ax.grid(visible=False, axis="y")
    ax.legend(loc="center right", fontsize=8)


def _named(name: str, numbers: dict[str, Any]) -> tuple[str, str]:
    """What a kind of vector is, in words, and how many bytes it has."""
    layer, width = numbers["layer"], numbers["width"]
    kind, _, bits = name.partition("-")
    if not bits:
        return (f"{layer}, {width:,} floats", f"{4 * width:,}") if kind == "features" else ("pixels", "")
    words = {
        "features": f"{layer}, autoencoder",
        "pixels": "pixels, autoencoder",
        "random": f"{layer}, random directions",
    }
    return f"{words[kind]}, {bits} bits", f"{int(bits) // 8:,}"


def tables(numbers: dict[str, Any]) -> list[Table]:
    """Precision, and times."""
    rows = [
        [*_named(row["vectors"], numbers), interval(row["precision"]), interval(row["of_features"])]
        for row in numbers["precision"]
    ]
    header = ["vectors", "bytes", f"precision at {numbers['k']}, %", f"of {numbers['layer']}'s, %"]
    note = (
        f"Of the {numbers['k']} nearest of {numbers['items']:,} training images, those of the query's class, over "
        f"{numbers['queries']:,} held-out queries; of equally near codes an order drawn by the seed decides. Intervals "
        "of 95 % by the bootstrap over queries."
    )
    found = numbers["search"]
    timings = [
        [name, f"{1e3 * seconds['single']:.3f}", "", f"{1e3 * seconds['batch']:.3f}", "",
         interval(found["float"]["precision"]), "100"]
        for name, seconds in found["float"]["seconds"].items()
    ] + [
        [f"{one['bits']} bits", f"{1e3 * one['seconds']['single']:.3f}",
         f"{one['times_faster']['single']:.1f}", f"{1e3 * one['seconds']['batch']:.3f}",
         f"{one['times_faster']['batch']:.1f}", interval(one["precision"]), interval(one["of_features"])]
        for one in found["codes"]
    ]  # fmt: skip
    header_of_times = [
        "", "one query, ms", "times faster", f"of a batch of {found['batch']}, ms", "times faster",
        f"precision at {numbers['k']}, %", "of the floats', %",
    ]  # fmt: skip
    note_of_times = (
        f"{found['items']:,} items: {found['made_of']}. One thread for all; times faster than the faster of the two "
        "ways of brute force, codes by faiss's IndexBinaryFlat; medians of queries that take turns. Encoding a query "
        "is counted; the network is not."
    )
    return [
        Table("Precision", header, rows, note),
        Table(f"Among {found['items']:,} items", header_of_times, timings, note_of_times),
    ]
