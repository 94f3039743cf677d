"""Reading files for one load, together with other ranks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from runai_model_streamer import _native_api as native
from runai_model_streamer._credentials.s3_credentials import S3Credentials
from runai_model_streamer._device.base import DeviceSink
from runai_model_streamer._distributed.agreement import pack_prefixes, unpack_prefixes
from runai_model_streamer._distributed.shared_stream import SharedStream
from runai_model_streamer._errors import StreamerClosedError
from runai_model_streamer._load import Load
from runai_model_streamer._options import DEFAULTS
from runai_model_streamer._paths import is_remote
from runai_model_streamer._prefixes import Prefix, PrefixEnd, read_prefixes
from runai_model_streamer._requests import FileChunks
from runai_model_streamer._session import Session
from runai_model_streamer._stats import StreamStats, stats_of


class SharedReader:
    """A Reader whose bytes the ranks of `shared` read for one another.

    Every rank makes the same calls with the same files. What fails on one rank is raised on all.
    """

    def __init__(
        self, shared: SharedStream, sink: DeviceSink, credentials: S3Credentials | None = None
    ) -> None:
        """`sink` has the memory that the ranks of `shared` have agreed on."""
        self.sink = sink
        self.options = DEFAULTS
        self.session: Session | None = None
        self.load: Load | None = None
        self._shared: SharedStream | None = shared
        self._credentials = credentials
        self._stats = StreamStats()

    def __del__(self) -> None:
        try:
            self._leave()
        except Exception:  # the interpreter may be shutting down
            pass

    def read_prefixes(
        self, paths: Sequence[str], first_bytes: int, end_of: PrefixEnd
    ) -> Iterator[Prefix]:
        """One rank reads each header, and sends it to the others."""
        assert self._shared is not None
        channel = self._shared.channel
        session = self._session_of(paths)
        mine = list(paths[channel.index :: len(channel.ranks)])
        prefixes = list(read_prefixes(session, mine, first_bytes, end_of))
        values = channel.exchange("headers", pack_prefixes(prefixes))
        found = {prefix.path: prefix for value in values for prefix in unpack_prefixes(value)}
        for path in paths:
            if path not in session.files and not is_remote(path):
                # Another node may have another version of a file with equal contents.
                found[path] = dataclasses.replace(found[path], version="")
        return iter([found[path] for path in paths])

    def start(self, requests: Iterable[FileChunks]) -> None:
        """Each byte is read by one of the ranks that need it, and sent to the others of them."""
        assert self._shared is not None
        requests = list(requests)
        session = self._session_of(list(dict.fromkeys(request.path for request in requests)))
        exchange = self._shared.begin(session, requests)
        ranges = sum(len(request.sizes) for request in requests)
        self.load = Load(exchange.runs(), self.sink.device, ranges)

    def close(self, error: BaseException | None = None) -> None:
        """Ranks that still need this one raise `error`, or that it left."""
        if self._shared is None:
            return
        self._stats = self.stats()
        self._leave(error)
        load, self.load = self.load, None
        if load is not None:
            load.close()
        session, self.session = self.session, None
        if session is not None:
            session.close()

    def _leave(self, error: BaseException | None = None) -> None:
        shared, self._shared = self._shared, None
        if shared is None:
            return
        if error is not None:
            shared.fail(error)
        shared.leave()

    def stats(self) -> StreamStats:
        if self._shared is None or self.session is None:
            return self._stats
        stats = stats_of(self.session.stream.stats(), self.sink.name)
        return self._shared.stats(stats)

    def ring_info(self) -> tuple[int, int, int] | None:
        """(rank, buffers, bytes of a buffer) of the staging memory, after start()."""
        if self._shared is None or self._shared.exchange is None:
            return None
        exchange = self._shared.exchange
        return self._shared.channel.rank, exchange.buffers, exchange.buffer_bytes

    def _session_of(self, paths: Sequence[str]) -> Session:
        session = self.session
        if session is None:
            session = self.session = Session(
                paths,
                credentials=self._credentials,
                memory_limit=native.MemoryLimit.unlimited(),
                options=self.options.to_native(),
            )
            if self._shared is None:  # closed by another thread, which may not have seen it
                session.close()
                raise StreamerClosedError("the streamer was closed", code="cancelled")
        return session
