"""The rate at which the files at a path are read, its bound, and the rates of other ways."""

from __future__ import annotations

import bisect
import dataclasses
import mmap
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Sequence

import runai_model_streamer
from runai_model_streamer import _native_api as native
from runai_model_streamer._credentials.s3_credentials import S3Credentials
from runai_model_streamer._errors import StreamerError, StreamerNotFoundError, shown_path
from runai_model_streamer._options import StreamOptions
from runai_model_streamer._paths import is_remote, to_native, to_text
from runai_model_streamer._requests import FileChunks
from runai_model_streamer._session import Session
from runai_model_streamer._stats import StreamStats
from runai_model_streamer._storage.checkpoint import find_checkpoint
from runai_model_streamer._torch import torch

_PART_BYTES = 8 << 20
_SAMPLE_EVERY = 0.1  # seconds
_CACHED = 0.5  # of a file, from which on it counts as read from the page cache
_NEAR = 0.9  # of the best rate, that is as good
_MILLISECONDS = re.compile(r" ms=(\d+(?:\.\d+)?) ")
BUCKETS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
"""Upper ends of the histogram's classes, in milliseconds."""

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Rate:
    """One way to read, for a while."""

    name: str
    bytes: int
    seconds: float

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return self.bytes / self.seconds if self.seconds > 0 else 0.0


@dataclasses.dataclass(frozen=True)
class Bench:
    """A measurement at a path."""

    path: str
    device: str
    files: int
    cached: float | None
    """The part of local files that was in the page cache before, from 0 to 1."""
    load: Rate
    """Of a whole load, whose tensors are touched and dropped."""
    stats: StreamStats
    samples: list[tuple[float, int]]
    """(seconds, bytes by then) of the load."""
    others: list[Rate]
    """A raw reader, and fixed concurrencies, over a part of the same bytes."""
    reads: list[float]
    """Milliseconds of each read: of each request of the load, or of each read of the raw reader of
    local files."""
    verdict: list[str]

    def histogram(self) -> list[tuple[str, int]]:
        """Reads by their time: the upper end of a class in milliseconds, and how many they are."""
        counts = [0] * (len(BUCKETS) + 1)
        for milliseconds in self.reads:
            counts[bisect.bisect_left(BUCKETS, milliseconds)] += 1
        names = [f"{end:g}" for end in BUCKETS] + ["more"]
        used = [index for index, count in enumerate(counts) if count]
        if not used:
            return []
        return list(zip(names, counts, strict=True))[used[0] : used[-1] + 1]

    def percentile(self, part: float) -> float:
        """Milliseconds that `part` (0 to 1) of the reads did not exceed; 0 if there are none."""
        ordered = sorted(self.reads)
        return ordered[min(int(part * len(ordered)), len(ordered) - 1)] if ordered else 0.0


def measure(
    path: str,
    device: str = "cpu",
    credentials: S3Credentials | None = None,
    *,
    seconds: float = 3.0,
    concurrencies: Sequence[int] = (1, 4, 16, 64),
    progress: Progress | None = None,
) -> Bench:
    """Loads the checkpoint at `path` once and drops its tensors; then reads its first bytes in
    other ways, for at most `seconds` each. Files that were not in the page cache are taken out of
    it before each way. Raises a StreamerError if a file can't be read.
    """
    text = to_text(path)
    files = find_checkpoint(text, credentials).files
    remote = is_remote(files[0])
    cached = None if remote else _cached(files)
    cold = cached is not None and cached < _CACHED
    sizes = _sizes(files, credentials)
    torch.empty(0)  # its import takes seconds that are none of the storage
    with tempfile.TemporaryDirectory(prefix="model-streamer-") as directory:
        trace = os.path.join(directory, "trace") if remote else ""
        load, stats, samples = _load(files, device, credentials, trace, progress)
        reads = _milliseconds(trace)
    others = []
    if not remote:
        _forget(files if cold else [])
        raw, reads = _raw(files, seconds)
        others.append(raw)
    else:
        others.append(_ranges("ranges without a format", files, sizes, credentials, seconds))
    for count in concurrencies:
        _forget(files if cold else [])
        name = f"concurrency {count}"
        others.append(_ranges(name, files, sizes, credentials, seconds, count))
    made = Bench(text, device, len(files), cached, load, stats, samples, others, reads, [])
    return dataclasses.replace(made, verdict=_verdict(made))


def _cached(files: Sequence[str]) -> float:
    parts = []
    for file in files:
        try:
            parts.append(native.cached_fraction(to_native(file)))
        except StreamerError:
            parts.append(0.0)
    return sum(parts) / len(parts)


def _forget(files: Sequence[str]) -> None:
    """Takes local files out of the page cache, as far as the system does so."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _sizes(files: Sequence[str], credentials: S3Credentials | None) -> dict[str, int]:
    session = Session(files, credentials=credentials)
    try:
        session.open(files)
        return dict(session.sizes)
    finally:
        session.close()


def _load(
    files: Sequence[str],
    device: str,
    credentials: S3Credentials | None,
    trace: str,
    progress: Progress | None,
) -> tuple[Rate, StreamStats, list[tuple[float, int]]]:
    samples: list[tuple[float, int]] = [(0.0, 0)]
    settings = {"RUNAI_STREAMER_TRACE_FILE": trace} if trace else {}
    began = time.monotonic()

    def count(done: int, total: int) -> None:
        now = time.monotonic() - began
        if now - samples[-1][0] >= _SAMPLE_EVERY or done == total:
            samples.append((now, done))
        if progress is not None:
            progress(done, total)

    with runai_model_streamer.SafetensorsStreamer(settings=settings) as streamer:
        streamer.stream_files(files, credentials, device, progress=count)
        for _, tensor in streamer.get_tensors():
            _touch(tensor)
        total = streamer.total_size
        if tensor_device := streamer.device_str:
            _finish(tensor_device)
        seconds = time.monotonic() - began
        stats = streamer.stats()
    if total == 0:
        raise StreamerNotFoundError(
            f"{files[0]}: there is nothing to read: no tensor has bytes",
            code="not_found",
            path=files[0],
        )
    return Rate("load", total, seconds), stats, samples


def _touch(tensor: torch.Tensor) -> None:
    """Reads a byte of each page: a view of a file that nobody touches costs nothing."""
    if tensor.device.type == "cpu" and tensor.nbytes:
        tensor.reshape(-1).view(torch.uint8)[:: mmap.PAGESIZE].max()


def _finish(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _ranges(
    name: str,
    files: Sequence[str],
    sizes: dict[str, int],
    credentials: S3Credentials | None,
    seconds: float,
    concurrency: int | None = None,
) -> Rate:
    """Byte ranges of the files, by the engine, into host memory."""
    requests = [
        FileChunks(
            index,
            file,
            0,
            [min(_PART_BYTES, sizes[file] - at) for at in range(0, sizes[file], _PART_BYTES)],
        )
        for index, file in enumerate(files)
    ]
    done = 0
    began = time.monotonic()
    with runai_model_streamer.FileStreamer() as streamer:
        streamer.options = StreamOptions(concurrency=concurrency)
        streamer.stream_files(requests, credentials)
        for _, _, chunk in streamer.get_chunks():
            _touch(chunk)
            done += chunk.nbytes
            if time.monotonic() - began > seconds:
                break
    return Rate(name, done, time.monotonic() - began)


def _raw(files: Sequence[str], seconds: float) -> tuple[Rate, list[float]]:
    """Threads that call pread() and nothing else. Also the milliseconds of each read."""
    places = [(file, at) for file in files for at in range(0, os.path.getsize(file), _PART_BYTES)]
    lock = threading.Lock()
    ended = time.monotonic() + seconds
    done = 0
    reads: list[float] = []
    position = iter(places)

    def work() -> None:
        nonlocal done
        name, descriptor = "", -1
        with mmap.mmap(-1, _PART_BYTES) as memory:
            try:
                while time.monotonic() < ended:
                    with lock:
                        place = next(position, None)
                    if place is None:
                        return
                    if place[0] != name:
                        if descriptor >= 0:
                            os.close(descriptor)
                        name, descriptor = place[0], os.open(place[0], os.O_RDONLY | os.O_CLOEXEC)
                    began = time.monotonic()
                    count = os.preadv(descriptor, [memory], place[1])
                    with lock:
                        done += count
                        reads.append(1000 * (time.monotonic() - began))
            finally:
                if descriptor >= 0:
                    os.close(descriptor)

    count = min(8, 2 * len(os.sched_getaffinity(0)))
    threads = [threading.Thread(target=work, name="streamer-bench") for _ in range(count)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    name = f"raw reader (pread, {count} threads)"
    return Rate(name, done, time.monotonic() - began), reads


def _milliseconds(trace: str) -> list[float]:
    """Of each request in a log of requests."""
    found = []
    if trace and os.path.exists(trace):
        with open(trace, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                time_of = _MILLISECONDS.search(line)
                if time_of:
                    found.append(float(time_of[1]))
    return found


# By StreamStats.bound.
_BOUNDS = {
    "link": "the link or the server: more connections brought no more bytes",
    "connections": "the number of connections: unset RUNAI_STREAMER_CONCURRENCY, or raise it",
    "processors": "the processors: this process used most of them",
    "storage": "the storage: reading waited for bytes",
    "consumer": "the consumer: bytes that nobody took filled the memory limit",
    "window": "the memory limit: raise RUNAI_STREAMER_MEMORY_LIMIT",
    "none": "nothing that was measured: no wait exceeded a tenth of the load",
}


def _verdict(bench: Bench) -> list[str]:
    lines = [f"bound by {_BOUNDS[bench.stats.bound]}"]
    best = max(bench.others, key=lambda other: other.rate)
    if bench.load.rate >= _NEAR * best.rate:
        lines.append("no other way of reading was more than a tenth faster")
    else:
        lines.append(
            f"{best.name} reached {best.rate / max(bench.load.rate, 1):.1f} times its rate over "
            f"the first {best.bytes >> 20} MiB of {shown_path(bench.path)}"
        )
    if bench.stats.retries:
        lines.append(f"{bench.stats.retries} requests were repeated")
    if bench.cached is not None and bench.cached >= _CACHED:
        lines.append(f"{100 * bench.cached:.0f} % of the files were in the page cache")
    return lines
