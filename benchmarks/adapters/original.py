"""runai-model-streamer as published (0.17.0), by its documented calls."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from typing import Any

import torch

from runai_model_streamer import SafetensorsStreamer

MODULE = "runai_model_streamer"


def version() -> str:
    return importlib.metadata.version("runai-model-streamer")


def iterate(files: list[str], options: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    extra = {"owned": options["owned"]} if "owned" in options else {}
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(
            files,
            device=options.get("device", "cpu"),
            is_distributed=options.get("distributed", False),
            **extra,
        )
        yield from streamer.get_tensors()
