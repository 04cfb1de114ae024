"""How good trained models are: their files, their scores, errors with intervals, and what the errors were.

``python -m backends.evaluate`` and ``python -m backends.predict`` are its commands.
"""

from backends.evaluation.intervals import Paired, paired, wilson
from backends.evaluation.models import Model, load_model
from backends.evaluation.scoring import Outcome, averaged, evaluate, view_scores

__all__ = ["Model", "Outcome", "Paired", "averaged", "evaluate", "load_model", "paired", "view_scores", "wilson"]
