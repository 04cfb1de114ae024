"""What a worker does with the requests it gets: one method of :class:`Servant` for each, named by ``do``."""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.metadata
import json
import os
import platform
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from backends.base import Array, Backend, Gradients, Inference, Metrics, Unsupported
from backends.group import Group
from backends.registry import backend_class, join
from conformance import data_answers, file_answers
from conformance.columns import CLASSES
from conformance.exchange import read_arrays, write_arrays
from conformance.meaning import Answers
from conformance.ranks import in_processes
from data import batches
from spec import Settings, from_values

Request = dict[str, Any]
Answer = dict[str, Any]

DISMISS = "dismiss"
"""The last request: it gets no answer."""
SAMPLE = 1 << 16
"""Elements of a returned array that are looked at again later."""
WATCHED = 1 << 24
"""Larger arrays are not kept to be looked at: the first dense layer of a full network has 38 million elements."""


class NotABackend(TypeError):
    """A name that stands for nothing, or for something that is no backend."""


class ContractBroken(RuntimeError):
    """A backend did what the contract forbids."""


def find(name: str) -> type[Inference]:
    """The class of a backend: one of this repository by name, any other as ``package.module:Class``.

    Raises ValueError for an unknown name, NotABackend for one that is no backend's, whatever importing it raises.
    """
    module, colon, class_name = CLASSES.get(name, name).partition(":")
    if not colon:
        return backend_class(name.partition("*")[0])
    found = getattr(importlib.import_module(module), class_name, None)
    if not (isinstance(found, type) and issubclass(found, Inference)):
        received = f"{module} has no {class_name}" if found is None else repr(found)
        raise NotABackend(f"{name} must be a subclass of backends.Inference or backends.Backend. Received: {received}")
    return found


class Given:
    """What a backend has returned, kept to see whether it changes later: what is returned must be a copy."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, tuple[Array, bytes]]] = {}

    def take(self, method: str, arrays: Mapping[str, Array]) -> None:
        """Keep what `method` has returned, in place of what it returned before."""
        small = {name: array for name, array in arrays.items() if array.size <= WATCHED}
        self._kept[method] = {name: (array, _sample(array)) for name, array in small.items()}

    def require_unchanged(self) -> None:
        """Raise ContractBroken if anything has changed, and forget it."""
        for method, arrays in list(self._kept.items()):
            changed = [name for name, (array, sample) in arrays.items() if _sample(array) != sample]
            if changed:
                del self._kept[method]
                which = ", ".join(changed[:3]) + f" and {len(changed) - 3} more" * (len(changed) > 3)
                raise ContractBroken(f"what {method}() returned must be a copy, but it changed later: {which}")


def _sample(array: Array) -> bytes:
    """Bytes of about SAMPLE elements, evenly spread."""
    every = max(1, array.size // SAMPLE)
    flat = array.reshape(-1) if array.flags.c_contiguous else array.flat
    return bytes(np.ascontiguousarray(flat[::every]).tobytes())


class Servant(Answers, data_answers.Answers, file_answers.Answers):
    """Holds one backend at a time and does what requests say."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.backend: Any = None
        self.given = Given()
        self._mutation = contextlib.ExitStack()
        self._group: Group | None = None
        self._process = os.getpid()

    def leave_if_forked(self) -> None:
        """End this process if it is a child that the backend forked, with its copy of everything."""
        if os.getpid() != self._process:
            os._exit(0)

    def answer(self, request: Request) -> Answer:
        """Do what a request says. What was returned before must still be as it was then."""
        act: Callable[[Request], Answer] = getattr(self, request["do"])
        self._fresh: dict[str, Array] = {}
        answer = act(request)
        self.given.require_unchanged()
        if self._fresh:
            self.given.take(request["do"], self._fresh)
        return answer

    def _written(self, request: Request, arrays: dict[str, Array]) -> Answer:
        self.leave_if_forked()  # its parent writes the same files
        names = write_arrays(Path(request["answer"]), arrays)
        self._fresh = arrays
        return {"arrays": names}

    def describe(self, request: Request) -> Answer:
        """What the backend can compute in, whether it trains, and what versions it stands on."""
        kind = find(self.name)
        own = _versions(getattr(kind, "libraries", ()), imported=False)
        versions = {"python": platform.python_version(), **own, **_versions(_LIBRARIES)}
        gc.freeze()  # the framework itself stays: looking through it takes longer than most answers
        return {
            "dtypes": list(kind.dtypes),
            "trains": issubclass(kind, Backend),
            "running_sum_lrn": bool(getattr(kind, "running_sum_lrn", False)),
            "versions": versions,
        }

    def create(self, request: Request) -> Answer:
        """A backend for a specification; the one before is let go, with what memory it held."""
        self.release(request)
        made = from_values(request["spec"])
        self.backend = find(self.name)(made, dtype=request["dtype"], device=request["device"], **self._sharing())
        return {"device": self.backend.device}

    def _sharing(self) -> dict[str, Any]:
        """What a backend is made with whose name ends in ``*2``: see :mod:`conformance.ranks`."""
        base, _, count = self.name.partition("*")
        if not count:
            return {}
        if in_processes(self.name) == 1:
            return {"devices": int(count)}
        self._group = self._group or join(base)
        return {"group": self._group}

    def release(self, request: Request) -> Answer:
        held = self.backend is not None
        self.backend, self.given = None, Given()
        if held:
            gc.collect()
        return {}

    def mutate(self, request: Request) -> Answer:
        """Undo the mutant that is in this process, and apply another (null: none). Backends are made afterwards."""
        from conformance.mutants import find as find_mutant

        self.release(request)
        self._mutation.close()
        if request["mutant"] is not None:
            find(self.name)  # the framework is chosen by what is imported first
            self._mutation.enter_context(find_mutant(request["mutant"]).apply())
        return {}

    def load(self, request: Request) -> Answer:
        velocities = _arrays(request, "velocities") if "velocities" in request else None
        self.backend.load(_arrays(request, "parameters"), velocities)
        return {}

    def outputs(self, request: Request) -> Answer:
        inputs = _arrays(request, "inputs")
        masks = {"masks": _arrays(request, "masks")} if "masks" in request else {}  # inference knows no masks
        return self._written(request, self.backend.outputs(inputs["images"], **masks))

    def predict(self, request: Request) -> Answer:
        return self._written(request, {"logits": self.backend.predict(_arrays(request, "inputs")["images"])})

    def gradients(self, request: Request) -> Answer:
        inputs = _arrays(request, "inputs")
        found = self.backend.gradients(inputs["images"], inputs["cotangent"], _masks(request))
        _require(found, Gradients, "gradients")
        return self._written(request, {**found.parameters, "input": found.input, "logits": found.logits})

    def loss(self, request: Request) -> Answer:
        inputs = _arrays(request, "inputs")
        return {"loss": float(self.backend.loss(inputs["images"], inputs["labels"], _masks(request))).hex()}

    def accumulate(self, request: Request) -> Answer:
        accumulate = getattr(self.backend, "accumulate", None)
        if accumulate is None:
            raise Unsupported("it has no accumulate: a batch is taken at once")
        accumulate(request["pieces"])
        return {}

    def step(self, request: Request) -> Answer:
        inputs = _arrays(request, "inputs")
        settings = {name: Settings(*values) for name, values in request["settings"].items()}
        images, labels, masks = inputs["images"], inputs["labels"], _arrays(request, "masks")
        if self._group is not None:
            self.backend.whole_batch = len(images)
            own = batches.share(len(images), self._group.rank, self._group.ranks)
            images, labels, masks = images[own], labels[own], {name: mask[own] for name, mask in masks.items()}
        self.backend.step(images, labels, settings, masks)
        return {}

    def parameters(self, request: Request) -> Answer:
        return self._written(request, self.backend.parameters())

    def velocities(self, request: Request) -> Answer:
        return self._written(request, self.backend.velocities())

    def metrics(self, request: Request) -> Answer:
        found = self.backend.metrics()
        _require(found, Metrics, "metrics")
        losses = [float(loss).hex() for loss in found.losses]
        return {
            "counts": [found.images, found.correct1, found.correct5],
            "loss": float(found.loss).hex(),
            "losses": losses,
        }


def _arrays(request: Request, what: str) -> dict[str, Array]:
    folder, names = request[what]
    return read_arrays(Path(folder), names)


def _masks(request: Request) -> dict[str, Array] | None:
    return _arrays(request, "masks") if "masks" in request else None


_LIBRARIES = ("numpy", "torch", "keras", "tensorflow", "jax", "jaxlib", "onnx", "onnxruntime")


def _require(found: Any, kind: type, method: str) -> None:
    if not isinstance(found, kind):
        raise TypeError(f"{method}() must return backends.{kind.__name__}. Received: {type(found).__name__}")


def _versions(libraries: Iterable[str], imported: bool = True) -> dict[str, str]:
    """Of those that have been imported, or of all that are installed."""
    found: dict[str, str] = {}
    for name in libraries:
        if name in sys.modules or not imported:
            version = getattr(sys.modules.get(name), "__version__", None)
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[name] = str(version or importlib.metadata.version(name))
    return found


def _attempt(servant: Servant, request: Request) -> Answer:
    """An answer, whatever happens: an error of the backend, be it its wish to exit, is an answer too."""
    try:
        return servant.answer(request)
    except Unsupported as error:
        return {"unsupported": str(error)}
    except (NotABackend, ContractBroken) as error:
        return {"not_there" if isinstance(error, NotABackend) else "broken": str(error)}
    except ModuleNotFoundError as error:
        if request["do"] in ("describe", "create") and error.name:
            return {"missing": error.name}
        raised: BaseException = error
    except BaseException as error:
        raised = error
    traceback.print_exception(raised, file=sys.stderr)
    return {"error": f"{type(raised).__name__}: {raised}"}


def serve(name: str, requests: TextIO, answers: TextIO) -> bool:
    """Answer requests until one says that it is the last, or they end. Returns whether one did.

    An error of the backend is an answer, and the process lives on.
    """
    servant = Servant(name)
    for line in requests:
        request = json.loads(line)
        if request["do"] == DISMISS:
            return True
        answer = _attempt(servant, request)
        servant.leave_if_forked()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    return False
