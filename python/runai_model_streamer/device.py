"""Where tensors end: host memory, or a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from runai_model_streamer.errors import RunaiStreamerInvalidInputException
from runai_model_streamer.file_streamer.requests_iterator import FileChunks
from runai_model_streamer.file_streamer.session import Run, Session


class Placement:
    """Host memory: what the engine reads is what the caller gets."""

    def __init__(self, name: str = "cpu") -> None:
        self.name = name
        self._sizes: dict[int, list[int]] = {}

    def submit(self, session: Session, requests: Sequence[FileChunks]) -> None:
        self._sizes = {request.id: request.sizes for request in requests}
        session.submit(requests)

    def sizes(self, run: Run) -> list[int]:
        """Bytes of each range of `run`."""
        return self._sizes[run.request_id][run.first : run.first + run.count]

    def runs(self, session: Session) -> Iterator[Run]:
        return session.runs()


def parse_device(device: str | torch.device | None) -> Placement:
    """The placement for a device: None, "cpu" and "cpu:0" are host memory."""
    if device is None:
        return Placement()
    try:
        parsed = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise RunaiStreamerInvalidInputException(
            f"{device!r} is not a device: {str(error).splitlines()[0]}"
        ) from None
    if parsed.type == "cpu":
        return Placement()
    raise RunaiStreamerInvalidInputException(f"device {str(parsed)!r} is not supported")
