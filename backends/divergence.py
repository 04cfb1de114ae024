"""Where numbers ceased to be numbers: the first layer, forward or backward, that a divergence can be traced to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from backends.base import Array, Arrays, Backend, Masks
from data import Batch


@dataclass(frozen=True, eq=False)
class State:
    """A run just before step `step`, and what the step is made of."""

    step: int
    parameters: Arrays
    velocities: Arrays
    batch: Batch
    masks: Masks


def layer_where_it_began(backend: Backend, states: Sequence[State]) -> str:
    """One sentence on it. states: before the step whose loss was not finite, last, and before the step before it.

    What is looked at, in this order: the parameters before the step (if they are not finite, then the step before made
    them so: by which gradient?), every output of the step, and the loss of outputs that are finite.
    Loads other parameters into `backend`.
    """
    now = states[-1]
    broken = _not_finite(now.parameters)
    if broken and len(states) > 1:
        return _in_the_update(backend, states[-2], broken)
    if broken:
        return f"It began before step {now.step}: {', '.join(broken)} is not finite in the checkpoint before it"
    outputs = _outputs(backend, now)
    loss = backend.loss(now.batch.images, now.batch.labels, now.masks)
    if np.isfinite(loss):
        return f"The layer where it began is not known: done again, step {now.step} has a loss of {loss:.4g}"
    return f"{layer_not_finite(outputs)}; the parameters before step {now.step} were finite"


def layer_not_finite(outputs: Mapping[str, Array]) -> str:
    """One sentence on the first of `outputs` that is not finite, by layer name in network order."""
    found = next((name for name, output in outputs.items() if not np.isfinite(output).all()), None)
    if found is None:
        last, output = list(outputs.items())[-1]
        reached = f"{_reach(output):.3g}"
        return f"It began in the loss: every layer's output is finite, and that of layer {last} reaches {reached}"
    return f"It began in the output of layer {found}: {_count(outputs[found])} not finite"


def _in_the_update(backend: Backend, before: State, broken: Sequence[str]) -> str:
    outputs = _outputs(backend, before)
    logits = np.asarray(list(outputs.values())[-1], np.float64)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    cotangent = weights / weights.sum(axis=1, keepdims=True)
    cotangent[np.arange(len(logits)), before.batch.labels] -= 1
    cotangent /= len(logits)  # of the mean softmax cross-entropy
    gradients = backend.gradients(before.batch.images, cotangent, before.masks).parameters
    infinite = _not_finite(gradients)
    if not infinite:
        reach = {name: _reach(gradients[name]) for name in broken}
        return (
            f"It began in layer {_layer(broken[0])}: the update of step {before.step} made {', '.join(broken)} "
            f"overflow, by a gradient of up to {max(reach.values()):.3g}"
        )
    # Gradients flow from the last layer to the first, so that the last one hit was hit first.
    return (
        f"It began in layer {_layer(infinite[-1])}, going backward at step {before.step}: the gradient of "
        f"{infinite[-1]} was not finite, from outputs that were finite"
    )


def _outputs(backend: Backend, state: State) -> dict[str, Array]:
    backend.load(state.parameters, state.velocities)
    return backend.outputs(state.batch.images, state.masks)


def _not_finite(arrays: Arrays) -> list[str]:
    return [name for name, array in arrays.items() if not np.isfinite(array).all()]


def _count(array: Array) -> str:
    return f"{int((~np.isfinite(array)).sum()):,} of {array.size:,} numbers"


def _reach(array: Array) -> float:
    return float(np.abs(array).max())


def _layer(parameter: str) -> str:
    return parameter.rpartition(".")[0]
