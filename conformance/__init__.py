"""The suite that decides whether a backend realises a specification, and whether it would notice if it did not."""

from __future__ import annotations

from alexnet_rooms import require_own_rooms

require_own_rooms("spec", "data", "backends")
