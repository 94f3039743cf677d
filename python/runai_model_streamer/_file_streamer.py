"""Byte ranges of files and objects, as tensors of bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any

import torch

from runai_model_streamer._device.placement import Placement, parse_device
from runai_model_streamer._errors import RunaiStreamerInvalidInputException
from runai_model_streamer._load import Load
from runai_model_streamer._requests import FileChunks
from runai_model_streamer._session import Run, Session, as_bytes
from runai_model_streamer._stats import StreamStats
from runai_model_streamer._storage.listing import list_files

__all__ = ["FileHeader", "FileStreamer", "RunaiStreamerInvalidInputException"]


@dataclasses.dataclass(frozen=True)
class FileHeader:
    """What stands at the start of a file, as its format delimits it."""

    path: str
    size: int
    """Of the file, in bytes."""
    blob: bytes


ReadHeaders = Callable[[Session, Sequence[str]], list[FileHeader]]


class FileStreamer:
    """Streams ranges of files, in order, each as a tensor of bytes.

    A context manager. One thread at a time. Tensors belong to the caller: they stay valid after
    the streamer is closed, and their memory is never written again.
    """

    def __init__(self) -> None:
        self._session: Session | None = None
        self._placement: Placement | None = None
        self._load: Load | None = None
        self._stats = StreamStats()

    def __enter__(self) -> FileStreamer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stops reading and frees what the engine holds. Harmless when repeated."""
        self._close_session()

    def _close_session(self) -> None:
        load, self._load = self._load, None
        if load is not None:
            load.close()
        if self._session is not None:
            self._session.close()
            self._stats = self._current_stats()
            self._session = None
        self._placement = None

    def open_files(
        self, paths: Sequence[str], credentials: Any = None, prefix_bytes: int = 0
    ) -> tuple[Session, list[bytes]]:
        """Opens `paths` for a new load and returns the first bytes of each.

        The files stay open, and pinned to their version, for the stream_files() that follows.
        """
        self._close_session()
        self._session = Session(paths, credentials=credentials)
        return self._session, self._session.open(paths, prefix_bytes)

    def load_headers(
        self, paths: Sequence[str], credentials: Any, read: ReadHeaders
    ) -> list[FileHeader]:
        """As open_files(); `read` opens them, and reads their headers."""
        self._close_session()
        self._session = Session(paths, credentials=credentials)
        return read(self._session, paths)

    def stream_files(
        self,
        file_stream_requests: Sequence[FileChunks],
        credentials: Any = None,
        device: str | torch.device | None = "cpu",
        memory_limit: int | None = None,
        owned: bool = True,
    ) -> None:
        """Starts reading. Empty lists are fine.

        `memory_limit` overrides RUNAI_STREAMER_MEMORY_LIMIT. `owned` is accepted; tensors are the
        caller's either way.
        """
        self._start(file_stream_requests, credentials, parse_device(device), memory_limit)

    def _start(
        self,
        requests: Sequence[FileChunks],
        credentials: Any,
        placement: Placement,
        memory_limit: int | None = None,
    ) -> None:
        paths = [request.path for request in requests]
        if self._session is None or self._load is not None or memory_limit is not None:
            self._close_session()
            self._session = Session(paths, credentials=credentials, memory_limit=memory_limit)
        self._placement = placement
        try:
            placement.submit(self._session, requests)
        except BaseException:
            self._close_session()
            raise
        ranges = sum(len(request.sizes) for request in requests)
        self._load = Load(placement.runs(self._session), placement.device, ranges)

    def takes_single_requests(self) -> bool:
        """Whether add() may be used for the files that load_headers() opened."""
        return True

    def add(self, request: FileChunks) -> None:
        """Starts reading `request` into host memory, behind what was added before."""
        assert self._session is not None
        if self._load is None:
            placement = self._placement = Placement()
            self._load = Load(placement.runs(self._session), placement.device, 0)
        assert self._placement is not None
        self._placement.submit(self._session, [request])
        self._load.ranges += len(request.sizes)

    def abandon(self) -> None:
        """Stops what add() started."""
        self._close_session()

    def load(self) -> Load:
        """The load under way: for those who make tensors of its runs themselves.

        Raises when nothing is being streamed.
        """
        if self._load is None:
            raise RunaiStreamerInvalidInputException(
                "nothing is being streamed: call stream_files() first, inside the with block"
            )
        return self._load

    def get_chunks(self) -> Iterator[tuple[int, int, torch.Tensor]]:
        """(id of the request, index of the range, uint8 tensor of shape (1, size)), in order.

        Each chunk is yielded once: a second call goes on where the iterators before it stand. When
        one of them has come to the end, a further call raises
        RunaiStreamerInvalidInputException. Iterators of an earlier load raise StreamerClosedError.
        """
        load = self.load()
        return self._take(load, load.view("chunks", partial(_chunks, device=load.device)))

    def _take(self, load: Load, chunks: Iterator[Any]) -> Iterator[Any]:
        """`self` stays alive, and with it what reads, as long as the consumer iterates."""
        with load.taking("chunks"):
            yield from chunks

    def list_files(
        self,
        prefix: str,
        is_recursive: bool = True,
        allow_patterns: Sequence[str] | None = None,
        ignore_patterns: Sequence[str] | None = None,
    ) -> list[tuple[str, int]]:
        """(path, size) of what is below `prefix`, sorted; patterns are fnmatch on the full key."""
        return list_files(prefix, is_recursive, allow_patterns, ignore_patterns)

    def drain_live_submissions(self) -> None:
        """Waits until everything submitted was read, and drops it: the load is complete."""
        if self._load is not None:
            self._load.drain()

    def handle_object_store(self, path: str, streamer: Any, credentials: Any) -> None:
        """Accepted for compatibility: credentials are resolved when they are needed."""

    @property
    def device(self) -> torch.device:
        """Of the tensors that are streamed."""
        return torch.device("cpu") if self._placement is None else self._placement.device

    def stats(self) -> StreamStats:
        """Counters of the load under way, or of the last one."""
        return self._stats if self._session is None else self._current_stats()

    def _current_stats(self) -> StreamStats:
        assert self._session is not None
        name = self._placement.name if self._placement else "cpu"
        return StreamStats.from_native(self._session.stream.stats(), name)


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
    request_id, first, count, positions = run.request_id, run.first, run.count, run.positions
    sizes, check = run.sizes, run.check
    data = None if run.data is None else as_bytes(run.data)
    del run
    made: list[torch.Tensor] = []
    for index in range(count):
        size = sizes[first + index]
        if size == 0 or data is None:
            made.append(torch.empty((1, 0), dtype=torch.uint8, device=device))
        else:
            if check is not None:
                check()
            start = positions[index]
            made.append(data[start : start + size].view(1, size))
        if index == count - 1:
            data = None
        yield request_id, first + index, made.pop()
