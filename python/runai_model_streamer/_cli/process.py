"""The beginning and the end of a process of `model-streamer`: imports no other package."""

from __future__ import annotations

import os
import sys

FINE, FINDING, USAGE, STORAGE = 0, 1, 2, 3
INTERRUPTED = 130


def open_outputs() -> None:
    """The streams that the caller has closed discard what is written."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def drop_output() -> None:
    """Standard output takes no more; the interpreter would fail if it wrote the rest at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
