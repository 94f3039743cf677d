"""What a rank was told to do, and what its programs share."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import torch

from runai_model_streamer import SafetensorsStreamer

JOB: dict[str, Any] = {}


def my_rank() -> int:
    return int(os.environ["RANK"])


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def wait_for(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.02)


def names_for_rank() -> Any:
    if "names" not in JOB:
        return None
    return JOB["names"][str(my_rank())] or (lambda name: False)


def stream(streamer: SafetensorsStreamer, **more: Any) -> None:
    arguments = {"is_distributed": True, "tensor_names": names_for_rank(), **more}
    if "device" in JOB:
        arguments["device"] = JOB["device"]
    streamer.stream_files(JOB["files"], **arguments)
