"""What a worker does with the requests it gets: one method of :class:`Servant` for each, named by ``do``."""

from __future__ import annotations

import gc
import importlib
import json
import platform
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from backends.base import Array, Backend, Inference, Unsupported
from backends.registry import backend_class
from conformance.exchange import read_arrays, write_arrays
from spec import Settings, from_values

Request = dict[str, Any]
Answer = dict[str, Any]


def find(name: str) -> type[Inference]:
    """The class of a backend: one of this repository by name, any other as ``package.module:Class``.

    Raises ValueError if there is none, TypeError if it is not a backend.
    """
    module, colon, class_name = name.partition(":")
    if not colon:
        return backend_class(name)
    found = getattr(importlib.import_module(module), class_name, None)
    if not (isinstance(found, type) and issubclass(found, Inference)):
        raise TypeError(f"{name} must be a subclass of backends.Inference or backends.Backend. Received: {found!r}")
    return found


class Servant:
    """Holds one backend at a time and does what requests say."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.backend: Any = None

    def describe(self, request: Request) -> Answer:
        """What the backend can compute in, whether it trains, and what versions it stands on."""
        kind = find(self.name)
        versions = {"python": platform.python_version(), **_versions()}
        return {"dtypes": list(kind.dtypes), "trains": issubclass(kind, Backend), "versions": versions}

    def create(self, request: Request) -> Answer:
        """A backend for a specification; the one before is let go, with what memory it held."""
        self.release(request)
        self.backend = find(self.name)(from_values(request["spec"]), dtype=request["dtype"], device=request["device"])
        return {"device": self.backend.device}

    def release(self, request: Request) -> Answer:
        self.backend = None
        gc.collect()
        return {}

    def load(self, request: Request) -> Answer:
        velocities = _arrays(request, "velocities") if "velocities" in request else None
        self.backend.load(_arrays(request, "parameters"), velocities)
        return {}

    def outputs(self, request: Request) -> Answer:
        inputs = _arrays(request, "inputs")
        masks = {"masks": _arrays(request, "masks")} if "masks" in request else {}  # inference knows no masks
        return _written(request, self.backend.outputs(inputs["images"], **masks))

    def predict(self, request: Request) -> Answer:
        return _written(request, {"logits": self.backend.predict(_arrays(request, "inputs")["images"])})

    def gradients(self, request: Request) -> Answer:
        inputs = _arrays(request, "inputs")
        found = self.backend.gradients(inputs["images"], inputs["cotangent"], _masks(request))
        return _written(request, {**found.parameters, "input": found.input, "logits": found.logits})

    def loss(self, request: Request) -> Answer:
        inputs = _arrays(request, "inputs")
        return {"loss": float(self.backend.loss(inputs["images"], inputs["labels"], _masks(request))).hex()}

    def step(self, request: Request) -> Answer:
        inputs = _arrays(request, "inputs")
        settings = {name: Settings(*values) for name, values in request["settings"].items()}
        self.backend.step(inputs["images"], inputs["labels"], settings, _arrays(request, "masks"))
        return {}

    def parameters(self, request: Request) -> Answer:
        return _written(request, self.backend.parameters())

    def velocities(self, request: Request) -> Answer:
        return _written(request, self.backend.velocities())

    def metrics(self, request: Request) -> Answer:
        found = self.backend.metrics()
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


def _written(request: Request, arrays: dict[str, Array]) -> Answer:
    return {"arrays": write_arrays(Path(request["answer"]), arrays)}


_LIBRARIES = ("numpy", "torch", "keras", "tensorflow", "jax", "jaxlib", "onnx", "onnxruntime")


def _versions() -> dict[str, str]:
    found = {name: getattr(sys.modules.get(name), "__version__", None) for name in _LIBRARIES}
    return {name: str(version) for name, version in found.items() if version is not None}


def serve(name: str, requests: TextIO, answers: TextIO) -> None:
    """Answer requests until they end. An error of the backend is an answer, and the process lives on."""
    servant = Servant(name)
    for line in requests:
        request = json.loads(line)
        act: Callable[[Request], Answer] = getattr(servant, request["do"])
        try:
            answer = act(request)
        except Unsupported as error:
            answer = {"unsupported": str(error)}
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            answer = {"error": f"{type(error).__name__}: {error}", "missing": getattr(error, "name", None)}
            if not isinstance(error, ImportError):
                del answer["missing"]
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
