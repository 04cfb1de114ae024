"""Backends that go wrong in every way but numerically, for the tests of what is said about them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from abc import abstractmethod
from typing import Any

import numpy as np

from backends.base import Array, Inference, Masks, Unsupported
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

    @abstractmethod
    def spoilt(self, output: Array) -> Any: ...

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
    """Returns its own parameters, and changes them later."""

    name = "views"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._own: dict[str, Array] = {}

    def parameters(self) -> dict[str, Array]:
        for name, array in super().parameters().items():
            self._own.setdefault(name, np.empty_like(array))[...] = array
        return self._own


class OneBuffer(NumpyBackend):
    """Answers from one buffer, again and again."""

    name = "one-buffer"

    def outputs(self, images: Array, masks: Masks | None = None) -> dict[str, Array]:
        found = super().outputs(images, masks)
        if not hasattr(self, "_buffers"):
            self._buffers = {name: np.empty_like(array) for name, array in found.items()}
        for name, array in found.items():
            self._buffers[name][...] = array
        return self._buffers


class WantsToExit(NumpyBackend):
    """Calls exit, as a script would."""

    name = "wants-to-exit"

    def outputs(self, images: Array, masks: Masks | None = None) -> dict[str, Array]:
        sys.exit(7)


class Interrupts(NumpyBackend):
    """Raises what the keyboard raises."""

    name = "interrupts"

    def outputs(self, images: Array, masks: Masks | None = None) -> dict[str, Array]:
        raise KeyboardInterrupt


class Forks(NumpyBackend):
    """Answers twice: both processes of a fork go on. The child stays."""

    name = "forks"

    def outputs(self, images: Array, masks: Masks | None = None) -> dict[str, Array]:
        os.fork()
        return super().outputs(images, masks)


class LeavesAChild(NumpyBackend):
    """Dies, but a child that it forked holds its pipes open."""

    name = "leaves-a-child"

    def outputs(self, images: Array, masks: Masks | None = None) -> dict[str, Array]:
        if os.fork() == 0:
            time.sleep(3600)
        os.kill(os.getpid(), signal.SIGKILL)
        return {}


class ClosesPipes(NumpyBackend):
    """Closes everything it finds open, as a daemon does."""

    name = "closes-pipes"

    def outputs(self, images: Array, masks: Masks | None = None) -> dict[str, Array]:
        os.closerange(0, 256)
        time.sleep(3600)
        return {}


class Greedy(NumpyBackend):
    """Takes memory, more and more."""

    name = "greedy"

    def outputs(self, images: Array, masks: Masks | None = None) -> dict[str, Array]:
        taken = []
        while True:
            taken.append(np.ones(1 << 22))
            time.sleep(0.02)


class Gigantic(_Spoils):
    """Answers with a tensor that no room is enough for."""

    name = "gigantic"

    def spoilt(self, output: Array) -> Any:
        return np.broadcast_to(np.float32(0), (1 << 20, 1 << 20))


class Floods(NumpyBackend):
    """Prints without end."""

    name = "floods"

    def outputs(self, images: Array, masks: Masks | None = None) -> dict[str, Array]:
        while True:
            print("x" * 65536)


class NoMapping(NumpyBackend):
    """Returns the outputs as a list."""

    name = "no-mapping"

    def outputs(self, images: Array, masks: Masks | None = None) -> Any:
        return list(super().outputs(images, masks).values())


class NotBuilt(NumpyBackend):
    """Cannot be made."""

    name = "not-built"

    def __init__(self, *args: Any, **options: Any) -> None:
        raise OSError("no device is free")


class Partly(NumpyBackend):
    """Trains, but has no gradients to show."""

    name = "partly"

    def gradients(self, *args: Any, **options: Any) -> Any:
        raise Unsupported("gradients stay on the device")


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
