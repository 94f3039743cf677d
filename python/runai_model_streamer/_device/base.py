"""The interface of a device that receives the bytes of a load."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Protocol

import torch

from runai_model_streamer._device.host import HostMemory
from runai_model_streamer._requests import FileChunks
from runai_model_streamer._session import Run, Session


class DeviceSink(Protocol):
    """The destination of one load: submits its requests, and returns what is ready on the device.

    One thread at a time. A new device implements this in a module of its own and has a row in
    `registry.SINKS`.
    """

    @property
    def name(self) -> str:
        """As statistics and errors show it, e.g. "cuda:0"."""

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""

    @property
    def memory(self) -> HostMemory:
        """Memory of the device, for a load that several ranks share."""

    @property
    def writes_destinations(self) -> bool:
        """True if the engine writes to the destinations of `into` itself."""

    def submit(self, session: Session, requests: Iterable[FileChunks]) -> None:
        """Submits `requests` to `session`, in order. Called once.

        An iterator may be submitted one request at a time, so that reading starts before the
        iterator makes its last request.
        """

    def runs(self, session: Session) -> Generator[Run, None, None]:
        """The ranges that are ready, until everything was delivered. Called once.

        No frame holds a run that was yielded.
        """
