"""Columns beside the backends of the registry: other graphs for ONNX Runtime, and what of them is known to fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

from conformance.xfails import Entry
from export.exporters import KNOWN

if TYPE_CHECKING:
    from conformance.runner import Result

PREFIX = "onnx-of-"
"""Of columns of files that a framework's own exporter wrote; the backend follows."""
CLASSES = {
    "onnx-lrn-node": "backends.onnx.backend:LrnNodeBackend",
    f"{PREFIX}torch": "conformance.exported:OfTorch",
    f"{PREFIX}keras-tensorflow": "conformance.exported:OfKerasOnTensorFlow",
    f"{PREFIX}keras-jax": "conformance.exported:OfKerasOnJax",
    f"{PREFIX}keras-torch": "conformance.exported:OfKerasOnTorch",
}
"""By name, the backend as ``package.module:Class``. They only infer, and in float32."""
COLUMNS = tuple(CLASSES)
CHECKS = ("evaluation-outputs", "prediction")
"""What a file of another exporter is asked."""


def known_failures(result: Result) -> list[Entry]:
    """What is known to fail of what was asked, because an exporter gets an op of the network wrong."""
    name, job = result.backend, result.job
    known = KNOWN.get(name.removeprefix(PREFIX), {}) if name.startswith(PREFIX) else {}
    ops, asked = {layer.op for layer in job.spec.layers}, {finding.check for finding in result.findings}
    return [
        Entry(check, reason, name, job.spec.name, job.dtype, link=link, place="export/exporters.py")
        for op, (reason, link) in known.items()
        if op in ops
        for check in CHECKS
        if check in asked | result.failures.keys()
    ]
