"""Networks leave and enter here: ONNX files, verified against the backend they come from before they are kept."""

from __future__ import annotations

from alexnet_rooms import require_own_rooms

require_own_rooms("spec", "data", "backends", "conformance")
