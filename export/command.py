"""How the commands on weights end: one line for what was asked wrongly or refused."""

from __future__ import annotations

from collections.abc import Callable

from backends.options import fail
from backends.starting import WRONGLY_ASKED
from export.conversions import Refused


def exit_code(run: Callable[[], int]) -> int:
    """What `run` returns; 2 if it was asked wrongly, refused, or lacks a package; 130 if it was interrupted."""
    try:
        return run()
    except (*WRONGLY_ASKED, Refused) as error:
        return fail(error, 2)
    except ModuleNotFoundError as error:
        return fail(Refused(f"this file needs the package {error.name}, which is not installed"), 2)
    except KeyboardInterrupt:
        return 130
