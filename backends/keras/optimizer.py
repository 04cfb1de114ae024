"""The update rule of a specification as a Keras optimizer."""

# mypy: disallow-subclassing-any=False, disallow-untyped-decorators=False

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from backends.keras.engine import ENGINE
from backends.keras.model import canonical_name
from spec import Place, Settings, Spec, settings

SMALL = 1 << 16
"""Elements below which compiling one kernel for an update costs more than it saves."""


@keras.saving.register_keras_serializable(package="alexnet")
class SGD(keras.optimizers.Optimizer):
    """Gradient descent with momentum by the rule of ``spec.training.optimizer``, each parameter with its own settings.

    With g the gradient, lr and wd the parameter's rate and decay, mu the momentum, and G = g + wd w if decay is
    coupled, else G = g:

        learning_rate_in_velocity: true      v <- mu v - lr G,  w <- w + v      (the paper, section 5)
        learning_rate_in_velocity: false     v <- mu v + G,     w <- w - lr v   (torch.optim.SGD)

    Decoupled decay takes lr wd w, with w from before the step, away beside it. A parameter whose lr is 0 is frozen: it
    and its velocity stay as they are. Formulas: spec/README.md, "Optimizer".

    rates, decays: by canonical parameter name. They are held in variables: :meth:`use` changes them between steps and
    nothing is compiled again. `learning_rate` multiplies every rate; 1 is the specification's own.

        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> model.compile(SGD.of(spec.load("source-2012")), loss)
    """

    def __init__(
        self,
        *,
        momentum: float,
        learning_rate_in_velocity: bool,
        decay: str,
        rates: Mapping[str, float],
        decays: Mapping[str, float],
        learning_rate: float = 1.0,
        name: str = "sgd",
    ) -> None:
        super().__init__(learning_rate=learning_rate, name=name)
        self.momentum, self.decay, self.learning_rate_in_velocity = momentum, decay, learning_rate_in_velocity
        self._initial = {"rates": dict(rates), "decays": dict(decays)}
        self._fused_rule = ENGINE.fused(self._rule)
        self._used: dict[str, Settings] | None = None

    @classmethod
    def of(cls, spec: Spec) -> SGD:
        """The optimizer of `spec` with the settings of the first step."""
        rule = spec.training.optimizer
        first = settings(spec, Place(epoch=0, step=0, steps_per_epoch=1, epochs=spec.training.epochs))
        return cls(
            momentum=rule.momentum,
            learning_rate_in_velocity=rule.learning_rate_in_velocity,
            decay=rule.decay,
            rates={name: chosen.learning_rate for name, chosen in first.items()},
            decays={name: chosen.weight_decay for name, chosen in first.items()},
        )

    def build(self, variables: list[Any]) -> None:
        if self.built:
            return
        super().build(variables)
        self.names = [canonical_name(variable) for variable in variables]
        unknown = [name for name in self.names if name not in self._initial["rates"]]
        if unknown:
            raise ValueError(f"every parameter must have a learning rate. Received none for: {', '.join(unknown)}")
        self._velocities = self.add_optimizer_variables(variables, "velocity")
        # Whether a parameter moves is decided from its settings, not from a rate that float32 may round to 0.
        moving = {name: float(rate != 0) for name, rate in self._initial["rates"].items()}
        self._rates, self._decays, self._moving = (
            self.add_variable(
                (len(variables),),
                # An assignment would be lost where Keras builds the optimizer while it traces a step.
                initializer=lambda shape, dtype, values=values: ops.convert_to_tensor(self._ordered(values), dtype),
                dtype=variables[0].dtype,
                aggregation="only_first_replica",
                name=key,
            )
            for key, values in {**self._initial, "moving": moving}.items()
        )

    def _ordered(self, values: Mapping[str, float]) -> npt.NDArray[np.float64]:
        return np.array([values[name] for name in self.names])

    def use(self, settings: Mapping[str, Settings]) -> None:
        """Take the learning rate and the decay of every parameter, by name, for the steps to come."""
        if settings == self._used:
            return
        self._rates.assign(self._ordered({name: one.learning_rate for name, one in settings.items()}))
        self._decays.assign(self._ordered({name: one.weight_decay for name, one in settings.items()}))
        self._moving.assign(self._ordered({name: float(not one.frozen) for name, one in settings.items()}))
        self._used = dict(settings)

    def velocities(self) -> dict[str, Any]:
        """The variable that holds the velocity of every parameter, by name."""
        return dict(zip(self.names, self._velocities))

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        index, dtype = self._get_variable_index(variable), variable.dtype
        factor = ops.cast(learning_rate, dtype)
        rate, moving = factor * self._rates[index], ops.cast(factor != 0, dtype) * self._moving[index]
        velocity = self._velocities[index]
        w, v = map(ops.convert_to_tensor, (variable, velocity))
        rule = self._rule if np.prod(variable.shape) < SMALL else self._fused_rule
        w, v = rule(w, v, ops.cast(gradient, dtype), rate, self._decays[index], moving)
        self.assign(velocity, v)
        self.assign(variable, w)

    def _rule(self, w: Any, v: Any, g: Any, rate: Any, decay: Any, moving: Any) -> tuple[Any, Any]:
        """(w, v) after the step; moving: 1, or 0 for a frozen parameter. Scalars do the freezing: a choice between
        tensors would cost a pass over each."""
        momentum = 1.0 - moving + moving * self.momentum
        coupled = self.decay == "coupled"
        direction = g + decay * w if coupled else g
        if self.learning_rate_in_velocity:
            v = momentum * v - rate * direction
            moved = w + moving * v
        else:
            v = momentum * v + moving * direction
            moved = w - rate * v
        return (moved if coupled else moved - rate * decay * w), v

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "learning_rate": float(ops.convert_to_numpy(self.learning_rate)),
            "momentum": self.momentum,
            "learning_rate_in_velocity": self.learning_rate_in_velocity,
            "decay": self.decay,
            **self._initial,
        }
