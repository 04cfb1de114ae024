"""Keras, on whichever framework this process runs it, behind the contract of every backend."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Unpack

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from backends.base import Array, Arrays, Backend, Gradients, Masks, Metrics, Unsupported, check_arrays, check_masks
from backends.keras.augmentation import augmented
from backends.keras.engine import ENGINE
from backends.keras.model import chain, image_input, network, parameters, to_canonical, to_keras
from backends.keras.optimizer import SGD
from data import Draws, Known
from data.dataset import Images
from data.shards import taken
from spec import Settings, Spec, dropout_shapes


class KerasBackend(Backend):
    """The network of :mod:`backends.keras.model` and the optimizer of :mod:`backends.keras.optimizer`.

    Two functional models share its layers: one for evaluation, and one for training that takes the masks as inputs.
    """

    name = f"keras-{keras.backend.backend()}"
    dtypes = ("float32", "float64", "bfloat16")

    def __init__(self, spec: Spec, *, dtype: str = "float32", device: str = "auto") -> None:
        super().__init__(spec, dtype=dtype, device=device)
        running = keras.backend.backend()
        wanted = os.environ.get("KERAS_BACKEND", running)
        if wanted != running:
            raise RuntimeError(f"Keras runs on one framework in a process, here {running}. Received: {wanted}")
        ENGINE.prepare(dtype)
        self.device, self._place = ENGINE.device(device)
        if self.device.startswith("mps") and dtype == "float64":
            raise Unsupported("the device mps computes in float32. Received: float64")
        with keras.device(self._place):
            self.model = network(spec, dtype, lambda name: keras.initializers.Zeros())
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
            state, weights = self.model.variables, list(self._parameters.values())
            self._run = ENGINE.compiled(self._outputs, state)
            self._predict = ENGINE.compiled(self._logits, state)
            self._differentiate = ENGINE.compiled(self._gradients, state)
            self._measure = ENGINE.compiled(self._loss, state)
            self._update = ENGINE.compiled(self._step, state, [*weights, *self._optimizer.variables])
        self._steps: list[tuple[int, Any]] = []
        """Of every step since the last reading: images, and (mean loss, hits among 1 and 5), still on the device."""

    # --- the contract -------------------------------------------------------------------------------------------------

    def load(self, parameters: Arrays, velocities: Arrays | None = None) -> None:
        check_arrays(parameters, self.spec, "parameters")
        if velocities is not None:
            check_arrays(velocities, self.spec, "velocities")
        with keras.device(self._place):
            for name, velocity in self._optimizer.velocities().items():
                self._parameters[name].assign(to_keras(parameters[name]))
                velocity.assign(np.zeros(velocity.shape) if velocities is None else to_keras(velocities[name]))

    def parameters(self) -> dict[str, Array]:
        return {name: _canonical_copy(variable.value) for name, variable in self._parameters.items()}

    def velocities(self) -> dict[str, Array]:
        return {name: _canonical_copy(variable.value) for name, variable in self._optimizer.velocities().items()}

    def outputs(self, images: Array, masks: Masks | None = None) -> dict[str, Array]:
        with keras.device(self._place):
            outputs = self._run(self._host(images), self._masks(masks, images))
        return {layer.name: _array(output) for layer, output in zip(self.spec.layers, outputs, strict=True)}

    def predict(self, images: Array) -> Array:
        with keras.device(self._place):
            return _array(self._predict(self._host(images)))

    def gradients(self, images: Array, cotangent: Array, masks: Masks | None = None) -> Gradients:
        with keras.device(self._place):
            arguments = self._host(images), self._host(cotangent), self._masks(masks, images)
            logits, (*by_parameter, by_input) = self._differentiate(*arguments)
        found = {name: _canonical_copy(g) for name, g in zip(self._parameters, by_parameter, strict=True)}
        return Gradients(_array(logits), found, _array(by_input))

    def loss(self, images: Array, labels: Array, masks: Masks | None = None) -> float:
        with keras.device(self._place):
            return float(self._measure(self._host(images), _classes(labels), self._masks(masks, images)))

    def apply_training(self, images: Images, indices: npt.ArrayLike, drawn: Draws, **known: Unpack[Known]) -> Any:
        """On a GPU from the stored bytes; a CPU has nothing quicker than the definition."""
        if self.device.startswith("cpu"):
            return super().apply_training(images, indices, drawn, **known)
        return self.apply_on_device(images, indices, drawn, **known)

    def apply_on_device(self, images: Images, indices: npt.ArrayLike, drawn: Draws, **known: Unpack[Known]) -> Any:
        """The same from the stored bytes, on any device."""
        with keras.device(self._place):
            return augmented(taken(images, indices), drawn, **known)

    def step(self, images: Array, labels: Array, settings: Mapping[str, Settings], masks: Masks) -> None:
        with keras.device(self._place):
            self._optimizer.use(settings)
            seen = self._update(self._host(images), _classes(labels), self._masks(masks, images))
        self._steps.append((len(images), seen))

    def metrics(self) -> Metrics:
        sizes = [images for images, _ in self._steps]
        seen = np.array([_array(values) for _, values in self._steps], np.float64).reshape(-1, 3)
        self._steps.clear()
        losses, (correct1, correct5) = seen[:, 0], seen[:, 1:].sum(axis=0)
        return Metrics(sum(sizes), float(losses @ sizes), int(correct1), int(correct5), tuple(losses.tolist()))

    # --- what is compiled: canonical tensors in; evaluation where masks is None ---------------------------------------

    def _chain(self, images: Any, masks: list[Any] | None) -> list[Any]:
        x = _channels_last(images)
        if masks is None:
            return list(self._evaluation(x, training=False))
        return list(self._training([x, *map(_channels_last, masks)], training=True))

    def _outputs(self, images: Any, masks: list[Any] | None) -> list[Any]:
        return [_channels_first(output) for output in self._chain(images, masks)]

    def _logits(self, images: Any) -> Any:
        return self.model(_channels_last(images), training=False)

    def _gradients(self, images: Any, cotangent: Any, masks: list[Any] | None) -> Any:
        def objective(images: Any) -> tuple[Any, Any]:
            logits = self._chain(images, masks)[-1]
            return ops.sum(cotangent * logits), logits

        _, logits, gradients = ENGINE.differentiated(objective, list(self._parameters.values()), [images])
        return logits, gradients

    def _loss(self, images: Any, labels: Any, masks: list[Any] | None) -> Any:
        return _cross_entropy(self._chain(images, masks)[-1], labels)

    def _step(self, images: Any, labels: Any, masks: list[Any]) -> Any:
        def objective() -> tuple[Any, Any]:
            logits = self._chain(images, masks)[-1]
            return _cross_entropy(logits, labels), logits

        weights = list(self._parameters.values())
        loss, logits, gradients = ENGINE.differentiated(objective, weights)
        self._optimizer.apply(gradients, weights)
        return ops.stack([loss, *(ops.cast(hit, loss.dtype) for hit in _hits(logits, labels))])

    # --- the boundary -------------------------------------------------------------------------------------------------

    def _host(self, array: Any) -> Any:
        """`array` in the dtype of the network; what is on the device already stays there."""
        return np.ascontiguousarray(array, self.dtype) if isinstance(array, np.ndarray) else ops.cast(array, self.dtype)

    def _masks(self, masks: Masks | None, images: Array) -> list[Array] | None:
        check_masks(masks, self.spec, len(images))
        return None if masks is None else [np.ascontiguousarray(masks[name]) for name in dropout_shapes(self.spec)]


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
    """How many labels are among the best 1 and the best 5 scores; :func:`backends.base.tally` says how."""
    labels = ops.expand_dims(labels, 1)
    own = ops.take_along_axis(logits, labels, axis=1)
    later = ops.expand_dims(ops.arange(logits.shape[1], dtype="int32"), 0) >= labels
    # Counted from behind: TensorFlow takes "not <=" for ">", which it is not where a score is not a number.
    behind = ops.logical_or(logits < own, ops.logical_and(logits == own, later))
    rank = logits.shape[1] - ops.sum(ops.cast(behind, "int32"), axis=1)
    return ops.sum(ops.cast(rank < 1, "int32")), ops.sum(ops.cast(rank < 5, "int32"))
