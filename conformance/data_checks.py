"""Checks of what images become on their way to the network, and of what evaluation makes of the network's scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.base import Array, Arrays
from backends.evaluation.scoring import TOGETHER
from conformance import data_answers as answers
from conformance import data_oracle as oracle
from conformance.bounds import bfloat16
from conformance.comparison import Finding, compare, compare_all
from conformance.data_answers import Stored
from conformance.oracle import Expected, Oracle
from data.images import MODES
from spec import Spec, draws, geometry
from spec.draws import Purpose

if TYPE_CHECKING:
    from conformance.checks import Examination

Findings = Iterator[Finding]

IMAGES = 7
"""Stored images: no multiple of any batch, nor of any number of images that share a draw."""
BATCHES = (3, 4)
"""Images in a batch of one epoch and of the next: what happens to an image must not depend on it."""
PHOTOGRAPHS = ((1.0, 1.0), (2.3, 1.1), (1.7, 3.1), (0.6, 0.8))
"""Heights and widths in units of the stored side: as large, wider than a byte's rounding hides, upright, too small."""
TRIED = 3
"""Images whose scores are compared with those of the oracle's network."""
SHARE = 0.25
"""Of a stored byte's range, how much of an image is its own tint."""


def kept(e: Examination, name: str, make: Any) -> Any:
    """Worked out once for a job, whichever thread asks first."""
    with e.lock:
        if name not in e.known:
            e.known[name] = make()
        return e.known[name]


def _pixels(spec: Spec, shape: tuple[int, ...], draw: np.random.Generator) -> Array:
    """Bytes of noise, with channels that go together and differ in size: their covariance says which is which."""
    channels = shape[-1]
    own = draw.random(shape)
    common = draw.random((*shape[:-1], 1))
    tint = SHARE * draw.random((shape[0], *[1] * (len(shape) - 2), channels))
    size = 1 / (1 + 0.35 * np.arange(channels))
    pixels: Array = np.rint(255 * size * ((1 - SHARE) * (0.6 * own + 0.4 * common) + tint)).astype(np.uint8)
    return pixels


def drawn_photograph(spec: Spec, sides: tuple[float, float], seed: int) -> Array:
    """A photograph of `sides`, in units of the stored side."""
    height, width = (max(1, round(spec.data.storage.size * side)) for side in sides)
    photographs = _pixels(spec, (1, height, width, spec.input.channels), np.random.default_rng([seed, 4]))
    photograph: Array = photographs[0]
    return photograph


def stored(spec: Spec, count: int, seed: int = 0) -> Stored:
    """`count` stored images for `spec` with labels and statistics. Classes are in no alphabet's order."""
    draw, classes = np.random.default_rng([seed, 3]), _classes(spec)
    size = spec.data.storage.size
    images = _pixels(spec, (count, size, size, spec.input.channels), draw)
    labels = np.arange(count, dtype=np.int64) * 3 % classes
    names = tuple(f"{'zqxKaWd'[i % 7]}{classes - i}" for i in range(classes))
    return Stored(images, labels, names, oracle.statistics(images).arrays())


def _stored(e: Examination, count: int) -> Stored:
    known: Stored = kept(e, f"stored {count}", lambda: stored(e.spec, count, e.job.seed))
    return known


def _classes(spec: Spec) -> int:
    return int(geometry(spec).output_shape[0])


def _known(given: Stored) -> oracle.Known:
    return oracle.Known(**given.statistics)


def _exactly(value: Any) -> Expected:
    array = np.asarray(value)
    return Expected(array, np.zeros((1,) * array.ndim))


def _stacked(parts: Sequence[Expected]) -> Expected:
    return Expected(np.stack([one.value for one in parts]), np.stack([one.bound for one in parts]))


# --- stored images ----------------------------------------------------------------------------------------------------


def stored_images(e: Examination, backend: Any) -> Findings:
    """What is kept of photographs of several shapes, and the statistics of stored images."""
    spec, check = e.spec, "stored-images"
    if spec.input.channels in MODES:
        for sides in PHOTOGRAPHS:
            photograph = drawn_photograph(spec, sides, e.job.seed)
            found = answers.stored_image(backend, photograph)
            right = kept(e, f"stored {sides}", lambda p=photograph: {"image": oracle.stored_image(p, spec)})
            named = f"the stored {{}} of a photograph of {' x '.join(map(str, photograph.shape[:2]))}"
            yield from compare_all(check, found, right, "uint8", tensor=named, kind="photograph")
    given = _stored(e, IMAGES)
    right = kept(e, "statistics", lambda: oracle.known_expected(_known(given)))
    found = answers.known_statistics(backend, given.images)
    yield from compare_all(check, found, right, "float64", tensor="the statistic {}", kind="statistic")


# --- training and evaluation images -----------------------------------------------------------------------------------


def epochs(spec: Spec) -> list[int]:
    """The first two, and those around the one in which the noise is switched off."""
    noise = spec.data.color_noise
    turn = [] if noise is None or noise.until_epoch is None else [noise.until_epoch - 1, noise.until_epoch]
    return sorted({0, 1, *turn})


def _trained(e: Examination, given: Stored, epoch: int, batch_size: int) -> dict[str, Expected]:
    spec, known = e.spec, _known(given)
    size = min(batch_size, len(given.images))
    order = draws.permutation(e.job.seed, Purpose.SHUFFLE, len(given.images), epoch=epoch)
    order = order[: max(1, len(order) // size) * size]
    seen = [
        oracle.seen(given.images[i], spec, known, oracle.in_training(spec, known, int(i), e.job.seed, epoch))
        for i in order
    ]
    return {"images": _stacked(seen), "labels": _exactly(given.labels[order]), "indices": _exactly(order)}


def training_images(e: Examination, backend: Any) -> Findings:
    """Crops, reflections, noise, mean, scale and order of channels of whole epochs: as the backend makes batches here,
    and by its routine for devices, if it has one."""
    given = _stored(e, IMAGES)
    for number, epoch in enumerate(epochs(e.spec)):
        size = BATCHES[number % len(BATCHES)]
        right = kept(e, f"trained {epoch}", lambda epoch=epoch, size=size: _trained(e, given, epoch, size))
        for on_device, way in ((False, ""), (True, ", by the routine for devices")):
            found = answers.training_images(backend, given, e.job.seed, epoch, size, on_device)
            if found or not on_device:
                yield from _seen("training-images", found, right, f"the training {{}} of epoch {epoch}{way}")


def _seen(check: str, found: Mapping[str, Array], right: Mapping[str, Expected], tensor: str) -> Findings:
    kind = "views" if len(right["images"].shape) == 5 else "map"
    parts = (("images",), "float32", kind), (("labels", "indices"), "int64", "place")
    for names, dtype, kind in parts:
        some = {name: right[name] for name in names}
        got = {name: found[name] for name in names if name in found}
        yield from compare_all(check, got, some, dtype, tensor=tensor, kind=kind)


def views(spec: Spec, given: Stored, crops: str) -> Expected:
    """(M, V, C, H, W)."""
    known, happenings = _known(given), oracle.in_evaluation(spec, crops)
    return _stacked([_stacked([oracle.seen(image, spec, known, one) for one in happenings]) for image in given.images])


def evaluation_images(e: Examination, backend: Any) -> Findings:
    """Every view of every image in evaluation, by the specification's protocol."""
    given = _stored(e, IMAGES)

    def made() -> dict[str, Expected]:
        seen = views(e.spec, given, e.spec.evaluation.crops)
        order = np.arange(len(given.images))
        return {"images": seen, "labels": _exactly(given.labels), "indices": _exactly(order)}

    right = kept(e, "views", made)
    found = answers.evaluation_images(backend, given, BATCHES[0])
    yield from _seen("evaluation-images", found, right, "the evaluation {}")


# --- scores -----------------------------------------------------------------------------------------------------------


def scores(e: Examination, backend: Any) -> Findings:
    """Ranks, answers, confidences and errors of two models, each alone and together; ties; names; foreign classes.

    The second model is the first with its classes in another order, so that the oracle runs the network once.
    """
    given = _stored(e, TRIED)
    (first, second), logits = kept(e, "scores", lambda: _network_scores(e, given))
    right = _verdicts(e.spec, given, logits)
    found = answers.scores(backend, given, first, second, len(given.images) * 10 - 1)
    yield from _judged(found, right, given, "of {}")
    ties = tied_parameters(e.spec, first)
    if ties is None:
        return
    given, (one, other) = _stored(e, _classes(e.spec)), [parameters for parameters, _ in ties]
    count = len(oracle.in_evaluation(e.spec, e.spec.evaluation.crops))
    exact = [_repeated(values, len(given.images), count) for _, values in ties]
    yield from _judged(answers.scores(backend, given, one, other, BATCHES[1]), _verdicts(e.spec, given, exact), given,
                       "of {}, with ties")  # fmt: skip
    yield from _named(e.spec, backend, given, *ties[1])


def scaled_for(spec: Spec, parameters: Arrays, views: Array) -> dict[str, Array]:
    """Parameters for numbers of the order of 1, made ready for views by a power of two in the first weights."""
    size = float(np.sqrt(np.mean(np.square(views, dtype=np.float64)))) or 1.0
    first = next(name for name in parameters if name.endswith(".weight"))
    factor = np.float32(2.0 ** -np.rint(np.log2(size)))
    return {name: value * factor if name == first else value for name, value in parameters.items()}


def _network_scores(e: Examination, given: Stored) -> tuple[list[Arrays], list[Expected]]:
    """Parameters of both models, and their logits (N, V, classes) with bounds."""
    spec = e.spec
    seen = views(spec, given, spec.evaluation.crops).value.astype(np.float32)
    flat = seen.reshape(-1, *seen.shape[2:])
    first = scaled_for(spec, e.case.parameters, flat)
    if e.dtype == "bfloat16":
        flat = bfloat16(flat)
    wide = {name: value.astype(np.float64) for name, value in first.items()}
    known = Oracle(spec, wide, flat, None, e.arithmetic, replicas=e.replicas, seed=e.job.seed)
    logits = list(known.outputs().values())[-1]
    shape = (*seen.shape[:2], logits.shape[1])
    own = Expected(logits.value.reshape(shape), np.broadcast_to(logits.bound, logits.shape).reshape(shape))
    last = spec.layers[-1].name
    if f"{last}.weight" not in first:
        return [first, first], [own, own]
    # Within a group of a grouped layer rows may be exchanged; the last layer of the suite's networks has one.
    second = {n: np.roll(v, 1, axis=0) if n.startswith(f"{last}.") else v for n, v in first.items()}
    return [first, second], [own, Expected(np.roll(own.value, 1, axis=2), np.roll(own.bound, 1, axis=2))]


def tied_parameters(spec: Spec, parameters: Arrays) -> list[tuple[dict[str, Array], Array]] | None:
    """Two sets of parameters with which all logits are small whole numbers, many of them equal, and these (classes,);
    None if the network does not end in biases."""
    last = spec.layers[-1].name
    if f"{last}.bias" not in parameters:
        return None
    place = np.arange(_classes(spec))
    found = []
    for values in (place * 2 // 3 % 4, place // 2 % 3):
        own = {f"{last}.weight": np.zeros_like(parameters[f"{last}.weight"]), f"{last}.bias": values.astype(np.float32)}
        found.append(({**parameters, **own}, values.astype(np.float64)))
    return found


def _repeated(values: Array, images: int, views: int) -> Expected:
    shape = (images, views, len(values))
    return Expected(np.broadcast_to(values, shape), np.zeros(shape))


def _verdicts(spec: Spec, given: Stored, logits: Sequence[Expected]) -> dict[str, list[oracle.Verdict]]:
    """By who and by which crops, of every image."""
    rule = spec.evaluation
    central = {"center": [0], "ten": [2]}[rule.crops]
    found = {}
    for crops in dict.fromkeys(("center", rule.crops)):
        of = [central if crops == "center" else list(range(one.shape[1])) for one in logits]
        for who, models in (("first", [0]), ("second", [1]), (TOGETHER, [0, 1])):
            found[f"{who}, {crops}"] = [
                oracle.verdict(
                    np.concatenate([logits[m].value[i, of[m]] for m in models]),
                    np.concatenate([logits[m].bound[i, of[m]] for m in models]),
                    int(label),
                    rule.average,
                )
                for i, label in enumerate(given.labels)
            ]
    return found


def _between(least: Any, most: Any) -> Expected:
    """A whole number from `least` to `most`; both ends are as right as the middle."""
    low, high = np.asarray(least, np.float64), np.asarray(most, np.float64)
    return Expected((low + high) / 2, np.where(high > low, (high - low) / 2 * (1 + 1e-9), 0.0))


def _judged(
    found: Mapping[str, Mapping[str, Array]], right: Mapping[str, list[oracle.Verdict]], given: Stored, of: str
) -> Findings:
    classes = len(given.classes)
    for who, verdicts in right.items():
        least, most = (np.array([getattr(one, end) for one in verdicts]) for end in ("least", "most"))
        answered = np.array([one.answer for one in verdicts], np.float64)
        doubt = np.array([0.0 if one.sure else classes for one in verdicts])
        wrong = [((least >= best).mean(), (most >= best).mean()) for best in (1, 5)]
        expected = {
            "ranks": _between(least, most),
            "answers": Expected(answered, doubt),
            "confidences": Expected(
                np.array([one.confidence for one in verdicts]), np.array([one.reach for one in verdicts])
            ),
            "errors": _between(*zip(*wrong, strict=True)),
        }
        yield from compare_all("scores", found.get(who, {}), expected, None, tensor=f"the {{}} {of.format(who)}",
                               kind="place")  # fmt: skip


def _named(spec: Spec, backend: Any, given: Stored, parameters: Arrays, values: Array) -> Findings:
    """The best five by name, of equals the first; and that data with the classes in another order is refused."""
    order = np.argsort(-values, kind="stable")[:5]
    shares = oracle.probabilities(values)
    found = answers.named_answers(backend, given, parameters)
    number = {name: float(i) for i, name in enumerate(given.classes)}
    got = {
        "classes": np.array([number.get(name, -1.0) for name, _ in found]),
        "probabilities": np.array([share for _, share in found]),
    }
    right = {
        "classes": _exactly(order.astype(np.float64)),
        "probabilities": Expected(shares[order], np.full(1, 1e-12)),
    }
    yield from compare_all("scores", got, right, None, tensor="the best {} by name", kind="place")
    refused = [answers.refuses(backend, given, classes) for classes in (sorted(given.classes), given.classes)]
    yield compare("scores", "whether data with sorted classes, and with its own, is refused",
                  np.array(refused, np.float64), _exactly([1.0, 0.0]), None, "place")  # fmt: skip
