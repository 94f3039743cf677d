"""How ranks agree: small messages over the key-value store of torch.distributed.

No collective is used here, so a rank that fails can say so without anybody's help, and a rank that
waits can be told at once. Data never travels this way.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from runai_model_streamer._distributed.peer_errors import (
    Abandoned,
    PeerError,
    decode_error,
    encode_error,
)
from runai_model_streamer._distributed.processes import (
    host_name,
    lives,
    process_identity,
)
from runai_model_streamer._errors import StreamerError

# While it waits, a rank looks this often whether another one has given up or is gone.
_SLICE = 0.3  # seconds
# A process that ends closes its connections some time before the kernel says that it is gone.
_ENDING = 2.0  # seconds
# Longest that abort() keeps its caller.
_FAREWELL = 2.0  # seconds
# The store refuses larger values.
_MAX_VALUE = 4 << 20
# A rank that arrives at a barrier looks at this many other ranks in one call to the store.
_ARRIVALS_AT_ONCE = 32
_ABORTED = b"aborted"

T = TypeVar("T")


def _never() -> bool:
    return False


_connection: tuple[int, Any, Any] | None = None


def _connection_to(store: Any) -> Any:
    """A connection to `store` of this package's own: one for all streams of this process.

    Making one takes seconds where names of addresses are looked up in vain, and each has its other
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


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


class Channel:
    """The messages of one stream between `ranks`. One thread at a time, but for abort().

    Every rank makes the same calls in the same order. Any call raises the error of the rank that
    called abort(), or a PeerError where somebody is silent for `timeout` seconds.
    """

    def __init__(
        self, store: Any, prefix: str, ranks: Sequence[int], rank: int, timeout: float
    ) -> None:
        from torch.distributed import PrefixStore

        self.ranks = list(ranks)
        self.rank = rank
        self.index = self.ranks.index(rank)
        self.timeout = timeout
        self.hosts: dict[int, str] = {rank: host_name()}
        self.cancelled: Callable[[], bool] = _never
        # Groups of one stream share `prefix`: what a rank says stands by its number, the rest by
        # the first rank of the group.
        self._common = f"of/{self.ranks[0]}"
        self._processes: dict[int, dict[str, Any]] = {}
        self._said: list[str] = []  # the keys of what this rank exchanged last
        self._gates: list[str] = []  # of the barriers that this rank is a member of
        self._aborted = False
        self._since: float | None = None  # when the call to the store under way began

        self._store: Any = PrefixStore(
            prefix, self.patiently(lambda: self._call(_connection_to, store))
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
        if since is None or time.monotonic() - since < self.timeout:
            return None
        return PeerError(
            f"the key-value store of torch.distributed did not answer for {self.timeout:g} s "
            "(RUNAI_STREAMER_DIST_TIMEOUT): the process that has it (rank 0's, or torchrun's) is "
            "stopped, or its node is lost",
            code="timeout",
        )

    def patiently(self, work: Callable[[], T]) -> T:
        """What `work` returns, which calls the store; left alone where the store is stuck."""
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
            thread.start()
        except RuntimeError:  # the system gives no thread
            return work()
        try:
            while not done.wait(min(_SLICE, self.timeout)):
                if error := self.stuck():
                    raise error
        except BaseException:  # KeyboardInterrupt, too
            self.cancelled = lambda: True
            raise
        if failures:
            raise failures.pop()
        return values.pop()

    def watched(self, work: Callable[[], T]) -> T:
        """What `work` returns, which calls the store, and may wait there for the timeout itself."""
        self._since = time.monotonic() + _SLICE
        try:
            return work()
        finally:
            self._since = None

    def exchange(self, step: str, value: bytes) -> list[bytes]:
        """Gives `value` to every rank and returns theirs, in the order of `ranks`."""
        return self.patiently(lambda: self._exchange(step, value))

    def _exchange(self, step: str, value: bytes) -> list[bytes]:
        parts = [value[i : i + _MAX_VALUE] for i in range(0, len(value), _MAX_VALUE)] or [b""]
        self._call(self._put, step, parts)
        values = []
        for rank in self.ranks:
            if rank == self.rank:
                values.append(value)
                continue
            key = f"{step}/{rank}"
            self._wait(partial(self._store.check, [key]), partial(list, [rank]))
            count, _, first = self._call(self._store.get, key).partition(b"|")
            rest = [self._call(self._store.get, f"{key}/{part}") for part in range(1, int(count))]
            values.append(b"".join([first, *rest]))
        # Who says the next thing has read the one before: the store need not keep it.
        for key in self._said:
            self._call(self._store.delete_key, key)
        self._said = [f"{step}/{self.rank}"]
        self._said += [f"{step}/{self.rank}/{part}" for part in range(1, len(parts))]
        return values

    def _put(self, step: str, parts: list[bytes]) -> None:
        for index, part in enumerate(parts[1:], start=1):
            self._store.set(f"{step}/{self.rank}/{index}", part)
        self._store.set(f"{step}/{self.rank}", str(len(parts)).encode() + b"|" + parts[0])

    def barrier(self, members: Sequence[int] | None = None) -> Barrier:
        """The barrier of `members`, by default of every rank. This rank must be one of them.

        Raises a ValueError for other callers, and if the barrier of these members was made before.
        """
        barrier = Barrier(self, self.ranks if members is None else members)
        if barrier.gate in self._gates:
            raise ValueError(f"the barrier of ranks {barrier.members} was made before")
        self._gates.append(barrier.gate)
        return barrier

    def abort(self, error: BaseException) -> None:
        """Makes every rank raise `error`. Never waits; harmless when repeated."""
        if self._aborted:
            return
        self._aborted = True
        if self.stuck():  # then it is for everybody
            return
        encoded = encode_error(error, self.rank, host_name()).decode()

        def say() -> None:
            try:
                self._store.compare_set(f"{self._common}/abort", "", encoded)
                for gate in self._gates:
                    self._store.set(gate, _ABORTED.decode())
            except Exception:  # the store is gone: then everybody learns it by themselves
                pass

        thread = threading.Thread(target=say, name="streamer-dist-abort", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter ends
            say()
        else:
            thread.join(_FAREWELL)

    def check(self) -> None:
        """Raises what another rank aborted with."""
        if self._call(self._store.check, [f"{self._common}/abort"]):
            self._raise_aborted()

    def lost(self, cause: BaseException, peer: int | None, waited: float) -> PeerError:
        """The error for a transfer with rank `peer` (None: unknown) that failed after `waited`
        seconds; raises what another rank aborted with."""
        ending = _ENDING if self._processes and waited < self.timeout else 0
        deadline = time.monotonic() + ending
        while True:
            self.check()
            gone = [rank for rank in self.ranks if self._gone(rank)]
            if gone:
                return self._peer_error(f"{self._describe(gone)} ended before the stream did", gone)
            if self.cancelled():
                raise Abandoned
            if time.monotonic() >= deadline:
                break
            time.sleep(0.01)
        others = [rank for rank in self.ranks if rank != self.rank] if peer is None else [peer]
        return self._peer_error(
            f"the exchange with {self._describe(others)} failed: {_first_line(cause)}", others
        )

    def _raise_aborted(self) -> None:
        self._aborted = True
        raise decode_error(self._call(self._store.get, f"{self._common}/abort"))

    def _call(self, operation: Callable[..., Any], *arguments: Any) -> Any:
        self._since = time.monotonic()
        try:
            return operation(*arguments)
        except StreamerError:
            raise
        except (RuntimeError, ValueError, OSError) as error:
            gone = [rank for rank in self.ranks if self._gone(rank)]
            if gone:
                raise self._peer_error(
                    f"{self._describe(gone)} ended before the stream did", gone
                ) from error
            raise PeerError(
                "lost the key-value store of torch.distributed (its process may have ended): "
                + _first_line(error),
                code="timeout",
            ) from error
        finally:
            self._since = None

    def _wait(self, done: Callable[[], bool], silent: Callable[[], list[int]]) -> None:
        """Waits until `done` returns True. `silent` returns the ranks that keep it from that.

        Both call the store. It is polled: the store's own waiting, when it is cut short to look
        around, writes warnings, and leaves connections in doubt in some versions.
        """
        start = time.monotonic()
        look_around = start + _SLICE
        pause = 50e-6
        longest = max(2e-3, 50e-6 * len(self.ranks))  # the store serves one at a time
        while not self._call(done):
            time.sleep(pause)
            pause = min(pause * 1.4, longest)
            if self.cancelled():
                raise Abandoned
            if time.monotonic() < look_around:
                continue
            look_around = time.monotonic() + _SLICE
            self.check()
            missing = self._call(silent)
            gone = [rank for rank in missing if self._gone(rank)]
            if gone and not self._call(done):
                raise self._peer_error(f"{self._describe(gone)} ended before the stream did", gone)
            if missing and time.monotonic() - start >= self.timeout:
                raise self._peer_error(
                    f"no word from {self._describe(missing)} for {self.timeout:g} s "
                    "(RUNAI_STREAMER_DIST_TIMEOUT). Every rank must call stream_files() with "
                    "is_distributed=True, and take all tensors",
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

    def _describe(self, ranks: Sequence[int]) -> str:
        named = [
            f"{rank} on {self.hosts[rank]}" if rank in self.hosts else str(rank)
            for rank in ranks[:4]
        ]
        more = f" and {len(ranks) - 4} more" if len(ranks) > 4 else ""
        return ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(named) + more


class Barrier:
    """A point that `members`, ranks of one channel, pass together, any number of times.

    Each member writes the number of its last arrival under its own key. So arrivals have names:
    other ranks' arrivals are ignored, and a repeated arrival counts once. The member that sees the
    arrival of all others opens the gate. Keys are overwritten: the store does not grow with rounds.
    """

    def __init__(self, channel: Channel, members: Sequence[int]) -> None:
        self.members = sorted(set(members))
        self._channel = channel
        unknown = sorted({channel.rank, *self.members} - set(channel.ranks))
        if channel.rank not in self.members or unknown:
            raise ValueError(
                f"rank {channel.rank} of the ranks {channel.ranks} cannot wait at a barrier of the "
                f"ranks {self.members}"
            )
        # Named by its members: ranks that disagree about them time out, instead of passing early.
        name = hashlib.sha256(repr(self.members).encode()).hexdigest()[:16]
        self._at = f"barrier/{name}/at"
        self.gate = f"barrier/{name}/open"
        self._number = 0
        self._others = [rank for rank in self.members if rank != channel.rank]

    def wait(self) -> None:
        """Returns when every member has called this as often as this rank.

        Raises what every call of the channel raises. One thread at a time.
        """
        if self._others:
            if not self._channel._call(self._arrive):
                self._channel._wait(self._is_open, self._missing)
            self._number += 1

    def _arrive(self) -> bool:
        self._channel._store.set(f"{self._at}/{self._channel.rank}", str(self._number))
        others, step = self._others, _ARRIVALS_AT_ONCE
        parts = (others[i : i + step] for i in range(0, len(others), step))
        return all(map(self._have_arrived, parts)) and self._open()

    def _have_arrived(self, ranks: Sequence[int]) -> bool:
        store, keys = self._channel._store, [f"{self._at}/{rank}" for rank in ranks]
        if self._number == 0:  # later, everybody's key is there: reading it does not wait
            return bool(store.check(keys))
        return all(int(value) >= self._number for value in store.multi_get(keys))

    def _open(self) -> bool:
        before = str(self._number - 1) if self._number else ""
        # The word of a rank that aborted stays.
        return self._passes(self._channel._store.compare_set(self.gate, before, str(self._number)))

    def _is_open(self) -> bool:
        store = self._channel._store
        if self._number == 0 and not store.check([self.gate]):
            return False
        return self._passes(store.get(self.gate))

    def _passes(self, gate: bytes) -> bool:
        if gate == _ABORTED:
            self._channel._raise_aborted()
        return int(gate) >= self._number

    def _missing(self) -> list[int]:
        missing = [rank for rank in self._others if not self._have_arrived([rank])]
        if not missing:  # the last one can have ended before it opened the gate
            self._open()
        return missing
