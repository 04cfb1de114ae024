"""The process in which a framework exports: ``python -m export.framework_child BACKEND``.

A folder comes on each line of standard input; it holds ``request.json`` (the specification, and the layers to return)
and ``parameters.safetensors``, and receives ``model.onnx``. A line of JSON on standard output says how that went.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from backends.base import Arrays
from spec import Spec, from_values

Write = Callable[[Spec, Arrays, Sequence[str], int, Path], None]
"""Write a network with its parameters, that returns some layers, in an operator set, to a file."""


def _torch(spec: Spec, parameters: Arrays, returned: Sequence[str], opset: int, path: Path) -> None:
    import torch

    from backends.torch.model import empty

    network = empty(spec, dtype=torch.float32, device="cpu")
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(torch.from_numpy(parameters[name]))

    def run(x: Any) -> list[Any]:
        found = network.outputs(x)
        return [found[name] for name in returned]

    _torch_export(network, run, spec, opset, path)


def _torch_export(network: Any, run: Callable[[Any], list[Any]], spec: Spec, opset: int, path: Path) -> None:
    """By the exporter that traces with dynamo, with a free batch, into one file."""
    import torch

    class Exported(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Any) -> tuple[Any, ...]:
            return tuple(run(x))

    size = spec.input
    images = torch.zeros(2, size.channels, size.height, size.width)
    free = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(
        Exported().eval(), (images,), path, dynamo=True, opset_version=opset, dynamic_shapes=free, external_data=False,
        verbose=False,
    )  # fmt: skip


def _keras_model(spec: Spec, parameters: Arrays, returned: Sequence[str]) -> Any:
    """The Keras model of `spec` between canonical layouts: from (N, C, H, W), to the outputs of some layers."""
    import keras

    from backends.keras import model as ours
    from backends.keras.engine import ENGINE

    ENGINE.prepare("float32")
    ENGINE.exporting = True
    size = spec.input
    network = ours.network(spec, "float32", lambda name: keras.initializers.Zeros(), seed=0)
    for name, variable in ours.parameters(network).items():
        variable.assign(ours.to_keras(parameters[name]))
    images = keras.Input((size.channels, size.height, size.width), name="input")
    layers = [network.get_layer(layer.name) for layer in spec.layers]
    outputs = ours.chain(layers, keras.layers.Permute((2, 3, 1), name="Channels-last")(images))
    by_name = dict(zip((layer.name for layer in spec.layers), outputs, strict=True))
    found = [
        keras.layers.Permute((3, 1, 2), name=f"{name}-Canonical")(by_name[name])
        if len(by_name[name].shape) == 4
        else by_name[name]
        for name in returned
    ]
    return keras.Model(images, found)


def _keras(spec: Spec, parameters: Arrays, returned: Sequence[str], opset: int, path: Path) -> None:
    import keras
    import numpy as np

    model = _keras_model(spec, parameters, returned)
    size = spec.input
    model(np.zeros((1, size.channels, size.height, size.width), np.float32))  # Keras exports what was called
    signature = [keras.InputSpec(shape=(None, size.channels, size.height, size.width), dtype="float32", name="input")]
    model.export(str(path), format="onnx", verbose=False, input_signature=signature, opset_version=opset)


def _keras_torch(spec: Spec, parameters: Arrays, returned: Sequence[str], opset: int, path: Path) -> None:
    """Keras' own export would write this framework's free batches by the exporter that PyTorch has deprecated."""
    model = _keras_model(spec, parameters, returned)

    def run(x: Any) -> list[Any]:
        found = model(x, training=False)
        return found if isinstance(found, list) else [found]

    _torch_export(model, run, spec, opset, path)


WRITE: dict[str, Write] = {
    "torch": _torch,
    "keras-tensorflow": _keras,
    "keras-jax": _keras,
    "keras-torch": _keras_torch,
}


def _answer(write: Write, folder: Path) -> dict[str, str]:
    from safetensors.numpy import load_file

    try:
        request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
        parameters = load_file(folder / "parameters.safetensors")
        write(from_values(request["spec"]), parameters, request["outputs"], request["opset"], folder / "model.onnx")
    except ModuleNotFoundError as error:
        return {"missing": str(error.name)}
    except Exception as error:  # whatever an exporter raises is its answer
        traceback.print_exc()
        said = [line.strip() for line in str(error).splitlines() if line.strip()]
        return {"error": f"{type(error).__name__}: {said[0] if said else ''}"[:300]}
    return {}


def main(backend: str) -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what frameworks print is no answer
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if backend.startswith("keras-"):
        os.environ["KERAS_BACKEND"] = backend.removeprefix("keras-")
    for line in sys.stdin:
        answers.write(json.dumps(_answer(WRITE[backend], Path(line.rstrip("\n")))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
