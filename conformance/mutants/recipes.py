"""Mistakes in how training is executed: gradients accumulated, mixed precision, masks drawn on a device, fast paths.

Each names the case of ``conformance/recipes.py`` that must notice it: elsewhere some of them cannot be seen.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from conformance.mutants.mutant import Live, Mutant, Patch
from conformance.mutants.torch import by_operations

# --- pieces -----------------------------------------------------------------------------------------------------------


def _shared(share: Callable[[int, int], float]) -> Patch:
    """The gradient of a piece counts as ``share(its images, the batch's)`` instead of as their quotient."""

    def patch(live: Live) -> None:
        differentiate = live.backend.TorchBackend._differentiate

        def wrong(self: Any, images: Any, labels: Any, masks: Any, batch: int) -> Any:
            torch, before = live.backend.torch, [p.grad for p in self._parameters.values()]
            for parameter in self._parameters.values():
                parameter.grad = None
            found = differentiate(self, images, labels, masks, batch)
            factor = share(len(images), batch) * batch / len(images)
            with torch.no_grad():
                for parameter, old in zip(self._parameters.values(), before, strict=True):
                    parameter.grad = parameter.grad * factor + (0.0 if old is None else old)
            return found

        live.set(live.backend.TorchBackend, "_differentiate", wrong)

    return patch


def _after_each_piece(act: Callable[[Any, Any], None]) -> Patch:
    """Something is done to the backend after every piece but the last: ``act(torch, backend)``."""

    def patch(live: Live) -> None:
        differentiate = live.backend.TorchBackend._differentiate
        step = live.backend.TorchBackend.step

        def wrong_step(self: Any, images: Any, labels: Any, settings: Any, masks: Any) -> None:
            self._optimizer.use(settings)
            self._left = -(-len(images) // -(-len(images) // self._pieces))
            step(self, images, labels, settings, masks)

        def wrong(self: Any, *given: Any) -> Any:
            found = differentiate(self, *given)
            self._left -= 1
            if self._left:
                with live.backend.torch.no_grad():
                    act(live.backend.torch, self)
            return found

        live.set(live.backend.TorchBackend, "step", wrong_step)
        live.set(live.backend.TorchBackend, "_differentiate", wrong)

    return patch


def _update(torch: Any, backend: Any) -> None:
    backend._optimizer.step()
    backend._optimizer.zero_grad()


def _move(torch: Any, backend: Any) -> None:
    """The velocity loses its share at every piece."""
    for velocity in backend._optimizer.velocities().values():
        velocity.mul_(backend._optimizer.rule.momentum)


def _decay(torch: Any, backend: Any) -> None:
    for group in backend._optimizer.param_groups:
        for w in group["params"]:
            w.grad = w.grad + group["weight_decay"] * w


def _forget(torch: Any, backend: Any) -> None:
    backend._optimizer.zero_grad()


def _masks_of_the_first_piece(live: Live) -> None:
    step = live.backend.TorchBackend.step

    def wrong(self: Any, images: Any, labels: Any, settings: Any, masks: Any) -> None:
        size = -(-len(images) // self._pieces)
        places = [place % size for place in range(len(images))]
        step(self, images, labels, settings, {name: mask[places] for name, mask in masks.items()})

    live.set(live.backend.TorchBackend, "step", wrong)


def _not_emptied(live: Live) -> None:
    """What was gathered for one update is still there when the next batch is gathered."""
    applied = live.backend.KerasBackend._applied

    def wrong(self: Any) -> None:
        ops = live.backend.ops
        gathered = [ops.convert_to_tensor(one) * 1.0 for one in self._sums]
        applied(self)
        for variable, value in zip(self._sums, gathered, strict=True):
            variable.assign(value)

    live.set(live.backend.KerasBackend, "_applied", wrong)


def _loss_shared_by_pieces(live: Live) -> None:
    """Every piece of a batch counts as much as every other, whatever its size."""
    gathered = live.backend.KerasBackend._gathered

    def wrong(self: Any, images: Any, labels: Any, masks: Any, share: Any) -> Any:
        return gathered(self, images, labels, masks, share * 0 + 1 / self._pieces)

    live.set(live.backend.KerasBackend, "_gathered", wrong)


# --- mixed precision --------------------------------------------------------------------------------------------------


def _kept_in_bfloat16(which: Callable[[Any], Any]) -> Patch:
    """After every step, the tensors ``which(backend)`` keep the digits of bfloat16."""

    def patch(live: Live) -> None:
        step = live.backend.TorchBackend.step

        def wrong(self: Any, *given: Any) -> None:
            step(self, *given)
            torch = live.backend.torch
            with torch.no_grad():
                for tensor in which(self).values():
                    tensor.copy_(tensor.to(torch.bfloat16))

        live.set(live.backend.TorchBackend, "step", wrong)

    return patch


def _norm_in_bfloat16(live: Live) -> None:
    """The sum of squares, and the power of it, in bfloat16."""
    by_operations(live)
    narrow = live.normalization.torch.bfloat16
    sums = live.normalization.Channels.sums
    live.set(live.normalization.Channels, "sums", lambda self, x: sums(self, x.to(narrow)))


def _torch_loss_in_bfloat16(live: Live) -> None:
    F, torch = live.backend.F, live.backend.torch

    def cross_entropy(logits: Any, labels: Any) -> Any:
        loss = F.cross_entropy(logits.to(torch.bfloat16), labels)
        return loss.to(logits.dtype)

    live.set(live.backend, "F", SimpleNamespace(cross_entropy=cross_entropy))


def _keras_loss_in_bfloat16(live: Live) -> None:
    right, ops = live.backend._cross_entropy, live.backend.ops

    def wrong(logits: Any, labels: Any) -> Any:
        return ops.cast(right(ops.cast(logits, "bfloat16"), labels), logits.dtype)

    live.set(live.backend, "_cross_entropy", wrong)


# --- masks on a device ------------------------------------------------------------------------------------------------


def _drawn(rule: Callable[[Any, Any, int, Any, int], Any]) -> Patch:
    """``rule(right, counters, seed, images, epoch)`` are the masks of a device."""

    def patch(live: Live) -> None:
        right = live.dropout.Counters.masks
        live.set(
            live.dropout.Counters,
            "masks",
            lambda self, seed, images, epoch: rule(right, self, seed, images, epoch),
        )

    return patch


def _by_place(right: Any, counters: Any, seed: int, images: Any, epoch: int) -> Any:
    return right(counters, seed, images.new_tensor(range(len(images))), epoch)


def _first_epoch(right: Any, counters: Any, seed: int, images: Any, epoch: int) -> Any:
    return right(counters, seed, images, 0)


def _next_block(live: Live) -> None:
    create = live.dropout.Counters.__init__

    def init(self: Any, *given: Any) -> None:
        create(self, *given)
        self._block = self._block + 1

    live.set(live.dropout.Counters, "__init__", init)


def _signed(live: Live) -> None:
    """The high half of a product keeps the sign of its 64 bits."""
    dropout = live.dropout
    mask = dropout._MASK

    def philox(counter: Any, key: Any) -> Any:
        c0, c1, c2, c3 = counter
        k0, k1 = key
        for _ in range(dropout.ROUNDS):
            product0, product1 = c0 * dropout.MULTIPLIERS[0], c2 * dropout.MULTIPLIERS[1]
            c0, c1 = (product1 >> 32) ^ c1 ^ k0, product1 & mask
            c2, c3 = (product0 >> 32) ^ c3 ^ k1, product0 & mask
            k0, k1 = (k0 + dropout.WEYL[0]) & mask, (k1 + dropout.WEYL[1]) & mask
        return c0, c1, c2, c3

    live.set(dropout, "philox", philox)


# --- fast paths -------------------------------------------------------------------------------------------------------


def _blocks_of_channels(live: Live) -> None:
    """Blocks are cut across the channels, whose windows do not see beyond them."""
    by_operations(live)
    plain = live.normalization._by_blocks

    def wrong(function: Any, *tensors: Any) -> Any:
        first = tensors[0]
        if first[:1].numel() * len(first) <= live.normalization.BLOCK or first.shape[1] < 4:
            return plain(function, *tensors)
        middle = first.shape[1] // 2
        halves = [
            function(*(tensor[:, channels] for tensor in tensors)) for channels in (slice(middle), slice(middle, None))
        ]
        return tuple(live.normalization.torch.cat(parts, 1) for parts in zip(*halves, strict=True))

    live.set(live.normalization, "_by_blocks", wrong)


def _last_block_left(live: Live) -> None:
    """What a last, smaller block would have is left as it was."""
    by_operations(live)
    plain = live.normalization._by_blocks

    def wrong(function: Any, *tensors: Any) -> Any:
        found = plain(function, *tensors)
        images = max(1, live.normalization.BLOCK // max(1, tensors[0][:1].numel()))
        over = len(tensors[0]) % images
        if len(tensors[0]) > images and over:
            for tensor in found:
                tensor[-over:] = 0
        return found

    live.set(live.normalization, "_by_blocks", wrong)


def _loop_across_towers(live: Live) -> None:
    """The compiled loop sees all channels of a place as one slice."""
    plain = live.channel_norm._by_rows
    live.set(live.channel_norm, "_by_rows", lambda function, groups, *rest: plain(function, 1, *rest))


def _loop_window_turned(live: Live) -> None:
    """The compiled loop of the gradient is handed the window the wrong way round."""
    plain = live.channel_norm.differentiate
    live.set(
        live.channel_norm,
        "differentiate",
        lambda g, x, d, before, after, *rest: plain(g, x, d, after, before, *rest),
    )


def _loop_last_row_left(live: Live) -> None:
    """The compiled loop ends a row too early."""
    plain = live.channel_norm._by_rows

    def wrong(function: Any, groups: int, tensors: Any, *rest: Any) -> None:
        plain(function, groups, tensors, *rest)
        tensors[-1].view(-1)[-(tensors[-1].shape[-1] // groups) :] = 0

    live.set(live.channel_norm, "_by_rows", wrong)


def _as_it_lies(live: Live) -> None:
    """A map leaves in the order in which channels-last memory has it, under the shape of the canonical one."""
    right = live.backend._array

    def wrong(tensor: Any) -> Any:
        if tensor.ndim != 4 or tensor.is_contiguous():
            return right(tensor)
        return right(tensor.permute(0, 2, 3, 1).reshape(tensor.shape))

    live.set(live.backend, "_array", wrong)


SYSTEMATIC: tuple[Mutant, ...] = (
    Mutant(
        "torch-accumulated-not-divided",
        "torch",
        "the mean gradients of the pieces are added up and not divided",
        ("batch_size",),
        "accumulation",
        "training-dropping",
        _shared(lambda images, batch: 1.0),
        case="dropping-accumulated",
    ),
    Mutant(
        "torch-accumulated-divided-by-pieces",
        "torch",
        "every piece counts as much as every other, though the last has fewer images",
        ("batch_size",),
        "accumulation",
        "training-dropping",
        _shared(lambda images, batch: 0.5),
        case="dropping-accumulated",
    ),
    Mutant(
        "torch-accumulated-updated-by-piece",
        "torch",
        "every piece makes an update of its own",
        ("batch_size",),
        "accumulation",
        "training-dropping",
        _after_each_piece(_update),
        case="dropping-accumulated",
    ),
    Mutant(
        "torch-accumulated-momentum-by-piece",
        "torch",
        "the velocity is multiplied by the momentum at every piece",
        ("optimizer.momentum",),
        "accumulation",
        "training-dropping",
        _after_each_piece(_move),
        case="dropping-accumulated",
    ),
    Mutant(
        "torch-accumulated-decay-by-piece",
        "torch",
        "the decay joins the gradient at every piece",
        ("weight_decay",),
        "accumulation",
        "training-dropping",
        _after_each_piece(_decay),
        case="dropping-accumulated",
    ),
    Mutant(
        "torch-accumulated-last-piece-alone",
        "torch",
        "the gradient of a piece replaces that of the pieces before",
        ("batch_size",),
        "accumulation",
        "training-dropping",
        _after_each_piece(_forget),
        case="dropping-accumulated",
    ),
    Mutant(
        "torch-accumulated-masks-of-the-first-piece",
        "torch",
        "every piece has the masks of the first",
        ("dropout.rate",),
        "accumulation",
        "training-dropping",
        _masks_of_the_first_piece,
        case="dropping-accumulated",
    ),
    Mutant(
        "torch-mixed-parameters-in-bfloat16",
        "torch",
        "parameters are kept with the digits of bfloat16",
        ("precision",),
        "training-steps",
        "training",
        _kept_in_bfloat16(lambda backend: backend._parameters),
        case="slow-mixed",
    ),
    Mutant(
        "torch-mixed-velocities-in-bfloat16",
        "torch",
        "velocities are kept with the digits of bfloat16",
        ("precision",),
        "training-steps",
        "training",
        _kept_in_bfloat16(lambda backend: backend._optimizer.velocities()),
        case="slow-mixed",
    ),
    Mutant(
        "torch-mixed-norm-in-bfloat16",
        "torch",
        "response normalisation adds up its squares in bfloat16",
        ("lrn.beta",),
        "evaluation-outputs",
        "lrn",
        _norm_in_bfloat16,
        case="steep-mixed",
    ),
    Mutant(
        "torch-mixed-loss-in-bfloat16",
        "torch",
        "the loss is computed in bfloat16",
        ("loss",),
        "training-steps",
        "training",
        _torch_loss_in_bfloat16,
        case="tied-mixed",
    ),
    Mutant(
        "torch-device-masks-by-place",
        "torch",
        "a mask belongs to the place in the batch instead of the image",
        ("draws.dropout",),
        "device-draws",
        "training-dropping",
        _drawn(_by_place),
        case="dropping-on-device",
    ),
    Mutant(
        "torch-device-masks-next-block",
        "torch",
        "the counter of a mask begins with block 1",
        ("draws.dropout",),
        "device-draws",
        "training-dropping",
        _next_block,
        case="dropping-on-device",
    ),
    Mutant(
        "torch-device-masks-signed",
        "torch",
        "the high half of a product keeps the sign of its 64 bits",
        ("draws.dropout",),
        "device-draws",
        "training-dropping",
        _signed,
        case="dropping-on-device",
    ),
    Mutant(
        "torch-lrn-blocks-without-halo",
        "torch",
        "response normalisation goes through blocks of channels that do not see one another",
        ("lrn.size",),
        "evaluation-outputs",
        "lrn-large",
        _blocks_of_channels,
        case="large",
    ),
    Mutant(
        "torch-lrn-last-block-left",
        "torch",
        "the last block of images, if it is smaller, is left out",
        ("lrn.size",),
        "evaluation-outputs",
        "lrn-large",
        _last_block_left,
        case="large",
    ),
    Mutant(
        "torch-lrn-loop-across-towers",
        "torch",
        "the compiled loop does not end its windows where a tower's channels end",
        ("lrn.groups",),
        "evaluation-outputs",
        "lrn-behind-conv",
        _loop_across_towers,
    ),
    Mutant(
        "torch-lrn-loop-window-turned",
        "torch",
        "the compiled loop of the gradient has the window the wrong way round",
        ("lrn.before",),
        "training-gradients",
        "lrn-behind-conv",
        _loop_window_turned,
    ),
    Mutant(
        "torch-lrn-loop-last-row-left",
        "torch",
        "the compiled loop leaves the last place out",
        ("lrn.size",),
        "evaluation-outputs",
        "lrn-behind-conv",
        _loop_last_row_left,
    ),
    Mutant(
        "torch-outputs-as-they-lie",
        "torch",
        "what lies channels last in memory leaves in that order",
        ("order",),
        "evaluation-outputs",
        "conv-square",
        _as_it_lies,
        case="smooth-mixed",
    ),
    Mutant(
        "keras-accumulated-not-emptied",
        "keras",
        "what was gathered for an update is there still when the next batch is gathered",
        ("batch_size",),
        "accumulation",
        "training-dropping",
        _not_emptied,
        case="dropping-accumulated",
    ),
    Mutant(
        "keras-accumulated-divided-by-pieces",
        "keras",
        "every piece counts as much as every other, though the last has fewer images",
        ("batch_size",),
        "accumulation",
        "training-dropping",
        _loss_shared_by_pieces,
        case="dropping-accumulated",
    ),
    Mutant(
        "keras-device-masks-of-the-first-epoch",
        "keras",
        "every epoch has the masks of the first",
        ("draws.dropout",),
        "device-draws",
        "training-dropping",
        _drawn(_first_epoch),
        case="dropping-on-device",
    ),
    Mutant(
        "keras-mixed-loss-in-bfloat16",
        "keras",
        "the loss is computed in bfloat16",
        ("loss",),
        "training-steps",
        "training",
        _keras_loss_in_bfloat16,
        case="tied-mixed",
    ),
)
