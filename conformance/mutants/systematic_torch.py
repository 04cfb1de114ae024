"""Systematic mistakes in ``backends/torch`` that no attribute is behind: masks, terms of gradients, of updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from conformance.mutants import torch, torch_training
from conformance.mutants.mutant import Live, Mutant, Patch
from spec import LayerGeometry, Settings


def _transposed_sums(rule: Callable[[Any, Any], Any]) -> Patch:
    """The sum S' in the gradient of a response normalisation is ``rule(window, x)``."""

    def patch(live: Live) -> None:
        torch.by_operations(live)
        live.set(live.normalization.Channels, "transposed_sums", rule)

    return patch


def _groups_exchanged(model: Any, module: Any, place: LayerGeometry, x: Any) -> Any:
    return torch.right(module, x.unflatten(1, (module.groups, -1)).flip(1).flatten(1))


def _places_transposed(model: Any, module: Any, place: LayerGeometry, x: Any) -> Any:
    """The kernel of row y and column x is used at row x and column y."""
    weight, (rows, columns) = module.weight, module.weight.shape[4:]
    if rows != columns:
        return torch.right(module, x)
    swapped = type("Swapped", (), {**vars(module), "weight": weight.transpose(4, 5), "bias": module.bias})()
    return type(module).forward(swapped, x)


def _unmasked_gradient(model: Any, module: Any, place: LayerGeometry, x: Any, *mask: Any) -> Any:
    y = torch.right(module, x, *mask)
    return x + (y - x).detach() if mask else y


def _nesterov(live: Live) -> None:
    step = live.optimizer.SGD.step

    def ahead(self: Any, closure: Any = None) -> Any:
        before = {name: v.clone() for name, v in self.velocities().items()}
        result = step(self, closure)
        with live.optimizer.torch.no_grad():
            for group in self.param_groups:
                if group["lr"] != 0.0:
                    w = group["params"][0]
                    w.add_(self.state[w]["velocity"] - before[group["name"]], alpha=self.rule.momentum)
        return result

    live.set(live.optimizer.SGD, "step", ahead)


def _velocities_not_loaded(live: Live) -> None:
    load = live.backend.TorchBackend.load
    live.set(live.backend.TorchBackend, "load", lambda self, parameters, velocities=None: load(self, parameters))


def _losses_not_weighted(live: Live) -> None:
    metrics = live.backend.TorchBackend.metrics

    def of_batches(self: Any) -> Any:
        seen = metrics(self)
        return type(seen)(seen.images, sum(seen.losses), seen.correct1, seen.correct5, seen.losses)

    live.set(live.backend.TorchBackend, "metrics", of_batches)


def _masks_forgotten(live: Live) -> None:
    live.set(live.backend.TorchBackend, "_masks", lambda self, masks, images: None)


def _decay_grows(optimizer: Any, settings: Any) -> dict[str, Settings]:
    return {name: Settings(one.learning_rate, -one.weight_decay) for name, one in settings.items()}


SYSTEMATIC: tuple[Mutant, ...] = (
    Mutant(
        "torch-lrn-gradient-not-mirrored",
        "torch",
        "the gradient of a lopsided window sums over the window instead of over its mirror image",
        ("lrn.before",),
        "training-gradients",
        "lrn-even",
        _transposed_sums(lambda window, x: window.sums(x)),
    ),
    Mutant(
        "torch-lrn-gradient-of-a-constant",
        "torch",
        "the gradient takes what is divided by for a constant",
        ("lrn.alpha",),
        "training-gradients",
        "lrn",
        _transposed_sums(lambda window, x: x * 0),
    ),
    Mutant(
        "torch-lrn-gradient-without-neighbours",
        "torch",
        "the gradient looks at each channel's own square alone",
        ("lrn.size",),
        "training-gradients",
        "lrn",
        _transposed_sums(lambda window, x: x),
    ),
    Mutant(
        "torch-dense-groups-exchanged",
        "torch",
        "each group of a dense layer sees the inputs of the other",
        ("dense.groups",),
        "evaluation-outputs",
        "dense-grouped",
        torch.forward("dense", _groups_exchanged),
    ),
    Mutant(
        "torch-local-places-transposed",
        "torch",
        "rows and columns of the places of a locally connected layer are exchanged",
        ("local.kernel",),
        "evaluation-outputs",
        "local-square",
        torch.forward("local", _places_transposed),
    ),
    Mutant(
        "torch-dropout-mask-inverted",
        "torch",
        "units are kept that the mask drops, and the other way round",
        ("dropout.rate",),
        "training-outputs",
        "dropout-test",
        torch.forward("dropout", lambda model, module, place, x, *m: torch.right(module, x, *(~one for one in m))),
    ),
    Mutant(
        "torch-dropout-gradient-unmasked",
        "torch",
        "the gradient passes through dropped units",
        ("dropout.rate",),
        "training-gradients",
        "dropout-train",
        torch.forward("dropout", _unmasked_gradient),
    ),
    Mutant(
        "torch-masks-forgotten",
        "torch",
        "training runs as evaluation, without dropping anything",
        ("dropout.rate",),
        "training-outputs",
        "dropout-train",
        _masks_forgotten,
    ),
    Mutant(
        "torch-momentum-nesterov",
        "torch",
        "the momentum is Nesterov's",
        ("optimizer.momentum",),
        "training-steps",
        "training",
        _nesterov,
    ),
    Mutant(
        "torch-decay-grows",
        "torch",
        "the decay has the wrong sign",
        ("weight_decay",),
        "training-steps",
        "training",
        torch_training.settled(_decay_grows),
    ),
    Mutant(
        "torch-velocities-not-loaded",
        "torch",
        "a run that is taken up again starts with velocities of zero",
        ("optimizer.momentum",),
        "training-steps",
        "training",
        _velocities_not_loaded,
    ),
    Mutant(
        "torch-metrics-of-batches",
        "torch",
        "the losses of batches are added up without counting their images",
        ("metrics",),
        "training-steps",
        "training",
        _losses_not_weighted,
    ),
)
