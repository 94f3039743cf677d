"""Where a load ends: host memory, a GPU, or the stand-in driver in the place of one.

BENCH_STANDIN, the path of a stand-in driver, makes "cuda:0" a device of its. Nothing that is
measured then means anything; everything that a GPU would run through is run through.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Protocol

import torch

_REGISTER_READ_ONLY = 8  # cudaHostRegisterReadOnly


class Target(Protocol):
    def start(self) -> None:
        """Makes the context, which is not a part of the load time, and begins to count memory."""

    def growth(self) -> int | None:
        """Most bytes of device memory since start(), beyond those that were allocated then."""

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor: ...
    def pinned(self, size: int) -> torch.Tensor: ...
    def register(self, address: int, size: int) -> None:
        """Pins memory that is mapped read-only."""

    def unregister(self, address: int) -> None: ...
    def stream(self) -> torch.cuda.StreamContext | None:
        """A new stream of this thread; None if the device has no streams."""

    def synchronize(self) -> None:
        """Waits for the current stream of this thread."""


class Host:
    def start(self) -> None: ...

    def growth(self) -> int | None:
        return None

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype)

    def pinned(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8)

    def register(self, address: int, size: int) -> None: ...
    def unregister(self, address: int) -> None: ...

    def stream(self) -> torch.cuda.StreamContext | None:
        return None

    def synchronize(self) -> None: ...


class Gpu:
    def __init__(self, name: str) -> None:
        self._name = torch.device(name)
        self._base = 0

    def start(self) -> None:
        torch.zeros(1, device=self._name)
        torch.cuda.synchronize(self._name)
        torch.cuda.reset_peak_memory_stats(self._name)
        self._base = torch.cuda.memory_allocated(self._name)

    def growth(self) -> int | None:
        return int(torch.cuda.max_memory_allocated(self._name)) - self._base

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, device=self._name)

    def pinned(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def register(self, address: int, size: int) -> None:
        runtime = torch.cuda.cudart()
        torch.cuda.check_error(runtime.cudaHostRegister(address, size, _REGISTER_READ_ONLY))

    def unregister(self, address: int) -> None:
        torch.cuda.check_error(torch.cuda.cudart().cudaHostUnregister(address))

    def stream(self) -> torch.cuda.StreamContext | None:
        return torch.cuda.stream(torch.cuda.Stream(self._name))

    def synchronize(self) -> None:
        torch.cuda.current_stream(self._name).synchronize()


class StandinGpu(Host):
    """Memory of the stand-in's; no streams of PyTorch's."""

    def __init__(self, driver: Path) -> None:
        from benchmarks import standin

        self._standin = standin.install(driver)
        self._base = 0

    def start(self) -> None:
        self._standin.restart_peak()
        self._base = self._standin.counts().device_bytes

    def growth(self) -> int | None:
        return int(self._standin.counts().device_peak) - self._base

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        memory = self._standin.allocate(0, math.prod(shape) * dtype.itemsize)
        assert isinstance(memory, torch.Tensor)
        return memory.zero_().view(dtype).view(shape)


def target(name: str) -> Target:
    if not name.startswith("cuda"):
        return Host()
    driver = os.environ.get("BENCH_STANDIN")
    return StandinGpu(Path(driver)) if driver else Gpu(name)
