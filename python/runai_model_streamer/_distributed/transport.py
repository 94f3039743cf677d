"""Transport of pieces between ranks: process groups of this stream's own.

The groups are made straight from the backends, on a part of the store that only this stream uses:
nothing is registered with torch.distributed, no collective of the default group is issued, and
whatever happens to these groups leaves the default group as it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as dist

from runai_model_streamer._distributed.staging import Placed

# Beyond the timeout that is ours to report: NCCL's own watchdog would end the process.
_NCCL_GRACE = 120.0


class TransferError(RuntimeError):
    """A transfer with one member failed."""

    def __init__(self, member: int, cause: BaseException) -> None:
        super().__init__(str(cause) or type(cause).__name__)
        self.member = member


class Transport(Protocol):
    """Between the members of one plan; used by one thread."""

    name: str

    def exchange(self, placed: Sequence[Placed]) -> None:
        """Sends this member's pieces and fills the others. Returns when done."""

    def abort(self) -> None:
        """Makes exchange() fail soon, called from another thread."""

    def close(self) -> None: ...


def _tag(one: Placed) -> int:
    """The same for owner and receiver: an owner has one piece in each class of a round."""
    return one.piece.number


class GlooTransport:
    """Host memory: pieces go from their owners to each receiver, straight from and to staging."""

    name = "gloo"

    def __init__(self, store: Any, member: int, members: int, timeout: float) -> None:
        self._member = member
        self._group: Any = dist.ProcessGroupGloo(store, member, members, timedelta(seconds=timeout))

    def exchange(self, placed: Sequence[Placed]) -> None:
        me = self._member
        works = []
        for one in placed:
            if one.piece.size > 0 and one.piece.owner != me:
                tag = _tag(one)
                works.append((one.piece.owner, self._group.recv([one.data], one.piece.owner, tag)))
        for one in placed:
            if one.piece.size > 0 and one.piece.owner == me:
                data, tag, receivers = one.data, _tag(one), one.piece.receivers
                # Beginning behind itself, so that the owners do not all send to one.
                first = receivers.index(me)
                others = receivers[first + 1 :] + receivers[:first]
                works += [(other, self._group.send([data], other, tag)) for other in others]
        for member, work in works:
            try:
                work.wait()
            except RuntimeError as error:
                raise TransferError(member, error) from error

    def abort(self) -> None:
        abort = getattr(self._group, "abort", None)
        if abort is not None:
            abort()

    def close(self) -> None:
        del self._group


class NcclTransport:
    """Memory of a GPU: one all-gather if all want the same, else grouped sends."""

    name = "nccl"

    def __init__(
        self,
        store: Any,
        member: int,
        members: int,
        timeout: float,
        device: torch.device,
        stopped: Callable[[], bool],
    ) -> None:
        self._member = member
        self._members = members
        self._timeout = timeout
        self._device = device
        self._stopped = stopped
        self._aborted = False
        make: Any = dist.ProcessGroupNCCL
        self._group: Any = make(store, member, members, timedelta(seconds=timeout + _NCCL_GRACE))

    def exchange(self, placed: Sequence[Placed]) -> None:
        if self._is_gather(placed):
            slot, staging = placed[0].piece.slot, placed[0].memory
            mine = staging[self._member * slot : (self._member + 1) * slot]
            self._group._allgather_base(staging[: self._members * slot], mine).wait()
        else:
            self._sends(placed)
        self._synchronize()

    def _is_gather(self, placed: Sequence[Placed]) -> bool:
        slots = {one.piece.slot for one in placed}
        everyone = tuple(range(self._members))
        return (
            len(slots) == 1
            and len(placed) == self._members
            and all(one.piece.receivers == everyone for one in placed)
            and [one.piece.owner for one in placed] == list(everyone)
        )

    def _sends(self, placed: Sequence[Placed]) -> None:
        me = self._member
        moving = [one for one in placed if one.piece.size > 0 and len(one.piece.receivers) > 1]
        if not moving:
            return
        self._group._start_coalescing(self._device)
        for one in moving:
            data = one.data
            if one.piece.owner != me:
                self._group.recv([data], one.piece.owner, 0)
            else:
                for receiver in one.piece.receivers:
                    if receiver != me:
                        self._group.send([data], receiver, 0)
        self._group._end_coalescing(self._device).wait()

    def _synchronize(self) -> None:
        """Waits for the stream, for as long as the timeout says and no longer."""
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(self._device))
        deadline = time.monotonic() + self._timeout
        pause = 20e-6
        while not done.query():
            if self._aborted or self._stopped():
                raise RuntimeError("the exchange was stopped")
            if time.monotonic() >= deadline:
                self.abort()
                raise RuntimeError(f"no progress for {self._timeout:g} s")
            time.sleep(pause)
            pause = min(pause * 1.5, 1e-3)

    def abort(self) -> None:
        self._aborted = True
        abort = getattr(self._group, "abort", None) or getattr(self._group, "_abort", None)
        if abort is not None:
            abort()

    def close(self) -> None:
        shutdown = getattr(self._group, "shutdown", None) or getattr(self._group, "_shutdown", None)
        if shutdown is not None and not self._aborted:
            shutdown()
        del self._group
