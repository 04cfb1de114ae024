"""What the network learned, in pictures and experiments that can be rerun. See ``README.md`` beside this file."""

from __future__ import annotations

from alexnet_rooms import require_own_rooms

require_own_rooms("spec", "data", "backends")
