"""Devices that only PyTorch can copy to."""

from __future__ import annotations

import torch

from runai_model_streamer._device.host import HostMemory, HostSink


class MovedSink(HostSink):
    """Any device without a module of its own: its runs are in host memory, and each tensor is moved
    when it is made."""

    def __init__(self, device: torch.device, name: str | None = None) -> None:
        self.name = str(device) if name is None else name
        self.device = device
        self.memory = HostMemory(device, backend=None)
        self.writes_destinations = False
