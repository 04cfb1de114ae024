"""Realisations of a specification, one folder each, all alike inside. Importing this imports no framework."""

from alexnet_rooms import require_own_rooms

require_own_rooms("spec", "data")

from backends.base import Backend, Inference, Unsupported  # noqa: E402
from backends.registry import NAMES, create  # noqa: E402

__all__ = ["NAMES", "Backend", "Inference", "Unsupported", "create"]
