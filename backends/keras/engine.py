"""The little that differs between TensorFlow, JAX and PyTorch under Keras: compiling, gradients, devices.

Everything else in this folder is written once, with ``keras.ops``. ``ENGINE`` is the one that this process runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import keras

from backends.base import Unsupported

Function = Callable[..., Any]
Differentiated = tuple[Any, Any, list[Any]]


class Engine(ABC):
    """What a framework under Keras must be asked for in its own words. A `variable` is a ``keras.Variable``."""

    tanh: Function
    """In the dtype of its argument: ``ops.tanh`` rounds float64 to float32 on JAX."""

    @abstractmethod
    def compiled(self, function: Function, reads: Sequence[Any], writes: Sequence[Any] = ()) -> Function:
        """`function` of NumPy arrays as one compiled call.

        reads, writes: every variable whose value it uses, and those that it assigns.
        """

    @abstractmethod
    def differentiated(
        self, function: Function, variables: Sequence[Any], inputs: Sequence[Any] = ()
    ) -> Differentiated:
        """(value, rest, gradients) of ``value, rest = function(*inputs)``, by the variables and then by the inputs.

        Called inside a compiled function. value: a scalar.
        """

    def fused(self, function: Function) -> Function:
        """An elementwise `function` of tensors as one kernel, where the framework does not see to that by itself."""
        return function

    def prepare(self, dtype: str) -> None:  # noqa: B027
        """Make the framework able to compute in `dtype`."""

    @abstractmethod
    def devices(self) -> tuple[str, ...]:
        """The kinds of device that are present: ``cpu``, and ``cuda`` or ``mps``."""

    def device(self, wanted: str) -> tuple[str, str]:
        """The device for ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``, in these words and in Keras'.

        Raises Unsupported if this machine, or this build of the framework, does not have it.
        """
        present = self.devices()
        kind, _, index = wanted.partition(":")
        if wanted == "auto":
            kind = next((kind for kind in present if kind != "cpu"), "cpu")
        elif kind not in present or not (index or "0").isdecimal():
            name = keras.backend.backend()
            required = f"a device of Keras on {name} on this machine must be one of auto, {', '.join(present)}"
            raise Unsupported(f"{required}. Received: {wanted}")
        return kind + (f":{index}" if index else ""), self._keras_device(kind, index)

    def _keras_device(self, kind: str, index: str) -> str:
        return f"{'gpu' if kind == 'cuda' else kind}:{index or 0}"


class TensorFlow(Engine):
    """``tf.function`` and ``tf.GradientTape``."""

    def __init__(self) -> None:
        import tensorflow

        self.tf, self.tanh = tensorflow, tensorflow.tanh

    def compiled(self, function: Function, reads: Sequence[Any], writes: Sequence[Any] = ()) -> Function:
        compiled: Function = self.tf.function(function, autograph=False, reduce_retracing=True)
        return compiled

    def fused(self, function: Function) -> Function:
        fused = self.tf.function(function, autograph=False, jit_compile=True, reduce_retracing=True)
        return lambda *tensors: fused(*map(self.tf.convert_to_tensor, tensors))

    def differentiated(
        self, function: Function, variables: Sequence[Any], inputs: Sequence[Any] = ()
    ) -> Differentiated:
        with self.tf.GradientTape() as tape:
            tape.watch(inputs)
            value, rest = function(*inputs)
        return value, rest, tape.gradient(value, [*(v.value for v in variables), *inputs])

    def devices(self) -> tuple[str, ...]:
        return ("cpu", "cuda") if self.tf.config.list_physical_devices("GPU") else ("cpu",)


class Jax(Engine):
    """``jax.jit`` and ``jax.value_and_grad`` of pure functions, to which variables are arguments and results."""

    def __init__(self) -> None:
        import jax

        self.jax, self.tanh = jax, jax.numpy.tanh

    def compiled(self, function: Function, reads: Sequence[Any], writes: Sequence[Any] = ()) -> Function:
        written = {id(v) for v in writes}
        kept = [v for v in reads if id(v) not in written]

        def pure(changing: list[Any], constant: list[Any], *inputs: Any) -> tuple[Any, list[Any]]:
            with keras.StatelessScope([*zip(writes, changing), *zip(kept, constant)]) as scope:
                result = function(*inputs)
            return result, [scope.get_current_value(v) for v in writes]

        # What changes is donated, so that it is updated in place.
        jitted = self.jax.jit(pure, donate_argnums=0)

        def run(*inputs: Any) -> Any:
            result, values = jitted([v.value for v in writes], [v.value for v in kept], *inputs)
            for variable, value in zip(writes, values):
                variable.assign(value)
            return result

        return run

    def differentiated(
        self, function: Function, variables: Sequence[Any], inputs: Sequence[Any] = ()
    ) -> Differentiated:
        def pure(values: list[Any], inputs: list[Any]) -> tuple[Any, Any]:
            with keras.StatelessScope(list(zip(variables, values))):
                value, rest = function(*inputs)
            return value, rest

        call = self.jax.value_and_grad(pure, argnums=(0, 1), has_aux=True)
        (value, rest), (by_variable, by_input) = call([v.value for v in variables], list(inputs))
        return value, rest, [*by_variable, *by_input]

    def prepare(self, dtype: str) -> None:
        if dtype == "float64":
            self.jax.config.update("jax_enable_x64", True)

    def devices(self) -> tuple[str, ...]:
        return ("cpu",) if self.jax.default_backend() == "cpu" else ("cpu", "cuda")


class Torch(Engine):
    """Eager PyTorch and its autograd."""

    def __init__(self) -> None:
        import torch

        self.torch, self.tanh = torch, torch.tanh

    def compiled(self, function: Function, reads: Sequence[Any], writes: Sequence[Any] = ()) -> Function:
        def tensor(x: Any) -> Any:  # the dtype is named because Keras would make float64 float32
            return None if x is None else keras.ops.convert_to_tensor(x, dtype=x.dtype.name)

        def run(*inputs: Any) -> Any:
            with self.torch.no_grad():
                return function(*keras.tree.map_structure(tensor, inputs))

        return run

    def differentiated(
        self, function: Function, variables: Sequence[Any], inputs: Sequence[Any] = ()
    ) -> Differentiated:
        with self.torch.enable_grad():
            leaves = [x.detach().requires_grad_() for x in inputs]
            value, rest = function(*leaves)
            gradients = self.torch.autograd.grad(value, [*(v.value for v in variables), *leaves])
        return value.detach(), keras.tree.map_structure(lambda x: x.detach(), rest), list(gradients)

    def devices(self) -> tuple[str, ...]:
        present = {"cpu": True, "cuda": self.torch.cuda.is_available(), "mps": self.torch.backends.mps.is_available()}
        return tuple(kind for kind, there in present.items() if there)

    def _keras_device(self, kind: str, index: str) -> str:
        # On "cpu:0", which is not "cpu" to PyTorch, Keras' variables would be no leaves of the graph.
        return f"{kind}:{index}" if index else kind


_ENGINES: dict[str, Callable[[], Engine]] = {"tensorflow": TensorFlow, "jax": Jax, "torch": Torch}
ENGINE = _ENGINES[keras.backend.backend()]()
