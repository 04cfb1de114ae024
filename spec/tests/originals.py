"""The repositories that sources point into, as clones, for tests that ask the originals themselves.

``ALEXNET_SOURCES=DIR`` names a folder with clones at ``DIR/OWNER/NAME``, bare or not, whatever they have checked out:

    DIR/computerhistory/AlexNet-Source-Code
    DIR/akrizhevsky/cuda-convnet2
    DIR/dnouri/cuda-convnet
    DIR/BVLC/caffe
    ... every repository in spec/sources.py; those that are not there are not asked
"""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from spec.sources import SOURCES

VARIABLE = "ALEXNET_SOURCES"


def clone(repository: str) -> Path | None:
    """The clone of OWNER/NAME, if there is one."""
    if VARIABLE not in os.environ:
        return None
    path = Path(os.environ[VARIABLE]) / repository
    return path if path.exists() else None


def needs(key: str) -> pytest.MarkDecorator:
    """Skips a test where the repository of a source is not at hand."""
    place = SOURCES[key].place
    return pytest.mark.skipif(
        clone(place) is None, reason=f"{VARIABLE}=DIR must name a folder with a clone DIR/{place}"
    )


def extract(key: str, folder: str, to: Path) -> Path:
    """A folder of a source's repository at the commit that pointers name, written below `to`. Returns `to`."""
    path = clone(SOURCES[key].place)
    assert path is not None
    argv = ["git", "-C", str(path), "archive", SOURCES[key].commits[0], folder]
    done = subprocess.run(argv, capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(to, filter="data")
    return to
