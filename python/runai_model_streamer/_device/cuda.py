"""Tensors in GPU memory (NVIDIA's, and AMD's by the same names in PyTorch).

The engine copies from its pinned slots to addresses; the memory there is PyTorch's, taken from its
allocator a bounded number of bytes ahead of the consumer.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator

import torch

from runai_model_streamer import _native_api as native
from runai_model_streamer._device.host import GROUP_BYTES, SMALL_BYTES, HostMemory
from runai_model_streamer._errors import (
    RunaiStreamerInvalidInputException,
    StreamerDeviceError,
    StreamerError,
    StreamerOutOfMemoryError,
)
from runai_model_streamer._requests import FileChunks
from runai_model_streamer._session import Run, Session

_ALIGNMENT = 512
_AHEAD = 192 << 20
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

    native_type = 1

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

    def allocate(self, size: int) -> torch.Tensor:
        """`size` bytes, aligned to 512. torch.OutOfMemoryError where the device has no more."""
        return torch.empty(size, dtype=torch.uint8, device=self.device)

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

    def used_by_current_stream(self, memory: torch.Tensor) -> None:
        memory.record_stream(torch.cuda.current_stream(self.device))


# Where device memory comes from; what has the methods of TorchMemory can stand in.
memory_factory: Callable[[torch.device], HostMemory] = TorchMemory


@dataclasses.dataclass(slots=True)
class _Block:
    """Consecutive ranges of one request that share an allocation; or, with `destinations`, ranges
    whose memory is the caller's."""

    number: int
    request: FileChunks
    first: int
    count: int = 0
    size: int = 0
    positions: list[int] = dataclasses.field(default_factory=list)
    in_place: bool = False
    delivered: int = 0
    stream: int = 0


class CudaSink:
    """Device memory. Blocks are allocated and submitted ahead of the consumer, in order, up to
    RUNAI_STREAMER_CUDA_MEMORY_LIMIT bytes; at least one block is."""

    def __init__(self, device: torch.device) -> None:
        memory = memory_factory(device)
        self.name = f"cuda:{memory.ordinal}"
        self.device = memory.device
        self.memory = memory
        self.writes_destinations = True
        alignment = native.setting("RUNAI_STREAMER_CUDA_ALIGNMENT")
        self._alignment = _ALIGNMENT if alignment is None else int(alignment)
        if self._alignment & (self._alignment - 1):
            raise RunaiStreamerInvalidInputException(
                f"invalid value '{self._alignment}' of RUNAI_STREAMER_CUDA_ALIGNMENT: "
                "it must be a power of two"
            )
        # What allocations of PyTorch's have to be larger by to have the alignment in them.
        self._slack = max(self._alignment - _ALIGNMENT, 0)
        limit = native.setting("RUNAI_STREAMER_CUDA_MEMORY_LIMIT")
        self._limit = _AHEAD if limit is None else int(limit)
        self._waiting: deque[_Block] = deque()
        self._under_way: dict[int, _Block] = {}
        self._ahead = 0  # bytes that are allocated and were not yielded

    def submit(self, session: Session, requests: Iterable[FileChunks]) -> None:
        self._waiting = deque(_cut(requests, self._alignment))
        self._under_way = {}
        self._ahead = 0
        session.submit([], self.memory.native_type, self.memory.ordinal, self.memory.stream())
        self._submit_more(session, must=True)

    def runs(self, session: Session) -> Generator[Run, None, None]:
        while self._waiting or self._under_way:
            if not self._under_way:  # the device was full: the consumer may have freed some since
                self._submit_more(session, must=True)
            for ready in session.runs():
                yield self._deliver(session, ready)
            if self._under_way:  # to ask again would be to ask for ever
                raise StreamerError(
                    f"{self.name}: everything was delivered, but for {len(self._under_way)} blocks",
                    code="internal",
                )

    def _deliver(self, session: Session, ready: Run) -> Run:
        run = self._take(session, ready)
        # While the consumer works with this run the next ones are under way.
        self._submit_more(session, must=False)
        return run

    def _take(self, session: Session, ready: Run) -> Run:
        """`ready` of a block as a run of the request it came from."""
        block = self._under_way[ready.request_id]
        request, first = block.request, block.first + ready.first
        data = None
        positions: list[int] = []
        if not block.in_place:
            data = session.memory[block.number]
            if block.stream != self.memory.stream():
                self.memory.used_by_current_stream(data)
            positions = block.positions[ready.first : ready.first + ready.count]
            if ready.count == 1:
                data = data[positions[0] : positions[0] + request.sizes[first]]
                positions = [0]
        block.delivered += ready.count
        if block.delivered == block.count:
            del self._under_way[block.number]
            if session.memory.pop(block.number, None) is not None:
                self._ahead -= block.size + self._slack
        return Run(request.id, first, ready.count, data, positions, request.sizes)

    def _submit_more(self, session: Session, must: bool) -> None:
        """Submits what fits; `must`: raises where the device has no memory for any of it. To call
        it for every tensor costs little: it waits until an eighth of the limit is free."""
        if not self._waiting or (self._under_way and self._ahead > self._limit - self._limit // 8):
            return
        stream = self.memory.stream()
        chunks = []
        while self._waiting:
            block = self._waiting[0]
            full = self._ahead > 0 and self._ahead + block.size + self._slack > self._limit
            if not block.in_place and full:
                break
            if not block.in_place and not self._allocate(session, block, stream, must):
                break
            self._waiting.popleft()
            self._under_way[block.number] = block
            chunks.append(self._chunks(session, block))
        if chunks:
            session.submit(chunks, self.memory.native_type, self.memory.ordinal, stream)

    def _allocate(self, session: Session, block: _Block, stream: int, must: bool) -> bool:
        """Whether the device has memory for `block`, now."""
        try:
            memory = self.memory.allocate(block.size + self._slack)
        except torch.cuda.OutOfMemoryError as error:
            if self._under_way or not must:
                return False  # the consumer may free some before it asks again
            session.close()
            self._waiting.clear()
            raise StreamerOutOfMemoryError(
                f"{self.name} has no memory for the next {block.size} bytes of "
                f"{block.request.path}: {error}",
                code="out_of_memory",
                path=block.request.path,
                hint="Free device memory, or keep fewer tensors",
            ) from error
        except RuntimeError as error:  # the context has failed, mostly because of a kernel
            session.close()
            self._waiting.clear()
            raise StreamerDeviceError(
                f"{self.name} gives no memory: {error}. {native.sticky_device_hint}",
                code="device",
                path=block.request.path,
                hint=native.sticky_device_hint,
            ) from error
        start = -memory.data_ptr() % self._alignment if self._slack else 0
        session.memory[block.number] = memory[start : start + block.size]
        block.stream = stream
        self._ahead += block.size + self._slack
        return True

    def _chunks(self, session: Session, block: _Block) -> FileChunks:
        request = block.request
        last = block.first + block.count
        if block.in_place:
            assert request.destinations is not None
            destinations = request.destinations[block.first : last]
        else:
            base = session.memory[block.number].data_ptr()
            destinations = [base + position for position in block.positions]
        return FileChunks(
            block.number,
            request.path,
            request.offsets[block.first : last],
            request.sizes[block.first : last],
            destinations=destinations,
        )


def _cut(requests: Iterable[FileChunks], alignment: int) -> Iterator[_Block]:
    """The blocks of `requests`, in order."""
    number = 0
    for request in requests:
        block: _Block | None = None
        destinations = request.destinations
        for index, size in enumerate(request.sizes):
            in_place = destinations is not None and destinations[index] != 0
            position = 0 if block is None else -(-block.size // alignment) * alignment
            joins = block is not None and block.in_place == in_place
            if not in_place:
                joins = joins and size < SMALL_BYTES and position + size <= GROUP_BYTES
            if block is None or not joins:
                if block is not None:
                    yield block
                block = _Block(number, request, index, in_place=in_place)
                number += 1
                position = 0
            block.count += 1
            if not in_place:
                block.positions.append(position)
                block.size = position + size
        if block is not None:
            yield block
