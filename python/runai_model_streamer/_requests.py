"""Requests for byte ranges of a file."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, SupportsIndex, cast

from runai_model_streamer._errors import (
    RunaiStreamerInvalidInputException,
    RunaiStreamerMemoryLimitException,
    shown_path,
)
from runai_model_streamer._paths import Path, to_text

if TYPE_CHECKING:
    import torch
else:
    from runai_model_streamer._torch import torch

__all__ = ["FileChunks", "RunaiStreamerMemoryLimitException"]


Strides = tuple[int, list[tuple[int, int]]]
"""Bytes that follow one another, and the count and the stride of each level: see Spans."""


@dataclasses.dataclass
class FileChunks:
    """Ranges of one file: of `sizes` bytes, at `offsets`.

    `offsets` is a list, or one number: then the ranges follow one another from there. `id` is the
    caller's, and comes back with every chunk. `alignments` (a power of two up to 64 each, default
    1) is that of the memory that the engine gives; `destinations` are addresses of memory of the
    caller's, which must stay valid until the streamer is closed; `keep` may be what owns it, and is
    held for as long as anything writes there. `strides` are those of ranges whose bytes do not
    follow one another in the file, by the number of the range.
    """

    id: int
    path: str = dataclasses.field(repr=False)  # a URL may grant access
    offsets: list[int]
    sizes: list[int]
    alignments: list[int] | None
    destinations: list[int] | None
    keep: object
    strides: dict[int, Strides]
    describe: Callable[[int], tuple[tuple[int, ...], torch.dtype]] | None = None
    """Shape and dtype of the tensor of each range; None: ranges are bytes."""

    def __init__(
        self,
        id: int,
        path: Path,
        offsets: SupportsIndex | Iterable[SupportsIndex],
        sizes: Iterable[SupportsIndex],
        *,
        alignments: Sequence[int] | None = None,
        destinations: Sequence[int] | None = None,
        keep: object = None,
        strides: Mapping[int, Strides] | None = None,
    ) -> None:
        self.id = id
        self.path = to_text(path)
        self.sizes = _numbers(sizes)
        if isinstance(offsets, Iterable):
            self.offsets = _numbers(offsets)
        else:
            (start,) = _numbers([offsets])
            self.offsets = list(accumulate(self.sizes[:-1], initial=start)) if self.sizes else []
        if len(self.offsets) != len(self.sizes):
            raise RunaiStreamerInvalidInputException(
                f"{len(self.offsets)} offsets do not go with {len(self.sizes)} sizes",
                path=self.path,
            )
        if min(self.offsets, default=0) < 0 or min(self.sizes, default=0) < 0:
            raise RunaiStreamerInvalidInputException(
                f"offsets and sizes of {shown_path(self.path)} must not be negative",
                path=self.path,
            )
        self.alignments = None if alignments is None else list(alignments)
        self.destinations = None if destinations is None else list(destinations)
        self.keep = keep
        self.strides = dict(strides or {})
        self.describe = None

    def tensor_of(self, index: int) -> tuple[tuple[int, ...], torch.dtype]:
        """Shape and dtype of what range `index` is delivered as, if not as a part of a buffer."""
        if self.describe is None:
            import torch

            return (1, self.sizes[index]), torch.uint8
        return self.describe(index)

    @classmethod
    def contiguous(cls, id: int, path: Path, offset: int, sizes: Sequence[int]) -> FileChunks:
        """Ranges that follow one another from `offset`."""
        return cls(id, path, offset, sizes)

    def part(self, id: int, first: int, last: int) -> FileChunks:
        """A request for the ranges from `first` to before `last` of this one."""
        chosen = slice(first, last)
        made = FileChunks(
            id,
            self.path,
            self.offsets[chosen],
            self.sizes[chosen],
            alignments=None if self.alignments is None else self.alignments[chosen],
            destinations=None if self.destinations is None else self.destinations[chosen],
            keep=self.keep,
            strides={
                index - first: self.strides[index]
                for index in range(first, last)
                if index in self.strides
            }
            if self.strides
            else None,
        )
        describe = self.describe
        if describe is not None:
            made.describe = lambda index: describe(first + index)
        return made

    def total_size(self) -> int:
        """Sum of the sizes in bytes."""
        return sum(self.sizes)

    def max_chunk_size(self) -> int:
        """The largest size in bytes; 0 if there is none."""
        return max(self.sizes, default=0)


def _numbers(given: Iterable[SupportsIndex]) -> list[int]:
    """`given` as numbers of Python: those of numpy, too."""
    numbers = list(given)
    if all(kind is int for kind in set(map(type, numbers))):
        return cast("list[int]", numbers)
    try:
        return [operator.index(number) for number in numbers]
    except TypeError:
        raise RunaiStreamerInvalidInputException(
            "offsets and sizes are whole numbers of bytes"
        ) from None
