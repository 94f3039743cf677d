"""Tensors in GPU memory (NVIDIA's, and AMD's by the same names in PyTorch).

The engine copies from its pinned slots to addresses; the memory there is PyTorch's, taken from its
allocator a bounded number of bytes ahead of the consumer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator

import torch

from runai_model_streamer import _native_api as native
from runai_model_streamer._device.host import HostMemory
from runai_model_streamer._errors import (
    RunaiStreamerInvalidInputException,
    StreamerDeviceError,
    StreamerError,
    StreamerOutOfMemoryError,
)
from runai_model_streamer._requests import FileChunks
from runai_model_streamer._session import Run, Session

_ALIGNMENT = 512
_AHEAD = native.DEVICE_AHEAD
_FORKED = "Start worker processes by spawn or forkserver, or use the GPU only after the fork"


class _AddressOnDevice:
    """Device memory at an address, as torch takes it."""

    def __init__(self, address: int, size: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (size,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 2,
        }


class TorchMemory(HostMemory):
    """Device memory from PyTorch's allocator."""

    native_type = native.DeviceType.CUDA
    refusals = (torch.cuda.OutOfMemoryError,)
    remedy = "Free device memory, or keep fewer tensors"

    def __init__(self, device: torch.device) -> None:
        if torch.cuda._is_in_bad_fork():
            raise StreamerDeviceError(
                f"{device} can't be used: the GPU was used before this process was forked. "
                + _FORKED,
                code="device",
                hint=_FORKED,
            )
        if not torch.cuda.is_available():
            built = torch.version.cuda is not None or torch.version.hip is not None
            raise StreamerDeviceError(
                f"{device} can't be used: "
                + ("PyTorch sees no GPU" if built else "this PyTorch was built without CUDA"),
                code="device",
                hint="Check the driver, CUDA_VISIBLE_DEVICES and the installed torch",
            )
        count = torch.cuda.device_count()
        if device.index is not None and device.index >= count:
            raise StreamerDeviceError(
                f"there is no device {device}: PyTorch sees {count}", code="device"
            )
        try:
            index = torch.cuda.current_device() if device.index is None else device.index
            super().__init__(torch.device("cuda", index), "nccl")
            # The context that copies will use is PyTorch's: it has to be there.
            torch.empty(1, dtype=torch.uint8, device=self.device)
        except RuntimeError as error:  # a context that has failed, or no memory for one
            raise StreamerDeviceError(f"{device} can't be used: {error}", code="device") from error
        self.ordinal = index

    @property
    def owner(self) -> str:
        return f"cuda:{self.ordinal}"

    def allocate(self, size: int) -> torch.Tensor:
        """`size` bytes, aligned to 512. torch.OutOfMemoryError if the device has no more."""
        return torch.empty(size, dtype=torch.uint8, device=self.device)

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)

    def at(self, address: int, size: int) -> torch.Tensor:
        return torch.as_tensor(_AddressOnDevice(address, size), device=self.device)

    def free_bytes(self) -> int | None:
        return int(torch.cuda.mem_get_info(self.device)[0])

    def scope(self) -> contextlib.AbstractContextManager[object]:
        return torch.cuda.stream(torch.cuda.current_stream(self.device))

    def synchronize(self) -> None:
        torch.cuda.current_stream(self.device).synchronize()

    def stream(self) -> int:
        return int(torch.cuda.current_stream(self.device).cuda_stream)

    def loading_stream(self) -> int:
        return int(_own_stream(self.device).cuda_stream)

    def loading(self) -> contextlib.AbstractContextManager[object]:
        return torch.cuda.stream(_own_stream(self.device))

    def used_by_current_stream(self, memory: torch.Tensor) -> None:
        memory.record_stream(torch.cuda.current_stream(self.device))


_own_streams: dict[torch.device, torch.cuda.Stream] = {}


def _own_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all loads to a device: PyTorch keeps the memory that they free for it."""
    stream = _own_streams.get(device)
    if stream is None:
        stream = _own_streams.setdefault(device, torch.cuda.Stream(device))
    return stream


# The maker of device memory; an object with the methods of TorchMemory can stand in.
memory_factory: Callable[[torch.device], HostMemory] = TorchMemory


@dataclasses.dataclass(slots=True)
class _Block:
    """Consecutive ranges of one request that are submitted together."""

    number: int
    request: FileChunks
    first: int
    count: int = 0
    size: int = 0
    """Bytes of the memory that it needs."""
    in_place: bool = False
    """True if its memory is the caller's."""
    delivered: int = 0
    stream: int = 0


class CudaSink:
    """Device memory. Blocks are allocated and submitted ahead of the consumer, in order, up to
    RUNAI_STREAMER_CUDA_MEMORY_LIMIT bytes; at least one block is.

    They are allocated on a stream of the loads' own, so that copies need not wait for the kernels
    of the consumer; only those to destinations of the caller do.
    """

    def __init__(self, device: torch.device) -> None:
        memory = memory_factory(device)
        self.name = f"cuda:{memory.ordinal}"
        self.device = memory.device
        self.memory = memory
        self.writes_destinations = True
        self._alignment = int(native.setting("RUNAI_STREAMER_CUDA_ALIGNMENT"))
        if self._alignment & (self._alignment - 1):
            raise RunaiStreamerInvalidInputException(
                f"invalid value '{self._alignment}' of RUNAI_STREAMER_CUDA_ALIGNMENT: "
                "it must be a power of two"
            )
        # PyTorch's allocations have to be larger by this, to have the alignment in them.
        self._slack = max(self._alignment - _ALIGNMENT, 0)
        limit = native.setting("RUNAI_STREAMER_CUDA_MEMORY_LIMIT")
        self._chosen_limit = None if limit is None else int(limit)
        self._limit = 0
        self._waiting: deque[_Block] = deque()
        self._in_flight: dict[int, _Block] = {}
        self._ahead = 0  # bytes that are allocated and were not yielded

    def submit(self, session: Session, requests: Iterable[FileChunks]) -> None:
        self._waiting = deque()
        self._in_flight = {}
        self._ahead = 0
        self._limit = self._limit_for(0)
        session.submit([], self.memory.native_type, self.memory.ordinal, self.memory.stream())
        largest = number = 0
        for request in requests:
            blocks = list(_cut(request, number, self._slack))
            number += len(blocks)
            self._waiting += blocks
            size = max((block.size for block in blocks), default=0)
            if size > largest:
                largest, self._limit = size, self._limit_for(size)
            self._submit_more(session, must=False)
        self._submit_more(session, must=True)

    def _limit_for(self, largest: int) -> int:
        """Two of the largest blocks: while one is used the next one is filled. Not at the price
        of memory that the consumer may need."""
        if self._chosen_limit is not None:
            return self._chosen_limit
        if 2 * largest <= _AHEAD:
            return _AHEAD
        free = self.memory.free_bytes()
        return 2 * largest if free is None or 8 * largest <= free else _AHEAD

    def runs(self, session: Session) -> Generator[Run, None, None]:
        while self._waiting or self._in_flight:
            if not self._in_flight:  # the device was full: the consumer may have freed some since
                self._submit_more(session, must=True)
            for ready in session.runs():
                yield self._deliver(session, ready)
            if self._in_flight:  # a second attempt would not end
                raise StreamerError(
                    f"{self.name}: everything was delivered, but for {len(self._in_flight)} blocks",
                    code="internal",
                )

    def _deliver(self, session: Session, ready: Run) -> Run:
        run = self._take(session, ready)
        # While the consumer works with this run the next ones are filled.
        self._submit_more(session, must=False)
        return run

    def _take(self, session: Session, ready: Run) -> Run:
        """`ready` of a block as a run of the request it came from."""
        block = self._in_flight[ready.request_id]
        request, first = block.request, block.first + ready.first
        data = None
        if not block.in_place:
            # Of those that were not delivered, the first ones are ready.
            waiting = session.memory[block.number]
            data = waiting[: ready.count]
            del waiting[: ready.count]
            if block.stream != self.memory.stream():
                for tensor in data:
                    self.memory.used_by_current_stream(tensor)
        block.delivered += ready.count
        if block.delivered == block.count:
            del self._in_flight[block.number]
            if session.memory.pop(block.number, None) is not None:
                self._ahead -= block.size
        return Run(request.id, first, ready.count, data, [], request.sizes)

    def _submit_more(self, session: Session, must: bool) -> None:
        """Submits what fits; `must`: raises if the device has no memory for any of it. To call
        it for every tensor costs little: it waits until an eighth of the limit is free."""
        if not self._waiting or (self._in_flight and self._ahead > self._limit - self._limit // 8):
            return
        chunks = []
        stream = self.memory.loading_stream()
        with self.memory.loading():
            while self._waiting:
                block = self._waiting[0]
                full = self._ahead > 0 and self._ahead + block.size > self._limit
                if not block.in_place and full:
                    break
                if not block.in_place and not self._allocate(session, block, stream, must):
                    break
                self._waiting.popleft()
                self._in_flight[block.number] = block
                chunks.append(self._chunks(session, block))
        if any(self._in_flight[chunk.id].in_place for chunk in chunks):
            stream = self.memory.stream()
        if chunks:
            try:
                session.submit(chunks, self.memory.native_type, self.memory.ordinal, stream)
            finally:
                chunks.clear()  # an error holds this frame, which holds memory

    def _allocate(self, session: Session, block: _Block, stream: int, must: bool) -> bool:
        """True if the device has memory for `block`, now."""
        try:
            memory = [
                self._tensor(*block.request.tensor_of(index))
                for index in range(block.first, block.first + block.count)
            ]
        except torch.cuda.OutOfMemoryError as error:
            if self._in_flight or not must:
                return False  # the consumer may free some before it asks again
            session.close()
            self._waiting.clear()
            raise StreamerOutOfMemoryError(
                f"{self.name} has no memory for the next {block.size} bytes of "
                f"{block.request.path}: {error}",
                code="out_of_memory",
                path=block.request.path,
                hint=self.memory.remedy,
            ) from error
        except RuntimeError as error:  # the context has failed, usually because of a kernel
            session.close()
            self._waiting.clear()
            raise StreamerDeviceError(
                f"{self.name} gives no memory: {error}. {native.sticky_device_hint}",
                code="device",
                path=block.request.path,
                hint=native.sticky_device_hint,
            ) from error
        session.memory[block.number] = memory
        block.stream = stream
        self._ahead += block.size
        return True

    def _tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        if self._slack == 0:
            return self.memory.tensor(shape, dtype)
        size = math.prod(shape) * dtype.itemsize
        memory = self.memory.allocate(size + self._slack)
        start = -memory.data_ptr() % self._alignment
        return memory[start : start + size].view(dtype).view(shape)

    def _chunks(self, session: Session, block: _Block) -> FileChunks:
        chunks = block.request.part(block.number, block.first, block.first + block.count)
        if not block.in_place:
            memory = session.memory[block.number]
            chunks.destinations = [tensor.data_ptr() for tensor in memory]
            chunks.keep = memory  # taken memory is not in it any more
        return chunks


def _cut(request: FileChunks, number: int, slack: int) -> Iterator[_Block]:
    """The blocks of `request`, in order, the first one with this number. Each range takes `slack`
    bytes more than PyTorch does."""
    small, group = native.SMALL_RANGE, native.GROUP_BYTES
    block: _Block | None = None
    destinations = request.destinations
    for index, size in enumerate(request.sizes):
        in_place = destinations is not None and destinations[index] != 0
        needed = 0 if in_place else -(-size // _ALIGNMENT) * _ALIGNMENT + slack
        if block is not None and (
            block.in_place != in_place
            or not (in_place or (size < small and block.size + needed <= group))
        ):
            yield block
            block = None
        if block is None:
            block = _Block(number, request, index, in_place=in_place)
            number += 1
        block.count += 1
        block.size += needed
    if block is not None:
        yield block
