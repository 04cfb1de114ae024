"""PyTorch and Keras, which run specification and parameters of the file with the modules that also train them."""

# mypy: disallow-untyped-calls=False

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

from backends import create
from backends.base import Array
from benchmarks.devices import allow_tf32, compile_strictly, device_memory
from benchmarks.engines.base import EngineError, Loaded, Subject, specified
from spec import geometry

Load = Callable[[Subject, onnx.ModelProto, int], Loaded]


def torch(*, device: str = "cpu", precision: str = "float32", compiled: str | None = None, bound: bool = False) -> Load:
    """The module of the torch backend.

    compiled: a mode of torch.compile. bound: images stay on the device and so do logits, as ONNX Runtime's IOBinding
    has it; else both are copied at each call.
    """

    def load(subject: Subject, model: onnx.ModelProto, threads: int) -> Loaded:
        import torch

        from backends.torch.model import empty

        if device == "cuda" and not torch.cuda.is_available():
            raise EngineError("this PyTorch has no CUDA device")
        stated, parameters = specified(subject, model)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        dtype = torch.float32 if precision == "tf32" else getattr(torch, precision)
        network: Any = empty(stated, dtype=dtype, device=device).eval()
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.copy_(torch.tensor(parameters[name]))
        if compiled is None or device == "cuda":  # on a CPU, the compiler's loops like the plain layout as well
            network = network.to(memory_format=torch.channels_last)
        call = network
        if compiled is not None:
            call = compile_strictly(network, compiled)

        def place(images: Array) -> Any:
            x = torch.from_numpy(images)
            return x.to(device, dtype) if bound else x

        def run(x: Any) -> Any:
            with torch.inference_mode():
                logits = call(x if bound else x.to(device, dtype))
                if bound:
                    if device == "cuda":
                        torch.cuda.synchronize()
                    return logits
                return logits.float().cpu()

        used = next(iter(network.parameters())).dtype
        words = "eager" if compiled is None else f"torch.compile, inductor, mode {compiled}"
        return Loaded(
            run,
            words + (", bound to the device" if bound else ""),
            geometry(stated).input_shape,
            "tf32" if precision == "tf32" and device == "cuda" else str(used).removeprefix("torch."),
            device=device,
            place=place,
            fetch=lambda logits: np.asarray(logits.float().cpu().numpy()),
            device_memory=lambda: device_memory("torch") if device == "cuda" else None,
        )

    return load


def keras(framework: str, *, device: str = "cpu", precision: str = "float32") -> Load:
    """The Keras backend on `framework`; NumPy in, NumPy out."""

    def load(subject: Subject, model: onnx.ModelProto, threads: int) -> Loaded:
        stated, parameters = specified(subject, model)
        dtype = "float32" if precision == "tf32" else precision
        backend = create(f"keras-{framework}", stated, dtype=dtype, device=device)
        if precision == "tf32":
            allow_tf32(framework)
        backend.load(parameters)
        return Loaded(
            backend.predict,
            "compiled as the backend compiles",
            geometry(stated).input_shape,
            "tf32" if precision == "tf32" and device == "cuda" else dtype,
            device=device,
            device_memory=lambda: device_memory(framework) if device == "cuda" else None,
        )

    return load
