"""The update rule of a specification as a PyTorch optimizer."""

# mypy: disallow-subclassing-any=False, disallow-untyped-decorators=False

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor

from spec import Settings, Spec
from spec.schedule import Place, settings


class SGD(torch.optim.Optimizer):
    """Gradient descent with momentum by the rule of ``spec.training.optimizer``; one parameter group per parameter.

    With g the gradient, lr and wd of the group, mu the momentum, and G = g + wd w if decay is coupled, else G = g:

        learning_rate_in_velocity: true      v <- mu v - lr G,  w <- w + v      (the paper, section 5)
        learning_rate_in_velocity: false     v <- mu v + G,     w <- w - lr v   (torch.optim.SGD)

    Decoupled decay takes lr wd w, with w from before the step, away beside it. A group whose lr is 0 is frozen: its
    parameter and its velocity stay as they are. Formulas: spec/README.md, "Optimizer".

    parameters: ``network.named_parameters()``, under canonical names. The groups start with the settings of the first
    step; :meth:`use` takes those of any other, and PyTorch's schedulers work too: a group's ``lr`` is read at every
    step.

        >>> optimizer = SGD(network.named_parameters(), network.spec)
        >>> loss.backward()
        >>> optimizer.step()
    """

    def __init__(self, parameters: Iterable[tuple[str, Tensor]], spec: Spec) -> None:
        self.rule = spec.training.optimizer
        groups = [
            {"name": name, "params": [parameter], "lr": 0.0, "weight_decay": 0.0} for name, parameter in parameters
        ]
        super().__init__(groups, {})
        self.use(settings(spec, Place(epoch=0, step=0, steps_per_epoch=1, epochs=spec.training.epochs)))
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["velocity"] = torch.zeros_like(parameter)

    def use(self, settings: Mapping[str, Settings]) -> None:
        """Take the learning rate and the decay of every parameter, by name, for the steps to come."""
        for group in self.param_groups:
            chosen = settings[group["name"]]
            group["lr"], group["weight_decay"] = chosen.learning_rate, chosen.weight_decay

    def velocities(self) -> dict[str, Tensor]:
        """The velocity of every parameter by name: the state itself, not a copy."""
        return {group["name"]: self.state[group["params"][0]]["velocity"] for group in self.param_groups}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient and is not frozen."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        alike: dict[tuple[float, float], list[Tensor]] = {}
        for group in self.param_groups:
            w, lr, wd = group["params"][0], group["lr"], group["weight_decay"]
            if w.grad is not None and lr != 0.0:
                alike.setdefault((lr, wd), []).append(w)
        for (lr, wd), parameters in alike.items():
            velocities = [self.state[w]["velocity"] for w in parameters]
            for part, velocity, gradient in _blocks(parameters, velocities, [w.grad for w in parameters]):
                self._update(part, velocity, gradient, lr, wd)
        return loss

    def _update(self, w: list[Tensor], v: list[Tensor], g: list[Tensor], lr: float, wd: float) -> None:
        mu, coupled = self.rule.momentum, self.rule.decay == "coupled"
        scale = -lr if self.rule.learning_rate_in_velocity else 1.0
        torch._foreach_mul_(v, mu)
        torch._foreach_add_(v, g, alpha=scale)
        if coupled and wd:
            torch._foreach_add_(v, w, alpha=scale * wd)
        elif wd:
            torch._foreach_mul_(w, 1.0 - lr * wd)
        torch._foreach_add_(w, v, alpha=1.0 if self.rule.learning_rate_in_velocity else -lr)


BLOCK = 1 << 20
"""Elements that a block of a parameter has."""


def _blocks(*several: list[Tensor]) -> Iterator[tuple[list[Tensor], ...]]:
    """What of parameters, velocities and gradients to update together.

    The update is four operations, each of which passes through all that it is given. On a CPU they do so in blocks that
    stay in its caches from the first to the last; a GPU has the bandwidth, and takes all at once, because it would wait
    for the launches.
    """
    if several[0][0].device.type != "cpu":
        yield several
        return
    for tensors in zip(*several, strict=True):
        w = tensors[0]
        if w.numel() <= BLOCK:
            yield tuple([tensor] for tensor in tensors)
            continue
        rows = max(1, BLOCK * len(w) // w.numel())
        for start in range(0, len(w), rows):
            yield tuple([tensor[start : start + rows]] for tensor in tensors)
