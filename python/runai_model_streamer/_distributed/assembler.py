"""From bytes of files, as they arrive, to ranges that are complete."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from runai_model_streamer._device.host import GROUP_BYTES, SMALL_BYTES, HostMemory
from runai_model_streamer._requests import FileChunks
from runai_model_streamer._session import Run


class _Block:
    """Consecutive ranges of a request with memory of their own."""

    __slots__ = (
        "destination",
        "empty_after",
        "end",
        "first",
        "left",
        "memory",
        "positions",
        "request",
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
        self.memory: torch.Tensor | None = None
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
                if first >= stop:
                    continue
                if block.memory is None:
                    block.memory = self._allocate(block)
                part = block.memory[first - block.start : stop - block.start]
                part.copy_(data[first - start : stop - start], non_blocking=True)
                block.left -= stop - first
                if block.left == 0:
                    size = block.end - block.start
                    yield self._run(block), size
                    for empty in block.empty_after:
                        yield self._run(empty), 0

    def _allocate(self, block: _Block) -> torch.Tensor:
        size = block.end - block.start
        if block.destination:
            return self.memory.at(block.destination, size)
        return self.memory.claim(size)

    def _run(self, block: _Block) -> Run:
        data: Any = None if block.destination else block.memory
        block.memory = None
        request = self._requests[block.request]
        positions = block.positions
        return Run(request.id, block.first, len(positions), data, positions, request.sizes)


def _blocks_of(index: int, request: FileChunks) -> Iterator[_Block]:
    """One pass without calls: there may be 100,000 ranges."""
    offsets, sizes = request.offsets, request.sizes
    count = len(sizes)
    alignments = request.alignments or [1] * count
    destinations = request.destinations or [0] * count
    number = 0
    while number < count:
        start, size, destination = offsets[number], sizes[number], destinations[number]
        block = _Block(index, number, start, destination)
        positions = block.positions
        positions.append(0)
        end = start + size
        number += 1
        most = start + GROUP_BYTES if size < SMALL_BYTES and destination == 0 else 0
        while number < count:
            size = sizes[number]
            if (
                offsets[number] != end
                or end + size > most
                or size >= SMALL_BYTES
                or destinations[number] != 0
                or (end - start) % alignments[number] != 0
            ):
                break
            positions.append(end - start)
            end += size
            number += 1
        block.end = end
        block.left = end - start
        yield block


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
