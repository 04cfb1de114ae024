"""What the command lines of this room have in common: options, numbers, and one line for what was asked wrongly."""

from __future__ import annotations

import argparse
import difflib
import math
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from backends.registry import NAMES
from backends.starting import RequestError

KERAS_BACKENDS = ("tensorflow", "jax", "torch")
_FRAMEWORKS = ("torch", "keras", "tensorflow", "jax", "onnx", "onnxruntime")


class Parser(argparse.ArgumentParser):
    """Raises RequestError, one line, instead of printing its usage and leaving."""

    def __init__(self, **rest: object) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **rest)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message}{self._meant(message)} (--help lists the options)")

    def _meant(self, message: str) -> str:
        """The options that look most like those that are not known, as a question."""
        _, unknown, words = message.partition("unrecognized arguments: ")
        wrong = [word.partition("=")[0] for word in words.split() if word.startswith("-")] if unknown else []
        options = [name for name in self._option_string_actions if name.startswith("--")]
        near = [name for word in wrong for name in difflib.get_close_matches(word, options, 1)]
        near += [n for word in wrong for n in options if len(word) > 4 and n.startswith(word) and n not in near]
        return f". Did you mean {' '.join(near)}?" if near else ""

    def option(self, name: str, metavar: str, what: str, **rest: object) -> None:
        self.add_argument(name, metavar=metavar, help=what, **rest)  # type: ignore[arg-type]


def _number(kind: Callable[[str], float], low: float, high: float, required: str) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be {required}. Received: {text!r}")
        return value

    return read


count = _number(int, 1, 2**31 - 1, "a whole number of at least 1")
seed = _number(int, 0, 2**32 - 1, "a whole number from 0 to 2**32 - 1")
minutes = _number(float, 0.0, 1e6, "a number of minutes, 0 or more")
rate = _number(float, 1e-12, 1e6, "a number above 0")


def crops(text: str) -> str:
    """``center`` or ``ten``, as the specification writes them; ``centre`` is understood."""
    chosen = {"center": "center", "centre": "center", "ten": "ten"}.get(text)
    if chosen is None:
        raise argparse.ArgumentTypeError(f"must be centre or ten. Received: {text!r}")
    return chosen


def keras_backend() -> str:
    """What Keras runs on where nothing else is said: $KERAS_BACKEND, or TensorFlow."""
    return os.environ.get("KERAS_BACKEND") or KERAS_BACKENDS[0]


def backend(text: str) -> str:
    """The name of a backend; ``keras`` is Keras on :func:`keras_backend`."""
    name = f"keras-{keras_backend()}" if text == "keras" else text
    if name not in NAMES:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join((*NAMES, 'keras'))}. Received: {text!r}")
    return name


def fail(error: Exception, code: int) -> int:
    """Say `error` in one line. Returns `code`."""
    print(f"error: {error}", file=sys.stderr)
    return code


def not_installed(error: ModuleNotFoundError) -> RequestError:
    """`error` as one line for the user, if what is missing is a framework; raises it otherwise."""
    package = (error.name or "").partition(".")[0]
    if package not in _FRAMEWORKS:
        raise error
    return RequestError(f"what is asked for needs {package}, which is not installed (--backend names another way)")
