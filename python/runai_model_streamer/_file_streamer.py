"""Byte ranges of files and objects, as tensors of bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import TypeVar

import torch
from typing_extensions import Self  # of torch's own needs

from runai_model_streamer import _native_api as native
from runai_model_streamer._credentials.s3_credentials import S3Credentials
from runai_model_streamer._device import registry
from runai_model_streamer._device.dlpack import byte_factory
from runai_model_streamer._errors import (
    RunaiStreamerInvalidInputException,
    StreamerChangedError,
)
from runai_model_streamer._load import Load
from runai_model_streamer._options import DEFAULTS, StreamOptions
from runai_model_streamer._reader import LocalReader, Reader
from runai_model_streamer._requests import FileChunks
from runai_model_streamer._session import Ownership, Run, Session
from runai_model_streamer._stats import StreamStats
from runai_model_streamer._storage.listing import list_files

__all__ = ["ByteStreamer", "FileStreamer", "RunaiStreamerInvalidInputException"]

R = TypeVar("R", bound=Reader)


class ByteStreamer:
    """Delivers what a reader reads, in order: each range as a tensor of bytes.

    A context manager. One thread at a time. Tensors belong to the caller: they stay valid after
    the streamer is closed, their memory is never written again, and later changes of the file do
    not affect them.
    """

    options: StreamOptions = DEFAULTS
    """Replace the settings of the environment for later loads."""

    def __init__(self) -> None:
        self._reader: Reader | None = None
        self._stats = StreamStats()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except StreamerChangedError:
            if error is None:
                raise

    def close(self) -> None:
        """Stops reading and releases what the engine holds. No-op when repeated.

        Raises StreamerChangedError, once it is closed, if a file was changed while it was
        streamed, and tensors in use may show it.
        """
        self.end()

    def end(self, error: BaseException | None = None) -> None:
        """close(). `error` is the reason: ranks that share the load raise it."""
        reader, self._reader = self._reader, None
        if reader is not None:
            try:
                reader.close(error)
            except StreamerChangedError:
                if error is None:  # else close() runs already
                    raise
            finally:
                self._stats = reader.stats()

    def use(self, reader: R) -> R:
        """Ends the load, and reads the next one with `reader`."""
        self.end()
        reader.options = self.options
        self._reader = reader
        return reader

    def open_local(self, credentials: S3Credentials | None = None) -> LocalReader:
        """Ends the load. Returns a reader that no other rank shares, for the next one."""
        return self.use(LocalReader(credentials))

    def open_files(
        self, paths: Sequence[str], credentials: S3Credentials | None = None, prefix_bytes: int = 0
    ) -> tuple[Session, list[bytes]]:
        """Opens `paths` for a new load and returns the first bytes of each.

        The files stay open, and pinned to their version, for the stream_files() that follows.
        """
        return self.open_local(credentials).open(paths, prefix_bytes)

    def start(self, requests: Iterable[FileChunks]) -> None:
        """Starts to read `requests` with the reader in use."""
        assert self._reader is not None
        try:
            self._reader.start(requests)
        except BaseException as error:
            self.end(error)
            raise

    def load(self) -> Load:
        """The load in progress, for callers that make tensors of its runs.

        Raises RunaiStreamerInvalidInputException if there is none.
        """
        load = None if self._reader is None else self._reader.load
        if load is None:
            raise RunaiStreamerInvalidInputException(
                "nothing is being streamed: call stream_files() first, inside the with block"
            )
        return load

    def get_chunks(self) -> Iterator[tuple[int, int, torch.Tensor]]:
        """(id of the request, index of the range, uint8 tensor of shape (1, size)), in order.

        Each chunk is yielded once: a second call continues behind the iterators before it. After
        one of them has come to the end, a further call raises
        RunaiStreamerInvalidInputException. Iterators of an earlier load raise StreamerClosedError.
        """
        load = self.load()
        return self._take(load, load.view("chunks", partial(_chunks, device=load.device)))

    def _take(
        self, load: Load, chunks: Iterator[tuple[int, int, torch.Tensor]]
    ) -> Iterator[tuple[int, int, torch.Tensor]]:
        """Keeps `self` alive, and with it the reader, while the consumer iterates."""
        with load.taking("chunks"):
            yield from chunks

    def list_files(
        self,
        prefix: str,
        is_recursive: bool = True,
        allow_patterns: Sequence[str] | None = None,
        ignore_patterns: Sequence[str] | None = None,
    ) -> list[tuple[str, int]]:
        """(path, size) of the files below `prefix`, sorted; fnmatch patterns match the full key."""
        return list_files(prefix, is_recursive, allow_patterns, ignore_patterns)

    def drain_live_submissions(self) -> None:
        """Waits until everything submitted was read, and drops it: the load is complete."""
        load = None if self._reader is None else self._reader.load
        if load is not None:
            load.drain()

    def handle_object_store(self, path: str, streamer: object, credentials: object) -> None:
        """Accepted for compatibility: credentials are resolved when they are needed."""

    @property
    def device(self) -> torch.device:
        """The device of the tensors of the load in progress."""
        return torch.device("cpu") if self._reader is None else self._reader.sink.device

    def scope(self) -> contextlib.AbstractContextManager[object]:
        """Makes the current stream of the device the current one of a thread that enters it."""
        if self._reader is None:
            return contextlib.nullcontext()
        return self._reader.sink.memory.scope()

    def stats(self) -> StreamStats:
        """Counters of the load in progress, or of the last one."""
        return self._stats if self._reader is None else self._reader.stats()


class FileStreamer(ByteStreamer):
    """A ByteStreamer that reads by itself."""

    def stream_files(
        self,
        file_stream_requests: Sequence[FileChunks],
        credentials: S3Credentials | None = None,
        device: str | torch.device | None = "cpu",
        memory_limit: int | None = None,
        owned: bool = True,
    ) -> None:
        """Starts reading. Empty lists are accepted.

        `memory_limit`, in bytes, overrides RUNAI_STREAMER_MEMORY_LIMIT. `owned=False`: tensors of
        local files may be views of the page cache for as long as they are held; see
        SafetensorsStreamer.stream_files().
        """
        sink = registry.sink_for(device)
        reader = self._reader
        if (
            not isinstance(reader, LocalReader)
            or reader.load is not None
            or memory_limit is not None
        ):
            limit = None if memory_limit is None else native.MemoryLimit.from_setting(memory_limit)
            reader = self.use(LocalReader(credentials, memory_limit=limit))
        reader.sink = sink
        reader.ownership = Ownership.OWNED if owned else Ownership.SHARED
        self.start(list(file_stream_requests))


def _chunks(
    runs: Iterator[Run], device: torch.device
) -> Generator[tuple[int, int, torch.Tensor], None, None]:
    for run in runs:
        chunks = _chunks_of(run, device)
        del run
        yield from chunks


def _chunks_of(
    run: Run, device: torch.device
) -> Generator[tuple[int, int, torch.Tensor], None, None]:
    """The ranges of `run`. The last one has no other reference to its memory than the caller's."""
    request_id, first, check = run.request_id, run.first, run.check
    chunks = _bytes_of(run, device)[::-1]
    del run
    for index in range(first, first + len(chunks)):
        if check is not None:
            check()
        yield request_id, index, chunks.pop()


def _bytes_of(run: Run, device: torch.device) -> list[torch.Tensor]:
    """Each range of `run` as a tensor of shape (1, size) with a storage of its own."""
    if isinstance(run.data, list):
        return run.data
    sizes = run.sizes[run.first : run.first + run.count]
    if run.data is None:
        return [torch.empty((1, 0), dtype=torch.uint8, device=device) for _ in sizes]
    make = byte_factory().tensor
    places = zip(run.positions, sizes, strict=True)
    host = [make(run.data, position, "U8", (1, size)) for position, size in places]
    return host if device.type == "cpu" else [chunk.to(device) for chunk in host]
