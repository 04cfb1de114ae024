"""A backend to be filled in. Copy this file, then run

    python -m conformance run --backend template:MyBackend --spec fashion-mini --verbose

What is not written yet is n/a with a reason, so that it runs from the first minute. CONTRACT.md in conformance/ is the
page to keep beside it, spec/README.md has every op as a formula.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from backends import Inference, Unsupported
from backends.base import Array, Arrays, check_arrays
from spec import LayerGeometry, Spec, geometry

# An op: (the layer with its arithmetic, its input (N, ...), its parameters as "weight" and "bias") -> its output.
Op = Callable[[LayerGeometry, Any, Mapping[str, Any]], Any]


def relu(at: LayerGeometry, x: Any, own: Mapping[str, Any]) -> Any:
    return np.maximum(x, 0)


def flatten(at: LayerGeometry, x: Any, own: Mapping[str, Any]) -> Any:
    return x.reshape(len(x), -1)


# Write conv, max_pool, lrn, dense, dropout (in evaluation), and as many others as you need; at.layer has the fields of
# the specification, at.padding the rows and columns to add, at.output_shape what must come out.
OPS: dict[str, Op] = {"relu": relu, "flatten": flatten}


class MyBackend(Inference):
    """Runs forward. To train too, make it a backends.Backend, which has six methods more."""

    name = "my-backend"
    dtypes = ("float32",)  # of float32, float64
    libraries = ("numpy",)  # whose versions belong into the report

    def __init__(self, spec: Spec, *, dtype: str = "float32", device: str = "auto") -> None:
        super().__init__(spec, dtype=dtype, device=device)
        if device not in ("auto", "cpu"):
            raise Unsupported(f"the device must be auto or cpu. Received: {device}")
        self.device = "cpu"
        self._layers = geometry(spec).layers
        self._parameters: dict[str, Array] = {}

    def load(self, parameters: Arrays, velocities: Arrays | None = None) -> None:
        check_arrays(parameters, self.spec, "parameters")
        self._parameters = {name: np.array(parameters[name], self.dtype) for name in geometry(self.spec).parameters}

    def parameters(self) -> dict[str, Array]:
        return {name: array.copy() for name, array in self._parameters.items()}

    def outputs(self, images: Array) -> dict[str, Array]:
        x, found = images.astype(self.dtype), {}
        for at in self._layers:
            if at.layer.op not in OPS:
                raise Unsupported(f"{at.layer.op} is not written yet")
            own = {name.rpartition(".")[2]: self._parameters[name] for name in at.parameters}
            x = found[at.name] = OPS[at.layer.op](at, x, own)
        return {name: np.array(output) for name, output in found.items()}
