"""Random use of the iterators of a load that ranks share, compared with what the files contain."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import cast

import torch

from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer._errors import RunaiStreamerInvalidInputException

Tensors = Generator[tuple[str, torch.Tensor], None, None]
ACTS = ("loop", "loop", "loop", "peek", "take", "take", "close", "throw", "drop", "part")


class Use:
    """What one rank does with one load: loops that break, several iterators in turn, iterators that
    are closed, dropped and thrown into, and parts that are read in between."""

    def __init__(
        self,
        generator: random.Random,
        contents: Mapping[str, bytes],
        wanted: Sequence[str],
        late: Callable[[], None],
        limit: int | None = None,
    ) -> None:
        """`late` is called before each tensor. `limit`: leaves when it has got so many tensors."""
        self._random = generator
        self._contents = contents
        self._wanted = wanted
        self._late = late
        self._limit = limit
        self._came: list[str] = []
        self._damaged: list[str] = []
        self.complete = False

    def wrong(self) -> list[str]:
        """Tensors that came wrong, more than once, not at all, or unasked."""
        lost = Counter(self._wanted)
        lost.subtract(self._came)
        missing = [name for name, count in lost.items() if count != 0]
        if not self.complete:
            missing = [name for name, count in lost.items() if count < 0]
        return self._damaged + missing

    def run(self, streamer: SafetensorsStreamer) -> None:
        """Up to the end of the load, or to the limit."""
        open_ones: list[Tensors] = []
        while not self.complete and not self._leaves():
            act = self._random.choice(ACTS)
            if act in ("loop", "peek") or not open_ones:
                tensors = cast("Tensors", streamer.get_tensors())
                self._take(tensors, 1 if act == "peek" else self._random.choice((2, 7, 1000)))
                if act != "peek":
                    open_ones.append(tensors)
                del tensors
            elif act == "take":
                self._take(self._random.choice(open_ones), self._random.choice((1, 2)))
            elif act == "part":
                self.read_a_part(streamer)
            else:
                tensors = open_ones.pop(self._random.randrange(len(open_ones)))
                if act == "close":
                    tensors.close()
                elif act == "throw":
                    with contextlib.suppress(KeyError):
                        tensors.throw(KeyError("of the consumer"))
                del tensors
        if self.complete and self._wanted:
            with contextlib.suppress(RunaiStreamerInvalidInputException):
                streamer.get_tensors()
                self._damaged.append("a complete load begins anew")

    def _leaves(self) -> bool:
        return self._limit is not None and len(self._came) >= self._limit

    def _take(self, tensors: Tensors, count: int) -> None:
        for _ in range(count):
            if self._leaves():
                return
            self._late()
            pair = next(tensors, None)
            if pair is None:
                self.complete = True
                return
            self._came.append(pair[0])
            self._compare(*pair)

    def read_a_part(self, streamer: SafetensorsStreamer) -> None:
        name = self._random.choice(list(self._contents))
        self._compare(name, streamer.get_slice(name)[...])

    def _compare(self, name: str, tensor: torch.Tensor) -> None:
        if tensor.view(torch.uint8).numpy().tobytes() != self._contents[name]:
            self._damaged.append(name)
