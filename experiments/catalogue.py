"""The experiments by name. A module is imported when its experiment is asked for."""

from __future__ import annotations

import importlib

from experiments.experiment import Experiment

_MODULES = {
    "relu-vs-tanh": "experiments.relu_vs_tanh",
    "ablations": "experiments.ablations",
    "init": "experiments.init",
    "filters": "experiments.filters",
    "neighbours": "experiments.neighbours",
    "hashing": "experiments.hashing",
}
NAMES = tuple(_MODULES)


def find(name: str) -> Experiment:
    """The experiment called `name`, one of :data:`NAMES`."""
    experiment: Experiment = importlib.import_module(_MODULES[name]).EXPERIMENT
    return experiment
