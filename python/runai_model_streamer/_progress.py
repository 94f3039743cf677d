"""The bar of progress=True."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

from runai_model_streamer._logging import logger
from runai_model_streamer._units import size_text

Progress = Callable[[int, int], None]
"""(bytes so far, bytes in all)"""

_EVERY = 5.0  # seconds between lines if there is no tqdm


def to_callback(progress: Progress | bool | None, source: str) -> Progress | None:
    """The function that a load calls: `progress` itself; for True a bar that names the `source`,
    on the first rank of each node; else None."""
    if progress is None or progress is False:
        return None
    if progress is not True:
        return progress
    if os.environ.get("LOCAL_RANK", "0") != "0":  # torchrun: a bar for each node
        return None
    return Bar(source)


class Bar:
    """Bytes, rate and time left on standard error, or in a notebook: by tqdm, or else as lines.

    An error of the terminal does not end the load.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._bar: Any = None
        self._failed = False
        self._began = self._shown = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if self._failed:
            return
        try:
            self._show(done, total)
        except Exception as error:  # a terminal that went away, a bar of another version
            self._failed = True
            logger.debug("the bar of progress=True failed: %s", error)

    def _show(self, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = _make_tqdm(self._source, total) or False
        if self._bar:
            self._bar.update(done - self._bar.n)
            if done >= total:
                self._bar.close()
            return
        now = time.monotonic()
        if done < total and now - self._shown < _EVERY:
            return
        self._shown = now
        seconds = max(now - self._began, 1e-3)
        left = (total - done) / (done / seconds) if done else 0.0
        print(
            f"{self._source}: {size_text(done)} of {size_text(total)}, "
            f"{size_text(done / seconds)}/s, {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )


def _make_tqdm(source: str, total: int) -> Any:
    """None: tqdm is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of notebooks without widgets
            from tqdm.auto import tqdm

            return tqdm(
                total=total, unit="B", unit_scale=True, unit_divisor=1024, desc=source, leave=True
            )
    except ImportError:
        return None
