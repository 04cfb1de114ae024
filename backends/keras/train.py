"""Train with Keras: ``python -m backends.keras.train --help``, or this file by its path, from anywhere."""

import sys
from pathlib import Path

if not __package__:
    # Run by path: modules are then looked for in this folder; they are to be looked for in the checkout's root.
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from backends import cli

if __name__ == "__main__":
    sys.exit(cli.main("keras"))
