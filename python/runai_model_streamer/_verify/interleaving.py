"""The order in which files are read so that they can be hashed at once."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def interleaved(counts: Sequence[Sequence[int]], piece: int) -> list[tuple[int, int, int]]:
    """The order in which files are read so that they can be hashed at once: pieces of ranges,
    (file, first range, range behind the last one), of as many files in turn as there are
    processors. `counts` are the sizes of the ranges of each file, in bytes; a piece has at least
    `piece` bytes unless it is the last one."""
    order: list[tuple[int, int, int]] = []
    at_once = processors()
    active: deque[tuple[int, int]] = deque()
    waiting = deque(range(len(counts)))
    while waiting or active:
        while waiting and len(active) < at_once:
            active.append((waiting.popleft(), 0))
        file, first = active.popleft()
        sizes = counts[file]
        last, size = first, 0
        while last < len(sizes) and size < piece:
            size += sizes[last]
            last += 1
        if last > first:
            order.append((file, first, last))
        if last < len(sizes):
            active.append((file, last))
    return order
