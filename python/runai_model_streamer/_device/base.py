"""Placements: host memory, and devices that only PyTorch can copy to."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence

import torch

from runai_model_streamer._device.host import HostMemory
from runai_model_streamer._requests import FileChunks
from runai_model_streamer._session import Run, Session, as_bytes


class Placement:
    """Host memory: what the engine reads is what the caller gets."""

    writes_destinations = True
    """Whether the engine can write to memory of the caller's there, as `into` needs it."""

    def __init__(self, name: str = "cpu", device: torch.device | None = None) -> None:
        self.name = name
        self.device = torch.device("cpu") if device is None else device
        """That the tensors say."""
        self.memory: HostMemory = HostMemory()

    def submit(self, session: Session, requests: Sequence[FileChunks]) -> None:
        session.submit(requests)

    def runs(self, session: Session) -> Generator[Run, None, None]:
        """What is ready, until everything was delivered. Once for a load, as Session.runs(); no
        frame holds a run that was yielded."""
        return session.runs()


class MovedPlacement(Placement):
    """A device that only PyTorch can copy to: read into host memory, then moved run by run."""

    writes_destinations = False

    def __init__(self, name: str, device: torch.device) -> None:
        super().__init__(name, device)
        self.memory = HostMemory(device, backend=None)

    def runs(self, session: Session) -> Generator[Run, None, None]:
        yield from map(self._moved, session.runs())

    def _moved(self, run: Run) -> Run:
        if run.data is None:
            return run
        return dataclasses.replace(run, data=as_bytes(run.data).to(self.device))
