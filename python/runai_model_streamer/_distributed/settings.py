"""The settings of distributed streaming, as the environment has them when a stream starts."""

from __future__ import annotations

import dataclasses

from runai_model_streamer import _native_api as native
from runai_model_streamer._distributed.plan import CUT_ALIGNMENT
from runai_model_streamer._distributed.store_client import Limit

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
    memory_limit: native.MemoryLimit
    """Of the node."""

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
            memory_limit=native.MemoryLimit.from_setting(get("RUNAI_STREAMER_MEMORY_LIMIT")),
        )

    @property
    def join_limit(self) -> Limit:
        """Of the wait of ranks for each other's calls."""
        return min(
            (self.timeout, "RUNAI_STREAMER_DIST_TIMEOUT"),
            (self.join_timeout, "RUNAI_STREAMER_DIST_JOIN_TIMEOUT"),
        )

    def shared(self) -> dict[str, object]:
        """The values that must be equal on all ranks, by the name of the variable."""
        return {
            "RUNAI_STREAMER_DIST": self.mode,
            "RUNAI_STREAMER_DIST_GLOBAL": int(self.everywhere),
            "RUNAI_STREAMER_DIST_BUFFER_MIN_BYTESIZE": self.buffer_bytes,
            "RUNAI_STREAMER_PARTITION_POLICY": self.policy,
            "RUNAI_STREAMER_MEMORY_LIMIT": self.memory_limit.setting,
            "RUNAI_STREAMER_PROCESS_GROUP_SIZE": self.processes,
        }

    def memory_share(self, local_ranks: int) -> native.MemoryLimit:
        """This process's part of the node's memory limit."""
        limit = self.memory_limit
        if limit == native.MemoryLimit.automatic():
            limit = native.MemoryLimit.bytes(native.OBJECT_WINDOW)
        return limit.share(self.processes or local_ranks)

    def round_bytes(self, ranks: int, local_ranks: int, on_device: bool) -> int:
        """Bytes that the ranks exchange at a time. Equal on all ranks with equal arguments."""
        if self.buffer_bytes is not None:
            return max(self.buffer_bytes, ranks * CUT_ALIGNMENT)
        if on_device:
            size = min(ranks * native.DEVICE_ROUND_OF_RANK, native.DEVICE_ROUND)
            return max(size, ranks * _LEAST_PART)
        size = min(ranks * native.ROUND_OF_RANK, native.ROUND)
        if self.memory_limit != native.MemoryLimit.automatic():
            size = min(size, self.memory_share(local_ranks).initial // 2)
        return max(size, ranks * _LEAST_PART)
