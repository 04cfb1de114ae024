"""Which `spec`, which `data`? The rooms of this checkout, and a guard against namesakes.

The packages of this project have plain names, so a module of the same name elsewhere on ``sys.path`` could be imported
in their place. Every room except ``spec`` calls :func:`require_own_rooms` before it imports another room, so that a
namesake is reported by its path instead of failing later in a stranger's code.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
"""The folder that holds the rooms: the root of the checkout."""


def require_own_rooms(*names: str) -> None:
    """Raise ImportError if any of the top-level packages `names` would come from outside this checkout.

    As a command (``python -m``) the same is one line and exit code 2.
    """
    for name in names:
        found = importlib.util.find_spec(name)
        places = list(found.submodule_search_locations or []) if found else []
        if found and found.origin:
            places.append(found.origin)
        if not any(Path(place).resolve().is_relative_to(ROOT / name) for place in places):
            received = places[0] if places else "no such package"
            message = (
                f"this project needs its own package {name!r} from {ROOT / name}; received: {received}. "
                f"Remove the other {name!r} from the path (PYTHONPATH, the working folder), or put {ROOT} before it."
            )
            if sys.argv[:1] == ["-m"]:  # Python is still looking for the module of `python -m`: nobody can catch this
                print(f"error: {message}", file=sys.stderr)
                raise SystemExit(2)
            raise ImportError(message)
