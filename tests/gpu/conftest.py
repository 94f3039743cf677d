"""The GPU of these tests: a real one where PyTorch sees one, else the stand-in driver, so that CI
runs through what `make test-gpu` runs.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "cuda_standin"))
from fixtures import standin, standin_library  # noqa: F401
from standin import DEVICE_BYTES

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


@pytest.fixture
def gpu(request: pytest.FixtureRequest) -> RealGpu | StandinGpu:
    return RealGpu() if REAL else StandinGpu(request.getfixturevalue("standin"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> list[Path]:
    from tests.python.cuda.loads import write_checkpoint

    scale = 1 if REAL else StandinGpu.scale
    small = list(range(1, 2000 // scale + 1))
    return write_checkpoint(tmp_path, (9000 // scale, 4096), (3333, 1111), small)
