"""Mistakes in what images become on their way to the network, and in what evaluation makes of scores.

Those of target `data` and `evaluation` are in code that every backend's process calls; those of torch and Keras in
their routines for devices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from conformance.mutants.mutant import Live, Mutant, Patch
from conformance.mutants.spec import function

Rule = Callable[..., Any]


# --- draws ----------------------------------------------------------------------------------------------------------


def drawing(rule: Callable[[Any, Any, Any], Any]) -> Patch:
    """What is drawn for a batch is ``rule(drawn, data, input)``."""

    def wrong(right: Rule, indices: Any, *, data: Any, input: Any, **rest: Any) -> Any:
        return rule(right(indices, data=data, input=input, **rest), data, input)

    return function("batches", "training_draws", wrong)


def said(change: Callable[[Any], dict[str, Any]]) -> Patch:
    """Training draws as if the section `data` said what `change` says of it."""

    def wrong(right: Rule, indices: Any, *, data: Any, **rest: Any) -> Any:
        return right(indices, data=data.model_copy(update=change(data)), **rest)

    return function("batches", "training_draws", wrong)


def generator(name: str, rule: Rule) -> Patch:
    """``spec.draws.name`` is ``rule(right, ...)`` for what happens to training images."""

    def patch(live: Live) -> None:
        right = live.augment.draws
        names = {one: getattr(right, one) for one in ("words", "integers", "chance", "normal")}
        wrong = {name: lambda *given, **named: rule(names[name], *given, **named)}
        live.set(live.augment, "draws", SimpleNamespace(**names | wrong))

    return patch


def _one_noise(drawn: Any, data: Any, input: Any) -> Any:
    return replace(drawn, noise=np.broadcast_to(drawn.noise[:1], drawn.noise.shape).copy())


def _one_flip(drawn: Any, data: Any, input: Any) -> Any:
    return replace(drawn, flip=np.full_like(drawn.flip, drawn.flip[0]))


def _mirrored_place(drawn: Any, data: Any, input: Any) -> Any:
    """The whole stored image is reflected, and cut at the place that was drawn for it as it was."""
    return replace(drawn, cols=np.where(drawn.flip, data.storage.size - input.width - drawn.cols, drawn.cols))


def _noise_of_the_first_epoch(right: Rule, seed: int, purpose: Any, count: int, **where: Any) -> Any:
    from spec.draws import Purpose

    return right(seed, purpose, count, **where | ({"epoch": 0} if purpose is Purpose.COLOR else {}))


def _by_eigenvalue(data: Any) -> dict[str, Any]:
    noise = data.color_noise
    return {"color_noise": None if noise is None else noise.model_copy(update={"scale": "eigenvalue"})}


def _by_place(right: Rule, indices: Any, **rest: Any) -> Any:
    return right(np.arange(len(indices)), **rest)


# --- places and arithmetic ------------------------------------------------------------------------------------------


def _center_rounded_up(live: Live) -> None:
    rest = live.augment._rest
    live.set(live.augment, "_center", lambda data, input: tuple((one + 1) // 2 for one in rest(data, input)))


def _mean_in_the_other_order(right: Rule, data: Any, *given: Any, **named: Any) -> Any:
    found = right(data, *given, **named)
    return found if found.mean is None or data.channel_order == "rgb" else replace(found, mean=found.mean[::-1])


def _mean_unscaled(right: Rule, data: Any, statistics: Any) -> Any:
    return right(data if data.mean.kind == "values" else data.model_copy(update={"scale": 1.0}), statistics)


def _only_pixels(right: Rule, maps: Any, flip: Any) -> Any:
    return right(maps, flip) if maps.dtype == np.uint8 else maps


def _twice(right: Rule, maps: Any, flip: Any) -> Any:
    return right(right(maps, flip), flip) if maps.dtype == np.uint8 else right(maps, flip)


def _upside_down(right: Rule, maps: Any, flip: Any) -> Any:
    maps[flip] = maps[flip][..., ::-1, :]
    return maps


def _noise_last(right: Rule, pixels: Any, known: Any, mean: Any, noise: Any, out: Any) -> None:
    right(pixels, known, mean, None, out)
    if noise is not None:
        out += noise


def _views(rule: Callable[[Any, tuple[int, int]], Any]) -> Patch:
    """Of ten views, ``rule(views, rest)``."""

    def patch(live: Live) -> None:
        rest = live.augment._rest

        def wrong(right: Rule, data: Any, input: Any, crops: str) -> Any:
            views = right(data, input, crops)
            return views if crops == "center" else tuple(rule(views, rest(data, input)))

        function("augment", "evaluation_views", wrong)(live)

    return patch


def _inset(views: Any, rest: tuple[int, int]) -> Any:
    """Corners a pixel inside."""
    rows, columns = rest
    for row, column, flip in views:
        yield min(max(row, 1), rows - 1), min(max(column, 1), columns - 1), flip


# --- stored images --------------------------------------------------------------------------------------------------


def _without_antialias(live: Live) -> None:
    """As many frameworks resize: from the four pixels around a place, however many it stands for."""
    images = live.images

    def fit(image: Any, storage: Any, mode: Any, whole: Any = None) -> Any:
        box, extent = images._kept(*image.size, storage), images.Image.Transform.EXTENT
        converted = images._in_mode(image, mode)
        return np.asarray(converted.transform((storage.size, storage.size), extent, box, images._BILINEAR))

    live.set(images, "fit", fit)


def _about_zero(live: Live) -> None:
    """The mean product of colours for their covariance."""
    statistics = live.statistics
    right = statistics.statistics_of

    def wrong(sums: Any) -> Any:
        products = sums.products / (sums.images * np.prod(sums.places.shape[:2]))
        values, vectors = statistics.principal_components(products)
        return replace(right(sums), covariance=products, eigenvalues=values, eigenvectors=vectors)

    live.set(statistics, "statistics_of", wrong)


def _mean_transposed(right: Rule, sums: Any) -> Any:
    found = right(sums)
    return replace(found, mean_image=np.ascontiguousarray(found.mean_image.transpose(0, 2, 1)))


# --- scores ---------------------------------------------------------------------------------------------------------


def _logits_averaged(live: Live) -> None:
    """The softmax of the mean logits, which is no mean of probabilities."""
    softmax = live.scoring.softmax
    function("scoring", "averaged", lambda right, logits, average: (
        softmax(np.asarray(logits, np.float64).mean(axis=1)) if average == "probabilities" else right(logits, average)
    ))(live)  # fmt: skip


def _ties_are_hits(right: Rule, scores: Any, labels: Any) -> Any:
    return (scores > scores[np.arange(len(labels)), labels][:, None]).sum(axis=1)


def _sixth_counts(live: Live) -> None:
    right = live.scoring.Outcome.wrong
    live.set(live.scoring.Outcome, "wrong", lambda self, best: self.ranks > best if best > 1 else right(self, best))


def _last_model_alone(live: Live) -> None:
    right, together, views = live.scoring._Tally.add, live.scoring.TOGETHER, live.scoring.VIEWS

    def add(self: Any, who: str, crops: str, logits: Any, labels: Any) -> None:
        right(self, who, crops, logits[:, -views[crops] :] if who == together else logits, labels)

    live.set(live.scoring._Tally, "add", add)


def _names_sorted(live: Live) -> None:
    live.set(live.models.Model, "named", lambda self, number: sorted(self.classes)[number])


def _any_order(right: Rule, model: Any, classes: Any) -> None:
    if sorted(model.classes) != sorted(classes):
        right(model, classes)


# --- devices --------------------------------------------------------------------------------------------------------


def device(rule: Rule) -> Patch:
    """The routine for devices is ``rule(right, pixels, drawn, data, input, statistics)``."""

    def wrong(right: Rule, pixels: Any, drawn: Any, *, data: Any, input: Any, statistics: Any) -> Any:
        return rule(right, pixels, drawn, data, input, statistics)

    return function("backend", "augmented", wrong)


def _other_draws(rule: Callable[[Any, Any, Any], Any]) -> Rule:
    return lambda right, pixels, drawn, data, *rest: right(pixels, rule(drawn, data, rest[0]), data, *rest)


def _other_data(change: Callable[[Any], dict[str, Any]]) -> Rule:
    return lambda right, pixels, drawn, data, *rest: right(pixels, drawn, data.model_copy(update=change(data)), *rest)


def _mean_centred(data: Any) -> dict[str, Any]:
    return {"mean": data.mean.model_copy(update={"align": "center"})}


def _unreversed(data: Any) -> dict[str, Any]:
    return {"channel_order": "rgb"}


def _noise_last_there(right: Rule, pixels: Any, drawn: Any, data: Any, *rest: Any) -> Any:
    from data.augment import added

    noise = added(drawn, data)
    x = right(pixels, replace(drawn, noise=np.zeros_like(drawn.noise)), data, *rest)
    return x if noise is None else x + noise[:, :, None, None]


def _of(target: Any, check: str, *rows: tuple[str, str, str, str, Patch]) -> tuple[Mutant, ...]:
    """Mutants caught by `check`. rows: name, what is wrong, what it concerns, witness, patch."""
    return tuple(
        Mutant(f"{target}-{name}", target, what, (concern,), check, f"images-{witness}", patch)
        for name, what, concern, witness, patch in rows
    )


SYSTEMATIC: tuple[Mutant, ...] = (
    *_of(
        "data",
        "training-images",
        ("crop-off-by-one", "the last place of a crop is never drawn", "data.crop", "bytes",
         generator("integers", lambda right, word, n: right(word, max(1, n - 1)))),
        ("crops-not-shared", "every image has a crop of its own where several share one", "data.crop", "moving",
         said(lambda data: {"crop": data.crop.model_copy(update={"shared_by": 1})})),
        ("flips-not-shared", "every image is reflected or not where several share it", "data.flip", "moving",
         said(lambda data: {"flip": data.flip.model_copy(update={"shared_by": 1})})),
        ("flip-of-the-batch", "a batch is reflected as its first image is", "data.flip", "bytes", drawing(_one_flip)),
        ("flip-twice", "an image is reflected and reflected again", "data.flip", "bytes",
         function("augment", "_flipped", _twice)),
        ("flip-upside-down", "images are reflected top to bottom", "data.flip", "bytes",
         function("augment", "_flipped", _upside_down)),
        ("flip-before-the-crop", "the stored image is reflected before it is cut", "data.flip", "bytes",
         drawing(_mirrored_place)),
        ("draws-by-place", "what is drawn for an image depends on its place in the batch", "data.draws", "bytes",
         function("batches", "training_draws", _by_place)),
        ("channels-not-reversed", "channels are red, green, blue where the reverse is said", "data.channel_order",
         "channels", function("augment", "_order", lambda right, data: slice(None))),
        ("mean-in-the-other-order", "pixels are reversed to blue, green, red and their mean is not",
         "data.channel_order", "channels", function("augment", "constants", _mean_in_the_other_order)),
        ("mean-at-the-centre", "the mean image is cut at its centre and not where the crop is", "data.mean", "moving",
         function("augment", "_moves", lambda right, data: False)),
        ("mean-not-reflected", "the mean image is cut where the crop is, and not reflected with it", "data.mean",
         "moving", function("augment", "_flipped", _only_pixels)),
        ("mean-unscaled", "the mean is in bytes where pixels are scaled", "data.mean", "channels",
         function("augment", "_mean", _mean_unscaled)),
        ("noise-by-eigenvalue", "noise goes by eigenvalues where deviations are said", "data.color_noise", "noisy",
         said(_by_eigenvalue)),
        ("noise-of-the-batch", "all images of a batch have the noise of the first", "data.color_noise", "noisy",
         drawing(_one_noise)),
        ("noise-once-for-all", "an image has the same noise in every epoch", "data.color_noise", "noisy",
         generator("words", _noise_of_the_first_epoch)),
        ("noise-after-the-division", "noise is added when everything has been divided", "data.color_noise", "noisy",
         function("augment", "_arithmetic", _noise_last)),
        ("noise-an-epoch-too-long", "noise goes on in the epoch in which it is to be off", "data.color_noise", "noisy",
         function("augment", "_noise_is_on", lambda right, data, epoch: right(data, max(0, epoch - 1)))),
        ("std-ignored", "pixels are not divided by their deviation", "data.std", "values",
         function("augment", "_factor",
                  lambda right, data, noisy: right(data.model_copy(update={"std": None}), noisy))),
    ),
    *_of(
        "data",
        "evaluation-images",
        ("center-rounded-up", "a centre that lies between two pixels is taken to be the second", "data.crop", "bytes",
         _center_rounded_up),
        ("division-outlives-the-noise", "evaluation divides by what balances the noise of training",
         "data.color_noise", "noisy", function("augment", "_factor", lambda right, data, noisy: right(data, True))),
        ("ten-crops-unreflected", "the second five crops are the first five again", "evaluation.crops", "bytes",
         _views(lambda views, rest: ((row, column, False) for row, column, _ in views))),
        ("corner-crops-inset", "the crops at the corners are a pixel inside", "evaluation.crops", "bytes",
         _views(_inset)),
        ("corners-exchanged", "the crop at the top right comes for that at the bottom left", "evaluation.crops",
         "bytes", _views(lambda views, rest: (views[i] for i in (0, 3, 2, 1, 4, 5, 8, 7, 6, 9)))),
    ),
    *_of(
        "data",
        "stored-images",
        ("resize-without-antialias", "photographs are reduced from four pixels around each place", "data.storage",
         "bytes", _without_antialias),
        ("resize-stretches", "photographs are stretched where their short side is to be kept", "data.storage", "bytes",
         function("images", "_kept", lambda right, width, height, storage: (0.0, 0.0, float(width), float(height)))),
        ("loop-from-whole-places", "the compiled filter begins and ends at whole pixels", "data.storage", "bytes",
         function("loops", "resampled",
                  lambda right, pixels, size, box: right(pixels, size, tuple(map(round, box))))),
        ("loop-without-the-end", "the compiled sums of colours leave out the last vector", "data.color_noise",
         "noisy", function("loops", "colour_products",
                           lambda right, pixels: right(pixels[: (len(pixels) - 1) // 64 * 64]))),
        ("covariance-about-zero", "the covariance of colours is taken without their mean", "data.color_noise", "noisy",
         _about_zero),
        ("mean-image-transposed", "the rows of the mean image are its columns", "data.mean", "noisy",
         function("statistics", "statistics_of", _mean_transposed)),
    ),
    *_of(
        "evaluation",
        "scores",
        ("logits-averaged", "logits are averaged for probabilities", "evaluation.average", "noisy", _logits_averaged),
        ("ties-are-hits", "a label counts as the best of equals", "metrics", "bytes",
         function("scoring", "ranks", _ties_are_hits)),
        ("sixth-counts", "a label that is the sixth best is among the best five", "metrics", "bytes", _sixth_counts),
        ("first-view-for-the-central", "the central crop of ten is taken to be the first", "evaluation.crops", "noisy",
         lambda live: live.put(live.scoring.CENTRAL_VIEW, "ten", 0)),
        ("last-model-alone", "of several models the last alone answers", "evaluation.average", "noisy",
         _last_model_alone),
        ("class-names-sorted", "classes are named in the order of the alphabet", "classes", "bytes", _names_sorted),
        ("classes-in-any-order", "data is taken whose classes are the model's in another order", "classes", "bytes",
         function("images", "require_classes", _any_order)),
    ),
    *_of(
        "torch",
        "training-images",
        ("device-flip-of-the-batch", "on a device a batch is reflected as its first image is", "data.flip", "bytes",
         device(_other_draws(_one_flip))),
        ("device-mean-at-the-centre", "on a device the mean image stays where it is", "data.mean", "moving",
         device(_other_data(_mean_centred))),
        ("device-noise-after-the-division", "on a device noise is added last", "data.color_noise", "noisy",
         device(lambda right, pixels, *rest: _noise_last_there(
             lambda *given: right(*given).numpy(), pixels, *rest))),
    ),
    *_of(
        "keras",
        "training-images",
        ("device-flip-before-the-crop", "on a device the stored image is reflected before it is cut", "data.flip",
         "bytes", device(_other_draws(_mirrored_place))),
        ("device-channels-not-reversed", "on a device channels are red, green, blue whatever is said",
         "data.channel_order", "channels", device(_other_data(_unreversed))),
        ("device-noise-of-the-batch", "on a device all images of a batch have the noise of the first",
         "data.color_noise", "noisy", device(_other_draws(_one_noise))),
    ),
)  # fmt: skip
