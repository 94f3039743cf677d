"""Distributed streaming of one rank: all steps of a group of ranks, without another rank."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from runai_model_streamer import DistributedStreamer, S3Credentials, SafetensorsStreamer
from runai_model_streamer._device import registry
from runai_model_streamer._distributed import membership
from runai_model_streamer._distributed.meeting import Call
from runai_model_streamer._distributed.settings import DistSettings
from runai_model_streamer._distributed.shared_reader import SharedReader
from runai_model_streamer._distributed.shared_stream import SharedStream


def share_with_nobody(streamer: SafetensorsStreamer, device: str) -> None:
    """Has `streamer` take the steps of a group of ranks, which a group of one leaves out."""

    def find_reader(
        _paths: Sequence[str],
        credentials: S3Credentials | None,
        _device: str | torch.device | None,
        *_: object,
    ) -> SharedReader:
        store = membership.default_store()
        settings = DistSettings.read()
        channel = Call(store, [0], 0, []).meet([0], settings.join_limit, settings.timeout)
        sink = registry.sink_for(device)
        shared = SharedStream(channel, settings, False, store, sink.memory, 1)
        return SharedReader(shared, sink, credentials)

    streamer.file_streamer = DistributedStreamer(find_reader)
