"""One native stream: its open files, and their ready ranges."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from runai_model_streamer import _logging as logs
from runai_model_streamer import _native_api as native
from runai_model_streamer._credentials import certificates as certificates
from runai_model_streamer._credentials import make_provider
from runai_model_streamer._errors import StreamerError, shown_path
from runai_model_streamer._native_api import Ownership as Ownership
from runai_model_streamer._paths import check_not_mixed, is_remote, to_native
from runai_model_streamer._requests import FileChunks

if TYPE_CHECKING:
    import torch
else:
    from runai_model_streamer._torch import torch


@dataclasses.dataclass(slots=True)
class Run:
    """Consecutive ranges of one request that are ready together."""

    request_id: int
    first: int
    """Index of the first range."""
    count: int
    data: native.Buffer | list[torch.Tensor] | None
    """The memory that holds them all; or, on a device, a tensor for each range. None if the ranges
    have destinations of the caller, or no bytes."""
    positions: list[int]
    """Of each range in a buffer, in bytes."""
    sizes: list[int]
    """Of all ranges of the request, in bytes."""
    check: Callable[[], None] | None = None
    """If `data` is the file's own pages: raises when they may not be touched any more. To be
    called before each range is handed out: if a truncation took pages away, they are zeros."""


class Session:
    """Files opened for one load. Settings are read from the environment when it is made."""

    def __init__(
        self,
        paths: Sequence[str],
        *,
        credentials: Any = None,
        memory_limit: native.MemoryLimit | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        logs.configure()
        check_not_mixed(paths)
        chosen: dict[str, Any] = dict(options or {})
        if memory_limit is not None:
            chosen["memory_limit"] = memory_limit
        provider = None
        if paths and is_remote(paths[0]):
            provider = make_provider(credentials)
            chosen["source"] = certificates.fallback() | chosen.get("source", {})
        self.stream = native.Stream(chosen, provider, logs.retried)
        if logs.logger.isEnabledFor(logging.DEBUG) and provider is not None:
            _log_access(paths[0], make_provider(credentials), chosen["source"])
        # Memory that reads write to, by a number of its owner's. Nothing here is freed before the
        # stream has ended, however the session dies.
        self.memory: dict[int, list[torch.Tensor]] = {}
        self.files: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self.versions: dict[str, str] = {}
        self.ownership = Ownership.OWNED
        """Of ranges that are submitted from now on."""
        self._logged = False
        self._entries: list[list[tuple[int, list[int]]]] = []  # id and sizes, by submission

    def open(
        self, paths: Sequence[str], prefix_bytes: int = 0, versions: Sequence[str] = ()
    ) -> list[bytes]:
        """Opens `paths` and returns the first bytes of each; raises the first one's error.

        `versions` are those of a list, one for each path, or empty.
        """
        prefixes = []
        for file in self.open_each(paths, prefix_bytes, versions):
            if file.error is not None:
                raise file.error
            prefixes.append(file.prefix)
        return prefixes

    def open_each(
        self, paths: Sequence[str], prefix_bytes: int = 0, versions: Sequence[str] = ()
    ) -> Iterator[native.OpenedFile]:
        """open(), but each file comes as soon as it and those before it are open, with `error` set
        if it can't be opened. All are open when the iterator has come to its end."""
        return itertools.chain.from_iterable(self.opening(paths, prefix_bytes, versions))

    def opening(
        self, paths: Sequence[str], prefix_bytes: int = 0, versions: Sequence[str] = ()
    ) -> Iterator[list[native.OpenedFile]]:
        """open_each(), by what comes together."""
        paths = list(paths)
        first = self.stream.open_begin(list(map(to_native, paths)), prefix_bytes, list(versions))
        return self._opened(paths, first)

    def _opened(self, paths: Sequence[str], first: int) -> Iterator[list[native.OpenedFile]]:
        at = 0
        while at < len(paths):
            files = self.stream.opened(first + at)
            for index, (path, file) in enumerate(zip(paths[at:], files, strict=False), first + at):
                if file.error is None:
                    self.files[path] = index
                    self.sizes[path] = file.size
                    self.versions[path] = file.version
            at += len(files)
            yield files

    def read(self, parts: Sequence[tuple[str, int, int]]) -> Iterator[bytes]:
        """The bytes of each part (path of an open file, offset, size), as soon as they and those
        before them are there. Reading has begun when it returns."""
        ranges = [native.FileRanges(self.files[path], [at], [size]) for path, at, size in parts]
        reading = self.stream.read_begin(ranges)
        return (self.stream.read_next(reading) for _ in ranges)

    def __del__(self) -> None:
        stream = getattr(self, "stream", None)
        if stream is not None:
            stream.close()

    def submit(
        self,
        requests: Sequence[FileChunks],
        device_type: native.DeviceType = native.DeviceType.HOST,
        ordinal: int = 0,
        device_stream: int = 0,
    ) -> None:
        """Adds the ranges of `requests`, in this order. Opens what is not open.

        On a device, copies start after what its stream `device_stream` (a handle) holds now.
        """
        missing = list(dict.fromkeys(r.path for r in requests if r.path not in self.files))
        if missing:
            check_not_mixed([*self.files, *missing])
            self.open(missing)
        wanted = [
            native.FileRanges(
                self.files[r.path],
                r.offsets,
                r.sizes,
                r.alignments,
                r.destinations,
                r.keep,
                r.strides,
            )
            for r in requests
        ]
        self._entries.append([(r.id, r.sizes) for r in requests])
        try:
            self.stream.submit(wanted, device_type, ordinal, device_stream, self.ownership)
        finally:
            wanted.clear()  # an error holds this frame, which holds memory

    def runs(self) -> Generator[Run, None, None]:
        """Ready ranges, in the order of submission, until everything was delivered.

        It owns the ranges that it has fetched: a load has one, and reads it to its end.
        """
        finished = False
        while not finished:
            ready, finished = self.stream.next()
            # Popped one by one, so that no memory is held for longer than the consumer holds it.
            ready.reverse()
            while ready:
                yield self._run(ready.pop())

    def _run(self, ready: native.Ready) -> Run:
        if ready.error is not None:
            raise ready.error
        memory = ready.memory
        check = None
        if memory is not None and memory.view:
            check = self.stream.checker(ready.file)
            check()
        request_id, sizes = self._entries[ready.submission][ready.entry]
        return Run(
            request_id, ready.first_range, ready.count, memory, ready.positions, sizes, check
        )

    def _log_reading(self) -> None:
        """At DEBUG: how the files were read."""
        if not logs.logger.isEnabledFor(logging.DEBUG) or self._logged:
            return
        self._logged = True
        stats = self.stream.stats()
        logs.logger.debug(
            "[RunAI Streamer] read %s bytes in %.2f s (%s): %d requests, %d retries, %d reads at "
            "once, bound by %s",
            stats["bytes"],
            stats["seconds"],
            ", ".join(f"{n} {size}" for n, size in stats["bytes_by_strategy"].items()) or "nothing",
            stats["requests"],
            stats["retries"],
            stats["concurrency"],
            stats["bound"],
        )

    def _warn_of_versions(self) -> None:
        """Warns if the bytes that were read may be of several versions."""
        notes = self.stream.stats()["notes"]
        for topic in ("set", "versions"):
            if topic in notes:
                logs.logger.warning("[RunAI Streamer] %s", notes[topic])

    def close(self) -> None:
        """Raises StreamerChangedError, once it is closed, if a file was changed while tensors in
        use were still views of it."""
        try:
            self.stream.close()
        finally:
            self.memory.clear()
            self._warn_of_versions()
            self._log_reading()


def _log_access(path: str, provider: Callable[..., Any], source: dict[str, str]) -> None:
    """At DEBUG: the endpoint and the identity of requests."""
    try:
        access = native.find_access(to_native(path), provider, source)
    except StreamerError as error:
        logs.logger.debug("[RunAI Streamer] %s", error)
        return
    logs.logger.debug(
        "[RunAI Streamer] %s: endpoint %s (%s), region %s, proxy %s, identity %s",
        shown_path(path),
        access["endpoint"],
        access["endpoint_from"],
        access["region"] or "none",
        access["proxy"] or "none",
        access["identity"] or access["credentials"] or "anonymous",
    )
