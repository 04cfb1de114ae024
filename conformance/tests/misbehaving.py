"""Backends that go wrong in every way but numerically, for the tests of what is said about them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from typing import Any

import numpy as np

from backends.base import Array, Inference, Masks
from backends.numpy import NumpyBackend


class Dies(NumpyBackend):
    """Is killed while it computes."""

    name = "dies"

    def outputs(self, images: Array, masks: Masks | None = None) -> dict[str, Array]:
        os.kill(os.getpid(), signal.SIGKILL)
        return {}


class Exits(NumpyBackend):
    """Leaves, after some last words."""

    name = "exits"

    def outputs(self, images: Array, masks: Masks | None = None) -> dict[str, Array]:
        print("out of licences", file=sys.stderr, flush=True)
        os._exit(3)


class Hangs(NumpyBackend):
    """Never answers."""

    name = "hangs"

    def outputs(self, images: Array, masks: Masks | None = None) -> dict[str, Array]:
        time.sleep(3600)
        return {}


class Chatters(NumpyBackend):
    """Is right, but prints on standard output, from Python and from C, at import and at work."""

    name = "chatters"

    def outputs(self, images: Array, masks: Masks | None = None) -> dict[str, Array]:
        print('{"loss": "0x0p+0"}', flush=True)
        os.write(1, b"not a line of JSON\n")
        ctypes.CDLL(None).puts(b"printed by C")
        return super().outputs(images, masks)


class Raises(NumpyBackend):
    """Raises."""

    name = "raises"

    def outputs(self, images: Array, masks: Masks | None = None) -> dict[str, Array]:
        raise ZeroDivisionError("by zero")


class _Spoils(NumpyBackend):
    """Answers with one layer's output spoilt."""

    def spoilt(self, output: Array) -> Any:
        raise NotImplementedError

    def outputs(self, images: Array, masks: Masks | None = None) -> dict[str, Array]:
        found = super().outputs(images, masks)
        return found | {"conv1": self.spoilt(found["conv1"])}


class NotFinite(_Spoils):
    """One number is none."""

    name = "not-finite"

    def spoilt(self, output: Array) -> Any:
        wrong = output.copy()
        wrong[1, 2, 3, 4] = np.nan
        return wrong


class WrongShape(_Spoils):
    """Channels last."""

    name = "wrong-shape"

    def spoilt(self, output: Array) -> Any:
        return np.moveaxis(output, 1, -1)


class WrongDtype(_Spoils):
    """More digits than asked for."""

    name = "wrong-dtype"

    def spoilt(self, output: Array) -> Any:
        return output.astype(np.float64)


class NotArrays(_Spoils):
    """A list."""

    name = "not-arrays"

    def spoilt(self, output: Array) -> Any:
        return output.tolist()


class WrongName(NumpyBackend):
    """Another name for a layer."""

    name = "wrong-name"

    def outputs(self, images: Array, masks: Masks | None = None) -> dict[str, Array]:
        found = super().outputs(images, masks)
        return {{"conv1": "Conv_1"}.get(name, name): output for name, output in found.items()}


class Views(NumpyBackend):
    """Returns its own parameters, which change later: right as long as they are copied at once."""

    name = "views"

    def parameters(self) -> dict[str, Array]:
        return self._parameters


class OnlyInfers(Inference):
    """Runs forward and no more."""

    name = "only-infers"
    dtypes = ("float32",)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._inner = NumpyBackend(self.spec, dtype="float32")

    def load(self, parameters: Any, velocities: Any = None) -> None:
        self._inner.load(parameters)

    def parameters(self) -> dict[str, Array]:
        return self._inner.parameters()

    def outputs(self, images: Array) -> dict[str, Array]:
        return self._inner.outputs(images)


NOT_A_BACKEND = 5
