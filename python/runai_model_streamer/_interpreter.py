"""Refuses sub-interpreters at import: torch, which the package needs, hangs there."""

from __future__ import annotations

import importlib
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
