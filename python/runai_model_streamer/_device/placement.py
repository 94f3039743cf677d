"""The placement for a device, by its type."""

from __future__ import annotations

import torch

from runai_model_streamer._device.base import MovedPlacement as MovedPlacement
from runai_model_streamer._device.base import Placement as Placement
from runai_model_streamer._device.cuda import CudaPlacement
from runai_model_streamer._errors import RunaiStreamerInvalidInputException


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
    if parsed.type == "cuda":
        return CudaPlacement(parsed)
    return MovedPlacement(str(parsed), parsed)
