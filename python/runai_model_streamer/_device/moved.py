"""Devices that only PyTorch can copy to: read into host memory, then moved run by run."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator

import torch

from runai_model_streamer._device.host import HostMemory, HostSink
from runai_model_streamer._session import Run, Session, as_bytes


class MovedSink(HostSink):
    """Any device without a module of its own."""

    def __init__(self, device: torch.device, name: str | None = None) -> None:
        self.name = str(device) if name is None else name
        self.device = device
        self.memory = HostMemory(device, backend=None)
        self.writes_destinations = False

    def runs(self, session: Session) -> Generator[Run, None, None]:
        yield from map(self._moved, super().runs(session))

    def _moved(self, run: Run) -> Run:
        if run.data is None:
            return run
        return dataclasses.replace(run, data=as_bytes(run.data).to(self.device))
