"""How the commands on trained models end: one line for what went wrong, and the code that says whose fault it was."""

from __future__ import annotations

from collections.abc import Callable

from backends.evaluation.models import ModelError, ModelFailed
from backends.options import fail, not_installed
from backends.starting import WRONGLY_ASKED


def exit_code(run: Callable[[], int]) -> int:
    """What `run` returns; 2 if it was asked wrongly, 1 if it failed, 130 if it was interrupted."""
    try:
        return run()
    except (*WRONGLY_ASKED, ModelError) as error:
        return fail(error, 2)
    except ModuleNotFoundError as error:
        return fail(not_installed(error), 2)
    except (ModelFailed, OSError) as error:
        return fail(error, 1)
    except KeyboardInterrupt:
        return 130
