"""Streaming that several ranks share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from runai_model_streamer.file_streamer import FileChunks, FileStreamer


class DistributedStreamer(FileStreamer):
    """A FileStreamer whose reading the ranks of torch.distributed may share."""

    def stream_files(  # type: ignore[override]
        self,
        file_stream_requests: Sequence[FileChunks],
        credentials: Any = None,
        device: str | torch.device | None = "cpu",
        is_distributed: bool = False,
        owned: bool = True,
    ) -> None:
        super().stream_files(file_stream_requests, credentials, device)

    def ring_info(self) -> tuple[int, int, int] | None:
        """(rank, buffers, bytes of a buffer) of the staging memory; None where there is none."""
        return None
