"""Host memory."""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Generator, Iterable, Iterator

import torch

from runai_model_streamer import _native_api as native
from runai_model_streamer._device.dlpack import byte_factory
from runai_model_streamer._errors import StreamerOutOfMemoryError
from runai_model_streamer._requests import FileChunks
from runai_model_streamer._session import Run, Session


class HostMemory:
    """Memory of the host, for code that fills it without the engine. cuda.TorchMemory has the same
    methods for a device."""

    native_type = native.DeviceType.HOST
    """Of the native module: the kind of destination of reads."""
    ordinal = 0
    refusals: tuple[type[Exception], ...] = (OSError, RuntimeError, MemoryError)
    """The exceptions of a lack of memory."""
    remedy = "Keep fewer tensors, or give the process more memory"

    def __init__(self, device: torch.device | None = None, backend: str | None = "gloo") -> None:
        self.device = torch.device("cpu") if device is None else device
        self.backend = backend
        """Of torch.distributed, for exchanges between such memory."""

    def allocate(self, size: int) -> torch.Tensor:
        """`size` bytes."""
        return byte_factory().tensor(native.Buffer.allocate([size]), 0, "U8", (size,))

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A contiguous tensor, uninitialised."""
        size = math.prod(shape) * torch.empty(0, dtype=dtype, device="cpu").element_size()
        return self.allocate(size).view(dtype).view(shape)

    def claim(self, size: int) -> torch.Tensor:
        """allocate(), with an error that names the size."""
        with self._out_of_memory(size):
            return self.allocate(size)

    def claim_buffer(self, sizes: list[int]) -> native.Buffer:
        """Memory of the host for ranges of `sizes` bytes, with the same error."""
        with self._out_of_memory(sum(sizes)):
            return native.Buffer.allocate(sizes)

    @property
    def on_device(self) -> bool:
        return self.native_type != native.DeviceType.HOST

    @property
    def owner(self) -> str:
        """Of the memory, for errors."""
        return "the system"

    @contextlib.contextmanager
    def _out_of_memory(self, size: int) -> Iterator[None]:
        try:
            yield
        except self.refusals as error:
            raise StreamerOutOfMemoryError(
                f"{self.owner} has no memory for {size} bytes: {error}",
                code="out_of_memory",
                hint=self.remedy,
            ) from error

    def at(self, address: int, size: int) -> torch.Tensor:
        """Memory that the caller keeps alive, as a flat uint8 tensor."""
        view = (ctypes.c_uint8 * size).from_address(address)
        return torch.frombuffer(view, dtype=torch.uint8)

    def free_bytes(self) -> int | None:
        """Bytes that could be allocated; None: not limited."""
        return None

    def stream(self) -> int:
        """Handle of the caller's current stream there."""
        return 0

    def loading_stream(self) -> int:
        """Handle of the stream that allocations within loading() belong to. Memory that work of
        another stream uses is passed to used_by_current_stream()."""
        return self.stream()

    def loading(self) -> contextlib.AbstractContextManager[object]:
        """Allocations within it may be written to as soon as loading_stream() is idle, without a
        wait for the caller's streams."""
        return contextlib.nullcontext()

    def scope(self) -> contextlib.AbstractContextManager[object]:
        """Context manager that makes the caller's current stream current in another thread."""
        return contextlib.nullcontext()

    def synchronize(self) -> None:
        """Waits for the current stream."""

    def used_by_current_stream(self, memory: torch.Tensor) -> None:
        """The caller's current stream, not the one at allocation, is going to use `memory`."""


class HostSink:
    """Host memory: the memory that the engine reads into is the memory of the tensors."""

    def __init__(self) -> None:
        self.name = "cpu"
        self.device = torch.device("cpu")
        self.memory = HostMemory()
        self.writes_destinations = True

    def submit(self, session: Session, requests: Iterable[FileChunks]) -> None:
        if not isinstance(requests, Iterator):
            session.submit(list(requests))
            return
        for request in requests:
            session.submit([request])

    def runs(self, session: Session) -> Generator[Run, None, None]:
        return session.runs()
