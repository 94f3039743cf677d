"""Distributed streaming of one rank: everything that ranks go through, and nobody to share with."""

from __future__ import annotations

from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer._device.placement import Placement, parse_device
from runai_model_streamer._distributed import membership
from runai_model_streamer._distributed.rendezvous import Channel
from runai_model_streamer._distributed.settings import DistSettings
from runai_model_streamer._distributed.shared_stream import SharedStream


def share_with_nobody(streamer: SafetensorsStreamer, device: str) -> None:
    """Has `streamer` take the way of a group of ranks, which a group of one leaves out."""
    inner = streamer.file_streamer

    def join(*_: object) -> Placement:
        inner.close()
        store = membership.default_store()
        prefix = membership.next_stream([0])
        channel = Channel(store, prefix, [0], 0, 60)
        placement = parse_device(device)
        inner._shared = SharedStream(
            channel, DistSettings.read(), False, prefix, store, placement.memory, 1
        )
        return placement

    vars(inner)["join"] = join  # in the place of the method
