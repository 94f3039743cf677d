"""The order in which files are read so that they can be hashed at once."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def interleaved(counts: Iterable[Sequence[int]], piece: int) -> Iterator[tuple[int, int, int]]:
    """The order in which files are read so that they can be hashed at once: pieces of ranges,
    (file, first range, range behind the last one), of as many files in turn as there are
    processors. `counts` are the sizes of the ranges of each file, in bytes, and are taken when
    their file has its first turn; a piece has at least `piece` bytes unless it is the last one."""
    at_once = processors()
    waiting = enumerate(counts)
    active: deque[tuple[int, Sequence[int], int]] = deque()
    while True:
        for file, sizes in itertools.islice(waiting, at_once - len(active)):
            active.append((file, sizes, 0))
        if not active:
            return
        file, sizes, first = active.popleft()
        last, size = first, 0
        while last < len(sizes) and size < piece:
            size += sizes[last]
            last += 1
        if last > first:
            yield file, first, last
        if last < len(sizes):
            active.append((file, sizes, last))
