"""Loggers, as the environment wants them at the time a stream starts."""

from __future__ import annotations

import logging
import os
import sys

from runai_model_streamer import _installation as installation
from runai_model_streamer import _native_api as native

logger = logging.getLogger("runai_model_streamer")
# Without this, Python prints warnings of a library that the host did not configure.
logger.addHandler(logging.NullHandler())

_FORMAT = "%(asctime)s [%(levelname)s] %(message)s"
_stderr: logging.Handler | None = None
_file: logging.FileHandler | None = None
_introduced = False
_reported = False
_level = logging.NOTSET  # what this module has set
_propagated = True  # before lines went to standard error


def configure() -> None:
    """Applies RUNAI_STREAMER_LOG_LEVEL, _LOG_TO_STDERR and _LOG_FILE.

    What is not set stays as the host has configured it.
    """
    global _stderr, _file, _level, _propagated
    level = native.setting("RUNAI_STREAMER_LOG_LEVEL")
    if os.environ.get("RUNAI_STREAMER_LOG_LEVEL") or logger.level in (logging.NOTSET, _level):
        logger.setLevel(level.upper())
        _level = logger.level
    to_stderr = native.setting("RUNAI_STREAMER_LOG_TO_STDERR")
    if to_stderr and _stderr is None:
        _stderr = logging.StreamHandler(sys.stderr)
        _stderr.setFormatter(logging.Formatter(_FORMAT))
        logger.addHandler(_stderr)
        _propagated, logger.propagate = logger.propagate, False
    elif not to_stderr and _stderr is not None:
        logger.removeHandler(_stderr)
        _stderr = None
        logger.propagate = _propagated
    path = native.setting("RUNAI_STREAMER_LOG_FILE")
    if _file is not None and _file.baseFilename != (path and os.path.abspath(path)):
        logger.removeHandler(_file)
        _file.close()
        _file = None
    if path and _file is None:
        _file = logging.FileHandler(path, delay=True)
        _file.setFormatter(logging.Formatter(_FORMAT))
        logger.addHandler(_file)
    _introduce()
    _report_ignored()


def _introduce() -> None:
    """Says once which implementation runs, and whether its files are mixed with another's."""
    global _introduced
    if _introduced:
        return
    _introduced = True
    directory = os.path.dirname(os.path.abspath(__file__))
    logger.info("Model Streamer %s runs, from %s", native.version(), directory)
    found = installation.problems()
    if found:
        logger.warning(
            "files of two implementations of runai_model_streamer are installed: %s. %s",
            "; ".join(found),
            installation.CURE,
        )


def _report_ignored() -> None:
    global _reported
    if _reported or not logger.isEnabledFor(logging.DEBUG):
        return
    _reported = True
    for row in native.settings_table():
        if row["group"] == "Ignored" and os.environ.get(row["name"]):
            logger.debug("%s is set and has no meaning for this engine", row["name"])
