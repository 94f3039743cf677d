"""The stand-in GPU driver of tests/support/cuda_standin, from Python: its memory as tensors."""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import subprocess
import tempfile
import weakref
from pathlib import Path

import torch

from runai_model_streamer import _native_api as native
from runai_model_streamer._device import cuda
from runai_model_streamer._device.host import HostMemory

HERE = Path(__file__).parent
SOURCES = [HERE / f"{name}.cc" for name in ("world", "checks", "streams", "driver", "control")]
DEVICE_BYTES = 1 << 30


class Counts(ctypes.Structure):
    """standin_counts of standin.h."""

    _fields_ = [
        ("violations", ctypes.c_uint64),
        ("contexts_made", ctypes.c_uint64),
        ("context_references", ctypes.c_uint64),
        ("device_bytes", ctypes.c_uint64),
        ("device_peak", ctypes.c_uint64),
        ("pinned_bytes", ctypes.c_uint64),
        ("pinned_peak", ctypes.c_uint64),
        ("registrations", ctypes.c_uint64),
        ("streams", ctypes.c_uint64),
        ("events", ctypes.c_uint64),
        ("copies", ctypes.c_uint64),
        ("copied_bytes", ctypes.c_uint64),
    ]


class Copy(ctypes.Structure):
    """standin_copy of standin.h."""

    _fields_ = [
        ("begin", ctypes.c_int64),
        ("end", ctypes.c_int64),
        ("bytes", ctypes.c_uint64),
    ]


def build(directory: Path) -> Path:
    """Compiles the stand-in into `directory`."""
    library = directory / "libstandin_cuda.so"
    compiler = os.environ.get("CXX", "g++")
    flags = ["-std=c++20", "-O1", "-shared", "-fPIC", "-pthread", "-fvisibility=hidden"]
    subprocess.run([compiler, *flags, "-o", str(library), *map(str, SOURCES)], check=True)
    return library


@functools.cache
def library() -> Path:
    """The stand-in, compiled once for this process."""
    directory = tempfile.TemporaryDirectory(prefix="standin-")
    atexit.register(directory.cleanup)
    return build(Path(directory.name))


class Standin:
    """Devices whose memory is the host's. One thread uses it at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        self._library.standin_alloc.restype = ctypes.c_void_p
        self._library.standin_alloc.argtypes = [ctypes.c_int, ctypes.c_uint64]
        self._library.standin_free.argtypes = [ctypes.c_void_p]
        self._library.standin_reset.argtypes = [ctypes.c_int, ctypes.c_uint64]
        self._library.standin_link.argtypes = [ctypes.c_uint64]
        self._library.standin_copies.restype = ctypes.c_size_t
        self._library.standin_copies.argtypes = [ctypes.POINTER(Copy), ctypes.c_size_t]
        self._library.standin_violation.restype = ctypes.c_char_p
        self._library.standin_stream_create.restype = ctypes.c_void_p
        self._library.standin_stream_destroy.argtypes = [ctypes.c_void_p]
        self._library.standin_fill_later.argtypes = [
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_uint64,
            ctypes.c_int,
            ctypes.c_int,
        ]

    def reset(self, devices: int = 2, device_bytes: int = DEVICE_BYTES) -> None:
        self._library.standin_reset(devices, device_bytes)
        if devices:
            self._library.standin_use(0)

    def use(self, device: int) -> None:
        self._library.standin_use(device)

    def fail(
        self, function: str, code: int, after: int = 0, times: int = 1, sticky: bool = False
    ) -> None:
        self._library.standin_fail(function.encode(), after, times, code, int(sticky))

    def hold(self, held: bool) -> None:
        self._library.standin_hold(int(held))

    def link(self, bytes_per_second: int) -> None:
        self._library.standin_link(bytes_per_second)

    def stream(self) -> int:
        return int(self._library.standin_stream_create())

    def destroy_stream(self, stream: int) -> None:
        self._library.standin_stream_destroy(stream)

    def fill_later(self, stream: int, memory: torch.Tensor, value: int, milliseconds: int) -> None:
        self._library.standin_fill_later(
            stream, memory.data_ptr(), memory.numel(), value, milliseconds
        )

    def restart_peak(self) -> None:
        self._library.standin_restart_peak()

    def counts(self) -> Counts:
        counts = Counts()
        self._library.standin_count(ctypes.byref(counts))
        return counts

    def copies(self) -> list[tuple[int, int, int]]:
        """(begin, end, bytes) of each copy that ran, times in nanoseconds of CLOCK_MONOTONIC."""
        count = self._library.standin_copies(None, 0)
        copies = (Copy * count)()
        self._library.standin_copies(copies, count)
        return [(copy.begin, copy.end, copy.bytes) for copy in copies]

    def violation(self) -> str:
        return self._library.standin_violation().decode()

    def allocate(self, device: int, size: int) -> torch.Tensor | None:
        """Memory of the device that is freed with the last tensor on it; None: there is no more."""
        address = self._library.standin_alloc(device, size)
        if not address:
            return None
        memory = (ctypes.c_ubyte * max(size, 1)).from_address(address)
        weakref.finalize(memory, self._library.standin_free, address)
        return torch.frombuffer(memory, dtype=torch.uint8)[:size]


class StandinMemory(HostMemory):
    """What CudaSink allocates with, in the place of PyTorch's allocator."""

    standin: Standin
    stream_handle = 0
    used: list[int]
    """Addresses that another stream than at allocation was said to use."""

    native_type = native.DeviceType.CUDA
    refusals = cuda.TorchMemory.refusals
    remedy = cuda.TorchMemory.remedy
    owner = cuda.TorchMemory.owner

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # its tensors say "cpu"
        self.ordinal = device.index or 0

    def allocate(self, size: int) -> torch.Tensor:
        if size == 0:  # PyTorch allocates nothing either
            return torch.empty(0, dtype=torch.uint8, device="cpu")
        memory = self.standin.allocate(self.ordinal, size)
        if memory is None:
            raise torch.cuda.OutOfMemoryError(f"tried to allocate {size} bytes")
        return memory

    def stream(self) -> int:
        return type(self).stream_handle

    def used_by_current_stream(self, memory: torch.Tensor) -> None:
        self.used.append(memory.data_ptr())
