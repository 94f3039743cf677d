"""The bar of a command that reads for long."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from runai_model_streamer._cli.output import is_plain


@contextlib.contextmanager
def bar(text: str, wanted: bool = True) -> Iterator[Callable[[int, int], None] | None]:
    """A function to call with (bytes so far, bytes in all); None if no terminal shows it. It is
    on standard error, so that standard output can be read by programs."""
    if not wanted or is_plain(sys.stderr):
        yield None
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        task = progress.add_task(text, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
