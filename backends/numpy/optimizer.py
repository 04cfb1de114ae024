"""The update of one parameter: g the gradient of the mean loss, lr the learning rate, mu the momentum, wd the decay."""

from __future__ import annotations

from backends.base import Array
from spec import Settings
from spec.language import Optimizer


def update(w: Array, v: Array, g: Array, settings: Settings, optimizer: Optimizer) -> tuple[Array, Array]:
    """The parameter and its velocity after one step. Pure: w, v and g are left as they are.

    ============  ====================================  ==============================
    decay         learning_rate_in_velocity: true       false
    ============  ====================================  ==============================
    coupled       v' = mu v - lr (g + wd w)             v' = mu v + (g + wd w)
                  w' = w + v'                           w' = w - lr v'
    decoupled     v' = mu v - lr g                      v' = mu v + g
                  w' = w + v' - lr wd w                 w' = w - lr v' - lr wd w
    ============  ====================================  ==============================

    Frozen (lr 0): w' = w and v' = v, nothing else happens. Sources: the paper, section 5, and ``Weights::update`` of
    the 2012 source (coupled, true); ``torch.optim.SGD`` (coupled, false); Loshchilov and Hutter, "Decoupled weight
    decay regularization", for the second row.
    """
    if settings.frozen:
        return w, v
    lr, wd, mu = settings.learning_rate, settings.weight_decay, optimizer.momentum
    coupled = optimizer.decay == "coupled"
    direction = g + wd * w if coupled else g
    beside = 0.0 if coupled else lr * wd * w
    if optimizer.learning_rate_in_velocity:
        v = mu * v - lr * direction
        return w + v - beside, v
    v = mu * v + direction
    return w - lr * v - beside, v
