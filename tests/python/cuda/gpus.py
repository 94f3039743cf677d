"""The GPU of the tests that are marked `gpu`: a real one if PyTorch sees one, else the stand-in
driver, so that CI runs the same tests as `make test-gpu`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from tests.support.cuda_standin import DEVICE_BYTES

REAL = torch.cuda.is_available()


class RealGpu:
    """The first GPU."""

    scale = 1
    """What sizes are divided by."""

    def __init__(self) -> None:
        self._device = torch.device("cuda:0")
        torch.cuda.empty_cache()

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy of `tensor` there."""
        return tensor.to(self._device)

    def restart_peak(self) -> None:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()

    def allocated(self) -> int:
        return torch.cuda.memory_allocated()

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated()

    @contextlib.contextmanager
    def room(self, size: int) -> Iterator[None]:
        """Little more than `size` bytes are left."""
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + size) / total)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)


class StandinGpu:
    scale = 8

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        memory = self._driver.allocate(0, tensor.nbytes)
        return memory.view(tensor.dtype).view(tensor.shape).copy_(tensor)

    def restart_peak(self) -> None:
        self._driver.restart_peak()

    def allocated(self) -> int:
        return int(self._driver.counts().device_bytes)

    def peak(self) -> int:
        return int(self._driver.counts().device_peak)

    @contextlib.contextmanager
    def room(self, size: int) -> Iterator[None]:
        ballast = self._driver.allocate(0, DEVICE_BYTES - self.allocated() - size)
        yield
        del ballast
