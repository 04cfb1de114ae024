"""Systematic mistakes in ``backends/keras`` that no attribute is behind: layouts, axes, modes, terms of gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from conformance.mutants import keras
from conformance.mutants.mutant import Live, Mutant, Patch
from spec import Settings


def _stored(rank: int, first: int, second: int) -> Patch:
    """Parameters of `rank` axes are stored with two of their canonical axes exchanged, where these are equally long."""

    def exchanged(array: Any) -> Any:
        fits = array.ndim == rank and array.shape[first] == array.shape[second]
        return array.swapaxes(first, second) if fits else array

    def patch(live: Live) -> None:
        to_keras, to_canonical = live.model.to_keras, live.model.to_canonical
        for module in (live.model, live.backend):
            live.set(module, "to_keras", lambda array: to_keras(exchanged(array)))
            live.set(module, "to_canonical", lambda array: exchanged(to_canonical(array)))

    return patch


def _same_slice(layers: Any, right: Any, self: Any, inputs: Any) -> Any:
    width = inputs.shape[-1] // self.groups
    return right(self, layers.ops.tile(inputs[:, :width], (1, self.groups)))


def _window_sum(rule: Callable[..., Any]) -> Patch:
    """The window of ``lrn`` is summed by ``rule(normalization, right, layer, x, transposed)``."""

    def patch(live: Live) -> None:
        owner = live.normalization.LocalResponseNormalization
        right = owner.window_sum

        def window_sum(self: Any, x: Any, transposed: bool = False) -> Any:
            return rule(live.normalization, right, self, x, transposed)

        live.set(owner, "window_sum", window_sum)

    return patch


def _along_rows(normalization: Any, right: Any, layer: Any, x: Any, transposed: bool) -> Any:
    before, after = (layer.after, layer.before) if transposed else (layer.before, layer.after)
    return normalization._shifted_sum(x, 1, before, after)


def _one_step_late(live: Live) -> None:
    use = live.optimizer.SGD.use

    def later(self: Any, settings: Any) -> None:
        use(self, getattr(self, "_pending", settings))
        self._pending = settings

    live.set(live.optimizer.SGD, "use", later)


def _probabilities(live: Live) -> None:
    logits = live.backend.KerasBackend._logits
    live.set(live.backend.KerasBackend, "_logits", lambda self, x: live.backend.ops.softmax(logits(self, x)))


def _next_label(ops: Any, logits: Any, labels: Any) -> Any:
    shifted = (labels + 1) % logits.shape[1]
    losses = ops.logsumexp(logits, axis=1) - ops.take_along_axis(logits, ops.expand_dims(shifted, 1), axis=1)[:, 0]
    return ops.sum(losses) / ops.cast(ops.shape(losses)[0], losses.dtype)


def _decay_doubled(settings: Any) -> dict[str, Settings]:
    return {name: Settings(one.learning_rate, 2 * one.weight_decay) for name, one in settings.items()}


def _never_training(layers: Any, right: Any, self: Any, inputs: Any, keep: Any = None, training: bool = False) -> Any:
    return right(self, inputs)


SYSTEMATIC: tuple[Mutant, ...] = (
    Mutant(
        "keras-conv-kernel-transposed",
        "keras",
        "rows and columns of kernels are exchanged",
        ("conv.kernel",),
        "evaluation-outputs",
        "conv-square",
        _stored(4, 2, 3),
    ),
    Mutant(
        "keras-local-kernel-transposed",
        "keras",
        "rows and columns of the kernels of a locally connected layer are exchanged",
        ("local.kernel",),
        "evaluation-outputs",
        "local-square",
        _stored(6, 2, 3),
    ),
    Mutant(
        "keras-dense-not-transposed",
        "keras",
        "the weight of a dense layer is stored as it comes, which fits if it is square",
        ("dense.out_features",),
        "evaluation-outputs",
        "dense-square",
        _stored(2, 0, 1),
    ),
    Mutant(
        "keras-dense-groups-see-the-first",
        "keras",
        "every group of a dense layer sees the inputs of the first",
        ("dense.groups",),
        "evaluation-outputs",
        "dense-grouped",
        keras.method("Dense", "call", _same_slice),
    ),
    Mutant(
        "keras-lrn-along-rows",
        "keras",
        "the window lies along the rows of the map instead of along the channels",
        ("lrn.size",),
        "evaluation-outputs",
        "lrn",
        _window_sum(_along_rows),
    ),
    Mutant(
        "keras-lrn-gradient-not-mirrored",
        "keras",
        "the gradient of a lopsided window sums over the window instead of over its mirror image",
        ("lrn.before",),
        "training-gradients",
        "lrn-even",
        _window_sum(lambda normalization, right, layer, x, transposed: right(layer, x)),
    ),
    Mutant(
        "keras-lrn-gradient-halved",
        "keras",
        "the factor 2 is missing from the second term of the gradient",
        ("lrn.alpha",),
        "training-gradients",
        "lrn",
        _window_sum(
            lambda normalization, right, layer, x, transposed: right(layer, x, transposed) * (1 - 0.5 * transposed)
        ),
    ),
    Mutant(
        "keras-dropout-not-in-training",
        "keras",
        "dropout takes training for evaluation",
        ("dropout.rate",),
        "training-outputs",
        "dropout-train",
        keras.method("Dropout", "call", _never_training),
    ),
    Mutant(
        "keras-predicts-probabilities",
        "keras",
        "predict returns probabilities instead of logits",
        ("predict",),
        "prediction",
        "dense",
        _probabilities,
    ),
    Mutant(
        "keras-loss-of-the-next-label",
        "keras",
        "labels are taken to count from 1",
        ("loss",),
        "loss",
        "dense",
        keras.loss(_next_label),
    ),
    Mutant(
        "keras-decay-doubled",
        "keras",
        "the decay is that of the square of the weight instead of half of it",
        ("weight_decay",),
        "training-steps",
        "training",
        keras.settled(_decay_doubled),
    ),
    Mutant(
        "keras-learning-rate-inside-velocity",
        "keras",
        "the learning rate is part of the velocity where the specification has it outside",
        ("optimizer.learning_rate_in_velocity",),
        "training-steps",
        "training-outside",
        keras.rule(learning_rate_in_velocity=True),
    ),
    Mutant(
        "keras-settings-one-step-late",
        "keras",
        "a step uses the learning rate and the decay of the step before",
        ("learning_rate",),
        "training-steps",
        "training",
        _one_step_late,
    ),
)
