"""The bytes of a part of a tensor: a pure function of shape, dtype and index."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence


@dataclasses.dataclass(frozen=True, slots=True)
class Along:
    """The elements of one dimension that a part takes: `width` at each of `count` places, which are
    `stride` elements apart."""

    start: int
    width: int
    count: int = 1
    stride: int = 0

    @property
    def size(self) -> int:
        return self.width * self.count

    def within(self, start: int) -> Along:
        """The same, of a dimension that begins at element `start` of another one."""
        return dataclasses.replace(self, start=self.start + start)


@dataclasses.dataclass(frozen=True, slots=True)
class Spans:
    """Bytes of a tensor: `run` at each of the places that nested steps reach, which ascend and do
    not overlap. `levels` are pairs of a count and a stride in bytes, the outermost first."""

    start: int
    """Bytes from the start of the tensor to the first one."""
    run: int
    levels: tuple[tuple[int, int], ...] = ()

    @property
    def size(self) -> int:
        return self.run * math.prod(count for count, _ in self.levels)

    @property
    def extent(self) -> int:
        """Bytes from the first one to behind the last one."""
        return self.run + sum((count - 1) * stride for count, stride in self.levels)

    def joined(self, gap: int) -> Spans:
        """The same with what lies between two places that are at most `gap` bytes apart, if those
        of a level all are."""
        run, levels = self.run, list(self.levels)
        while levels and levels[-1][1] - run <= gap:
            count, stride = levels.pop()
            run += (count - 1) * stride
        return Spans(self.start, run, tuple(levels))

    def intervals(self, gap: int = 0) -> Iterator[tuple[int, int]]:
        """[start, end) of the reads, ascending. They include gaps of at most `gap` bytes."""
        joined = self.joined(gap)
        if joined.run == 0:
            return
        start, end = self.start, self.start
        steps = [range(0, count * stride, stride) for count, stride in joined.levels]
        for places in itertools.product(*steps):
            place = self.start + sum(places)
            if place > self.start and place - end > gap:
                yield start, end
                start = place
            end = place + joined.run
        yield start, end


NOTHING = Spans(0, 0)


def spans_of(shape: Sequence[int], element_bytes: int, part: Sequence[Along]) -> Spans:
    """The bytes of `part`, one for each dimension, of a contiguous tensor of `shape`."""
    if any(along.size == 0 for along in part):
        return NOTHING
    start, run, inner = 0, element_bytes, element_bytes
    levels: list[tuple[int, int]] = []  # the innermost first

    def step(count: int, stride: int) -> None:
        """`count` times what there is, at places `stride` bytes apart."""
        nonlocal run
        if count == 1:
            return
        if not levels and stride == run:
            run *= count
        elif levels and stride == levels[-1][0] * levels[-1][1]:
            levels[-1] = (levels[-1][0] * count, levels[-1][1])
        else:
            levels.append((count, stride))

    for size, along in zip(reversed(shape), reversed(part), strict=True):
        start += along.start * inner
        step(along.width, inner)
        step(along.count, along.stride * inner)
        inner *= size
    return Spans(start, run, tuple(reversed(levels)))
