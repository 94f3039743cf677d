"""The tensors of one load: which are wanted, and how its runs become them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import torch

from runai_model_streamer._formats.safetensors.header import SafetensorMetadata
from runai_model_streamer._formats.safetensors.into import note_writes
from runai_model_streamer._formats.safetensors.tensors import tensors_of_run
from runai_model_streamer._progress import Progress
from runai_model_streamer._session import Run
from runai_model_streamer._verify.load import LoadCheck, bytes_of_range


@dataclasses.dataclass(slots=True)
class Times:
    """The phases of a load, in seconds; points in time are those of time.monotonic()."""

    began: float = dataclasses.field(default_factory=time.monotonic)
    opened: float | None = None
    ended: float | None = None
    read: float = 0.0

    def phases(self, verified: float | None) -> dict[str, float]:
        """They add up to the time of the load so far. `verified`: the part of the reading that was
        verification; None: nothing is verified."""
        now = time.monotonic() if self.ended is None else self.ended
        opened = now if self.opened is None else self.opened
        verify = verified or 0.0
        read = max(self.read - verify, 0.0)
        rest = now - opened - read - verify
        found = {"open": opened - self.began, "read": read, "consume": max(rest, 0.0)}
        return found if verified is None else {**found, "verify": verify}


@dataclasses.dataclass(slots=True)
class WantedTensors:
    """The tensors that a load makes of its runs. They stay as they are when the streamer starts
    another load. It has no reference to the load, which owns a generator that refers to it."""

    files: dict[int, list[SafetensorMetadata]]
    """Of each request, by its id."""
    device: torch.device
    into: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    """The memory of the destinations, by the names of the tensors."""
    distributed: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    """The destinations that are DTensors, which are yielded instead of their memory."""
    written: bool = True
    """True if the engine writes to the destinations itself."""
    progress: Progress | None = None
    total_size: int = 0
    unfilled: int = 0
    """Destinations of `into` that were not filled yet."""
    logged: bool = False
    check: LoadCheck | None = None
    numbers: list[int] | None = None
    """The number of the file of each request, by its id; None: the id is that number."""
    times: Times = dataclasses.field(default_factory=Times)

    def target(self, name: str) -> torch.Tensor:
        """The destination of `name`, as the caller gave it."""
        return self.distributed.get(name, self.into[name])

    def phases(self) -> dict[str, float]:
        """The time of the load by its phases, in seconds."""
        return self.times.phases(None if self.check is None else self.check.seconds)


def tensors_of_load(
    runs: Iterator[Run], wanted: WantedTensors
) -> Generator[tuple[str, torch.Tensor], None, None]:
    """No frame holds a tensor that was yielded, nor memory that is only its own."""
    done = 0
    times = wanted.times
    before = time.monotonic()
    for run in runs if wanted.check is None else _hashed(runs, wanted, wanted.check):
        times.read += time.monotonic() - before
        tensors = wanted.files[run.request_id]
        first, last = run.first, run.first + run.count
        pairs = tensors_of_run(run, tensors, wanted.device)
        del run
        if wanted.into:
            if wanted.written:
                filled = [t.name for t in tensors[first:last] if t.name in wanted.into]
                note_writes(wanted.into[name] for name in filled)
                wanted.unfilled -= len(filled)
                del filled
            pairs = _filled(tensors[first:last], pairs, wanted)
        yield from pairs
        if wanted.progress is not None:
            done += sum(tensor.end - tensor.start for tensor in tensors[first:last])
            wanted.progress(done, wanted.total_size)
        before = time.monotonic()
    times.read += time.monotonic() - before


def _hashed(
    runs: Iterator[Run], wanted: WantedTensors, check: LoadCheck
) -> Generator[Run, None, None]:
    """`runs`, each after it was hashed."""

    def bytes_of(run: Run, index: int) -> Any:
        tensor = wanted.files[run.request_id][run.first + index]
        return bytes_of_range(run, index, lambda _: wanted.into[tensor.name])

    numbers = wanted.numbers
    return check.hashed(runs, (lambda id: id) if numbers is None else numbers.__getitem__, bytes_of)


def _filled(
    tensors: Sequence[SafetensorMetadata],
    fresh: Iterator[tuple[str, torch.Tensor]],
    wanted: WantedTensors,
) -> Iterator[tuple[str, torch.Tensor]]:
    """The destination of each of `tensors` that has one, else the tensor that `fresh` makes."""
    into = wanted.into
    if wanted.written and all(tensor.name in into for tensor in tensors):
        return ((tensor.name, wanted.target(tensor.name)) for tensor in tensors)

    def fill(pair: tuple[str, torch.Tensor]) -> tuple[str, torch.Tensor]:
        name, own = pair
        target = into.get(name)
        if target is None:
            return pair
        if not wanted.written:
            with torch.no_grad():
                target.copy_(own)
            wanted.unfilled -= 1
        return name, wanted.target(name)

    return map(fill, fresh)
