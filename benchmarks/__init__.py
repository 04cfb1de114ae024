"""How fast exported networks run, measured so that two machines, or two days, can be compared. See ``run.py``."""

from __future__ import annotations

from alexnet_rooms import require_own_rooms

require_own_rooms("spec", "data", "backends")
