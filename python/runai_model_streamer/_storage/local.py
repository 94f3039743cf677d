"""Directories of the file system, and the names in them."""

from __future__ import annotations

import os
import stat

from runai_model_streamer._errors import from_native


def names_in(directory: str) -> list[str]:
    """The names in `directory`, but not those of directories, devices and pipes.

    Links that lead nowhere count: opening them raises the error. Raises a StreamerError.
    """
    try:
        with os.scandir(directory or ".") as entries:
            return [entry.name for entry in entries if _may_be_file(entry)]
    except OSError as error:
        code = {"FileNotFoundError": "not_found", "PermissionError": "permission"}.get(
            type(error).__name__, "io"
        )
        raise from_native(
            code,
            f"{directory}: can't be listed: {error.strerror}",
            {"path": directory, "errno": error.errno},
        ) from error


def _may_be_file(entry: os.DirEntry[str]) -> bool:
    try:
        return stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return True


def is_weights(name: str) -> bool:
    """True if a file of this name is a safetensors file that is meant to be found."""
    return name.endswith(".safetensors") and not name.startswith(".")
