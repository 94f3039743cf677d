"""Calls to the key-value store of torch.distributed that never wait for ever."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch.distributed as dist

from runai_model_streamer._distributed.peer_errors import Abandoned, PeerError
from runai_model_streamer._distributed.processes import host_name, lives, process_identity
from runai_model_streamer._errors import StreamerError

# A rank that waits checks this often if another one has failed or has ended.
SLICE = 0.3  # seconds
# Longest time that a rank that fails spends on telling the others.
FAREWELL = 2.0  # seconds

T = TypeVar("T")
Limit = tuple[float, str]
"""A timeout in seconds, and the variable that sets it."""


def _never() -> bool:
    return False


def _starts(thread: threading.Thread) -> bool:
    """False if the system has no thread."""
    try:
        thread.start()
    except RuntimeError:
        return False
    return True


_connection: tuple[int, Any, Any] | None = None


def _connection_to(store: Any) -> Any:
    """A connection to `store` of this package's own: one for all streams of this process.

    Making one takes seconds if names of addresses are looked up in vain, and each has its other
    end in the store's process. Threads can share it, since no call here waits in the store.
    """
    global _connection
    if not hasattr(store, "clone"):
        return store
    if _connection is not None:
        process, owner, made = _connection
        if process == os.getpid() and owner() is store:
            return made
    made = store.clone()
    _connection = os.getpid(), weakref.ref(store), made
    return made


def first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


class StoreClient:
    """A part of the store, named `prefix`, that `ranks` use. Base of those who talk there.

    One thread at a time. Calls that raise: a PeerError if a rank has ended, or if the store or
    other ranks do not respond within `limit`.
    """

    def __init__(
        self, store: Any, prefix: str, ranks: Sequence[int], rank: int, limit: Limit
    ) -> None:
        self.prefix = prefix
        self.ranks = list(ranks)
        self.rank = rank
        self.limit = limit
        self.advice = (
            "Every rank must call stream_files() with is_distributed=True, and take all tensors"
        )
        """For those who wait in vain for other ranks."""
        self.hosts: dict[int, str] = {rank: host_name()}
        self.cancelled: Callable[[], bool] = _never
        self._processes: dict[int, dict[str, Any]] = {}
        self._since: float | None = None  # the start of the call to the store in progress
        self.store: Any = dist.PrefixStore(
            prefix, self.patiently(lambda: self.call(_connection_to, store))
        )

    def introduce(self, host: str, rank: int, process: dict[str, Any]) -> None:
        """Tells where another rank runs."""
        self.hosts[rank] = host
        mine = process_identity()
        if host == host_name() and process.get("namespace") == mine["namespace"] != "":
            self._processes[rank] = process

    def stuck(self) -> PeerError | None:
        """The error for a store that does not answer: its process is stopped, or its node lost.

        Calls to the store can't be told to end, so whoever waits for the thread that made one asks.
        """
        since = self._since
        timeout, variable = self.limit
        if since is None or time.monotonic() - since < timeout:
            return None
        return PeerError(
            f"the key-value store of torch.distributed did not answer for {timeout:g} s "
            f"({variable}): the process that has it (rank 0's, or torchrun's) is "
            "stopped, or its node is lost",
            code="timeout",
        )

    def patiently(self, work: Callable[[], T]) -> T:
        """The result of `work`, which calls the store; left alone if the store is stuck."""
        values: list[T] = []
        failures: list[BaseException] = []
        done = threading.Event()

        def run() -> None:
            try:
                values.append(work())
            except BaseException as error:
                failures.append(error)
            done.set()

        thread = threading.Thread(target=run, name="streamer-dist-store", daemon=True)
        try:
            started = _starts(thread)
            while started and not done.wait(min(SLICE, self.limit[0])):
                if error := self.stuck():
                    raise error
        except BaseException:  # KeyboardInterrupt, too: the thread may run already
            self.cancelled = lambda: True
            raise
        if not started:
            return work()
        if failures:
            raise failures.pop()
        return values.pop()

    def watched(self, work: Callable[[], T]) -> T:
        """The result of `work`, which calls the store, and may itself wait for the timeout."""
        self._since = time.monotonic() + SLICE
        try:
            return work()
        finally:
            self._since = None

    def call(self, operation: Callable[..., Any], *arguments: Any) -> Any:
        """`operation(*arguments)`, which calls the store."""
        self._since = time.monotonic()
        try:
            return operation(*arguments)
        except StreamerError:
            raise
        except (RuntimeError, ValueError, OSError) as error:
            gone = [rank for rank in self.ranks if self._gone(rank)]
            if gone:
                raise self._peer_error(
                    f"{self.describe(gone)} ended before the stream did", gone
                ) from error
            raise PeerError(
                "lost the key-value store of torch.distributed (its process may have ended): "
                + first_line(error),
                code="timeout",
            ) from error
        finally:
            self._since = None

    def wait(
        self,
        done: Callable[[], bool],
        silent: Callable[[], list[int]],
        look_around: Callable[[], None] | None = None,
        limit: Limit | None = None,
    ) -> None:
        """Waits until `done` returns True. `silent` returns the ranks that keep it from that.

        `look_around` is called now and then, and raises to end the wait. All of them call the
        store. `limit` replaces the client's.

        The store is polled. Its own waiting, when it is cut short to look around, writes warnings,
        and leaves connections in doubt in some versions.
        """
        timeout, variable = limit or self.limit
        start = time.monotonic()
        next_look = start + SLICE
        pause = 50e-6
        longest = max(2e-3, 50e-6 * len(self.ranks))  # the store serves one at a time
        while not self.call(done):
            time.sleep(pause)
            pause = min(pause * 1.4, longest)
            if self.cancelled():
                raise Abandoned
            if time.monotonic() < next_look:
                continue
            next_look = time.monotonic() + SLICE
            if look_around is not None:
                look_around()
            missing = self.call(silent)
            gone = [rank for rank in missing if self._gone(rank)]
            if gone and not self.call(done):
                raise self._peer_error(f"{self.describe(gone)} ended before the stream did", gone)
            if missing and time.monotonic() - start >= timeout:
                # Since the last look, one that waited as long may have given up, and told the
                # reason.
                if look_around is not None:
                    look_around()
                raise self._peer_error(
                    f"no word from {self.describe(missing)} for {timeout:g} s "
                    f"({variable}). {self.advice}",
                    missing,
                )

    def _gone(self, rank: int) -> bool:
        process = self._processes.get(rank)
        return process is not None and not lives(process)

    def _peer_error(self, text: str, ranks: Sequence[int]) -> PeerError:
        """It is said to have happened on `ranks`, if that is one."""
        error = PeerError(text, code="timeout")
        if len(ranks) == 1:
            error.rank, error.host = ranks[0], self.hosts.get(ranks[0])
        return error

    def describe(self, ranks: Sequence[int]) -> str:
        """`ranks` and their hosts, for texts."""
        named = [
            f"{rank} on {self.hosts[rank]}" if rank in self.hosts else str(rank)
            for rank in ranks[:4]
        ]
        more = f" and {len(ranks) - 4} more" if len(ranks) > 4 else ""
        return ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(named) + more
