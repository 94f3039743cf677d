"""Refuses interpreters at import that the package does not work in.

Sub-interpreters: torch hangs there. Free-threaded ones without the global interpreter lock (GIL):
objects of the native module are for one thread at a time, which the GIL ensures.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any


def _in_main_interpreter() -> bool:
    # The module's name changed with Python 3.13.
    for name in ("_interpreters", "_xxsubinterpreters"):
        try:
            interpreters: Any = importlib.import_module(name)
        except ImportError:
            continue
        return bool(interpreters.get_current() == interpreters.get_main())
    return True


if not _in_main_interpreter():
    raise ImportError(
        "runai_model_streamer can't be used in a sub-interpreter: "
        "load in the main interpreter, or in another process"
    )

_has_lock: Any = getattr(sys, "_is_gil_enabled", None)
if _has_lock is not None and not _has_lock():
    raise ImportError(
        "runai_model_streamer needs the global interpreter lock: start this free-threaded Python "
        "with PYTHON_GIL=1 or -X gil=1"
    )
