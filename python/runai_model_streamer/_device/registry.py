"""The devices, by their type in PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import torch

from runai_model_streamer._device.base import DeviceSink
from runai_model_streamer._device.cuda import CudaSink
from runai_model_streamer._device.host import HostSink
from runai_model_streamer._device.moved import MovedSink
from runai_model_streamer._errors import RunaiStreamerInvalidInputException

SINKS: dict[str, Callable[[torch.device], DeviceSink]] = {
    "cpu": lambda _: HostSink(),
    "cuda": CudaSink,
}
"""A device type without a row is a MovedSink."""


def sink_for(device: str | torch.device | None) -> DeviceSink:
    """A new sink for `device`; None is host memory.

    Raises RunaiStreamerInvalidInputException if `device` names no device, StreamerDeviceError if
    it cannot be used.
    """
    if device is None:
        return HostSink()
    try:
        parsed = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise RunaiStreamerInvalidInputException(
            f"{device!r} is not a device: {str(error).splitlines()[0]}"
        ) from None
    return SINKS.get(parsed.type, MovedSink)(parsed)
