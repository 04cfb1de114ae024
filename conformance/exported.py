"""Columns of ONNX files that frameworks' own exporters write: exported by the framework, run by ONNX Runtime.

Each is a backend like any other, ``--backend onnx-of-torch``, but only infers: what is compared is the file. The worker
is ONNX Runtime's; the framework exports in a process of its own, which the worker keeps.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any, ClassVar, NoReturn

import numpy as np

from backends.base import Array, Arrays, Inference, Unsupported, check_arrays
from backends.onnx import session, tensor_names
from backends.onnx.graph import INPUT, LOGITS
from conformance.columns import PREFIX
from export.exporters import PACKAGES
from export.framework import Exporter, ExporterMissing
from spec import Spec, geometry

KEPT = 4
"""Files that a backend keeps, so that checks which load the same parameters in turn do not export them anew."""


@cache
def _exporter(backend: str) -> Exporter:
    """The exporter's process, which ends with this one."""
    return Exporter(backend)


class _Exported(Inference):
    """The network of `spec` in the file that the exporter of ``exporter`` makes of it."""

    exporter: ClassVar[str]

    def __init__(self, spec: Spec, *, dtype: str = "float32", device: str = "auto") -> None:
        super().__init__(spec, dtype=dtype, device="cpu" if device == "auto" else device)
        try:
            self._exporter = _exporter(self.exporter)
        except ExporterMissing as error:
            raise ModuleNotFoundError(str(error), name=error.library) from error
        self._parameters: dict[str, Array] = {
            name: np.zeros(shape, np.float32) for name, shape in geometry(spec).parameters.items()
        }
        self._sessions: dict[tuple[str, bool], Any] = {}

    def load(self, parameters: Arrays, velocities: Arrays | None = None) -> None:
        check_arrays(parameters, self.spec, "parameters")
        self._parameters = {name: np.array(parameters[name], np.float32) for name in self._parameters}

    def parameters(self) -> dict[str, Array]:
        return {name: value.copy() for name, value in self._parameters.items()}

    def outputs(self, images: Array) -> dict[str, Array]:
        tensors = tensor_names(self.spec)
        values = self._session(every_layer=True).run([*tensors.values()], {INPUT: np.asarray(images, np.float32)})
        return dict(zip(tensors, values, strict=True))

    def predict(self, images: Array) -> Array:
        (logits,) = self._session(every_layer=False).run([LOGITS], {INPUT: np.asarray(images, np.float32)})
        return np.asarray(logits)

    def _session(self, every_layer: bool) -> Any:
        digest = hashlib.sha256()
        for value in self._parameters.values():
            digest.update(value.tobytes())
        key = digest.hexdigest(), every_layer
        if key not in self._sessions:
            outputs = [layer.name for layer in self.spec.layers] if every_layer else []
            model = self._exporter.export(self.spec, self._parameters, outputs)
            for old in list(self._sessions)[: 1 - KEPT]:
                del self._sessions[old]
            self._sessions[key] = session(model, device=self.device)
        return self._sessions[key]

    def _of_no_file(self, *given: Any, **named: Any) -> NoReturn:
        raise Unsupported("images and scores are no part of its file: they are asked of onnx")

    stored_image = known_statistics = evaluation_images = scores = named_answers = refuses = _of_no_file


class OfTorch(_Exported):
    name, exporter, libraries = f"{PREFIX}torch", "torch", PACKAGES["torch"]


class OfKerasOnTensorFlow(_Exported):
    name, exporter, libraries = f"{PREFIX}keras-tensorflow", "keras-tensorflow", PACKAGES["keras-tensorflow"]


class OfKerasOnJax(_Exported):
    name, exporter, libraries = f"{PREFIX}keras-jax", "keras-jax", PACKAGES["keras-jax"]


class OfKerasOnTorch(_Exported):
    name, exporter, libraries = f"{PREFIX}keras-torch", "keras-torch", PACKAGES["keras-torch"]
