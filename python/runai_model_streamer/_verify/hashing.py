"""SHA-256 of whole files, in parallel over files, by threads that do not hold the GIL."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from runai_model_streamer._credentials.s3_credentials import S3Credentials
from runai_model_streamer._errors import StreamerError, shown_path
from runai_model_streamer._requests import FileChunks
from runai_model_streamer._session import Ownership, Session
from runai_model_streamer._verify.interleaving import interleaved, processors

_PART_BYTES = 8 << 20
_PARTS_AHEAD = 4  # of one file, that wait to be hashed

Progress = Callable[[int, int], None]
"""(bytes so far, bytes in all)"""


class Hasher:
    """The SHA-256 of bytes that are given in order; a thread of its own computes it.

    Bytes must not change until they were hashed. One thread at a time.
    """

    def __init__(self, ahead: int = _PARTS_AHEAD) -> None:
        """`ahead`: parts that may wait; update() waits for room."""
        self._hash = hashlib.sha256()
        self._parts: queue.Queue[Any] = queue.Queue(ahead)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="streamer-sha256", daemon=True)
        self._thread.start()

    def update(self, data: Any) -> None:
        """Adds bytes: anything with the buffer protocol."""
        self._parts.put(data)

    def hexdigest(self) -> str:
        """The digest of all bytes. Ends the thread."""
        self._end()
        if self._failure is not None:
            raise self._failure
        return self._hash.hexdigest()

    def close(self) -> None:
        """Drops the bytes that wait, and ends the thread. No-op when repeated."""
        while True:
            try:
                self._parts.get_nowait()
            except queue.Empty:
                break
        self._end()

    def _end(self) -> None:
        if self._thread.is_alive():
            self._parts.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            data = self._parts.get()
            if data is None:
                return
            try:
                if self._failure is None:
                    self._hash.update(data)
            except BaseException as error:
                self._failure = error
            del data


def hash_files(
    paths: Sequence[str],
    credentials: S3Credentials | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[str, str | StreamerError]]:
    """(path, SHA-256) of each of `paths`, which differ; instead of a digest, why there is none.

    Reads as many files at once as there are processors, in the order of `paths`. Each is pinned to
    the version that it has when it is opened.
    """
    sizes: dict[str, int] = {}
    remaining = list(paths)
    done = 0
    while remaining:
        failed: str | None = None
        session = Session(remaining, credentials=credentials)
        session.ownership = Ownership.COPIED  # read here: a truncation must be no signal
        try:
            opened = session.open_each(remaining)
            for path, file in zip(list(remaining), opened, strict=True):
                if file.error is not None:
                    remaining.remove(path)
                    yield path, _as_error(file.error)
            sizes.update(session.sizes)
            total = sum(sizes.values())

            def count(size: int, total: int = total) -> None:
                nonlocal done
                done += size
                if progress is not None:
                    progress(min(done, total), total)

            try:
                for path, digest in _hash_opened(session, list(remaining), count):
                    remaining.remove(path)
                    yield path, digest
            except StreamerError as error:
                failed = _failed(error, remaining)
                if failed is None:
                    raise
                remaining.remove(failed)
                yield failed, error
        finally:
            session.close()
        if failed is None:
            return


def _as_error(error: Exception) -> StreamerError:
    if not isinstance(error, StreamerError):
        raise error
    return error


def _failed(error: StreamerError, paths: Sequence[str]) -> str | None:
    return next((path for path in paths if shown_path(path) == error.path), None)


def _hash_opened(
    session: Session, paths: Sequence[str], count: Callable[[int], None]
) -> Iterator[tuple[str, str]]:
    at_once = processors()
    for start in range(0, len(paths), at_once):
        group = list(paths[start : start + at_once])
        hashers = {path: Hasher() for path in group}
        try:
            requests = _interleaved(group, session.sizes)
            left = {path: session.sizes[path] for path in group}
            for path in group:
                if left[path] == 0:
                    yield path, hashers.pop(path).hexdigest()
            if not requests:
                continue
            session.submit(requests)
            for run in session.runs():
                path = requests[run.request_id].path
                sizes = run.sizes[run.first : run.first + run.count]
                assert run.data is not None and not isinstance(run.data, list)  # of the host
                for position, size in zip(run.positions, sizes, strict=True):
                    hashers[path].update(memoryview(run.data)[position : position + size])
                    left[path] -= size
                    count(size)
                if left[path] == 0:
                    yield path, hashers.pop(path).hexdigest()
        finally:
            for hasher in hashers.values():
                hasher.close()


def _interleaved(paths: Sequence[str], sizes: Mapping[str, int]) -> list[FileChunks]:
    """Requests for whole files, a part of each in turn. Their ids count from 0."""
    whole = [FileChunks.contiguous(0, path, 0, _parts_of(sizes[path])) for path in paths]
    requests: list[FileChunks] = []
    for file, first, last in interleaved([one.sizes for one in whole], _PART_BYTES):
        requests.append(whole[file].part(len(requests), first, last))
    return requests


def _parts_of(size: int) -> list[int]:
    parts = [_PART_BYTES] * (size // _PART_BYTES)
    return [*parts, size % _PART_BYTES] if size % _PART_BYTES else parts
