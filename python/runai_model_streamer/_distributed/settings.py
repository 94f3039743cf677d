"""The settings of distributed streaming, as the environment has them when a stream starts."""

from __future__ import annotations

import dataclasses

from runai_model_streamer import _native_api as native
from runai_model_streamer._distributed.store_client import Limit

_MIB = 1 << 20
DEFAULT_MEMORY_LIMIT = 384 * _MIB
# Less of one rank's part costs more in waiting than it saves in memory.
_LEAST_PART = 64 << 10


@dataclasses.dataclass(frozen=True)
class DistSettings:
    """One value for each environment variable of the group Distributed."""

    mode: str
    """``0``, ``1`` or ``auto``."""
    everywhere: bool
    """All ranks divide the reading; else those of each node."""
    timeout: float
    """Seconds."""
    join_timeout: float
    """Of the wait for other ranks to call, in seconds."""
    buffer_bytes: int | None
    policy: str
    """``spans``, ``chunks`` or ``files``."""
    processes: int | None
    """Processes that share the memory limit."""
    memory_limit: int | None
    """Of the node: bytes, -1 (none), 0 (the least that works); None: chosen."""

    @classmethod
    def read(cls) -> DistSettings:
        """Raises a StreamerError that names the variable, its value and what is accepted."""
        get = native.setting
        return cls(
            mode=get("RUNAI_STREAMER_DIST"),
            everywhere=get("RUNAI_STREAMER_DIST_GLOBAL"),
            timeout=float(get("RUNAI_STREAMER_DIST_TIMEOUT")),
            join_timeout=float(get("RUNAI_STREAMER_DIST_JOIN_TIMEOUT")),
            buffer_bytes=get("RUNAI_STREAMER_DIST_BUFFER_MIN_BYTESIZE"),
            policy=get("RUNAI_STREAMER_PARTITION_POLICY"),
            processes=get("RUNAI_STREAMER_PROCESS_GROUP_SIZE"),
            memory_limit=get("RUNAI_STREAMER_MEMORY_LIMIT"),
        )

    @property
    def join_limit(self) -> Limit:
        """Of the wait of ranks for each other's calls."""
        return min(
            (self.timeout, "RUNAI_STREAMER_DIST_TIMEOUT"),
            (self.join_timeout, "RUNAI_STREAMER_DIST_JOIN_TIMEOUT"),
        )

    def shared(self) -> dict[str, object]:
        """What must be equal on all ranks, by the name of the variable."""
        return {
            "RUNAI_STREAMER_DIST": self.mode,
            "RUNAI_STREAMER_DIST_GLOBAL": int(self.everywhere),
            "RUNAI_STREAMER_DIST_BUFFER_MIN_BYTESIZE": self.buffer_bytes,
            "RUNAI_STREAMER_PARTITION_POLICY": self.policy,
            "RUNAI_STREAMER_MEMORY_LIMIT": self.memory_limit,
            "RUNAI_STREAMER_PROCESS_GROUP_SIZE": self.processes,
        }

    def memory_share(self, local_ranks: int) -> int:
        """This process's part of the node's memory limit in bytes; -1: no limit."""
        limit = self.memory_limit
        if limit is None:
            limit = DEFAULT_MEMORY_LIMIT
        return limit if limit <= 0 else max(1, limit // (self.processes or local_ranks))

    def round_bytes(self, ranks: int, local_ranks: int, on_device: bool) -> int:
        """Bytes that the ranks exchange at a time. Equal on all ranks with equal arguments."""
        if self.buffer_bytes is not None:
            return max(self.buffer_bytes, ranks * 4096)
        if on_device:
            return max(min(ranks * 64 * _MIB, 1024 * _MIB), ranks * _LEAST_PART)
        size = min(ranks * 16 * _MIB, 256 * _MIB)
        share = self.memory_share(local_ranks)
        if share >= 0 and self.memory_limit is not None:
            size = min(size, share // 2)
        return max(size, ranks * _LEAST_PART)
