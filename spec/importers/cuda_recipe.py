"""What cuda-convnet's files say of every parameter: initialisation, learning rates, momentum and decay."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from spec.importers.cfg import Section, cite
from spec.importers.common import Draft, LeftOut, merged, shown
from spec.importers.cuda_layers import Reading, alike, shared
from spec.importers.towers import Member

_DEXP = re.compile(r"dexp\[(?:tgtFactor=)?([^,\]]+),(?:noiseStdev=)?([^,\]]+),(?:numSteps=)?([^,\]]+)\]", re.IGNORECASE)
_DEXP2 = re.compile(r"dexp\[base=([^;\]]+);tgtFactor=([^;\]]+);numSteps=([^;\]]+)\]", re.IGNORECASE)


def _rate(draft: Draft, section: Section, suffix: str, inputs: int) -> dict[str, Any]:
    """The learning rate of a weight or a bias as a schedule of the language."""
    key, schedule_key = f"eps{suffix}", f"sched{suffix}"
    text = section.text(key)
    if found := _DEXP2.fullmatch(text.split("],")[0] + ("]" if "]," in text else "")):  # cuda-convnet2
        rate, factor = (_float(section, key, item) for item in found.groups()[:2])
        steps = _steps(section, key, found[3])
        return {"kind": "exponential_steps", "rate": rate, "target_factor": factor, "steps": steps}
    rates = section.each(key, float, inputs)
    if len(set(rates)) > 1:
        _leave(draft, section, key, "one rate for each input of a layer; the first is taken for all", True)
    schedule = section.text(schedule_key, "default")
    if schedule == "default":
        return {"kind": "constant", "rate": rates[0]}
    found = _DEXP.fullmatch(schedule.replace(" ", ""))
    if found and _float(section, schedule_key, found[2]) == 0:
        factor, steps = _float(section, schedule_key, found[1]), _steps(section, schedule_key, found[3])
        return {"kind": "exponential_steps", "rate": rates[0], "target_factor": factor, "steps": steps}
    _leave(draft, section, schedule_key, "a schedule that the language does not have; its first rate is taken", True)
    return {"kind": "constant", "rate": rates[0]}


def _float(section: Section, key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or abs(value) > 1e9:
        raise section.refuse(key, "must have finite numbers", shown(text))
    return value


def _leave(draft: Draft, section: Section, key: str, why: str, matters: bool = False) -> None:
    item = section.fields[key.lower()]
    section.read.add(key.lower())
    draft.left_out.append(LeftOut(section.file, item.line, f"[{section.name}] {item.key}", item.text, why, matters))


def per_parameter(reading: Reading) -> None:
    """Initialisation, learning rates, momentum and decay: of every weight and bias, equal in all towers and inputs."""
    draft = reading.draft
    init: dict[str, Any] = {}
    rates: dict[str, Any] = {}
    decay: dict[str, Any] = {}
    momenta: dict[float, list[Section]] = {}
    for name, row in reading.weighted.items():
        params = reading.params_of(row)
        default = 0.01 if row.members[0].kind == "fc" else None
        std, value = shared(row, "initW", float, default), alike(row.sections, "initB", float, 0.0)
        weight_init = {"kind": "normal", "std": std} if std > 0 else {"kind": "constant", "value": 0.0}
        init[f"{name}.weight"] = (weight_init, cite(row.sections, "initW"))
        init[f"{name}.bias"] = ({"kind": "constant", "value": value}, cite(row.sections, "initB"))
        found = [_rates(draft, member, section) for member, section in zip(row.members, params)]
        if any(other != found[0] for other in found):
            for section in params:
                _leave(draft, section, "epsW", "towers learn at rates of their own; the first is taken for all", True)
        rates[f"{name}.weight"] = (found[0][0], cite(params, "epsW"))
        rates[f"{name}.bias"] = (found[0][1], cite(params, "epsB"))
        wanted = [section.shared("wc", float, len(m.inputs), 0.0) for m, section in zip(row.members, params)]
        if len(set(wanted)) > 1:
            raise params[0].cannot_say("wc", "must be the same in every tower", ", ".join(map(str, wanted)))
        decay[f"{name}.weight"] = ({"": wanted[0]}, cite(params, "wc"))
        decay[f"{name}.bias"] = ({"": 0.0}, "src/layer.cu: biases are made with a weight decay of 0")
        for member, section in zip(row.members, params):
            for momentum in (*section.each("momW", float, len(member.inputs)), section.number("momB", float)):
                momenta.setdefault(momentum, []).append(section)
    for row in reading.weighted.values():
        for section in row.sections:
            for key in ("initWFunc", "initBFunc", "initCFunc"):
                if section.has(key):
                    why = "values that a program gives, from a trained network; initW and initB are written instead"
                    _leave(draft, section, key, why, True)
    draft.per_parameter(("init",), ("weight", "bias"), init, ("parameters",))
    draft.per_parameter(("training", "learning_rate"), ("*.weight", "*.bias"), rates)
    draft.per_parameter(("training", "weight_decay"), ("*.weight", "*.bias"), decay)
    _momentum(draft, momenta)


def _steps(section: Section, key: str, text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,5}", text):
        raise section.refuse(key, "numSteps must be a whole number", shown(text))
    return int(text)


def _rates(draft: Draft, member: Member, section: Section) -> tuple[dict[str, Any], dict[str, Any]]:
    return _rate(draft, section, "W", len(member.inputs)), _rate(draft, section, "B", 1)


def _momentum(draft: Draft, momenta: Mapping[float, list[Section]]) -> None:
    """The language has one momentum: the most frequent. Others are left out, and that matters."""
    most = max(momenta, key=lambda value: len(momenta[value]))
    for value, sections in momenta.items():
        for section in {id(section): section for section in sections}.values() if value != most else ():
            _leave(draft, section, "momW", f"one momentum holds for every parameter here, {most}", True)
    update = "src/weights.cu, Weights::update: inc = mom * inc + eps * grad - wc * eps * W; W += inc"
    draft.put(("training", "optimizer", "kind"), "sgd", update)
    where = list({id(section): section for section in momenta[most]}.values())
    draft.put(("training", "optimizer", "momentum"), most, merged((cite(where, "momW"), cite(where, "momB"))))
    draft.put(("training", "optimizer", "learning_rate_in_velocity"), True, update)
    draft.put(("training", "optimizer", "decay"), "coupled", update)
