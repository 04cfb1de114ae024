"""A run's metrics as TensorBoard reads them, beside ``metrics.jsonl`` and made of the same events.

Written with TensorBoard's own records and messages. Its ``EventFileWriter`` is left alone, since that imports
TensorFlow wherever it is installed, and frameworks share no process.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FOLDER = "tensorboard"
"""In the run's folder."""
TAGS = {
    "step": {"loss": "step/loss", "learning_rate": "step/learning_rate"},
    "epoch": {
        "loss": "epoch/loss",
        "validation_loss": "epoch/validation_loss",
        "top1_error": "epoch/top1_error",
        "top5_error": "epoch/top5_error",
        "validation_top1_error": "epoch/validation_top1_error",
        "validation_top5_error": "epoch/validation_top5_error",
        "images_per_second": "epoch/images_per_second",
        "learning_rate": "epoch/learning_rate",
    },
}
"""Field of an event of ``metrics.jsonl`` to the name under which TensorBoard shows it."""


class EventFile:
    """One file of events; a process that goes on with a run writes another, and what it does again counts anew.

    Raises ModuleNotFoundError if TensorBoard is not installed, OSError.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        place = folder / FOLDER
        place.mkdir(exist_ok=True)
        now = time.time_ns()
        self._file = (place / f"events.out.tfevents.{now}.{socket.gethostname()}.{os.getpid()}").open("xb")
        self._records = RecordWriter(self._file)
        self._write(Event(wall_time=now / 1e9, file_version="brain.Event:2"))
        # TensorBoard forgets what an earlier file says of this step and those behind it.
        self._write(Event(wall_time=now / 1e9, step=step, session_log=SessionLog(status=SessionLog.START)))
        self._file.flush()

    def add(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Events as ``metrics.jsonl`` has them."""
        for line in lines:
            tags = TAGS.get(line["event"], {})
            values = [self._summary.Value(tag=tag, simple_value=line[name]) for name, tag in tags.items()]
            if values:
                self._write(self._event(wall_time=time.time(), step=line["step"], summary=self._summary(value=values)))
        self._file.flush()

    def _write(self, event: Any) -> None:
        self._records.write(event.SerializeToString())
