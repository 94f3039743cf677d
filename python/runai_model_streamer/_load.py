"""The delivery of one stream_files(): each item once, to the iterator that requests it first."""

from __future__ import annotations

import contextlib
import copy
import inspect
import itertools
import threading
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

from runai_model_streamer._errors import (
    RunaiStreamerInvalidInputException,
    StreamerClosedError,
    StreamerError,
)
from runai_model_streamer._session import Run

if TYPE_CHECKING:
    import torch
else:
    from runai_model_streamer._torch import torch


class _Ahead:
    """Runs, of which the next one can be waited for in another thread before it is taken.

    Thread-safe. Has no reference to what owns it.
    """

    def __init__(self, runs: Generator[Run, None, None]) -> None:
        self._runs = runs
        self._lock = threading.Lock()
        self._fetched: list[Run] = []
        self._error: BaseException | None = None
        self._ended = False

    def fetch(self) -> None:
        """Waits until take() does not have to."""
        with self._lock:
            if not self._fetched and self._error is None:
                try:
                    self._fetched += itertools.islice(self._runs, 1)
                    self._ended = not self._fetched
                except BaseException as error:
                    self._error = error

    def take(self) -> Run | None:
        """The next run; None at the end."""
        with self._lock:
            if self._fetched:
                return self._fetched.pop()
            error, self._error = self._error, None
            if error is not None:
                raise error
            return next(self._runs, None)

    @property
    def ready(self) -> bool:
        """True if take() returns or raises at once."""
        return bool(self._fetched) or self._error is not None or self._ended

    def close(self) -> None:
        _close(self._runs)
        self._fetched.clear()


def _through(ahead: _Ahead) -> Generator[Run, None, None]:
    try:
        yield from iter(ahead.take, None)  # no frame holds a run that was yielded
    finally:
        ahead.close()


class Load:
    """One load, from its first run to its end. One thread at a time; close() from any thread.

    The load owns the generators that fetch, and everything that they have fetched. The iterators of
    consumers only use them: one that is dropped, closed or thrown into loses nothing, and the next
    one continues behind it.
    """

    def __init__(self, runs: Generator[Run, None, None], device: torch.device, ranges: int) -> None:
        """`runs` are those of `ranges` ranges in all; `device` is that of the tensors."""
        self.device = device
        self.ranges = ranges
        self._ahead = _Ahead(runs)
        self._runs = _through(self._ahead)
        self._views: dict[str, Generator[Any, None, None]] = {"runs": self._runs}
        self._closed = False
        self._complete = False
        self._failure: StreamerError | None = None

    def view(
        self, name: str, make: Callable[[Iterator[Run]], Generator[Any, None, None]]
    ) -> Iterator[Any]:
        """The items that `make` makes of runs; every call with `name` continues the same ones.

        To be taken within taking(name). Raises when the load has ended; one without ranges is never
        at its end.
        """
        if self._closed:
            raise self._closed_error()
        if self._failure is not None:
            raise copy.copy(self._failure)
        items = self._views.get(name)
        if self._complete and self.ranges > 0 and (items is None or _ended(items)):
            raise RunaiStreamerInvalidInputException(
                "the load is complete, everything was yielded: call stream_files() to read again"
            )
        if items is None:
            # No reference to this object, which owns it: the last iterator frees everything.
            items = self._views[name] = make(itertools.chain(self._runs))
        # A chain has neither close() nor throw(): a consumer's generator passes none of them on.
        return itertools.chain(items)

    @contextlib.contextmanager
    def taking(self, name: str) -> Iterator[None]:
        """Around what takes view(name) to its end: notes how that ends."""
        items = self._views[name]
        try:
            yield
        except BaseException as error:
            state = inspect.getgeneratorstate(items)
            if state == inspect.GEN_RUNNING and isinstance(error, ValueError):
                raise RunaiStreamerInvalidInputException(
                    "another thread is taking from this load: one thread at a time"
                ) from None
            if state != inspect.GEN_CLOSED or self._complete or self._failure is not None:
                raise  # the consumer's own
            if self._closed:
                if isinstance(error, StreamerError) and error.code == "invalid":
                    raise self._closed_error() from error
                raise
            self._failure = _to_raise_again(error)
            raise
        if self._closed:
            raise self._closed_error()
        if self._failure is not None:
            raise copy.copy(self._failure)
        self._complete = True

    def fetch(self, scope: contextlib.AbstractContextManager[object]) -> None:
        """Waits, in `scope`, until the next run can be taken without waiting. In any thread."""
        with scope:
            self._ahead.fetch()

    @property
    def fetched(self) -> bool:
        """True if the next run can be taken without waiting."""
        return self._ahead.ready

    def drain(self) -> None:
        """Drops every run that was not taken: from then on the load is one without ranges."""
        with self.taking("runs"):
            for _ in self._runs:
                pass
        self.ranges = 0

    @property
    def complete(self) -> bool:
        """True if everything was taken or dropped."""
        return self._complete

    @property
    def failed(self) -> bool:
        """True if it ended early, by an error or by close()."""
        return self._failure is not None or self._closed

    def close(self) -> None:
        """Frees everything that was fetched. The next step of every iterator raises
        StreamerClosedError."""
        self._closed = True
        for items in list(self._views.values())[::-1]:
            _close(items)
        self._ahead.close()  # also if nothing was taken yet

    @staticmethod
    def _closed_error() -> StreamerClosedError:
        return StreamerClosedError(
            "the streamer was closed, or has begun another load", code="cancelled"
        )


def _close(items: Generator[Any, None, None]) -> None:
    """Closes `items`, unless a thread is in it: then it ends when the session does.

    CPython 3.11 can crash in close() of a generator that runs. No other thread runs between the
    question and the call.
    """
    with contextlib.suppress(ValueError):
        if not items.gi_running:  # type: ignore[attr-defined]
            items.close()


def _ended(items: Generator[Any, None, None]) -> bool:
    return inspect.getgeneratorstate(items) == inspect.GEN_CLOSED


def _to_raise_again(error: BaseException) -> StreamerError:
    """The error of later iterators: without the traceback, which holds frames of a consumer."""
    if isinstance(error, StreamerError):
        return copy.copy(error)
    return StreamerClosedError(
        f"the load ended early, by {type(error).__name__}: call stream_files() to read again",
        code="cancelled",
    )
