"""A specification as one flat list of values, each with who states it: what `why` looks up and `diff` compares.

Paths are those of a file, except that what holds is compared and not how it is written: ``layers.NAME.after`` is the
layer before this one, stated or not; ``init.PARAMETER``, ``training.learning_rate.PARAMETER`` and
``training.weight_decay.PARAMETER`` are what holds for one parameter, whichever pattern or default it comes from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from spec.arithmetic import geometry
from spec.language import SHORTHANDS, Origin, Padding, Size, Spec
from spec.reader import dotted
from spec.schedule import matching
from spec.sources import CHOSEN, parts


@dataclass(frozen=True, slots=True)
class Item:
    """A value and the origins of what it is made of (none: it is the language's default)."""

    value: Any
    origins: tuple[Origin, ...] = ()

    @property
    def source(self) -> str | None:
        """The sources of all its parts, each once, choices last."""
        every = dict.fromkeys(pointer for o in self.origins if o.source for pointer in parts(o.source))
        return "; ".join(sorted(every, key=lambda pointer: pointer.startswith(CHOSEN))) or None

    @property
    def plain(self) -> Any:
        """The value as JSON has it."""
        return plain(self.value)


def plain(value: Any) -> Any:
    """`value` as JSON has it; a kernel with equal sides as one number."""
    if isinstance(value, Size | Padding):
        sides = list(value.model_dump().values())
        return sides[0] if len(set(sides)) == 1 else value.model_dump()
    if isinstance(value, BaseModel):
        return {name: plain(getattr(value, name)) for name in type(value).model_fields}
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def items(spec: Spec) -> dict[str, Item]:
    """The values of `spec` by path, in the order of the network and then of the file's sections."""
    found: dict[str, Item] = {}

    def below(prefix: str, model: BaseModel) -> None:
        for name in type(model).model_fields:
            value = getattr(model, name)
            path = f"{prefix}.{name}"
            if isinstance(value, BaseModel) and not isinstance(value, Size | Padding):
                below(path, value)
            else:
                found[path] = Item(value, under(spec, path))

    below("input", spec.input)
    previous = None
    for layer in spec.layers:
        at = f"layers.{layer.name}"
        op = under(spec, f"{at}.op")
        found[f"{at}.after"] = Item(previous, under(spec, f"{at}.after") or op)
        found[f"{at}.op"] = Item(layer.op, op)
        for name in type(layer).model_fields:
            if name not in ("name", "op"):
                found[f"{at}.{name}"] = Item(getattr(layer, name), under(spec, f"{at}.{name}"))
        previous = layer.name
    parameters = geometry(spec).parameters
    for name in parameters:
        stated = f"init.parameters.{dotted((name,))}" if name in spec.init.parameters else _default(name)
        found[f"init.{name}"] = Item(spec.init.of(name), under(spec, stated))
    training = spec.training
    for name in type(training).model_fields:
        value = getattr(training, name)
        if isinstance(value, Mapping):
            for parameter in parameters:
                pattern = matching(value, parameter)
                stated = f"training.{name}.{dotted((pattern,))}"
                found[f"training.{name}.{parameter}"] = Item(value[pattern], under(spec, stated))
        elif isinstance(value, BaseModel):
            below(f"training.{name}", value)
        else:
            found[f"training.{name}"] = Item(value, under(spec, f"training.{name}"))
    below("data", spec.data)
    below("evaluation", spec.evaluation)
    return found


def _default(parameter: str) -> str:
    return "init.weight" if parameter.endswith(".weight") else "init.bias"


def under(spec: Spec, path: str) -> tuple[Origin, ...]:
    """The origins of the values at and below `path`; of the sides of a kernel, that of the kernel."""
    if path in spec.origins:
        return (spec.origins[path],)
    found = tuple(origin for stated, origin in spec.origins.items() if stated.startswith(f"{path}."))
    head, _, last = path.rpartition(".")
    if not found and last in {side for sides in SHORTHANDS.values() for side in sides} and head in spec.origins:
        return (spec.origins[head],)
    return found


def material(spec: Spec) -> Iterable[str]:
    """The paths of :func:`items` whose values say something: not the order, nothing that is absent or has no effect."""
    noise = spec.data.color_noise
    idle = {
        "data.mean.align": spec.data.mean.kind != "image",
        "data.crop.shared_by": spec.data.crop.kind != "random",
        "data.flip.shared_by": spec.data.flip.probability == 0,
        "data.color_noise": noise is None,
    }
    for path, item in items(spec).items():
        if item.value is not None and not path.endswith(".after") and not idle.get(path, False):
            yield path
