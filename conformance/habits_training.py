"""Habits beside the layers: of images, of the loss, of the optimizer, and numbers that the language does not have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from conformance.mutants.mutant import Live, Patch
from conformance.terms import Formulas, Rule

HABITS = Formulas()


# --- images, cotangent, labels ----------------------------------------------------------------------------------------


def _images(name: str, change: Callable[[Any], Any]) -> None:
    """Images are taken for others of their shape."""

    def patch(live: Live) -> None:
        kind = live.backend.NumpyBackend
        right, gradients = kind._forward, kind.gradients

        def forward(self: Any, images: Any, masks: Any) -> Any:
            other = change(np.asarray(images))
            return right(self, other if other.shape == np.shape(images) else images, masks)

        def by_images(self: Any, images: Any, *rest: Any) -> Any:
            found = gradients(self, images, *rest)
            other = change(found.input)
            return replace(found, input=other if other.shape == np.shape(images) else found.input)

        live.set(kind, "_forward", forward)
        live.set(kind, "gradients", by_images)

    HABITS[f"images: {name}"] = frozenset(), patch


_images("the channels of images came in the opposite order (BGR for RGB)", lambda x: x[:, ::-1])
_images("images were upside down", lambda x: x[:, :, ::-1])
_images("images were mirrored", lambda x: x[:, :, :, ::-1])
_images("rows and columns of images were exchanged", lambda x: x.swapaxes(2, 3))
_images("images were read as if their channels came last", lambda x: x.transpose(0, 2, 3, 1).reshape(x.shape))
_images("images came in the opposite order", lambda x: x[::-1])


def _method(name: str, method: str, rule: Callable[..., Any]) -> None:
    """Another method of the backend; the rule is called with what is right, the backend and what it is given."""

    def patch(live: Live) -> None:
        kind = live.backend.NumpyBackend
        right = getattr(kind, method)
        live.set(kind, method, lambda self, *given: rule(right, self, *given))

    HABITS[f"{method}: {name}"] = frozenset(), patch


_method("the cotangent were all ones", "gradients", lambda right, self, x, dy, *m: right(self, x, np.ones_like(dy), *m))
_method("velocities were forgotten when they are loaded", "load", lambda right, self, p, v=None: right(self, p, None))
_method(
    "velocities were given with the opposite sign",
    "velocities",
    lambda right, self: {n: -v for n, v in right(self).items()},
)


def _in_place(right: Rule, self: Any, images: Any, masks: Any = None) -> Any:
    found, before = right(self, images, masks), ""
    for layer in self.spec.layers:
        if layer.op == "relu" and before:
            found[before] = found[layer.name]
        before = layer.name
    return found


_method("a ReLU overwrote the output before it", "outputs", _in_place)


# --- loss -------------------------------------------------------------------------------------------------------------


def _mixed(logits: Any, labels: Any, share: float) -> Any:
    """The distribution that smoothed labels stand for."""
    wanted = np.full_like(logits, share / logits.shape[1])
    wanted[np.arange(len(labels)), labels] += 1 - share
    return wanted


def _log_softmax(logits: Any, axis: int) -> Any:
    shifted = logits - logits.max(axis=axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def _losses(name: str, loss: Rule, gradient: Rule) -> None:
    """Another loss with its gradient; both are called with what is right, logits and labels."""
    HABITS[f"loss: {name}"] = frozenset(), _of_losses(loss, gradient)


def _of_losses(loss: Rule, gradient: Rule) -> Patch:
    def patch(live: Live) -> None:
        forward, backward = live.backend.cross_entropy, live.backend.cross_entropy_backward
        live.set(live.backend, "cross_entropy", lambda z, labels: loss(forward, z, labels))
        live.set(live.backend, "cross_entropy_backward", lambda z, labels: gradient(backward, z, labels))

    return patch


def _picked(log: Any, labels: Any) -> float:
    return float(-log[np.arange(len(labels)), labels].mean())


def _probabilities(z: Any) -> Any:
    return np.exp(_log_softmax(z, 1))


def _twice_backward(right: Rule, z: Any, labels: Any) -> Any:
    p = _probabilities(z)
    dp = right(p, labels)
    return p * (dp - (dp * p).sum(axis=1, keepdims=True))


def _over_batch(right: Rule, z: Any, labels: Any) -> Any:
    one = np.zeros_like(z)
    one[np.arange(len(labels)), labels] = 1
    return (np.exp(_log_softmax(z, 0)) * one.sum(axis=0, keepdims=True) - one) / len(labels)


_losses("the softmax went over images, not classes", lambda right, z, y: _picked(_log_softmax(z, 0), y), _over_batch)
_losses("the softmax were taken twice", lambda right, z, y: right(_probabilities(z), y), _twice_backward)
_losses(
    "classes were counted from 1",
    lambda right, z, y: right(z, (y + 1) % z.shape[1]),
    lambda right, z, y: right(z, (y + 1) % z.shape[1]),
)
_losses(
    "probabilities were clipped at 1e-7",
    lambda right, z, y: _picked(np.log(np.clip(_probabilities(z), 1e-7, 1.0)), y),
    lambda right, z, y: right(z, y),
)
_losses(
    "the mean went over images and classes",
    lambda right, z, y: right(z, y) / z.shape[1],
    lambda right, z, y: right(z, y) / z.shape[1],
)
_losses(
    "the loss were a sum over images",
    lambda right, z, y: right(z, y) * len(y),
    lambda right, z, y: right(z, y) * len(y),
)


# --- the optimizer ----------------------------------------------------------------------------------------------------


@HABITS.named("momentum were Nesterov's", "update")
def _nesterov(right: Rule, w: Any, v: Any, g: Any, settings: Any, optimizer: Any) -> Any:
    """The parameter looks one step ahead, as Sutskever et al. (2013) and torch have it."""
    new_w, new_v = right(w, v, g, settings, optimizer)
    if settings.frozen:
        return new_w, new_v
    lr, coupled = settings.learning_rate, optimizer.decay == "coupled"
    direction = g + settings.weight_decay * w if coupled else g
    beside = 0.0 if coupled else lr * settings.weight_decay * w
    if optimizer.learning_rate_in_velocity:
        return w + optimizer.momentum * new_v - lr * direction - beside, new_v
    return w - lr * (direction + optimizer.momentum * new_v) - beside, new_v


@HABITS.named("the gradient were damped by 1 - momentum", "update")
def _damped(right: Rule, w: Any, v: Any, g: Any, settings: Any, optimizer: Any) -> Any:
    keep = 1 - optimizer.momentum
    return right(w, v, g * keep, replace(settings, weight_decay=settings.weight_decay * keep), optimizer)


@HABITS.named("the parameter were moved by the velocity of before", "update")
def _late(right: Rule, w: Any, v: Any, g: Any, settings: Any, optimizer: Any) -> Any:
    if settings.frozen:
        return w, v
    lr = 1.0 if optimizer.learning_rate_in_velocity else -settings.learning_rate
    return w + lr * v, right(w, v, g, settings, optimizer)[1]


@HABITS.named("decay took its share of the parameter after the step", "update")
def _decay_after(right: Rule, w: Any, v: Any, g: Any, settings: Any, optimizer: Any) -> Any:
    w, v = right(w, v, g, replace(settings, weight_decay=0.0), optimizer)
    return w * (1 - settings.learning_rate * settings.weight_decay), v


@HABITS.named("decay had the opposite sign", "update")
def _growth(right: Rule, w: Any, v: Any, g: Any, settings: Any, optimizer: Any) -> Any:
    return right(w, v, g, replace(settings, weight_decay=-settings.weight_decay), optimizer)


@HABITS.named("decay were not multiplied by the learning rate", "update")
def _full_decay(right: Rule, w: Any, v: Any, g: Any, settings: Any, optimizer: Any) -> Any:
    rate = settings.learning_rate or 1.0
    return right(w, v, g, replace(settings, weight_decay=settings.weight_decay / rate), optimizer)


def _step(name: str, change: Callable[[str, Any, Any], Any]) -> None:
    """A step by other settings: called with a parameter's name, its settings, and those of all."""

    def rule(right: Rule, self: Any, images: Any, labels: Any, settings: Any, masks: Any) -> None:
        right(self, images, labels, {n: change(n, one, settings) for n, one in settings.items()}, masks)

    _method(name, "step", rule)


def _sibling(name: str, settings: Any) -> Any:
    """The settings of the weight that a bias belongs to."""
    return settings.get(name.removesuffix(".bias") + ".weight", settings[name])


def _bias(name: str) -> bool:
    return name.endswith(".bias")


_step(
    "biases decayed as weights do",
    lambda n, one, all_: replace(one, weight_decay=_sibling(n, all_).weight_decay) if _bias(n) else one,
)
_step("biases did not decay", lambda n, one, all_: replace(one, weight_decay=0.0) if _bias(n) else one)
_step(
    "biases had the learning rate of weights",
    lambda n, one, all_: replace(one, learning_rate=_sibling(n, all_).learning_rate) if _bias(n) else one,
)
_step(
    "every parameter had the learning rate of the first",
    lambda n, one, all_: replace(one, learning_rate=next(iter(all_.values())).learning_rate),
)


def _remembered(key: str) -> Rule:
    """The settings of the step before, or of the first."""

    def rule(right: Rule, self: Any, images: Any, labels: Any, settings: Any, masks: Any) -> None:
        known = vars(self).setdefault("_habit", [])
        known.append(settings)
        right(self, images, labels, known[0 if key == "first" else max(0, len(known) - 2)], masks)

    return rule


_method("every step had the settings of the first", "step", _remembered("first"))
_method("a step had the settings of the step before", "step", _remembered("last"))


def _gathering(live: Live) -> None:
    kind, right, step = live.backend.NumpyBackend, live.backend.update, live.backend.NumpyBackend.step
    known: list[Any] = []
    place = [0]

    def update(w: Any, v: Any, g: Any, settings: Any, optimizer: Any) -> Any:
        if place[0] == len(known):
            known.append(0.0)
        known[place[0]] = known[place[0]] + g
        place[0] += 1
        return right(w, v, known[place[0] - 1], settings, optimizer)

    def stepped(self: Any, *given: Any) -> None:
        place[0] = 0  # parameters come in one order in every step
        step(self, *given)

    live.set(live.backend, "update", update)
    live.set(kind, "step", stepped)


HABITS["step: gradients were added to those of the steps before"] = frozenset(), _gathering


# --- numbers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Number:
    """A formula with a number in it that the language does not have: what is right, and the patch for another."""

    words: str
    right: float
    patch: Callable[[float], Patch]


def _settings(field: str) -> Callable[[float], Patch]:
    def of(factor: float) -> Patch:
        def patch(live: Live) -> None:
            right = live.backend.update

            def update(w: Any, v: Any, g: Any, one: Any, optimizer: Any) -> Any:
                other: Any = {field: getattr(one, field) * factor}
                return right(w, v, g, replace(one, **other), optimizer)

            live.set(live.backend, "update", update)

        return patch

    return of


def _scaled_gradient(factor: float) -> Patch:
    def patch(live: Live) -> None:
        right = live.backend.update
        live.set(live.backend, "update", lambda w, v, g, *rest: right(w, v, factor * g, *rest))

    return patch


def _smoothed(share: float) -> Patch:
    def loss(right: Rule, z: Any, labels: Any) -> float:
        return float(-(_log_softmax(z, 1) * _mixed(z, labels, share)).sum(axis=1).mean())

    def gradient(right: Rule, z: Any, labels: Any) -> Any:
        return (_probabilities(z) - _mixed(z, labels, share)) / len(labels)

    return _of_losses(loss, gradient)


def _scaled_loss(factor: float) -> Patch:
    def scaled(right: Rule, z: Any, labels: Any) -> Any:
        return right(z, labels) * factor

    return _of_losses(scaled, scaled)


def _scaled_images(factor: float) -> Patch:
    def patch(live: Live) -> None:
        kind = live.backend.NumpyBackend
        right = kind._forward
        live.set(kind, "_forward", lambda self, images, masks: right(self, np.asarray(images) * factor, masks))

    return patch


NUMBERS: dict[str, tuple[Number, ...]] = {
    "images": (Number("images were {:g} times what they are", 1.0, _scaled_images),),
    "loss": (
        Number("the loss were {:g} times what it is", 1.0, _scaled_loss),
        Number("labels were smoothed by {:g}", 0.0, _smoothed),
    ),
    "step": (
        Number("the learning rate were {:g} times what it is", 1.0, _settings("learning_rate")),
        Number("gradients were {:g} times what they are", 1.0, _scaled_gradient),
        Number("decay were {:g} times what it is", 1.0, _settings("weight_decay")),
    ),
}
"""By what they are about: see :data:`conformance.guesses.ABOUT`."""
