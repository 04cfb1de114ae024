"""A specification in words and numbers for people, and as plain values for programs."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from spec.arithmetic import Geometry, LayerGeometry, geometry
from spec.language import Distribution, Layer, Padding, Schedule, Size, Spec

HEADINGS = ("layer", "operation", "output", "padding", "parameters", "MACs", "output bytes")
_UNSAID = ("name", "op", "padding")
_FIRST = ("out_channels", "out_features")


def number(value: float) -> str:
    """A number as people write it: 0.0001 and not 1e-04; whole ones with separators of thousands."""
    if float(value).is_integer():
        return f"{int(value):,}"
    return format(Decimal(repr(value)), "f")


def attributes(layer: Layer) -> str:
    """What a layer states, in one line: ``conv out_channels=96 kernel=11 stride=4``. Defaults go unsaid."""
    said: list[str] = [layer.op]
    fields = type(layer).model_fields
    for name in sorted(fields, key=lambda name: name not in _FIRST):
        value, field = getattr(layer, name), fields[name]
        if name in _UNSAID or value is None or (not field.is_required() and value == field.default):
            continue
        said.append(f"{name}={_attribute(value)}")
    return " ".join(said)


def _attribute(value: Any) -> str:
    if isinstance(value, Size):
        return str(value.height) if value.height == value.width else f"{value.height}x{value.width}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, float) else str(value)


def sides(padding: Padding | None) -> str:
    """Explicit padding: one number if all sides agree, otherwise top,bottom,left,right."""
    if padding is None:
        return ""
    each = (padding.top, padding.bottom, padding.left, padding.right)
    return str(each[0]) if len(set(each)) == 1 else ",".join(map(str, each))


def maps(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def rows(network: Geometry) -> list[tuple[str, ...]]:
    """The table of layers, one row of text for each, under :data:`HEADINGS`."""

    def count(value: int) -> str:
        return f"{value:,}" if value else ""

    def row(layer: LayerGeometry) -> tuple[str, ...]:
        numbers = (count(layer.parameter_count), count(layer.macs), f"{layer.output_bytes:,}")
        return layer.name, attributes(layer.layer), maps(layer.output_shape), sides(layer.padding), *numbers

    total = f"{sum(layer.output_bytes for layer in network.layers):,}"
    return [
        *map(row, network.layers),
        ("total", "", "", "", f"{network.parameter_count:,}", f"{network.macs:,}", total),
    ]


def aligned(table: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Rows of text as lines of aligned columns; those numbered in `right` stand at their right edge."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]

    def line(row: Sequence[str]) -> str:
        cells = (cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths)))
        return "  ".join(cells).rstrip()

    return [line(row) for row in table]


def distribution_words(distribution: Distribution) -> str:
    match distribution.kind:
        case "constant":
            return number(distribution.value)
        case "normal":
            return f"normal, std {number(distribution.std)}"
        case "truncated_normal":
            return f"normal cut at two deviations, std {number(distribution.std)}"
        case "uniform":
            return f"uniform from {number(distribution.low)} to {number(distribution.high)}"
        case "variance_scaling":
            return f"{distribution.distribution}, variance {number(distribution.scale)} / {distribution.fan}"
    raise TypeError(f"no words for {distribution!r}")


def schedule_words(schedule: Schedule) -> str:
    match schedule.kind:
        case "constant":
            return number(schedule.rate)
        case "stages":
            later = (f", from epoch {stage.epoch} {number(stage.rate)}" for stage in schedule.stages[1:])
            return number(schedule.stages[0].rate) + "".join(later)
        case "step":
            every = f"every {schedule.every:,} {schedule.unit}s"
            return f"{number(schedule.rate)}, times {number(schedule.factor)} {every}"
        case "exponential_steps":
            end = number(schedule.rate / schedule.target_factor)
            return f"{number(schedule.rate)} down to {end} in {schedule.steps} equal parts of the run"
        case "plateau":
            wait = (
                f"after {schedule.patience} epochs without a validation top-1 error {number(schedule.threshold)} better"
            )
            return f"{number(schedule.rate)}, times {number(schedule.factor)} {wait}, at most {schedule.drops} times"
    raise TypeError(f"no words for {schedule!r}")


def paragraphs(spec: Spec) -> list[tuple[str, list[tuple[str, str]]]]:
    """Initialisation, training, data and evaluation: (heading, [(what, words)])."""
    init: dict[str, list[str]] = {}
    for name in geometry(spec).parameters:
        init.setdefault(distribution_words(spec.init.of(name)), []).append(name)
    training = spec.training
    optimizer = training.optimizer
    where = "inside the velocity (v = mu v - lr g)" if optimizer.learning_rate_in_velocity else "outside (w -= lr v)"
    recipe = [
        ("batch size", f"{training.batch_size:,}"),
        ("epochs", f"{training.epochs:,}"),
        ("loss", training.loss.replace("_", " ")),
        (
            "optimizer",
            f"SGD, momentum {number(optimizer.momentum)}, learning rate {where}, {optimizer.decay} weight decay",
        ),
    ]
    for pattern, schedule in training.learning_rate.items():
        recipe.append((f"learning rate of {pattern}", schedule_words(schedule)))
    for pattern, decay in training.weight_decay.items():
        recipe.append((f"weight decay of {pattern}", number(decay)))
    return [
        ("initialisation", [(words, ", ".join(names)) for words, names in init.items()]),
        ("training (of the patterns that match a parameter, the last holds)", recipe),
        ("data", _data(spec)),
        ("evaluation", [("crops", spec.evaluation.crops), ("average", spec.evaluation.average)]),
    ]


def _data(spec: Spec) -> list[tuple[str, str]]:
    data = spec.data
    size = data.storage.size
    fit = "short side to {0}, central {0} x {0}" if data.storage.fit == "short_side" else "stretched to {0} x {0}"
    means = {
        "image": f"the mean training image, cut at {'its centre' if data.mean.align == 'center' else 'the crop'}",
        "channel": "the mean of each channel",
        "values": ", ".join(map(number, data.mean.values or ())),
        "none": "nothing",
    }
    place = "at random" if data.crop.kind == "random" else "at the centre"
    if data.crop.shared_by > 1:
        place += f", one place for every {data.crop.shared_by} images"
    flip = number(data.flip.probability)
    if data.flip.shared_by > 1:
        flip += f", one draw for every {data.flip.shared_by} images"
    noise = "none"
    if data.color_noise is not None:
        c = data.color_noise
        scale = "standard deviations" if c.scale == "stddev" else "eigenvalues"
        noise = f"{number(c.sigma)} x {scale} along the principal components, then divided by {number(c.divide_by)}"
        noise += f", until epoch {c.until_epoch}" if c.until_epoch else ""
    return [
        ("stored", fit.format(size)),
        ("channels", " ".join(data.channel_order)),
        ("scale", f"0 .. {number(255 * data.scale)}"),
        ("subtracted", means[data.mean.kind]),
        ("divided by", "nothing" if data.std is None else ", ".join(map(number, data.std))),
        ("training crop", f"{spec.input.height} x {spec.input.width} {place}"),
        ("reflection", f"with probability {flip}"),
        ("colour noise", noise),
    ]


def text(spec: Spec) -> str:
    """The whole of ``python -m spec show``."""
    network = geometry(spec)
    lines = [f"{spec.name}: {spec.title}", ""]
    lines += aligned(
        [HEADINGS, ("input", "", maps(network.input_shape), "", "", "", ""), *rows(network)], right=(4, 5, 6)
    )
    for heading, items in paragraphs(spec):
        lines += ["", heading]
        lines += ["  " + line for line in aligned(items)]
    if spec.expect.results:
        lines += ["", "published results (errors in percent)"]
        table = [("data set", "protocol", "top-1", "top-5", "source")]
        for result in spec.expect.results:
            errors = (percent(result.top1_error), percent(result.top5_error))
            table.append((result.dataset, result.protocol, *errors, result.source))
        lines += ["  " + line for line in aligned(table)]
    if spec.notes:
        lines += ["", spec.notes.rstrip()]
    return "\n".join(lines)


def percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.4f}".rstrip("0").rstrip(".")


def values(spec: Spec) -> dict[str, Any]:
    """The whole of ``show --json``: the statement, and what follows from it by arithmetic."""
    network = geometry(spec)
    return {
        "name": spec.name,
        "hash": spec.hash,
        "statement": spec.statement(),
        "geometry": {
            "parameters": network.parameter_count,
            "macs": network.macs,
            "layers": [
                {
                    "name": layer.name,
                    "op": layer.layer.op,
                    "input_shape": list(layer.input_shape),
                    "output_shape": list(layer.output_shape),
                    "padding": layer.padding.model_dump() if layer.padding else None,
                    "parameters": {name: list(shape) for name, shape in layer.parameters.items()},
                    "parameter_count": layer.parameter_count,
                    "macs": layer.macs,
                    "output_bytes": layer.output_bytes,
                }
                for layer in network.layers
            ],
        },
    }
