"""Refuses sub-interpreters at import: torch, which the package needs, hangs there."""

from __future__ import annotations

from typing import Any


def _in_main_interpreter() -> bool:
    interpreters: Any
    try:
        import _interpreters as interpreters  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        try:
            import _xxsubinterpreters as interpreters  # type: ignore[import-not-found,unused-ignore]
        except ImportError:
            return True
    return bool(interpreters.get_current() == interpreters.get_main())


if not _in_main_interpreter():
    raise ImportError(
        "runai_model_streamer can't be used in a sub-interpreter: "
        "load in the main interpreter, or in another process"
    )
