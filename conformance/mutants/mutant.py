"""What a mutant is: a backend with one mistake in it, made while the process runs and unmade afterwards."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any, Literal

Target = Literal["torch", "keras", "onnx", "numpy", "spec", "data", "evaluation", "export"]
"""Whose code is wrong: a backend's (``backends.torch``), or that of the specification's own meaning (``spec``), which
backends and trainer call for initial parameters, draws, schedules and arithmetic; or what all backends' processes call
for images (``data``) and for scores (``backends.evaluation``); or of files (``export``)."""

CHECKS = (
    "evaluation-outputs",
    "prediction",
    "training-outputs",
    "evaluation-gradients",
    "training-gradients",
    "loss",
    "training-steps",
    "initialisation",
    "draws",
    "schedule",
    "stored-images",
    "training-images",
    "evaluation-images",
    "scores",
    "accumulation",
    "device-draws",
    "export",
    "import",
)
"""What a mutant can be caught by, as the checks of the suite are called."""

_MISSING: Any = object()


class Live:
    """The modules of a target in this process, and what has been changed in them.

    ``live.model`` is ``backends.torch.model`` for the target torch, and so on: imported when first named, so that
    reading the catalogue imports no framework.
    """

    def __init__(self, target: Target) -> None:
        self.target: Target = target
        self._undo: list[Callable[[], object]] = []

    def __getattr__(self, module: str) -> Any:
        if module.startswith("_"):
            raise AttributeError(module)
        package = self.target if self.target in ("spec", "data", "export") else f"backends.{self.target}"
        return importlib.import_module(f"{package}.{module}")

    def set(self, owner: Any, name: str, value: Any) -> None:
        """``owner.name = value``, owner a module or a class."""
        old = vars(owner).get(name, _MISSING)
        if old is _MISSING and not hasattr(owner, name):
            raise AttributeError(f"{owner!r} has no {name!r}: the code that this mutant changes is no longer there")
        setattr(owner, name, value)
        self.finally_(lambda: delattr(owner, name) if old is _MISSING else setattr(owner, name, old))

    def put(self, table: MutableMapping[Any, Any], key: Any, value: Any) -> Any:
        """``table[key] = value``. Returns what was there. Raises KeyError if nothing was."""
        old = table[key]
        table[key] = value
        self.finally_(lambda: table.__setitem__(key, old))
        return old

    def finally_(self, action: Callable[[], object]) -> None:
        """Have `action` done when the mutant is unmade, before what was asked for earlier."""
        self._undo.append(action)

    def undo(self) -> None:
        while self._undo:
            self._undo.pop()()


Patch = Callable[[Live], None]


@dataclass(frozen=True)
class Mutant:
    """One wrong implementation."""

    name: str
    """Unique, in kebab-case, beginning with its target."""
    target: Target
    what: str
    """What is wrong, in one sentence without an end."""
    concerns: tuple[str, ...]
    """Which values of a specification it gets wrong: ``lrn.alpha``, ``optimizer.decay``, ``draws.dropout``."""
    expected_check: str
    """The check that must notice: one of :data:`CHECKS`."""
    witness: str
    """A specification and inputs on which it differs from the oracle, by name; see ``witnesses.py``."""
    patch: Patch
    link: str | None = None
    """Where the same mistake shipped; None for a systematic one."""
    case: str | None = None
    """The small case that must notice, if others may not: by name; see ``conformance/recipes.py``."""

    @property
    def kind(self) -> Literal["shipped", "systematic"]:
        return "systematic" if self.link is None else "shipped"

    @contextlib.contextmanager
    def apply(self) -> Iterator[None]:
        """This process with the mistake in it, until the context ends.

        Backends must be created inside. For Keras, KERAS_BACKEND must be set, or the backend's class imported, before.
        """
        live = Live(self.target)
        try:
            self.patch(live)
            yield
        finally:
            live.undo()
