"""What a specification means beside its network: initial parameters, draws, schedules. Equal bit for bit, or wrong.

A backend that makes any of it itself has a method of the same name, without the backend as an argument; for one that
has not, its process answers by ``spec``, as training in that process would.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from backends.base import Array, Unsupported
from spec import Place, Settings, draws, dropout_shapes, settings
from spec import initial_parameters as drawn_parameters

Schedule = list[dict[str, Settings]]


def initial_parameters(backend: Any, seed: int) -> dict[str, Array]:
    """Where training from `seed` starts: float32, canonical layout."""
    own = getattr(backend, "initial_parameters", None)
    return dict(drawn_parameters(backend.spec, seed) if own is None else own(seed))


def dropout_masks(backend: Any, seed: int, images: Sequence[int], epoch: int) -> dict[str, Array]:
    """Which units every dropout layer keeps for `images` in `epoch`: bool (N, *output shape)."""
    own = getattr(backend, "dropout_masks", None)
    if own is not None:
        return {name: _on_the_host(mask) for name, mask in own(seed, images, epoch).items()}
    spec, items = backend.spec, np.asarray(images)
    return {
        name: draws.dropout_mask(seed, name, spec.layer(name).rate, shape, images=items, epoch=epoch)
        for name, shape in dropout_shapes(spec).items()
    }


def device_masks(backend: Any, seed: int, images: Sequence[int], epoch: int) -> dict[str, Array]:
    """The same as the backend's device works them out. Raises Unsupported where none does."""
    own = getattr(backend, "device_masks", None)
    if own is None:
        raise Unsupported("it has no device_masks: its masks are drawn on the host")
    return {name: _on_the_host(mask) for name, mask in own(seed, np.asarray(images), epoch).items()}


def _on_the_host(mask: Any) -> Array:
    return np.asarray(mask.cpu() if hasattr(mask, "cpu") else mask)


def order(backend: Any, seed: int, images: int, epoch: int) -> Array:
    """The order in which an epoch takes `images` images: int64."""
    own = getattr(backend, "order", None)
    found: Array = (
        draws.permutation(seed, draws.Purpose.SHUFFLE, images, epoch=epoch) if own is None else own(seed, images, epoch)
    )
    return found


def schedule(backend: Any, places: Sequence[Place], errors: Sequence[float]) -> Schedule:
    """The settings of every parameter at every place; errors: validation errors, of each place's earlier epochs."""
    own = getattr(backend, "schedule", None)
    if own is not None:
        return list(own(places, errors))
    return [settings(backend.spec, place, errors[: place.epoch]) for place in places]


class Answers(ABC):
    """The requests of a worker for these, as lines of JSON and files."""

    backend: Any

    @abstractmethod
    def _written(self, request: dict[str, Any], arrays: dict[str, Array]) -> dict[str, Any]:
        """Write arrays where the request says. Returns the answer that names them."""

    def initial_parameters(self, request: dict[str, Any]) -> dict[str, Any]:
        return self._written(request, initial_parameters(self.backend, request["seed"]))

    def dropout_masks(self, request: dict[str, Any]) -> dict[str, Any]:
        found = dropout_masks(self.backend, request["seed"], request["images"], request["epoch"])
        return self._written(request, found)

    def device_masks(self, request: dict[str, Any]) -> dict[str, Any]:
        found = device_masks(self.backend, request["seed"], request["images"], request["epoch"])
        return self._written(request, found)

    def order(self, request: dict[str, Any]) -> dict[str, Any]:
        found = order(self.backend, request["seed"], request["images"], request["epoch"])
        return self._written(request, {"order": found})

    def schedule(self, request: dict[str, Any]) -> dict[str, Any]:
        places = [Place(*place) for place in request["places"]]
        found = schedule(self.backend, places, request["errors"])
        values = [[[name, one.learning_rate.hex(), one.weight_decay.hex()] for name, one in at.items()] for at in found]
        return {"settings": values}


class Asks(ABC):
    """The same, asked of a worker."""

    @abstractmethod
    def _ask(self, do: str, what: str, arrays: Any = None, **request: Any) -> dict[str, Any]:
        """The answer to a request; `what` says in words what is being done."""

    @abstractmethod
    def _fetch(self, do: str, what: str, arrays: Any = None, **request: Any) -> dict[str, Array]:
        """The arrays of the answer to a request."""

    def initial_parameters(self, seed: int) -> dict[str, Array]:
        return self._fetch("initial_parameters", "drawing the initial parameters of", seed=seed)

    def dropout_masks(self, seed: int, images: npt.ArrayLike, epoch: int) -> dict[str, Array]:
        asked = {"seed": seed, "images": np.asarray(images).tolist(), "epoch": epoch}
        return self._fetch("dropout_masks", "drawing the dropout masks of", **asked)

    def device_masks(self, seed: int, images: npt.ArrayLike, epoch: int) -> dict[str, Array]:
        asked = {"seed": seed, "images": np.asarray(images).tolist(), "epoch": epoch}
        return self._fetch("device_masks", "drawing on the device the dropout masks of", **asked)

    def order(self, seed: int, images: int, epoch: int) -> Array:
        return self._fetch("order", "drawing the order of an epoch of", seed=seed, images=images, epoch=epoch)["order"]

    def schedule(self, places: Sequence[Place], errors: Sequence[float]) -> Schedule:
        asked = [[place.epoch, place.step, place.steps_per_epoch, place.epochs] for place in places]
        answer = self._ask("schedule", "following the schedule of", places=asked, errors=list(errors))
        read = float.fromhex
        return [{name: Settings(read(lr), read(wd)) for name, lr, wd in at} for at in answer["settings"]]
