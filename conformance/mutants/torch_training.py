"""Mistakes that shipped somewhere, made here in ``backends/torch``: the loss, the metrics, the update rule."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from conformance.mutants.mutant import Live, Mutant, Patch
from spec import Settings

_GITHUB = "https://github.com/"


def loss(rule: Any) -> Patch:
    """The loss is ``rule(F, logits, labels)``, F being torch.nn.functional."""

    def patch(live: Live) -> None:
        F = live.backend.F
        live.set(live.backend, "F", SimpleNamespace(cross_entropy=lambda logits, y: rule(F, logits, y)))

    return patch


def settled(rule: Any) -> Patch:
    """The optimizer uses ``rule(optimizer, settings)``, settings being those of every parameter by name."""

    def patch(live: Live) -> None:
        use = live.optimizer.SGD.use
        live.set(live.optimizer.SGD, "use", lambda self, settings: use(self, rule(self, settings)))

    return patch


def _learning_rate_outside_velocity(live: Live) -> None:
    create = live.optimizer.SGD.__init__

    def init(self: Any, parameters: Any, spec: Any) -> None:
        create(self, parameters, spec)
        self.rule = self.rule.model_copy(update={"learning_rate_in_velocity": False})

    live.set(live.optimizer.SGD, "__init__", init)


def _decay_of_the_first(optimizer: Any, settings: Any) -> dict[str, Settings]:
    decay = next(iter(settings.values())).weight_decay
    return {name: Settings(one.learning_rate, decay) for name, one in settings.items()}


def _no_decay_without_momentum(optimizer: Any, settings: Any) -> Any:
    if optimizer.rule.momentum > 0:
        return settings
    return {name: Settings(one.learning_rate, 0.0) for name, one in settings.items()}


def _frozen_coasts(live: Live) -> None:
    """The velocity of a frozen parameter goes on moving it."""
    step = live.optimizer.SGD.step

    def coasting(self: Any, closure: Any = None) -> Any:
        with live.optimizer.torch.no_grad():
            for group in self.param_groups:
                if group["lr"] == 0.0:
                    w = group["params"][0]
                    w.add_(self.state[w]["velocity"].mul_(self.rule.momentum))
        return step(self, closure)

    live.set(live.optimizer.SGD, "step", coasting)


def _velocity_forgotten(live: Live) -> None:
    step = live.optimizer.SGD.step

    def forgetful(self: Any, closure: Any = None) -> Any:
        for velocity in self.velocities().values():
            velocity.zero_()
        return step(self, closure)

    live.set(live.optimizer.SGD, "step", forgetful)


def _ties_are_hits(live: Live) -> None:
    torch = live.backend.torch

    def hits(logits: Any, labels: Any) -> Any:
        rank = (logits > logits.gather(1, labels[:, None])).sum(1)
        return torch.stack([(rank < 1).sum(), (rank < 5).sum()])

    live.set(live.backend, "hits", hits)


SHIPPED: tuple[Mutant, ...] = (
    Mutant(
        "torch-loss-softmax-twice",
        "torch",
        "the softmax is taken of probabilities",
        ("loss",),
        "loss",
        "dense",
        loss(lambda F, logits, y: F.cross_entropy(F.softmax(logits, 1), y)),
        _GITHUB + "ariecattan/SciCo/issues/2",
    ),
    Mutant(
        "torch-loss-summed",
        "torch",
        "the loss of a batch is the sum over its images instead of the mean",
        ("loss", "batch_size"),
        "loss",
        "training",
        loss(lambda F, logits, y: F.cross_entropy(logits, y, reduction="sum")),
        _GITHUB + "jax-ml/jax/pull/3113",
    ),
    Mutant(
        "torch-top5-ties-are-hits",
        "torch",
        "a label whose score equals that of better classes counts as found",
        ("metrics",),
        "training-steps",
        "tied-logits",
        _ties_are_hits,
        _GITHUB + "tensorflow/tensorflow/issues/13005",
    ),
    Mutant(
        "torch-learning-rate-outside-velocity",
        "torch",
        "the learning rate multiplies the velocity when it is applied, so that a drop slows what is already moving",
        ("optimizer.learning_rate_in_velocity",),
        "training-steps",
        "training",
        _learning_rate_outside_velocity,
        _GITHUB + "pytorch/pytorch/issues/1099",
    ),
    Mutant(
        "torch-decay-of-biases",
        "torch",
        "biases decay as weights do",
        ("weight_decay",),
        "training-steps",
        "training-freezing",
        settled(_decay_of_the_first),
        _GITHUB + "pytorch/pytorch/issues/2639",
    ),
    Mutant(
        "torch-no-decay-without-momentum",
        "torch",
        "weights do not decay if the momentum is 0",
        ("weight_decay", "optimizer.momentum"),
        "training-steps",
        "training-plain",
        settled(_no_decay_without_momentum),
        _GITHUB + "ml-explore/mlx/issues/440",
    ),
    Mutant(
        "torch-frozen-coasts",
        "torch",
        "a parameter whose learning rate is 0 goes on moving with its velocity",
        ("learning_rate", "optimizer.momentum"),
        "training-steps",
        "training-freezing",
        _frozen_coasts,
        _GITHUB + "ruihangdu/PyTorch-Deep-Compression/issues/2",
    ),
    Mutant(
        "torch-velocity-forgotten",
        "torch",
        "the velocity is zero again at the start of every step",
        ("optimizer.momentum",),
        "training-steps",
        "training",
        _velocity_forgotten,
        _GITHUB + "kozistr/pytorch_optimizer/pull/516",
    ),
)
