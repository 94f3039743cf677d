"""The log, with the settings of the environment at the time that a stream starts.

Lines go to the logger `runai_model_streamer`, whose level, handlers and propagation are the host's
and are never changed. RUNAI_STREAMER_LOG_LEVEL, _LOG_TO_STDERR and _LOG_FILE have handlers of their
own, which are not handlers of that logger. Nothing here raises: a log must not fail a load.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import Any

from runai_model_streamer import _installation as installation
from runai_model_streamer import _native_api as native
from runai_model_streamer._errors import StreamerError, shown_text
from runai_model_streamer._settings import former_names, unknown_settings

_NAME = "runai_model_streamer"
_FORMAT = "%(asctime)s [%(levelname)s] %(message)s"
_WARN_FROM = 2  # the attempt that failed, from which on retries are worth a warning
_WARN_EVERY = 1.0  # seconds between warnings of retries: every connection has its own

_host = logging.getLogger(_NAME)
# Without this, Python prints warnings of a library that the host did not configure.
_host.addHandler(logging.NullHandler())


class Log:
    """The methods of a logger that the package needs."""

    def __init__(self) -> None:
        self._own = logging.Logger(_NAME, logging.INFO)  # not registered: no other code has it
        self._least: int | None = None  # of RUNAI_STREAMER_LOG_LEVEL
        self._stderr: logging.Handler | None = None
        self._file: logging.FileHandler | None = None
        self._failed_file: str | None = None
        self._told: set[str] = set()
        self._warned_at = -_WARN_EVERY
        self._introduced = False

    def isEnabledFor(self, level: int) -> bool:
        """True if a handler takes lines of this level."""
        if self._least is not None and level < self._least:
            return False
        if self._own.handlers and self._own.isEnabledFor(level):
            return True
        return self._stderr is None and _host.isEnabledFor(level)

    def debug(self, text: str, *arguments: Any) -> None:
        self._log(logging.DEBUG, text, arguments)

    def info(self, text: str, *arguments: Any) -> None:
        self._log(logging.INFO, text, arguments)

    def warning(self, text: str, *arguments: Any) -> None:
        self._log(logging.WARNING, text, arguments)

    def _log(self, level: int, text: str, arguments: tuple[Any, ...]) -> None:
        if not self.isEnabledFor(level):
            return
        if self._own.handlers:
            self._own.log(level, text, *arguments, stacklevel=3)
        if self._stderr is None:
            _host.log(level, text, *arguments, stacklevel=3)

    def once(self, key: str, text: str, *arguments: Any) -> None:
        """A warning that this process gets once for each `key`."""
        if key not in self._told:
            self._told.add(key)
            self._log(logging.WARNING, text, arguments)

    def configure(self) -> None:
        """Applies the settings of the group Logging, and warns of settings that are none."""
        level = logging.getLevelName(native.setting("RUNAI_STREAMER_LOG_LEVEL").upper())
        self._own.setLevel(level)
        # Without the variable, the host chooses the level.
        self._least = level if os.environ.get("RUNAI_STREAMER_LOG_LEVEL") else None
        self._configure_stderr(native.setting("RUNAI_STREAMER_LOG_TO_STDERR"))
        self._configure_file(native.setting("RUNAI_STREAMER_LOG_FILE"))
        self._introduce()
        self._report_settings()

    def _introduce(self) -> None:
        """Logs once which implementation runs, and if its files are mixed with those of another."""
        if self._introduced:
            return
        self._introduced = True
        directory = os.path.dirname(os.path.abspath(__file__))
        self.info("Model Streamer %s runs, from %s", native.version(), directory)
        found = installation.problems()
        if found:
            self.warning(
                "files of two implementations of runai_model_streamer are installed: %s. %s",
                "; ".join(found),
                installation.CURE,
            )

    def _configure_stderr(self, wanted: bool) -> None:
        if self._stderr is not None:  # sys.stderr may be another one by now
            self._own.removeHandler(self._stderr)
            self._stderr = None
        if wanted:
            self._stderr = logging.StreamHandler(sys.stderr)
            self._stderr.setFormatter(logging.Formatter(_FORMAT))
            self._own.addHandler(self._stderr)

    def _configure_file(self, path: str | None) -> None:
        if self._file is not None and self._file.baseFilename != (path and os.path.abspath(path)):
            self._own.removeHandler(self._file)
            self._file.close()
            self._file = None
        if path and self._file is None and path != self._failed_file:
            try:
                self._file = logging.FileHandler(path)
            except OSError as error:
                self._failed_file = path
                self.warning(
                    "RUNAI_STREAMER_LOG_FILE: %s can't be written to (%s): lines are not logged "
                    "there",
                    shown_text(path),
                    error.strerror,
                )
            else:
                self._failed_file = None
                self._file.setFormatter(logging.Formatter(_FORMAT))
                self._own.addHandler(self._file)

    def _report_settings(self) -> None:
        for name, nearest in unknown_settings():
            meant = f": did you mean {nearest}?" if nearest else ""
            self.once(name, "%s is set, but is not a setting%s", name, meant)
        for former, name in former_names().items():
            if os.environ.get(former):
                self.once(former, "%s is deprecated: use %s", former, name)
        trace = os.environ.get("RUNAI_STREAMER_TRACE_FILE")
        if trace:
            directory = os.path.dirname(trace) or "."
            if not os.access(trace if os.path.exists(trace) else directory, os.W_OK):
                self.once(
                    f"trace {trace}",
                    "RUNAI_STREAMER_TRACE_FILE: %s can't be written to: requests are not logged",
                    shown_text(trace),
                )
        if self.isEnabledFor(logging.DEBUG):
            for row in native.settings_table():
                name = row["name"]
                if row["group"] == "Ignored" and os.environ.get(name) and name not in self._told:
                    self._told.add(name)
                    self.debug("%s is set and has no meaning for this engine", name)

    def retried(self, path: str, attempt: int, pause: float, error: Exception) -> None:
        """A request for `path` failed for the `attempt`-th time, and is repeated after `pause`
        seconds. From the second time on that is a warning, at most one a second."""
        now = time.monotonic()
        loud = attempt >= _WARN_FROM and now - self._warned_at >= _WARN_EVERY
        if loud:
            self._warned_at = now
        self._log(
            logging.WARNING if loud else logging.DEBUG,
            "[RunAI Streamer] attempt %d failed, the next one follows in %.1f s: %s",
            (attempt, pause, error if isinstance(error, StreamerError) else type(error).__name__),
        )


logger = Log()
configure = logger.configure
retried = logger.retried
