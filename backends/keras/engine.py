"""The little that differs between TensorFlow, JAX and PyTorch under Keras: compiling, gradients, devices.

Everything else in this folder is written once, with ``keras.ops``. ``ENGINE`` is the one that this process runs.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from backends.base import Unsupported

Function = Callable[..., Any]
Differentiated = tuple[Any, Any, list[Any]]


class Engine(ABC):
    """What a framework under Keras must be asked for in its own words. A `variable` is a ``keras.Variable``."""

    tanh: Function
    """In the dtype of its argument: ``ops.tanh`` rounds float64 to float32 on JAX."""

    exporting = False
    """Whether functions are traced for a file of another runtime. Then none is compiled on its own: tf2onnx does not
    read calls of what is (onnx/tensorflow-onnx#2099)."""

    word = "uint32"
    """The dtype in which 32-bit words are computed with."""

    def product(self, word: Any, factor: int) -> tuple[Any, Any]:
        """The high and the low 32 bits of ``word * factor``, by halves of 16 bits: JAX has no wider numbers."""
        half, low = np.array(16, self.word), np.array(0xFFFF, self.word)
        near, far = np.array(factor & 0xFFFF, self.word), np.array(factor >> 16, self.word)
        a, b = ops.bitwise_and(word, low), ops.right_shift(word, half)
        first = b * near + ops.right_shift(a * near, half)
        second = ops.bitwise_and(first, low) + a * far
        high = b * far + ops.right_shift(first, half) + ops.right_shift(second, half)
        return high, word * np.array(factor, self.word)

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

    def convolution(self, x: Any, kernel: Any, strides: tuple[int, int], padding: str, groups: int) -> Any:
        """Convolution of x (N, H, W, C) with kernel (kh, kw, C / groups, out); padding: ``valid`` or ``same``.

        Here, each group is a convolution of its own on its slice: on JAX that is several times as fast as its groups.
        """
        if groups == 1:
            return self.slice_convolution(x, kernel, strides, padding)
        parts = zip(ops.split(x, groups, axis=-1), ops.split(kernel, groups, axis=-1), strict=True)
        return ops.concatenate([self.slice_convolution(a, b, strides, padding) for a, b in parts], axis=-1)

    def slice_convolution(self, x: Any, kernel: Any, strides: tuple[int, int], padding: str) -> Any:
        """The same without groups."""
        return ops.conv(x, kernel, strides, padding, data_format="channels_last")

    def max_pool(self, x: Any, size: tuple[int, int], strides: tuple[int, int], padding: str) -> Any:
        """The largest value of each window of x (N, H, W, C); padding: ``valid``, or ``same`` by minus infinity."""
        return ops.max_pool(x, size, strides, padding, data_format="channels_last")

    @abstractmethod
    def prepare(self, dtype: str) -> None:
        """Make the framework compute in `dtype`, for the whole process: float64 at all, and float32 without TF32."""

    @abstractmethod
    def devices(self) -> tuple[str, ...]:
        """Every device that the framework can use here, the best first: ``cuda:0``, ``cuda:1``, ``cpu:0``."""

    def device(self, wanted: str) -> tuple[str, str]:
        """The device for ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``, in these words and in Keras'.

        Raises Unsupported if this machine, or this build of the framework, does not have it.
        """
        present = self.devices()
        chosen = present[0].partition(":")[0] if wanted == "auto" else wanted
        kind, _, index = chosen.partition(":")
        if f"{kind}:{index or 0}" not in present:
            names = ", ".join(dict.fromkeys(name for each in present for name in (each.partition(":")[0], each)))
            required = f"a device of Keras on {keras.backend.backend()} on this machine must be one of auto, {names}"
            raise Unsupported(f"{required}. Received: {wanted}")
        return chosen, self._keras_device(kind, index)

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
        return lambda *tensors: (function if self.exporting else fused)(*map(self.tf.convert_to_tensor, tensors))

    def convolution(self, x: Any, kernel: Any, strides: tuple[int, int], padding: str, groups: int) -> Any:
        """TensorFlow's own groups where it has their gradients, which ``ops.conv`` would not leave to oneDNN."""
        if groups == 1 or not self._has_grouped_gradients(x.dtype):
            return super().convolution(x, kernel, strides, padding, groups)
        return self.tf.nn.conv2d(x, kernel, strides, padding.upper())

    @functools.cache  # noqa: B019 - the engine lives as long as the process
    def _has_grouped_gradients(self, dtype: Any) -> bool:
        """Tried once: on the CPU they come with oneDNN alone, and in float64 not at all."""
        kernel, upstream = np.ones((3, 3, 2, 4)), np.ones((1, 3, 3, 4))
        with self.tf.init_scope():
            try:
                self.tf.raw_ops.Conv2DBackpropInput(
                    input_sizes=(1, 3, 3, 4),
                    filter=self.tf.constant(kernel, dtype),
                    out_backprop=self.tf.constant(upstream, dtype),
                    strides=(1, 1, 1, 1),
                    padding="SAME",
                )
            except (self.tf.errors.InvalidArgumentError, self.tf.errors.UnimplementedError):
                return False
        return True

    def differentiated(
        self, function: Function, variables: Sequence[Any], inputs: Sequence[Any] = ()
    ) -> Differentiated:
        with self.tf.GradientTape() as tape:
            tape.watch(inputs)
            value, rest = function(*inputs)
        return value, rest, tape.gradient(value, [*(v.value for v in variables), *inputs])

    def prepare(self, dtype: str) -> None:
        self.tf.config.experimental.enable_tensor_float_32_execution(False)

    def devices(self) -> tuple[str, ...]:
        return (*_numbered("cuda", len(self.tf.config.list_physical_devices("GPU"))), "cpu:0")


class Jax(Engine):
    """``jax.jit`` and ``jax.value_and_grad`` of pure functions, to which variables are arguments and results."""

    def __init__(self) -> None:
        import jax

        from backends.keras.pools import max_pool
        from backends.keras.products import convolution

        self.jax, self.tanh, self._convolution, self._max_pool = jax, jax.numpy.tanh, convolution, max_pool

    def slice_convolution(self, x: Any, kernel: Any, strides: tuple[int, int], padding: str) -> Any:
        return self._convolution(x, ops.convert_to_tensor(kernel), strides, padding)

    def max_pool(self, x: Any, size: tuple[int, int], strides: tuple[int, int], padding: str) -> Any:
        return self._max_pool(x, tuple(size), tuple(strides), padding)

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
        self.jax.config.update("jax_default_matmul_precision", "highest")
        if dtype == "float64":
            self.jax.config.update("jax_enable_x64", True)

    def devices(self) -> tuple[str, ...]:
        return (*_numbered("cuda", sum(device.platform == "gpu" for device in self.jax.local_devices())), "cpu:0")


class Torch(Engine):
    """Eager PyTorch and its autograd."""

    word = "int64"

    def __init__(self) -> None:
        import torch

        self.torch, self.tanh = torch, torch.tanh

    def product(self, word: Any, factor: int) -> tuple[Any, Any]:
        """PyTorch multiplies no words; in 64 bits a product wraps around, and its bits are still the right ones."""
        product = word * factor
        return (product >> 32) & 0xFFFFFFFF, product & 0xFFFFFFFF

    def convolution(self, x: Any, kernel: Any, strides: tuple[int, int], padding: str, groups: int) -> Any:
        return ops.conv(x, kernel, strides, padding, data_format="channels_last")  # it reads the groups off the shapes

    def compiled(self, function: Function, reads: Sequence[Any], writes: Sequence[Any] = ()) -> Function:
        def tensor(x: Any) -> Any:  # the dtype is named because Keras would make float64 float32
            return None if x is None else ops.convert_to_tensor(x, dtype=keras.backend.standardize_dtype(x.dtype))

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

    def prepare(self, dtype: str) -> None:
        self.torch.backends.cuda.matmul.allow_tf32 = self.torch.backends.cudnn.allow_tf32 = False

    def devices(self) -> tuple[str, ...]:
        mps = self.torch.backends.mps.is_available()
        return (*_numbered("cuda", self.torch.cuda.device_count()), *_numbered("mps", int(mps)), "cpu:0")

    def _keras_device(self, kind: str, index: str) -> str:
        # On "cpu:0", which is not "cpu" to PyTorch, Keras' variables would be no leaves of the graph.
        return kind if kind == "cpu" else f"{kind}:{index or 0}"


def _numbered(kind: str, count: int) -> tuple[str, ...]:
    return tuple(f"{kind}:{number}" for number in range(count))


_ENGINES: dict[str, Callable[[], Engine]] = {"tensorflow": TensorFlow, "jax": Jax, "torch": Torch}
ENGINE = _ENGINES[keras.backend.backend()]()
