"""The thread that reads, exchanges and hands over, while the consumer works with what it got.

For each round: this rank's pieces have been read into a staging buffer; all ranks say so (a failure
travels here, before anybody waits for data that will not come); the pieces are exchanged, unless
ranks see each other's memory; tensors are copied out; and the buffer is filled again, while another
one is at work.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Sequence

from runai_model_streamer._distributed.assembler import Assembler
from runai_model_streamer._distributed.peer_errors import Abandoned, PeerError, located
from runai_model_streamer._distributed.plan import Plan
from runai_model_streamer._distributed.processes import host_name
from runai_model_streamer._distributed.reader import PieceReader
from runai_model_streamer._distributed.rendezvous import Channel
from runai_model_streamer._distributed.staging import Placed, Staging
from runai_model_streamer._distributed.transport import TransferError, Transport
from runai_model_streamer._errors import (
    StreamerClosedError,
    StreamerError,
    StreamerOutOfMemoryError,
)
from runai_model_streamer._session import Run

_STOP_SECONDS = 3.0
_LOOK_SECONDS = 0.3


class _Queue:
    """Runs for the consumer: at most so many bytes, but always one run."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[tuple[Run, int]] = deque()
        self._bytes = 0
        self._ended = False
        self._error: BaseException | None = None
        self._stopped = False
        self._changed = threading.Condition()

    def put(self, run: Run, size: int) -> None:
        with self._changed:
            while not self._stopped and self._items and self._bytes + size > self._limit:
                self._changed.wait()
            if self._stopped:
                raise Abandoned
            self._items.append((run, size))
            self._bytes += size
            self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        with self._changed:
            if not self._ended:
                self._ended = True
                self._error = error
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()

    def take(self, look_around: Callable[[], None]) -> Run | None:
        """The next run; None at the end. Raises what ended the stream early.

        Calls `look_around` now and then while it waits.
        """
        with self._changed:
            while not self._items and not self._ended and not self._stopped:
                if not self._changed.wait(_LOOK_SECONDS):
                    look_around()
            if self._items:
                run, size = self._items.popleft()
                self._bytes -= size
                self._changed.notify_all()
                return run
            if self._error is not None:
                raise self._error
            if self._stopped:
                raise StreamerClosedError("the streamer was closed", code="cancelled")
            return None


def _no() -> bool:
    return False


class ExchangeThread:
    """One member's part of one stream. start(), then runs(); stop() at any time."""

    def __init__(
        self,
        plan: Plan,
        member: int,
        ranks: Sequence[int],
        channel: Channel,
        reader: PieceReader,
        staging: Staging,
        assembler: Assembler,
        queue_bytes: int,
        cancel_reading: Callable[[], None],
    ) -> None:
        self._plan = plan
        self._member = member
        self._ranks = ranks
        self._channel = channel
        # A rank that wants nothing has no rounds, and must not be counted in those of the others.
        self._barrier = channel.barrier(ranks) if channel.rank in ranks else None
        self._reader = reader
        self._staging: Staging | None = staging
        self._assembler = assembler
        self._cancel_reading = cancel_reading
        self._queue = _Queue(queue_bytes)
        self._transport: Transport | None = None
        self._stopping = False
        self._delivered = False
        self._thread: threading.Thread | None = None
        self._process = os.getpid()
        self._layouts: dict[int, list[Placed]] = {}
        self._memory = assembler.memory
        self._on_device = self._memory.on_device
        self._scope = self._memory.scope()
        self._stream = self._memory.stream()
        self.shared = staging.shared
        self.buffers = staging.buffers
        self.buffer_bytes = staging.buffer_bytes
        self.bytes = 0
        self.read_seconds = 0.0
        """Waited for this rank's own reading."""
        self.peer_seconds = 0.0
        """Waited for other ranks to have read."""
        self.exchange_seconds = 0.0
        self.copy_seconds = 0.0

    def start(self, make_transport: Callable[[Callable[[], bool]], Transport]) -> None:
        """`make_transport` gets a function that says when to give up."""
        self._channel.cancelled = self.stopped
        self._thread = threading.Thread(
            target=self._work, args=(make_transport,), name="streamer-dist", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError as error:
            raise StreamerOutOfMemoryError(
                "the system has no thread to read with",
                code="out_of_memory",
                hint="Raise the limit of processes (ulimit -u) or of the cgroup (pids.max)",
            ) from error
        _started.add(self)

    def runs(self) -> Generator[Run, None, None]:
        """The complete runs. Raises the error that ended the stream, on whichever rank it was."""
        yield from iter(self._next, None)  # no frame holds a run that was yielded

    def _next(self) -> Run | None:
        run = self._queue.take(self._look_around)
        if run is not None and run.data is not None and self._memory.stream() != self._stream:
            for tensor in run.data if isinstance(run.data, list) else ():
                self._memory.used_by_current_stream(tensor)
        return run

    def _look_around(self) -> None:
        if error := self._channel.stuck():
            raise error

    def stopped(self) -> bool:
        return self._stopping

    def stop(self) -> None:
        """Ends the thread. Other ranks are told, unless everything was delivered."""
        thread = self._thread
        if thread is None or not thread.is_alive():
            self._release()
            return
        if self._delivered:
            return  # the rest is a wait until others have got theirs
        self._stopping = True
        self._channel.abort(Abandoned("stopped before the end of the stream"))
        self._queue.stop()
        self._cancel_reading()
        if thread is threading.current_thread() or self._channel.stuck():
            return
        thread.join(_STOP_SECONDS)
        if thread.is_alive() and self._transport is not None:
            with contextlib.suppress(Exception):
                self._transport.abort()
            thread.join(_STOP_SECONDS)

    def leave(self) -> None:
        """Ends the thread, also if it only waits for others to have got theirs."""
        if os.getpid() != self._process:
            return
        self.stop()
        thread = self._thread
        if thread is not None:
            thread.join(_STOP_SECONDS)
            self._stopping = True
            thread.join(_STOP_SECONDS)

    def _work(self, make_transport: Callable[[Callable[[], bool]], Transport]) -> None:
        try:
            with self._scope:
                self._rounds(make_transport)
            self._staging = None
            self._delivered = True
            self._queue.end()
        except Abandoned:
            self._queue.end(StreamerClosedError("the streamer was closed", code="cancelled"))
        except BaseException as failure:
            ended: BaseException = failure
            if self._stopping:
                ended = StreamerClosedError("the streamer was closed", code="cancelled")
            elif isinstance(ended, StreamerError) and not isinstance(ended, PeerError):
                located(ended, self._channel.rank, host_name())
            self._channel.abort(ended)
            self._queue.end(ended)
        else:
            # The group goes when no rank needs it; a rank that fails now has got everything.
            if self._barrier is not None:
                with contextlib.suppress(Exception):
                    self._barrier.wait()
        finally:
            self._queue.end(StreamerError("the exchange ended early"))  # unless it ended before
            self._release()
            self._channel.retire()

    def _release(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            with contextlib.suppress(Exception):
                transport.close()
        self._staging = None
        # No cycles: connections to the store go with the stream, not when garbage is collected.
        self._channel.cancelled = _no

    def _begin(self, number: int) -> None:
        if number >= self._plan.rounds:
            return
        assert self._staging is not None
        placed = self._layouts[number] = self._staging.place(number)
        self._reader.start(placed, self._stream)

    def _rounds(self, make_transport: Callable[[Callable[[], bool]], Transport]) -> None:
        for run in self._assembler.leading():
            self._queue.put(run, 0)
        for number in range(self.buffers):
            self._begin(number)
        if self._plan.rounds == 0:
            return
        assert self._barrier is not None
        if not self.shared:
            start = time.monotonic()
            try:
                self._transport = self._channel.watched(lambda: make_transport(self.stopped))
            except (RuntimeError, ValueError, OSError) as error:
                self._fail_transfer(error, start)
        for number in range(self._plan.rounds):
            start = time.monotonic()
            self._reader.wait(number)
            read = time.monotonic()
            self._barrier.wait()
            agreed = time.monotonic()
            if self.shared and number > 0:
                # Ranks that are here have copied the round before out of this rank's memory.
                self._begin(number - 1 + self.buffers)
            placed = self._layouts.pop(number)
            if self._transport is not None:
                try:
                    self._transport.exchange(placed)
                except (RuntimeError, ValueError, OSError) as error:
                    self._fail_transfer(error, agreed)
            exchanged = time.monotonic()
            self._hand_over(placed)
            if not self.shared:
                self._begin(number + self.buffers)
            self.read_seconds += read - start
            self.peer_seconds += agreed - read
            self.exchange_seconds += exchanged - agreed
            self.copy_seconds += time.monotonic() - exchanged

    def _fail_transfer(self, error: BaseException, began: float) -> None:
        if self._stopping:
            raise Abandoned
        peer = self._ranks[error.member] if isinstance(error, TransferError) else None
        # Another rank that failed closes its connections: its own words say more. They stand in
        # the store before that happens, and lost() raises them.
        raise self._channel.lost(error, peer, time.monotonic() - began) from error

    def _hand_over(self, placed: Sequence[Placed]) -> None:
        complete: list[tuple[Run, int]] = []
        parts = []
        for one in placed:
            position = 0
            for extent in one.piece.extents:
                size = extent[2] - extent[1]
                parts.append((extent, one.data[position : position + size]))
                position += size
        for (file, start, _), data in sorted(parts, key=lambda part: part[0]):
            if not self._on_device:
                for run, size in self._assembler.feed(file, start, data):
                    self.bytes += size
                    self._queue.put(run, size)
            else:
                complete += self._assembler.feed(file, start, data)
        if self._on_device:
            self._memory.synchronize()
            for run, size in complete:
                self.bytes += size
                self._queue.put(run, size)


_started: weakref.WeakSet[ExchangeThread] = weakref.WeakSet()


@atexit.register
def leave_all() -> None:
    """Ends the threads of streams that have delivered everything, and of all others."""
    # A thread that comes back from torch while the interpreter ends would abort the process.
    for exchange in list(_started):
        exchange.leave()
