"""Agreement of ranks: small messages over the key-value store of torch.distributed.

No collective is used here, so a rank that fails can say so without anybody's help, and a rank that
waits can be told at once. Data never travels this way.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from runai_model_streamer._distributed.peer_errors import (
    Abandoned,
    PeerError,
    decode_error,
    encode_error,
)
from runai_model_streamer._distributed.processes import host_name
from runai_model_streamer._distributed.store_client import FAREWELL, Limit, StoreClient, first_line

# A process that ends closes its connections some time before the kernel says that it is gone.
_ENDING = 2.0  # seconds
# The store refuses larger values.
_MAX_VALUE = 4 << 20
# A rank that arrives at a barrier looks at this many other ranks in one call to the store.
_ARRIVALS_AT_ONCE = 32
_ABORTED = b"aborted"


class Channel(StoreClient):
    """The messages of one stream between `ranks`. One thread at a time, but for abort().

    Every rank makes the same calls in the same order. Any call raises the error of the rank that
    called abort(), or a PeerError if somebody is silent for `timeout` seconds.
    """

    def __init__(
        self, store: Any, prefix: str, ranks: Sequence[int], rank: int, timeout: float
    ) -> None:
        super().__init__(store, prefix, ranks, rank, (timeout, "RUNAI_STREAMER_DIST_TIMEOUT"))
        self.timeout = timeout
        self.index = self.ranks.index(rank)
        # Groups of one stream share `prefix`: words of a rank stand by its number, the rest by the
        # first rank of the group.
        self._common = f"of/{self.ranks[0]}"
        self._said: list[str] = []  # the keys of this rank's last exchange
        self._gates: list[str] = []  # of the barriers that this rank is a member of
        self._aborted = False
        self._retired = False
        self._counted = False  # among those that retired

    def exchange(self, step: str, value: bytes, limit: Limit | None = None) -> list[bytes]:
        """Gives `value` to every rank and returns theirs, in the order of `ranks`.

        `limit` replaces the channel's.
        """
        return self.patiently(lambda: self._exchange(step, value, limit))

    def _exchange(self, step: str, value: bytes, limit: Limit | None) -> list[bytes]:
        parts = [value[i : i + _MAX_VALUE] for i in range(0, len(value), _MAX_VALUE)] or [b""]
        self.call(self._put, step, parts)
        keys = {rank: f"{step}/{rank}" for rank in self.ranks if rank != self.rank}

        def silent() -> list[int]:
            return [rank for rank, key in keys.items() if not self.store.check([key])]

        if keys:
            self.wait(lambda: self.store.check(list(keys.values())), silent, self.check, limit)
        values = []
        for rank in self.ranks:
            if rank == self.rank:
                values.append(value)
                continue
            key = keys[rank]
            count, _, first = self.call(self.store.get, key).partition(b"|")
            rest = [self.call(self.store.get, f"{key}/{part}") for part in range(1, int(count))]
            values.append(b"".join([first, *rest]))
        # A rank that says the next thing has read the one before: the store need not keep it.
        for key in self._said:
            self.call(self.store.delete_key, key)
        self._said = [f"{step}/{self.rank}"]
        self._said += [f"{step}/{self.rank}/{part}" for part in range(1, len(parts))]
        return values

    def _put(self, step: str, parts: list[bytes]) -> None:
        for index, part in enumerate(parts[1:], start=1):
            self.store.set(f"{step}/{self.rank}/{index}", part)
        self.store.set(f"{step}/{self.rank}", str(len(parts)).encode() + b"|" + parts[0])

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
            if not self.store.check([f"{self._common}/abort"]):
                self.store.set(f"{self._common}/abort", encoded)
            for gate in self._gates:
                self.store.set(gate, _ABORTED.decode())
            # The last rank may have deleted every key before: then these are not deleted.
            if self._counted and not self.store.check([f"{self._common}/retired"]):
                for key in (f"{self._common}/abort", *self._gates):
                    self.store.delete_key(key)

        self._briefly(say)

    def retire(self) -> None:
        """This rank makes no further call here. The last one deletes every key below `prefix`.

        Never waits; harmless when repeated. A store that can't list its keys keeps them.
        """
        if self._retired or self.stuck():
            return
        self._retired = True

        def leave() -> None:
            number = self.store.add(f"{self._common}/retired", 1)
            self._counted = True
            if number == len(self.ranks):
                # First, so that a rank that still says something sees that no rank needs it.
                self.store.delete_key(f"{self._common}/retired")
                for key in self.store.list_keys():
                    self.store.delete_key(key)

        self._briefly(leave)

    def _briefly(self, work: Callable[[], None]) -> None:
        """Does `work`, which calls the store, and does not wait for it for long."""

        def run() -> None:
            # The store is gone, or can't: then everybody learns it by themselves.
            with contextlib.suppress(Exception):
                work()

        thread = threading.Thread(target=run, name="streamer-dist-farewell", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter ends
            run()
        else:
            thread.join(FAREWELL)

    def check(self) -> None:
        """Raises what another rank aborted with."""
        if self.call(self.store.check, [f"{self._common}/abort"]):
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
                return self._peer_error(f"{self.describe(gone)} ended before the stream did", gone)
            if self.cancelled():
                raise Abandoned
            if time.monotonic() >= deadline:
                break
            time.sleep(0.01)
        others = [rank for rank in self.ranks if rank != self.rank] if peer is None else [peer]
        return self._peer_error(
            f"the exchange with {self.describe(others)} failed: {first_line(cause)}", others
        )

    def _raise_aborted(self) -> None:
        self._aborted = True
        raise decode_error(self.call(self.store.get, f"{self._common}/abort"))


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
            if not self._channel.call(self._arrive):
                self._channel.wait(self._is_open, self._missing, self._channel.check)
            self._number += 1

    def _arrive(self) -> bool:
        self._channel.store.set(f"{self._at}/{self._channel.rank}", str(self._number))
        others, step = self._others, _ARRIVALS_AT_ONCE
        parts = (others[i : i + step] for i in range(0, len(others), step))
        return all(map(self._have_arrived, parts)) and self._open()

    def _have_arrived(self, ranks: Sequence[int]) -> bool:
        store, keys = self._channel.store, [f"{self._at}/{rank}" for rank in ranks]
        if self._number == 0:  # later, everybody's key is there: reading it does not wait
            return bool(store.check(keys))
        return all(int(value) >= self._number for value in store.multi_get(keys))

    def _open(self) -> bool:
        # No rank can be further: that takes this rank's next arrival. Without compare_set(), which
        # crashes in torch 2.3.
        store = self._channel.store
        store.set(self.gate, str(self._number))
        if store.check([f"{self._channel._common}/abort"]):  # its word at the gate may be gone now
            store.set(self.gate, _ABORTED.decode())
            self._channel._raise_aborted()
        return True

    def _is_open(self) -> bool:
        store = self._channel.store
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
