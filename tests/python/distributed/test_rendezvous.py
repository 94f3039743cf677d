"""Ranks that end in the middle of a message."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch.distributed as dist

from runai_model_streamer.distributed_streamer.rendezvous import (
    Channel,
    PeerError,
    host_name,
    process_identity,
)


def test_a_rank_that_came_and_ended_before_it_said_so_is_named() -> None:
    """Its number is there, the count is not."""
    store = dist.HashStore()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    channel = Channel(store, "stream", [0, 1], 0, timeout=60)
    channel.introduce(host_name(), 1, {**process_identity(), "pid": ended.pid, "started": "1"})
    dist.PrefixStore("stream", store).set("at/1", "0")
    with pytest.raises(PeerError, match=r"rank 1 on .* ended before the stream did"):
        channel.barrier()
