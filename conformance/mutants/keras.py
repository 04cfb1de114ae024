"""Mistakes that shipped somewhere, made here in ``backends/keras``, for Keras on any framework."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from conformance.mutants.mutant import Live, Mutant, Patch
from conformance.mutants.restating import restated, values
from spec import Settings

_GITHUB = "https://github.com/"


def method(owner: str, name: str, rule: Callable[..., Any]) -> Patch:
    """In ``layers.owner`` the method `name` is ``rule(layers, right, self, ...)``, `right` the method as it is."""

    def patch(live: Live) -> None:
        layers = live.layers
        right = getattr(getattr(layers, owner), name)

        @functools.wraps(right)  # Keras reads the names of a method's arguments
        def wrong(self: Any, *given: Any, **named: Any) -> Any:
            return rule(layers, right, self, *given, **named)

        live.set(getattr(layers, owner), name, wrong)

    return patch


def loss(rule: Callable[..., Any]) -> Patch:
    """The loss is ``rule(ops, logits, labels)``."""

    def patch(live: Live) -> None:
        ops = live.backend.ops
        live.set(live.backend, "_cross_entropy", lambda logits, labels: rule(ops, logits, labels))

    return patch


def settled(rule: Callable[..., Any]) -> Patch:
    """The optimizer uses ``rule(settings)``, settings being those of every parameter by name."""

    def patch(live: Live) -> None:
        use = live.optimizer.SGD.use
        live.set(live.optimizer.SGD, "use", lambda self, settings: use(self, rule(settings)))

    return patch


def rule(**wrong: Any) -> Patch:
    """The optimizer is made with `wrong` whatever the specification states."""

    def patch(live: Live) -> None:
        create = live.optimizer.SGD.__init__
        live.set(live.optimizer.SGD, "__init__", lambda self, **stated: create(self, **{**stated, **wrong}))

    return patch


# --- layers -----------------------------------------------------------------------------------------------------------


def _radius_for_size(layer: Any) -> dict[str, Any]:
    radius = max((layer.size - 1) // 2, 1)
    return {"size": radius, "before": (radius - 1) // 2, "alpha": layer.coefficient, "alpha_over": "one"}


def _same_padding(live: Live) -> None:
    """Any padding with which the shape is that of ``same`` is left to ``same``, wherever it stands."""
    frame = live.layers._frame

    def _frame(x: Any, kernel: Any, strides: Any, padding: Any, value: float) -> Any:
        sides = zip(x.shape[1:3], kernel, strides, padding)
        same = all((n + sum(p) - k) // s + 1 == -(-n // s) for n, k, s, p in sides)
        padded = padding != ((0, 0), (0, 0))
        return (x, "same") if same and padded else frame(x, kernel, strides, padding, value)

    live.set(live.layers, "_frame", _frame)


def _zero_padded(live: Live) -> None:
    frame = live.layers._frame

    def _frame(x: Any, kernel: Any, strides: Any, padding: Any, value: float) -> Any:
        if value == 0.0 or padding == ((0, 0), (0, 0)):
            return frame(x, kernel, strides, padding, value)
        return live.layers.ops.pad(x, ((0, 0), *padding, (0, 0))), "valid"

    live.set(live.layers, "_frame", _frame)


def _flipped(layers: Any, right: Any, self: Any, inputs: Any, kernel: Any) -> Any:
    return right(self, inputs, layers.ops.flip(kernel, (0, 1)))


def _interleaved(layers: Any, right: Any, self: Any, inputs: Any, kernel: Any) -> Any:
    """Channel c of group g comes out at c G + g instead of after all channels of the groups before."""
    y = right(self, inputs, kernel)
    _, rows, columns, channels = y.shape
    apart = layers.ops.reshape(y, (-1, rows, columns, self.groups, channels // self.groups))
    return layers.ops.reshape(layers.ops.transpose(apart, (0, 1, 2, 4, 3)), (-1, rows, columns, channels))


def _rows_columns_channels(layers: Any, right: Any, self: Any, inputs: Any) -> Any:
    return layers.ops.reshape(inputs, (-1, math.prod(inputs.shape[1:])))


def _ties_share(layers: Any, right: Any, self: Any, inputs: Any) -> Any:
    """The value is right; the elements that equal the largest share its gradient."""
    ops = layers.ops
    x = ops.pad(inputs, ((0, 0), *self.sides, (0, 0)), constant_values=-math.inf)
    rows, columns = self.compute_output_shape(inputs.shape)[1:3]
    (height, width), (down, across) = self.pool_size, self.strides
    windows = ops.stack(
        [
            x[:, i : i + down * (rows - 1) + 1 : down, j : j + across * (columns - 1) + 1 : across]
            for i in range(height)
            for j in range(width)
        ]
    )
    tied = windows == ops.max(windows, axis=0, keepdims=True)
    share = ops.cast(tied, windows.dtype) / ops.sum(ops.cast(tied, windows.dtype), axis=0)
    return ops.sum(ops.where(tied, windows, 0.0) * ops.stop_gradient(share), axis=0)


def _trailing_counted_as_leading(layers: Any, right: Any, self: Any, inputs: Any) -> Any:
    """The divisor of ``window`` is cut where the leading padding would end, were it behind the map."""
    if self.inside:
        return right(self, inputs)
    counts = [
        [min(start + k, before + n + before) - start for start in range(0, before + n + after - k + 1, stride)]
        for n, k, stride, (before, after) in zip(inputs.shape[1:3], self.pool_size, self.strides, self.sides)
    ]
    area = self.pool_size[0] * self.pool_size[1]
    factors = [[area / (rows * columns) for columns in counts[1]] for rows in counts[0]]
    means = right(self, inputs)
    return means * layers.ops.convert_to_tensor([[[[f] for f in row] for row in factors]], means.dtype)


def _dropped_share(layers: Any, right: Any, self: Any, inputs: Any, keep: Any = None, training: bool = False) -> Any:
    if training or self.scale == "train":
        return right(self, inputs, keep=keep, training=training)
    return inputs * self.rate


def _pool_before_lrn(live: Live) -> None:
    """Computed in the other order, reported in the specification's."""
    chain = live.model.chain

    def exchanged(layers: Any, images: Any, masks: Any = None) -> list[Any]:
        order = list(range(len(layers)))
        kinds = [type(layer).__name__ for layer in layers]
        for i in range(len(layers) - 1):
            if (kinds[i], kinds[i + 1]) == ("LocalResponseNormalization", "MaxPooling2D"):
                order[i], order[i + 1] = order[i + 1], order[i]
        outputs = chain([layers[i] for i in order], images, masks)
        return [outputs[order.index(i)] for i in range(len(layers))]

    for module in (live.model, live.backend):
        live.set(module, "chain", exchanged)


# --- training ---------------------------------------------------------------------------------------------------------


def _mean(ops: Any, losses: Any) -> Any:
    return ops.sum(losses) / ops.cast(ops.shape(losses)[0], losses.dtype)


def _clipped(ops: Any, logits: Any, labels: Any) -> Any:
    """As ``sparse_categorical_crossentropy`` does with probabilities."""
    epsilon = 1e-7
    p = ops.clip(ops.softmax(logits), epsilon, 1 - epsilon)
    return _mean(ops, -ops.log(ops.take_along_axis(p, ops.expand_dims(labels, 1), axis=1))[:, 0])


def _safe_log(ops: Any, logits: Any, labels: Any) -> Any:
    p = ops.take_along_axis(ops.softmax(logits), ops.expand_dims(labels, 1), axis=1)[:, 0]
    return _mean(ops, -ops.log(ops.maximum(p, 1e-20)))


def _dampened(live: Live) -> None:
    step = live.optimizer.SGD.update_step

    def update_step(self: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
        step(self, gradient * (1.0 - self.momentum), variable, learning_rate)

    live.set(live.optimizer.SGD, "update_step", update_step)


def _no_decay(settings: Any) -> dict[str, Settings]:
    return {name: Settings(one.learning_rate, 0.0) for name, one in settings.items()}


def _rate_of_the_first(settings: Any) -> dict[str, Settings]:
    rate = next(iter(settings.values())).learning_rate
    return {name: Settings(rate, one.weight_decay) for name, one in settings.items()}


SHIPPED: tuple[Mutant, ...] = (
    Mutant(
        "keras-lrn-alpha-undivided",
        "keras",
        "alpha is not divided by the size of the window",
        ("lrn.alpha", "lrn.alpha_over"),
        "evaluation-outputs",
        "lrn",
        restated("lrn", values(alpha_over="one")),
        _GITHUB + "MarcBS/keras/pull/4",
    ),
    Mutant(
        "keras-lrn-radius-taken-for-size",
        "keras",
        "the window is as wide as it should reach to either side",
        ("lrn.size",),
        "evaluation-outputs",
        "lrn",
        restated("lrn", lambda place: values(**_radius_for_size(place.layer))(place)),
        _GITHUB + "alibaba/MNN/pull/192",
    ),
    Mutant(
        "keras-conv-padding-same",
        "keras",
        "symmetric padding is left to `same`, which pads less before the map when the stride is 2",
        ("conv.padding",),
        "evaluation-outputs",
        "conv-symmetric",
        _same_padding,
        _GITHUB + "tensorflow/tensorflow/issues/10747",
    ),
    Mutant(
        "keras-conv-kernel-flipped",
        "keras",
        "the kernel is turned by 180 degrees: a convolution instead of a cross-correlation",
        ("conv.kernel",),
        "evaluation-outputs",
        "conv",
        method("Conv2D", "convolution_op", _flipped),
        _GITHUB + "keras-team/keras/issues/3015",
    ),
    Mutant(
        "keras-conv-groups-interleaved",
        "keras",
        "the channels of the groups come out in turn instead of one group after the other",
        ("conv.groups",),
        "evaluation-outputs",
        "conv",
        method("Conv2D", "convolution_op", _interleaved),
        _GITHUB + "uxlfoundation/oneDNN/issues/352",
    ),
    Mutant(
        "keras-max-pool-zero-padding",
        "keras",
        "padding counts as zero, and wins over negative values",
        ("max_pool.padding",),
        "evaluation-outputs",
        "max-pool",
        _zero_padded,
        _GITHUB + "apache/mxnet/issues/2753",
    ),
    Mutant(
        "keras-max-pool-ties-share",
        "keras",
        "elements that equal the largest of their window share its gradient",
        ("max_pool.kernel",),
        "training-gradients",
        "max-pool-ties",
        method("MaxPooling2D", "call", _ties_share),
        _GITHUB + "tensorflow/tensorflow/issues/4886",
    ),
    Mutant(
        "keras-avg-pool-trailing-counted-as-leading",
        "keras",
        "the divisor behind the map is cut by the padding before it",
        ("avg_pool.padding", "avg_pool.divisor"),
        "evaluation-outputs",
        "avg-pool-window",
        method("AveragePooling2D", "call", _trailing_counted_as_leading),
        _GITHUB + "ROCm/AMDMIGraphX/pull/5007",
    ),
    Mutant(
        "keras-flatten-channels-last",
        "keras",
        "maps are flattened in the order in which they are stored, channels last",
        ("flatten",),
        "evaluation-outputs",
        "flatten",
        method("FlattenChannels", "call", _rows_columns_channels),
        _GITHUB + "keras-team/keras/pull/9696",
    ),
    Mutant(
        "keras-pool-before-lrn",
        "keras",
        "pooling comes before normalisation instead of after",
        ("order",),
        "evaluation-outputs",
        "order",
        _pool_before_lrn,
        _GITHUB + "tflearn/tflearn/issues/1056",
    ),
    Mutant(
        "keras-dropout-scaled-by-rate",
        "keras",
        "in evaluation units are multiplied by the probability of being dropped",
        ("dropout.rate", "dropout.scale"),
        "evaluation-outputs",
        "dropout-test",
        method("Dropout", "call", _dropped_share),
        _GITHUB + "karpathy/convnetjs/pull/106",
    ),
    Mutant(
        "keras-loss-clipped",
        "keras",
        "the loss is taken of probabilities, clipped to between 1e-7 and 1 - 1e-7",
        ("loss",),
        "loss",
        "saturated",
        loss(_clipped),
        _GITHUB + "keras-team/keras/issues/17634",
    ),
    Mutant(
        "keras-loss-safe-log",
        "keras",
        "the loss is the logarithm of a probability that is at least 1e-20",
        ("loss",),
        "loss",
        "saturated",
        loss(_safe_log),
        _GITHUB + "Oneflow-Inc/oneflow/issues/3137",
    ),
    Mutant(
        "keras-momentum-dampened",
        "keras",
        "the gradient enters the velocity times one less the momentum",
        ("optimizer.momentum",),
        "training-steps",
        "training",
        _dampened,
        _GITHUB + "HIPS/autograd/issues/289",
    ),
    Mutant(
        "keras-decay-always-coupled",
        "keras",
        "decoupled decay is part of the gradient all the same",
        ("optimizer.decay",),
        "training-steps",
        "training-decoupled",
        rule(decay="coupled"),
        _GITHUB + "keras-team/keras/issues/19051",
    ),
    Mutant(
        "keras-decay-never-applied",
        "keras",
        "the decay is accepted and used nowhere",
        ("weight_decay",),
        "training-steps",
        "training",
        settled(_no_decay),
        _GITHUB + "kozistr/pytorch_optimizer/issues/517",
    ),
    Mutant(
        "keras-learning-rate-multipliers-ignored",
        "keras",
        "every parameter has the learning rate of the first",
        ("learning_rate",),
        "training-steps",
        "training-freezing",
        settled(_rate_of_the_first),
        _GITHUB + "apache/mxnet/issues/9511",
    ),
)
