"""The reader and the exchange of each byte: a pure function of the wishes of the ranks.

Every rank computes the plan by itself from equal arguments; it never travels. Bytes that the same
ranks want form a class. Each of the rounds moves an equal share of every class, so the ranks are
busy in equal measure all the time, and if everybody wants everything, the one class is moved in
the order of the files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable, Sequence

Extent = tuple[int, int, int]
"""Bytes [start, end) of a file: (file, start, end)."""
Wanted = Sequence[Sequence[tuple[int, int]]]
"""By file: sorted, disjoint byte intervals."""

# Memory of a piece is a multiple of this, for device collectives.
SLOT_ALIGNMENT = 512
# If parts are large, cuts fall on multiples of this in the files: there direct reads need no copy.
# Equal on machines with other pages.
CUT_ALIGNMENT = 4096


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """Bytes that one rank reads in one round, and gives to others."""

    owner: int
    receivers: tuple[int, ...]
    """The ranks that want them, the owner included."""
    extents: list[Extent]
    size: int
    slot: int
    """Bytes of staging memory: equal for the pieces of a class in a round."""
    number: int
    """Of its class."""


class Bytes:
    """A sequence of extents, addressed as if they were one."""

    def __init__(self, extents: Iterable[Extent]) -> None:
        self.extents = [extent for extent in extents if extent[1] < extent[2]]
        self.starts = [0]
        for _, start, end in self.extents:
            self.starts.append(self.starts[-1] + end - start)

    def __len__(self) -> int:
        return self.starts[-1]

    def cut(self, begin: int, end: int) -> list[Extent]:
        """The extents of bytes [begin, end) of the sequence."""
        found = []
        index = bisect_right(self.starts, begin) - 1
        while begin < end:
            file, start, _ = self.extents[index]
            base = self.starts[index]
            stop = min(end, self.starts[index + 1])
            found.append((file, start + begin - base, start + stop - base))
            begin = stop
            index += 1
        return found


def coalesce(intervals: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted, disjoint, none empty."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(intervals):
        if start == end:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _classes(wanted: Sequence[Wanted]) -> dict[tuple[int, ...], list[Extent]]:
    """Extents by who wants them, each in the order of the files."""
    found: dict[tuple[int, ...], list[Extent]] = {}
    everyone = tuple(range(len(wanted)))
    for file in range(len(wanted[0]) if wanted else 0):
        lists = [list(one[file]) for one in wanted]
        if all(one == lists[0] for one in lists):
            found.setdefault(everyone, []).extend((file, start, end) for start, end in lists[0])
            continue
        events: list[tuple[int, int, int]] = []
        for rank, intervals in enumerate(lists):
            for start, end in intervals:
                events += [(start, 1, rank), (end, 0, rank)]
        events.sort()
        receivers: set[int] = set()
        position = 0
        for place, opens, rank in events:
            if receivers and place > position:
                extents = found.setdefault(tuple(sorted(receivers)), [])
                if extents and extents[-1][0] == file and extents[-1][2] == position:
                    extents[-1] = (file, extents[-1][1], place)
                else:
                    extents.append((file, position, place))
            position = place
            (receivers.add if opens else receivers.discard)(rank)
    return {receivers: extents for receivers, extents in found.items() if extents}


def _share(size: int, number: int, parts: int) -> int:
    """The start of part `number` of `parts` of `size` bytes."""
    if number >= parts:
        return size
    place = size * number // parts
    return place - place % CUT_ALIGNMENT if size // parts >= 16 * CUT_ALIGNMENT else place


def _slot(size: int) -> int:
    return -(-size // SLOT_ALIGNMENT) * SLOT_ALIGNMENT


class _Class:
    """Bytes that the same ranks want, and how these divide the reading."""

    def __init__(
        self, number: int, receivers: tuple[int, ...], extents: list[Extent], policy: str
    ) -> None:
        self.number = number
        self.receivers = receivers
        self.whole = Bytes(extents)
        self.lanes: list[Bytes] | None = None
        count = len(receivers)
        if policy == "chunks":
            total = len(self.whole)
            self.lanes = [
                Bytes(self.whole.cut(_share(total, i, count), _share(total, i + 1, count)))
                for i in range(count)
            ]
        elif policy == "files":
            by_file: dict[int, list[Extent]] = {}
            for extent in extents:
                by_file.setdefault(extent[0], []).append(extent)
            lanes: list[list[Extent]] = [[] for _ in receivers]
            loads = [0] * count
            # The largest first, to the rank that has least: even if files differ in size.
            for file in sorted(by_file, key=lambda f: (-sum(e - s for _, s, e in by_file[f]), f)):
                least = loads.index(min(loads))
                lanes[least] += by_file[file]
                loads[least] += sum(end - start for _, start, end in by_file[file])
            self.lanes = [Bytes(sorted(lane)) for lane in lanes]

    def pieces(self, number: int, rounds: int) -> list[Piece]:
        parts: list[list[Extent]]
        if self.lanes is None:
            begin = _share(len(self.whole), number, rounds)
            end = _share(len(self.whole), number + 1, rounds)
            each = _slot(-(-(end - begin) // len(self.receivers)))
            if each >= 16 * CUT_ALIGNMENT:
                each = -(-each // CUT_ALIGNMENT) * CUT_ALIGNMENT
            parts = [
                self.whole.cut(min(begin + i * each, end), min(begin + (i + 1) * each, end))
                for i in range(len(self.receivers))
            ]
        else:
            parts = [
                lane.cut(_share(len(lane), number, rounds), _share(len(lane), number + 1, rounds))
                for lane in self.lanes
            ]
        sizes = [sum(end - start for _, start, end in part) for part in parts]
        slot = _slot(max(sizes))
        equal = self.lanes is None
        return [
            Piece(owner, self.receivers, part, size, slot if equal else _slot(size), self.number)
            for owner, part, size in zip(self.receivers, parts, sizes, strict=True)
        ]


class Plan:
    """The rounds of one stream.

    `wanted[i]` is what member i wants; `round_bytes` bounds what one rank gets in a round, but for
    the rounding of pieces to pages.
    """

    def __init__(self, wanted: Sequence[Wanted], round_bytes: int, policy: str) -> None:
        classes = _classes(wanted)
        self._classes = [
            _Class(number, receivers, extents, policy)
            for number, (receivers, extents) in enumerate(sorted(classes.items()))
        ]
        self.bytes = sum(len(one.whole) for one in self._classes)
        by_member = (
            sum(len(one.whole) for one in self._classes if member in one.receivers)
            for member in range(len(wanted))
        )
        most = max(by_member, default=0)
        self.rounds = -(-most // max(1, round_bytes))
        self._text = json.dumps([wanted, round_bytes, policy], separators=(",", ":"))

    def pieces(self, number: int) -> list[Piece]:
        """The pieces of a round, class by class. Some can be empty."""
        return [piece for one in self._classes for piece in one.pieces(number, self.rounds)]

    def read_bytes(self, member: int) -> int:
        """The bytes that the member reads from storage."""
        return sum(
            piece.size
            for number in range(self.rounds)
            for piece in self.pieces(number)
            if piece.owner == member
        )

    def digest(self) -> str:
        """Equal if the plans are equal."""
        return hashlib.sha256(self._text.encode()).hexdigest()[:32]


def layout(pieces: Sequence[Piece], member: int) -> tuple[list[tuple[Piece, int]], int]:
    """The pieces that `member` wants, each with its place in memory that holds all of them, and
    the bytes of that memory."""
    placed = []
    offset = 0
    for piece in pieces:
        if member in piece.receivers:
            placed.append((piece, offset))
            offset += piece.slot
    return placed, offset


def owned_layout(pieces: Sequence[Piece]) -> list[tuple[Piece, int]]:
    """All pieces, each with its place in memory that holds those of its owner."""
    placed = []
    ends: dict[int, int] = {}
    for piece in pieces:
        offset = ends.get(piece.owner, 0)
        ends[piece.owner] = offset + piece.slot
        placed.append((piece, offset))
    return placed
