"""Verification of the files of a load before the consumer gets their tensors."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from runai_model_streamer._errors import shown_path
from runai_model_streamer._session import Run
from runai_model_streamer._verify.interleaving import processors
from runai_model_streamer._verify.manifest import Manifest, check

_AHEAD_BYTES = 64 << 20  # that may be hashed before they are yielded

Bytes = Callable[[Run, int], Any]
"""(run, index in the run) -> the bytes of that range, by the buffer protocol."""


@dataclasses.dataclass
class _File:
    path: str
    expected: str
    hash: Any
    ranges: int
    """That are still to come."""
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    waiting: deque[tuple[Future[None], list[Any]]] = dataclasses.field(default_factory=deque)


@dataclasses.dataclass
class _Job:
    """A run that is being hashed."""

    run: Run | None
    size: int
    done: Future[None] | None
    """None: it is not verified."""
    last_of: _File | None


class LoadCheck:
    """Compares the SHA-256 of each file of a load that is read as a whole with a manifest.

    Ranges are hashed in the order of the file, before any of their tensors is yielded, so that the
    last tensor of a file comes only after its digest was right, and nothing that the consumer does
    to its tensors counts. One thread at a time; hashing does not hold the GIL, and different files
    are hashed by different threads.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.verified: list[str] = []
        self.unverified: list[str] = []
        """Files that are not read as a whole."""
        self.seconds = 0.0
        """That the consumer waited for hashing."""
        self._files: dict[int, _File] = {}
        self._pool: ThreadPoolExecutor | None = None

    def expect(self, number: int, path: str, head: bytes, ranges: int, whole: bool) -> None:
        """File `number` of the load is at `path`. If it is read as a `whole`, its bytes are `head`
        and its `ranges` ranges in their order. To be called before its first run is taken.

        Raises a StreamerError if the manifest does not list the file, or the file is complete with
        `head` and is another one.
        """
        if not whole:
            self.unverified.append(path)
            return
        expected = self.manifest.digest_of(path)
        file = _File(path, expected, hashlib.sha256(head), ranges)
        self._files[number] = file
        if ranges == 0:
            self._finish(file)

    def hashed(
        self, runs: Iterator[Run], number_of: Callable[[int], int], bytes_of: Bytes
    ) -> Generator[Run, None, None]:
        """`runs`, each after it was hashed; `number_of` maps the id of a request to its file.

        Takes further runs only while the next one is being hashed, so that files are hashed at
        once if hashing is slower than the storage. Raises StreamerDigestError instead of the
        last run of a file that does not match the manifest.
        """
        ahead: deque[_Job] = deque()
        held = 0
        more = True
        try:
            while True:
                if more and (not ahead or (_busy(ahead[0]) and held < _AHEAD_BYTES)):
                    run = next(runs, None)
                    if run is None:
                        more = False
                        continue
                    job = self._begin(run, number_of(run.request_id), bytes_of)
                    del run
                    held += job.size
                    ahead.append(job)
                    del job
                    continue
                if not ahead:
                    return
                job = ahead.popleft()
                held -= job.size
                if job.done is not None:
                    before = time.monotonic()
                    job.done.result()
                    self.seconds += time.monotonic() - before
                if job.last_of is not None:
                    self._finish(job.last_of)
                yield _taken(job)  # no frame holds a yielded tensor
                del job
        finally:
            self._stop()

    def _begin(self, run: Run, number: int, bytes_of: Bytes) -> _Job:
        file = self._files.get(number)
        sizes = run.sizes[run.first : run.first + run.count]
        if file is None:
            return _Job(run, sum(sizes), None, None)
        parts = [bytes_of(run, index) for index, size in enumerate(sizes) if size]
        file.ranges -= run.count
        done: Future[None] = Future()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(processors(), thread_name_prefix="streamer-sha256")
        with file.lock:
            file.waiting.append((done, parts))
            first = len(file.waiting) == 1
        if first:  # else the thread that is at this file goes on with it
            self._pool.submit(_hash, file)
        return _Job(run, sum(sizes), done, file if file.ranges == 0 else None)

    def _finish(self, file: _File) -> None:
        check(file.path, file.expected, file.hash.hexdigest(), self.manifest.origin)
        self.verified.append(file.path)

    def _stop(self) -> None:
        """Ends the threads, after they have hashed their present bytes."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        for file in self._files.values():
            with file.lock:
                while len(file.waiting) > 1:
                    file.waiting.pop()[0].cancel()
        pool.shutdown(wait=True, cancel_futures=True)

    def note(self) -> str:
        """For stats(): the files that were verified so far."""
        text = f"{len(self.verified)} files have the SHA-256 that {self.manifest.origin} says"
        if self.unverified:
            shown = ", ".join(shown_path(path) for path in self.unverified[:5])
            more = len(self.unverified) - 5
            text += f"; not verified, as they are not read as a whole: {shown}"
            text += f" and {more} more" if more > 0 else ""
        return text


def _busy(job: _Job) -> bool:
    return job.done is not None and not job.done.done()


def _taken(job: _Job) -> Run:
    run, job.run = job.run, None
    assert run is not None
    return run


def _hash(file: _File) -> None:
    """Hashes what waits of `file`, in order, until nothing does."""
    while True:
        with file.lock:
            done, parts = file.waiting[0]
        try:
            while parts:  # no name holds the memory
                file.hash.update(parts.pop(0))
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)
        with file.lock:
            file.waiting.popleft()
            if not file.waiting:
                return


def bytes_of_range(run: Run, index: int, destination: Callable[[int], torch.Tensor]) -> Any:
    """The bytes of range `index` of `run`; `destination` is where the engine has written them."""
    data = run.data
    if data is None:
        return _bytes_of_tensor(destination(index))
    if isinstance(data, list):
        return _bytes_of_tensor(data[index])
    start = run.positions[index]
    return memoryview(data)[start : start + run.sizes[run.first + index]]


def _bytes_of_tensor(tensor: torch.Tensor) -> Any:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy()
