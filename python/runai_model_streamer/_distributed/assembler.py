"""From bytes of files, as they arrive, to ranges that are complete."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

import torch

from runai_model_streamer import _native_api as native
from runai_model_streamer._device.dlpack import byte_factory
from runai_model_streamer._device.host import HostMemory
from runai_model_streamer._requests import FileChunks
from runai_model_streamer._session import Run
from runai_model_streamer._spans import Spans


class _Block:
    """Consecutive ranges of a request with memory of their own."""

    __slots__ = (
        "buffer",
        "destination",
        "empty_after",
        "end",
        "first",
        "left",
        "memory",
        "positions",
        "request",
        "spans",
        "start",
    )

    def __init__(self, request: int, first: int, start: int, destination: int) -> None:
        self.request = request  # index into the requests
        self.first = first
        self.start = start
        self.end = start
        self.left = 0
        self.positions: list[int] = []  # of each range
        self.destination = destination
        self.buffer: native.Buffer | None = None
        self.memory: torch.Tensor | None = None
        """The caller's, or a device's; else there is a buffer."""
        self.spans: Spans | None = None
        """Of a range whose bytes do not follow one another: from `start` on."""
        self.empty_after: list[_Block] = []


class Assembler:
    """Copies arriving bytes to where the ranges of `requests` belong. One thread at a time.

    `files` gives each path its number. Blocks come out when their last byte has come in.
    """

    def __init__(
        self, requests: Sequence[FileChunks], files: dict[str, int], memory: HostMemory
    ) -> None:
        self.memory = memory
        self._requests = requests
        self._leading: list[_Block] = []  # without bytes, before any other
        by_file: dict[int, list[_Block]] = {}
        last: _Block | None = None
        for index, request in enumerate(requests):
            blocks = by_file.setdefault(files[request.path], [])
            for block in _blocks_of(index, request):
                if block.left > 0:
                    blocks.append(block)
                    last = block
                elif last is None:
                    self._leading.append(block)
                else:
                    last.empty_after.append(block)
        # Requests may ask for the same bytes more than once: then there are several layers.
        self._layers: dict[int, list[tuple[list[int], list[_Block]]]] = {}
        for file, blocks in by_file.items():
            self._layers[file] = _layers(blocks)

    def leading(self) -> Iterator[Run]:
        """Ranges without bytes that stand before all others."""
        for block in self._leading:
            yield self._run(block)

    def feed(self, file: int, start: int, data: torch.Tensor) -> Iterator[tuple[Run, int]]:
        """Takes the bytes of `file` from `start`; yields what is complete, and its size."""
        end = start + data.numel()
        for starts, blocks in self._layers.get(file, ()):
            index = max(0, bisect_right(starts, start) - 1)
            while index < len(blocks) and blocks[index].start < end:
                block = blocks[index]
                index += 1
                first, stop = max(start, block.start), min(end, block.end)
                if first >= stop or block.left == 0:  # gaps of strides may come later
                    continue
                part = data[first - start : stop - start]
                block.left -= self._write(block, first - block.start, part)
                if block.left == 0:
                    size = block.end - block.start if block.spans is None else block.spans.size
                    yield self._run(block), size
                    for empty in block.empty_after:
                        yield self._run(empty), 0

    def _write(self, block: _Block, position: int, data: torch.Tensor) -> int:
        """The bytes of `data` that belong to the block."""
        if block.memory is None and block.buffer is None:
            self._allocate(block)
        if block.spans is not None:
            assert block.memory is not None
            return scatter(data, position, block.spans, block.memory)
        if block.buffer is not None:
            block.buffer.put(position, data.data_ptr(), data.numel())
        elif block.memory is not None:
            part = block.memory[position : position + data.numel()]
            part.copy_(data, non_blocking=True)
        return data.numel()

    def _allocate(self, block: _Block) -> None:
        size = block.end - block.start if block.spans is None else block.spans.size
        if block.destination:
            block.memory = self.memory.at(block.destination, size)
        elif not self.memory.on_device:
            sizes = self._requests[block.request].sizes
            last = block.first + len(block.positions)
            block.buffer = self.memory.claim_buffer(sizes[block.first : last])
            if block.spans is not None:
                block.memory = byte_factory().tensor(block.buffer, 0, "U8", (size,))
        else:
            block.memory = self.memory.claim(size)

    def _run(self, block: _Block) -> Run:
        request = self._requests[block.request]
        count, positions = len(block.positions), block.positions
        data: native.Buffer | list[torch.Tensor] | None = block.buffer
        if block.buffer is not None:
            positions = block.buffer.positions
        elif block.memory is not None and not block.destination:
            data = self._tensors(block, request)
        block.memory = block.buffer = None
        return Run(request.id, block.first, count, data, positions, request.sizes)

    def _tensors(self, block: _Block, request: FileChunks) -> list[torch.Tensor]:
        """The ranges of `block`, on a device, each with memory of its own."""
        assert block.memory is not None
        indices = range(block.first, block.first + len(block.positions))
        kinds = [request.tensor_of(index) for index in indices]
        if len(kinds) == 1:
            shape, dtype = kinds[0]
            return [block.memory.view(dtype).view(shape)]
        made = [self.memory.tensor(shape, dtype) for shape, dtype in kinds]
        parts = block.memory.split_with_sizes([request.sizes[index] for index in indices])
        torch._foreach_copy_([one.reshape(-1).view(torch.uint8) for one in made], parts)
        return made


def _blocks_of(index: int, request: FileChunks) -> Iterator[_Block]:
    """One pass without calls: there may be 100,000 ranges."""
    offsets, sizes = request.offsets, request.sizes
    count, strides = len(sizes), request.strides
    alignments = request.alignments or [1] * count
    destinations = request.destinations or [0] * count
    small, group = native.SMALL_RANGE, native.GROUP_BYTES
    number = 0
    while number < count:
        start, size, destination = offsets[number], sizes[number], destinations[number]
        block = _Block(index, number, start, destination)
        positions = block.positions
        positions.append(0)
        if number in strides:
            run, levels = strides[number]
            block.spans = Spans(start, run, tuple(levels))
            block.end = start + block.spans.extent
            block.left = size
            number += 1
            yield block
            continue
        end = start + size
        number += 1
        most = start + group if size < small and destination == 0 else 0
        while number < count:
            size = sizes[number]
            if (
                offsets[number] != end
                or end + size > most
                or size >= small
                or destinations[number] != 0
                or (end - start) % alignments[number] != 0
                or number in strides
            ):
                break
            positions.append(end - start)
            end += size
            number += 1
        block.end = end
        block.left = end - start
        yield block


def scatter(data: torch.Tensor, position: int, spans: Spans, memory: torch.Tensor) -> int:
    """Copies those of `data` that are bytes of `spans` to `memory`, which holds these packed.

    `data` begins `position` bytes behind the first byte of `spans`. Returns how many were copied.
    """
    end = position + data.numel()
    done = 0

    def copy(place: int, packed: int, levels: tuple[tuple[int, int], ...]) -> None:
        """Copies the part that starts at `place`, and is packed from byte `packed` on."""
        nonlocal done
        if not levels:
            first, stop = max(place, position), min(place + spans.run, end)
            if first < stop:
                target = memory[packed + first - place : packed + stop - place]
                target.copy_(data[first - position : stop - position], non_blocking=True)
                done += stop - first
            return
        (count, stride), inner = levels[0], levels[1:]
        reach = Spans(0, spans.run, inner).extent
        size = Spans(0, spans.run, inner).size
        begin = max(0, (position - place - reach) // stride + 1)
        stop = min(count, -(-(end - place) // stride))
        # Rows that `data` has as a whole are one copy.
        whole = max(begin, -(-(position - place) // stride)), (end - place - reach) // stride + 1
        rows = min(whole[1], stop) - whole[0]
        number = begin
        while number < stop:
            if not inner and rows > 1 and number == whole[0]:
                first = place + number * stride - position
                source = data.as_strided((rows, size), (stride, 1), data.storage_offset() + first)
                at = packed + number * size
                target = memory[at : at + rows * size].view(rows, size)
                target.copy_(source, non_blocking=True)
                done += rows * size
                number += rows
                continue
            copy(place + number * stride, packed + number * size, inner)
            number += 1

    copy(0, 0, spans.levels)
    return done


def _layers(blocks: list[_Block]) -> list[tuple[list[int], list[_Block]]]:
    layers: list[list[_Block]] = []
    for block in sorted(blocks, key=lambda b: b.start):
        for layer in layers:
            if layer[-1].end <= block.start:
                layer.append(block)
                break
        else:
            layers.append([block])
    return [([block.start for block in layer], layer) for layer in layers]
