"""One batch shared by several devices: the step of one device on the whole batch, but for rounding.

On JAX by ``keras.distribution.DataParallel``, over the devices of every process of a group; on TensorFlow by
``tf.distribute.MirroredStrategy``, over those of one process. Every device gets as many images: what a batch lacks is
filled with images of weight 0, so that the gradient is the mean over the images of the batch, however it is cut.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import keras
import numpy as np

from backends.base import Array, Unsupported
from backends.group import Group

Function = Callable[..., Any]


class Sharing(ABC):
    """`devices` devices of this process, and those of the other processes of `group`."""

    def __init__(self, kind: str, devices: int, group: Group) -> None:
        self.kind, self.devices, self.group = kind, devices, group

    def scope(self) -> AbstractContextManager[object]:
        """In which variables are made and used."""
        return nullcontext()

    @abstractmethod
    def compiled_step(self, function: Function, reads: Sequence[Any], writes: Sequence[Any]) -> Function:
        """``function(images, labels, masks, weights)`` with the rows of all devices as one compiled call, whose result
        is that of them all together. It assigns `writes`."""

    @abstractmethod
    def compiled(self, function: Function, reads: Sequence[Any]) -> Function:
        """``function(*inputs)`` as one compiled call in this process alone, which assigns nothing."""

    def everywhere(self, value: Array) -> Any:
        """`value` for a variable, of which every device has a copy."""
        return value

    def rows(self, images: int, whole: int) -> tuple[Array, Array]:
        """Which of the `images` of this process's part its devices take, one after another, and with what weight.

        The weight of each image in the loss is 1 / `whole`, the images of all parts; that of what fills up is 0.
        """
        each = -(-whole // (self.devices * self.group.ranks))
        places = np.arange(each * self.devices)
        return np.minimum(places, images - 1), np.where(places < images, 1.0 / whole, 0.0)


class OnJax(Sharing):
    """Arrays over a mesh: variables on every device, batches cut along their first axis."""

    def __init__(self, kind: str, devices: int, group: Group) -> None:
        import jax

        super().__init__(kind, devices, group)
        self.jax = jax
        platform = {"cuda": "gpu"}.get(kind, kind)
        chosen = []
        for process in range(jax.process_count()):
            there = [device for device in jax.devices(platform) if device.process_index == process]
            if len(there) < devices:
                required = f"--devices must be at most {len(there)}, the {kind} devices of JAX on this machine"
                raise Unsupported(f"{required}. Received: {devices}")
            chosen += there[:devices]
        names = [f"{device.platform}:{device.id}" for device in chosen]
        distribution = keras.distribution.DataParallel(devices=names, auto_shard_dataset=False)
        keras.distribution.set_distribution(distribution)
        self.mesh = distribution.device_mesh.backend_mesh
        local = [device for device in chosen if device.process_index == jax.process_index()]
        self.here = jax.sharding.Mesh(np.array(local), self.mesh.axis_names)

    def _sharding(self, mesh: Any, *axes: str) -> Any:
        return self.jax.sharding.NamedSharding(mesh, self.jax.sharding.PartitionSpec(*axes))

    def everywhere(self, value: Array) -> Any:
        return self.jax.make_array_from_process_local_data(self._sharding(self.mesh), value, value.shape)

    def compiled_step(self, function: Function, reads: Sequence[Any], writes: Sequence[Any]) -> Function:
        jax, written = self.jax, {id(v) for v in writes}
        kept = [v for v in reads if id(v) not in written]
        everywhere, cut = self._sharding(self.mesh), self._sharding(self.mesh, *self.mesh.axis_names)

        def pure(changing: list[Any], constant: list[Any], *inputs: Any) -> tuple[Any, list[Any]]:
            with keras.StatelessScope([*zip(writes, changing), *zip(kept, constant)]) as scope:
                result = function(*inputs)
            return result, [scope.get_current_value(v) for v in writes]

        jitted = jax.jit(pure, donate_argnums=0, out_shardings=everywhere)

        def spread(rows: Array) -> Any:
            shape = (len(rows) * self.group.ranks, *rows.shape[1:])
            return jax.make_array_from_process_local_data(cut, np.ascontiguousarray(rows), shape)

        def run(*inputs: Any) -> Any:
            spread_inputs = jax.tree.map(spread, inputs)
            with self.group.losing():
                result, values = jitted([v.value for v in writes], [v.value for v in kept], *spread_inputs)
            for variable, value in zip(writes, values):
                variable.assign(value)
            return result

        return run

    def compiled(self, function: Function, reads: Sequence[Any]) -> Function:
        def pure(values: list[Any], *inputs: Any) -> Any:
            with keras.StatelessScope(list(zip(reads, values))):
                return function(*inputs)

        jitted, everywhere = self.jax.jit(pure), self._sharding(self.here)

        def local(value: Any) -> Any:
            """The same array on the devices of this process alone, without a copy."""
            parts = [part.data for part in value.addressable_shards]
            return self.jax.make_array_from_single_device_arrays(value.shape, everywhere, parts)

        cut = self._sharding(self.here, *self.here.axis_names)

        def put(array: Any) -> Any:
            return self.jax.device_put(array, everywhere if len(array) % self.devices else cut)

        return lambda *inputs: jitted([local(v.value) for v in reads], *self.jax.tree.map(put, inputs))


class OnTensorFlow(Sharing):
    """Variables with a copy on every device, and gradients that are summed over all copies."""

    def __init__(self, kind: str, devices: int, group: Group) -> None:
        import tensorflow

        super().__init__(kind, devices, group)
        self.tf = tensorflow
        platform = {"cuda": "GPU"}.get(kind, kind.upper())
        there = self.tf.config.list_logical_devices(platform)
        if len(there) < devices:
            required = f"--devices must be at most {len(there)}, the {kind} devices of TensorFlow on this machine"
            raise Unsupported(f"{required}. Received: {devices}")
        self.strategy = self.tf.distribute.MirroredStrategy([device.name for device in there[:devices]])

    def scope(self) -> AbstractContextManager[object]:
        scope: AbstractContextManager[object] = self.strategy.scope()
        return scope

    def compiled_step(self, function: Function, reads: Sequence[Any], writes: Sequence[Any]) -> Function:
        tf, strategy = self.tf, self.strategy

        @tf.function(autograph=False, reduce_retracing=True)  # type: ignore[untyped-decorator]
        def everywhere(*inputs: Any) -> Any:
            return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(function, inputs), axis=None)

        def spread(rows: Array) -> Any:
            parts = np.split(rows, self.devices)
            return strategy.experimental_distribute_values_from_function(
                lambda context: tf.constant(parts[context.replica_id_in_sync_group])
            )

        return lambda *inputs: everywhere(*tf.nest.map_structure(spread, inputs))

    def compiled(self, function: Function, reads: Sequence[Any]) -> Function:
        compiled: Function = self.tf.function(function, autograph=False, reduce_retracing=True)
        return compiled


def allow(devices: int) -> None:
    """Let the framework take the processor for `devices` devices, to try things out; only before it has begun."""
    if devices == 1:
        return
    with suppress(RuntimeError):  # it has begun: there are as many as there are
        if keras.backend.backend() == "jax":
            import jax

            if jax.config.jax_num_cpu_devices < devices:
                jax.config.update("jax_num_cpu_devices", devices)
        elif keras.backend.backend() == "tensorflow":
            from tensorflow import config

            (cpu, *_) = config.list_physical_devices("CPU")
            config.set_logical_device_configuration(cpu, [config.LogicalDeviceConfiguration()] * devices)


_KINDS: dict[str, type[Sharing]] = {"jax": OnJax, "tensorflow": OnTensorFlow}


def sharing(kind: str, devices: int, group: Group) -> Sharing | None:
    """How `devices` devices of `kind` (``cpu``, ``cuda``) in each process of `group` share a batch; None: one alone.

    What an earlier call has set up for the whole process is undone. Raises Unsupported where Keras' framework cannot,
    or has not as many devices.
    """
    framework = keras.backend.backend()
    if framework == "jax":
        keras.distribution.set_distribution(None)
    if devices == 1 and group.ranks == 1:
        return None
    if framework not in _KINDS:
        required = "several devices must be asked of Keras on JAX or TensorFlow, or of torchrun and the torch backend"
        raise Unsupported(f"{required}. Received: Keras on {framework}")
    return _KINDS[framework](kind, devices, group)
