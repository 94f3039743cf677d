"""Reading files for one load: alone, or together with others."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from runai_model_streamer import _native_api as native
from runai_model_streamer._credentials.s3_credentials import S3Credentials
from runai_model_streamer._device.base import DeviceSink
from runai_model_streamer._device.host import HostSink
from runai_model_streamer._errors import StreamerClosedError
from runai_model_streamer._load import Load
from runai_model_streamer._options import DEFAULTS, StreamOptions
from runai_model_streamer._prefixes import Prefix, PrefixEnd, read_prefixes
from runai_model_streamer._requests import FileChunks
from runai_model_streamer._session import Ownership, Session
from runai_model_streamer._stats import StreamStats, stats_of


class Reader(Protocol):
    """Reads the files of one load. One thread at a time."""

    @property
    def sink(self) -> DeviceSink:
        """The destination of the load."""

    @property
    def load(self) -> Load | None:
        """The load, from start() to close()."""

    options: StreamOptions
    """May be replaced until it reads."""

    def read_prefixes(
        self, paths: Sequence[str], first_bytes: int, end_of: PrefixEnd
    ) -> Iterator[Prefix]:
        """read_prefixes() for this load: its files stay open for start()."""

    def start(self, requests: Iterable[FileChunks]) -> None:
        """Starts to read `requests`, in order. Called once. Opens files that are not open.

        A sink may submit the requests of an iterator one at a time.
        """

    def close(self, error: BaseException | None = None) -> None:
        """Stops reading, and releases what the engine holds. No-op when repeated.

        `error` is the reason, if one is known: others that wait for this reader raise it.
        """

    def stats(self) -> StreamStats:
        """Counters of the load, also after close()."""


class LocalReader:
    """Reads by itself. `sink` and `options` may be replaced until it reads."""

    def __init__(
        self,
        credentials: S3Credentials | None = None,
        sink: DeviceSink | None = None,
        *,
        memory_limit: native.MemoryLimit | None = None,
        ownership: Ownership = Ownership.OWNED,
        notes: Mapping[str, str] | None = None,
    ) -> None:
        """`memory_limit` overrides RUNAI_STREAMER_MEMORY_LIMIT; `notes` are added to stats().

        `ownership` may be replaced until start().
        """
        self.ownership = ownership
        self.sink: DeviceSink = HostSink() if sink is None else sink
        self.session: Session | None = None
        self.load: Load | None = None
        self._credentials = credentials
        self.options = DEFAULTS
        self._memory_limit = memory_limit
        self._notes = dict(notes or {})
        self._stats = StreamStats()
        self._closed = False

    def open(self, paths: Sequence[str], prefix_bytes: int = 0) -> tuple[Session, list[bytes]]:
        """Opens `paths`. Returns the session and the first bytes of each file."""
        session = self._make_session(paths)
        return session, session.open(paths, prefix_bytes)

    def read_prefixes(
        self, paths: Sequence[str], first_bytes: int, end_of: PrefixEnd
    ) -> Iterator[Prefix]:
        session = self._make_session(paths)
        return read_prefixes(session, paths, first_bytes, end_of, soon=True)

    def start(self, requests: Iterable[FileChunks]) -> None:
        session = self.session
        if session is None:
            requests = list(requests)
            session = self._make_session([request.path for request in requests])
        # Tensors that are moved from the host are read here, where a truncation must be no signal.
        reads = not self.sink.writes_destinations
        session.ownership = Ownership.COPIED if reads else self.ownership
        counted = _Counted(requests)
        self.sink.submit(session, counted.requests)
        self.load = Load(self.sink.runs(session), self.sink.device, counted.ranges)
        self._check_open()

    def close(self, error: BaseException | None = None) -> None:
        self._closed = True
        self._end()

    def _end(self) -> None:
        load, self.load = self.load, None
        if load is not None:
            load.close()
        session, self.session = self.session, None
        if session is not None:
            try:
                session.close()
            finally:
                self._stats = self._stats_of(session)

    def stats(self) -> StreamStats:
        return self._stats if self.session is None else self._stats_of(self.session)

    def _make_session(self, paths: Sequence[str]) -> Session:
        self._end()
        session = self.session = Session(
            paths,
            credentials=self._credentials,
            memory_limit=self._memory_limit,
            options=self.options.to_native(),
        )
        self._check_open()
        return session

    def _check_open(self) -> None:
        """Closes objects that were made while another thread was in close()."""
        if self._closed:
            self._end()
            raise StreamerClosedError("the streamer was closed", code="cancelled")

    def _stats_of(self, session: Session) -> StreamStats:
        stats = stats_of(session.stream.stats(), self.sink.name)
        return dataclasses.replace(stats, notes={**stats.notes, **self._notes})


class _Counted:
    """Counts the ranges of requests as they are taken. Passes an iterator on as an iterator."""

    def __init__(self, requests: Iterable[FileChunks]) -> None:
        self.ranges = 0
        if isinstance(requests, Sequence):
            self.ranges = sum(len(request.sizes) for request in requests)
            self.requests: Iterable[FileChunks] = requests
        else:
            self.requests = map(self._count, requests)

    def _count(self, request: FileChunks) -> FileChunks:
        self.ranges += len(request.sizes)
        return request
