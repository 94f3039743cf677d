"""Statistics of a load."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any


@dataclasses.dataclass(frozen=True)
class StreamStats:
    """Counters of one load. Sizes in bytes, times in seconds."""

    bytes: int = 0
    """Delivered to the consumer."""
    bytes_asked: int = 0
    """Of the tensors, and parts of tensors, that were requested."""
    bytes_read: int = 0
    """From storage: with gaps between the bytes of parts that cost less than another read."""
    seconds: float = 0.0
    """From the start of reading to the last delivery."""
    bytes_by_source: dict[str, int] = dataclasses.field(default_factory=dict)
    """By kind of storage: file, s3, gcs, azure, http, hub."""
    bytes_by_strategy: dict[str, int] = dataclasses.field(default_factory=dict)
    """By way of reading: mapped, buffered, direct, or a protocol."""
    requests: int = 0
    retries: int = 0
    stragglers: int = 0
    """Reads that were aborted because they were much slower than the others. Another connection
    read their missing bytes."""
    wait_storage_seconds: float = 0.0
    """The consumer waited for bytes."""
    wait_consumer_seconds: float = 0.0
    """Reading paused because bytes that wait for the consumer filled the memory limit."""
    wait_memory_seconds: float = 0.0
    """Reading paused because bytes in flight filled the memory limit."""
    peak_memory: int = 0
    """Most memory that the engine held at once."""
    memory_limit: int | None = None
    """In force; None: no limit."""
    threads: int = 0
    concurrency: int = 0
    """Reads that were allowed at once, at the end."""
    bound: str = "none"
    """The bound of the load: consumer, window (the memory limit), link, connections, processors,
    storage (none of these), or none (nothing waited for a tenth of the time)."""
    device: str = "cpu"
    phases: dict[str, float] = dataclasses.field(default_factory=dict)
    """Seconds of a load of SafetensorsStreamer, from the call of stream_files() to the last tensor:
    open (headers and plan), read (waiting for bytes), verify (hashing), consume (the rest: what the
    caller did). They add up to the load."""
    notes: dict[str, str] = dataclasses.field(default_factory=dict)
    """Reasons, for example why a strategy was not used."""

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return self.bytes / self.seconds if self.seconds > 0 else 0.0

    @property
    def hedges(self) -> int:
        """Deprecated name of `stragglers`."""
        warnings.warn(
            "StreamStats.hedges is deprecated: use StreamStats.stragglers",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.stragglers


def stats_of(values: dict[str, Any], device: str) -> StreamStats:
    """The statistics of the native module, of a load to `device`."""
    return StreamStats(device=device, **values)
