"""Keras, on whichever framework this process runs it, behind the contract of every backend."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Unpack

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from backends.base import (
    Array,
    Arrays,
    Backend,
    Gradients,
    Masks,
    Metrics,
    Unsupported,
    check_arrays,
    check_masks,
    pieces,
)
from backends.group import ALONE, Group
from backends.keras.augmentation import augmented
from backends.keras.dropout import Counters
from backends.keras.engine import ENGINE
from backends.keras.model import chain, image_input, network, parameters, to_canonical, to_keras
from backends.keras.optimizer import SGD
from backends.keras.sharing import allow, sharing
from data import Draws, Known
from data.dataset import Images
from data.shards import taken
from spec import Settings, Spec, dropout_shapes


class KerasBackend(Backend):
    """The network of :mod:`backends.keras.model` and the optimizer of :mod:`backends.keras.optimizer`.

    Two functional models share its layers: one for evaluation, and one for training that takes the masks as inputs.
    """

    name = f"keras-{keras.backend.backend()}"
    dtypes = ("float32", "float64", "bfloat16", "mixed_bfloat16")

    def __init__(
        self, spec: Spec, *, dtype: str = "float32", device: str = "auto", devices: int = 1, group: Group = ALONE
    ) -> None:
        super().__init__(spec, dtype=dtype, device=device)
        self.devices, self.group = devices, group
        running = keras.backend.backend()
        wanted = os.environ.get("KERAS_BACKEND", running)
        if wanted != running:
            raise RuntimeError(f"Keras runs on one framework in a process, here {running}. Received: {wanted}")
        ENGINE.prepare(dtype)
        allow(devices)
        self.device, self._place = ENGINE.device(device)
        if self.device.startswith("mps") and dtype == "float64":
            raise Unsupported("the device mps computes in float32. Received: float64")
        self._sharing = sharing(self.device.partition(":")[0], devices, group)
        with self._placed():
            self.model = network(spec, dtype, lambda name: keras.initializers.Zeros(), seed=0)
            images, layers = image_input(spec, dtype), [self.model.get_layer(layer.name) for layer in spec.layers]
            masks = {
                name: keras.Input((*shape[1:], shape[0]), name=f"{name}.keep", dtype="bool")
                for name, shape in dropout_shapes(spec).items()
            }
            evaluation, training = chain(layers, images), chain(layers, images, masks)
            self._evaluation = keras.Model(images, evaluation)
            self._training = keras.Model([images, *masks.values()], training)
            self._parameters = parameters(self.model)
            self._optimizer = SGD.of(spec)
            self._optimizer.build(list(self._parameters.values()))
            weights = list(self._parameters.values())
            state = weights if self._sharing else self.model.variables
            compiled = self._sharing.compiled if self._sharing else ENGINE.compiled
            self._run = compiled(self._outputs, state)
            self._predict = compiled(self._logits, state)
            self._differentiate = compiled(self._gradients, state)
            self._measure = compiled(self._loss, state)
            written = [*weights, *self._optimizer.variables]
            self._update = ENGINE.compiled(self._step, state, written)
            if self._sharing:
                self._update_shared = self._sharing.compiled_step(self._shared_step, state, written)
            self._counters = Counters(spec)
        self._host_dtype = keras.dtype_policies.get(dtype).variable_dtype
        """Of images and cotangents on their way to the device."""
        self._pieces = 1
        self._sums: list[Any] = []
        """Where the gradients of the pieces of a batch gather; none while a batch is taken at once."""
        self._steps: list[tuple[int, Any]] = []
        """Of every step since the last reading: images, and (mean loss, hits among 1 and 5), still on the device."""

    @contextmanager
    def _placed(self) -> Iterator[None]:
        """On the device, or the devices, of this backend."""
        with self._sharing.scope() if self._sharing else keras.device(self._place):
            yield

    # --- the contract -------------------------------------------------------------------------------------------------

    def load(self, parameters: Arrays, velocities: Arrays | None = None) -> None:
        check_arrays(parameters, self.spec, "parameters")
        if velocities is not None:
            check_arrays(velocities, self.spec, "velocities")
        with self._placed():
            for gathered in self._sums:
                gathered.assign(ops.zeros(gathered.shape, gathered.dtype))
            for name, velocity in self._optimizer.velocities().items():
                self._parameters[name].assign(self._everywhere(to_keras(parameters[name])))
                before = np.zeros(velocity.shape) if velocities is None else to_keras(velocities[name])
                velocity.assign(self._everywhere(before))

    def _everywhere(self, value: Array) -> Any:
        return self._sharing.everywhere(value.astype(self._host_dtype)) if self._sharing else value

    def parameters(self) -> dict[str, Array]:
        return {name: _canonical_copy(variable.value) for name, variable in self._parameters.items()}

    def velocities(self) -> dict[str, Array]:
        return {name: _canonical_copy(variable.value) for name, variable in self._optimizer.velocities().items()}

    def outputs(self, images: Array, masks: Masks | None = None) -> dict[str, Array]:
        with self._placed():
            outputs = self._run(self._host(images), self._masks(masks, images))
        return {layer.name: _array(output) for layer, output in zip(self.spec.layers, outputs, strict=True)}

    def predict(self, images: Array) -> Array:
        with self._placed():
            return _array(self._predict(self._host(images)))

    def gradients(self, images: Array, cotangent: Array, masks: Masks | None = None) -> Gradients:
        with self._placed():
            arguments = self._host(images), self._host(cotangent), self._masks(masks, images)
            logits, (*by_parameter, by_input) = self._differentiate(*arguments)
        found = {name: _canonical_copy(g) for name, g in zip(self._parameters, by_parameter, strict=True)}
        return Gradients(_array(logits), found, _array(by_input))

    def loss(self, images: Array, labels: Array, masks: Masks | None = None) -> float:
        with self._placed():
            return float(self._measure(self._host(images), _classes(labels), self._masks(masks, images)))

    def apply_training(self, images: Images, indices: npt.ArrayLike, drawn: Draws, **known: Unpack[Known]) -> Any:
        """On a GPU from the stored bytes; a CPU has nothing quicker than the definition, and of several devices each
        gets its part from the host."""
        if self.device.startswith("cpu") or self._sharing:
            return super().apply_training(images, indices, drawn, **known)
        return self.apply_on_device(images, indices, drawn, **known)

    def apply_on_device(self, images: Images, indices: npt.ArrayLike, drawn: Draws, **known: Unpack[Known]) -> Any:
        """The same from the stored bytes, on any device."""
        with keras.device(self._place):
            return augmented(taken(images, indices), drawn, **known)

    def dropout_masks(self, seed: int, images: npt.ArrayLike, epoch: int) -> Masks:
        """On a GPU from the counters alone; a CPU has nothing quicker than the definition."""
        host = self.device.startswith("cpu") or self._sharing
        return super().dropout_masks(seed, images, epoch) if host else self.device_masks(seed, images, epoch)

    def device_masks(self, seed: int, images: npt.ArrayLike, epoch: int) -> Any:
        with keras.device(self._place):
            return self._counters.masks(seed, images, epoch)

    def accumulate(self, pieces: int) -> None:
        if pieces > 1 and self._sharing:
            raise Unsupported("a batch must be shared by several devices, or taken in pieces. Received: both")
        self._pieces = pieces
        if pieces == 1 or self._sums:
            return
        weights, state = list(self._parameters.values()), self.model.variables
        with keras.device(self._place):
            self._sums = [keras.Variable(ops.zeros(w.shape, w.dtype), trainable=False) for w in weights]
            self._gather = ENGINE.compiled(self._gathered, [*state, *self._sums], self._sums)
            written = [*weights, *self._optimizer.variables, *self._sums]
            self._apply = ENGINE.compiled(self._applied, state, written)

    def step(self, images: Array, labels: Array, settings: Mapping[str, Settings], masks: Masks) -> None:
        with self._placed():
            self._optimizer.use(settings)
            if self._sharing:
                rows, weights = self._sharing.rows(len(images), self.whole_batch or len(images))
                kept = [mask[rows] for mask in self._masks(masks, images) or []]
                inputs = self._host(images)[rows], _classes(labels)[rows], kept, weights.astype(self._host_dtype)
                seen = [self._update_shared(*inputs)]
            elif self._pieces == 1:
                seen = [self._update(self._host(images), _classes(labels), self._masks(masks, images))]
            else:
                seen = self._step_in_pieces(images, labels, masks)
        self._steps.append((self.whole_batch if self._sharing and self.whole_batch else len(images), seen))

    def _step_in_pieces(self, images: Array, labels: Array, masks: Masks) -> list[Any]:
        check_masks(masks, self.spec, len(images))
        seen = []
        for rows in pieces(len(images), self._pieces):
            some, share = images[rows], (rows.stop - rows.start) / len(images)
            kept = self._masks({name: mask[rows] for name, mask in masks.items()}, some)
            seen.append(self._gather(self._host(some), _classes(labels[rows]), kept, np.array(share, self._host_dtype)))
        self._apply()
        return seen

    def metrics(self) -> Metrics:
        sizes = [images for images, _ in self._steps]
        seen = np.array([sum(map(_array, values)) for _, values in self._steps], np.float64).reshape(-1, 3)
        self._steps.clear()
        losses, (correct1, correct5) = seen[:, 0], seen[:, 1:].sum(axis=0)
        return Metrics(sum(sizes), float(losses @ sizes), int(correct1), int(correct5), tuple(losses.tolist()))

    # --- what is compiled: canonical tensors in; evaluation where masks is None ---------------------------------------

    def _chain(self, images: Any, masks: list[Any] | None) -> list[Any]:
        x = _channels_last(images)
        if masks is None:
            return list(self._evaluation(x, training=False))
        return list(self._training([x, *map(_channels_last, masks)], training=True))

    def _scores(self, images: Any, masks: list[Any] | None) -> Any:
        """The logits in what the loss is computed in: float32, unless all is in another dtype."""
        return ops.cast(self._chain(images, masks)[-1], self._host_dtype)

    def _outputs(self, images: Any, masks: list[Any] | None) -> list[Any]:
        return [_channels_first(output) for output in self._chain(images, masks)]

    def _logits(self, images: Any) -> Any:
        return ops.cast(self.model(_channels_last(images), training=False), self._host_dtype)

    def _gradients(self, images: Any, cotangent: Any, masks: list[Any] | None) -> Any:
        def objective(images: Any) -> tuple[Any, Any]:
            logits = self._scores(images, masks)
            return ops.sum(cotangent * logits), logits

        _, logits, gradients = ENGINE.differentiated(objective, list(self._parameters.values()), [images])
        return logits, gradients

    def _loss(self, images: Any, labels: Any, masks: list[Any] | None) -> Any:
        return _cross_entropy(self._scores(images, masks), labels)

    def _step(self, images: Any, labels: Any, masks: list[Any]) -> Any:
        seen, gradients = self._differentiated(images, labels, masks)
        self._optimizer.apply(gradients, list(self._parameters.values()))
        return seen

    def _gathered(self, images: Any, labels: Any, masks: list[Any], share: Any) -> Any:
        """Add the gradient of a piece of a batch, of which it is the given share."""
        seen, gradients = self._differentiated(images, labels, masks, share)
        for gathered, gradient in zip(self._sums, gradients, strict=True):
            gathered.assign(ops.convert_to_tensor(gathered) + ops.cast(gradient, gathered.dtype))
        return seen

    def _applied(self) -> None:
        """The update from the gradients that were gathered, which are zero again after it."""
        self._optimizer.apply([ops.convert_to_tensor(one) for one in self._sums], list(self._parameters.values()))
        for gathered in self._sums:
            gathered.assign(ops.zeros(gathered.shape, gathered.dtype))

    def _differentiated(self, images: Any, labels: Any, masks: list[Any], share: Any = None) -> tuple[Any, list[Any]]:
        """Loss and hits, and the gradient of the loss; share: by which the loss is multiplied."""

        def objective() -> tuple[Any, Any]:
            logits = self._scores(images, masks)
            loss = _cross_entropy(logits, labels)
            return loss if share is None else loss * share, logits

        loss, logits, gradients = ENGINE.differentiated(objective, list(self._parameters.values()))
        return ops.stack([loss, *(ops.cast(hit, loss.dtype) for hit in _hits(logits, labels))]), gradients

    def _shared_step(self, images: Any, labels: Any, masks: list[Any], weights: Any) -> Any:
        """weights: of every image in the loss. On several copies of the variables, their gradients are summed."""

        def objective() -> tuple[Any, Any]:
            logits = self._scores(images, masks)
            losses = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
            return ops.sum(losses * weights), logits

        variables = list(self._parameters.values())
        loss, logits, gradients = ENGINE.differentiated(objective, variables)
        self._optimizer.apply(gradients, variables)
        found = (
            ops.sum(ops.cast(hit, loss.dtype) * ops.cast(weights > 0, loss.dtype)) for hit in _found(logits, labels)
        )
        return ops.stack([loss, *found])

    # --- the boundary -------------------------------------------------------------------------------------------------

    def _host(self, array: Any) -> Any:
        """`array` in the dtype of the network; what is on the device already stays there."""
        dtype = self._host_dtype
        return np.ascontiguousarray(array, dtype) if isinstance(array, np.ndarray) else ops.cast(array, dtype)

    def _masks(self, masks: Masks | None, images: Array) -> list[Array] | None:
        check_masks(masks, self.spec, len(images))
        if masks is None:
            return None
        given = [masks[name] for name in dropout_shapes(self.spec)]
        return [np.ascontiguousarray(mask) if isinstance(mask, np.ndarray) else mask for mask in given]


def _classes(labels: Array) -> Array:
    return np.ascontiguousarray(labels, np.int32)


def _channels_last(x: Any) -> Any:
    return ops.transpose(x, (0, 2, 3, 1)) if len(x.shape) == 4 else x


def _channels_first(x: Any) -> Any:
    return ops.transpose(x, (0, 3, 1, 2)) if len(x.shape) == 4 else x


def _array(tensor: Any) -> Array:
    """A copy in the host's memory. NumPy has no bfloat16: float32 holds it exactly."""
    array = np.array(ops.convert_to_numpy(tensor))
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _canonical_copy(tensor: Any) -> Array:
    return np.ascontiguousarray(to_canonical(_array(tensor)))


def _cross_entropy(logits: Any, labels: Any) -> Any:
    losses = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    return ops.sum(losses) / ops.cast(ops.shape(losses)[0], losses.dtype)  # ops.mean rounds float64 to float32 on JAX


def _hits(logits: Any, labels: Any) -> tuple[Any, Any]:
    """How many labels are among the best 1 and the best 5 scores."""
    first, fifth = _found(logits, labels)
    return ops.sum(ops.cast(first, "int32")), ops.sum(ops.cast(fifth, "int32"))


def _found(logits: Any, labels: Any) -> tuple[Any, Any]:
    """Whether each label is among the best 1 and the best 5 scores; :func:`backends.base.tally` says how."""
    labels = ops.expand_dims(labels, 1)
    own = ops.take_along_axis(logits, labels, axis=1)
    later = ops.expand_dims(ops.arange(logits.shape[1], dtype="int32"), 0) >= labels
    # Counted from behind: TensorFlow takes "not <=" for ">", which it is not where a score is not a number.
    behind = ops.logical_or(logits < own, ops.logical_and(logits == own, later))
    rank = logits.shape[1] - ops.sum(ops.cast(behind, "int32"), axis=1)
    return rank < 1, rank < 5
