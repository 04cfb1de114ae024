"""From a checkpoint to a file of weights as others keep them: the inverse of :mod:`export.importing`."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from backends.base import Array
from export import conversions
from export.conversions import Refused
from export.whose import require_torchvision
from spec import Spec

FORMATS: Mapping[str, tuple[str, ...]] = {
    "torchvision": (".safetensors", ".pth", ".pt"),
    "keras": (".weights.h5", ".keras"),
    "safetensors": (".safetensors",),
}
"""What can be written, and how its files end."""


def export_weights(
    stated: Spec,
    parameters: Mapping[str, Array],
    output: Path,
    *,
    to: str,
    classes: tuple[str, ...] = (),
    channel_order: str | None = None,
) -> tuple[str, ...]:
    """Write the parameters of `stated` to the new file `output` in the layout `to` of :data:`FORMATS`.

    channel_order: of the images that the file is to take (default: torchvision's rgb, else the specification's own).
    Returns lines that say what was converted. Raises Refused, and OSError; nothing is left of a file then.
    """
    ending = next((ending for ending in FORMATS[to] if output.name.endswith(ending)), None)
    if ending is None or output.exists():
        received = f"{output}, which exists" if ending else str(output)
        raise Refused(f"--output must be a new file that ends in {' or '.join(FORMATS[to])}. Received: {received}")
    values, lines = dict(parameters), []
    own = stated.data.channel_order
    order = channel_order or ("rgb" if to == "torchvision" else own)
    if stated.input.channels > 1 and order != own:
        values = conversions.with_reversed_channels(values, stated)
        lines.append(f"channel order: {own} in {stated.name}, {order} in the file: the first weight reversed")
    else:
        lines.append(f"channel order: {own if stated.input.channels > 1 else 'one channel'}: kept")
    scales = conversions.dropout_scales(stated)
    if to == "torchvision":
        require_torchvision(stated)
        if scales == "both":
            raise Refused("dropouts must scale alike. Received: some in training, some in testing")
        values = conversions.rescaled(values, stated, scales, "train") if scales == "test" else values
        values = {name: values[canonical] for name, canonical in conversions.torchvision_names(stated).items()}
        done = "weights behind it times 1 - rate" if scales == "test" else "kept"
        lines += ["names: torchvision's", "layout: (out, in, ...): kept", "flatten order: C, H, W: kept"]
        lines.append(f"dropout: scales in training: {done}")
    elif to == "keras":
        lines += ["names: the specification's, as Keras keeps them", "layout: (rows, columns, in, out) and (in, out)"]
        lines.append("flatten order: C, H, W, by the model's FlattenChannels: kept")
        lines.append(f"dropout: scales in {scales}ing: kept" if scales else "dropout: none")
    else:
        lines += ["names: the specification's", "layout: canonical", "flatten order: C, H, W", "dropout: kept"]
    kept = "kept in the file" if to == "safetensors" and classes else "not kept in such a file; their order is"
    lines.append(f"classes: {kept}")
    said = {"spec": json.dumps(stated.statement()), "spec_name": stated.name, "spec_hash": stated.hash}
    said |= {"classes": json.dumps(classes)} if classes else {}
    if order != own and to == "safetensors" and stated.input.channels > 1:
        raise Refused(f"--channel-order must be the specification's own in a canonical file. Received: {order}")
    _write(output, ending, _writer(ending, stated, values, said if to == "safetensors" else {"format": "pt"}))
    return tuple(lines)


def _writer(ending: str, stated: Spec, values: Mapping[str, Array], said: Mapping[str, str]) -> Callable[[Path], None]:
    arrays = {name: np.ascontiguousarray(value) for name, value in values.items()}
    if ending == ".safetensors":
        return lambda path: save_file(arrays, path, dict(said))
    if ending in (".pth", ".pt"):
        import torch

        tensors = {name: torch.from_numpy(value.copy()) for name, value in arrays.items()}
        return lambda path: torch.save(tensors, path)

    def keras(path: Path) -> None:
        from backends.keras.model import network, parameters, to_keras

        dtypes = {value.dtype.name for value in arrays.values()}
        if len(dtypes) > 1:
            raise Refused(f"a Keras model must have one dtype. Received: {', '.join(sorted(dtypes))}")
        model = network(stated, dtypes.pop(), lambda _: "zeros")
        for name, variable in parameters(model).items():
            variable.assign(to_keras(arrays[name]))
        model.save_weights(path) if ending == ".weights.h5" else model.save(path)

    return keras


def _write(output: Path, ending: str, write: Callable[[Path], None]) -> None:
    """Write beside the place, and move there what is whole."""
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{uuid.uuid4().hex[:12]}.partial{ending}")
    try:
        write(partial)
        mask = os.umask(0)
        os.umask(mask)
        partial.chmod(0o666 & ~mask)  # safetensors lets only the owner read what it writes
        partial.replace(output)
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()


__all__ = ["FORMATS", "export_weights"]
