"""Runs ``symptoms_keras.py`` in a process of its own, on PyTorch, which compiles nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from alexnet_rooms import ROOT


def test_the_symptoms_of_the_mistakes_in_keras() -> None:
    symptoms = Path(__file__).with_name("symptoms_keras.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(symptoms)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
