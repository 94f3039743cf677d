"""Loads with delays from a seed: between any two steps, a rank may be late."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist

from runai_model_streamer import SafetensorsStreamer, StreamerError
from runai_model_streamer._distributed import (
    exchange_thread,
    reader,
    rendezvous,
    transport,
)
from tests.python.distributed.job import JOB, my_rank
from tests.python.distributed.use import Use
from tests.support import models

# Where a rank can be late: before and behind each of these, and before the consumer's next tensor.
STEPS: list[tuple[Any, str]] = [
    (rendezvous.Channel, "_exchange"),
    (reader.PieceReader, "start"),
    (reader.PieceReader, "wait"),
    (rendezvous.Barrier, "wait"),
    (rendezvous.Barrier, "_arrive"),
    (transport.GlooTransport, "exchange"),
    (exchange_thread.ExchangeThread, "_hand_over"),
    (exchange_thread._Queue, "put"),
    (exchange_thread.ExchangeThread, "_release"),
]
CONSUMED = "consumed"
NAMES = [f"{when} {name}" for _, name in STEPS for when in ("before", "behind")] + [CONSUMED]
SECONDS = (0.0003, 0.001, 0.004)


class Delays:
    """Those of one rank in one load."""

    def __init__(self, seed: int, rank: int) -> None:
        self._random = random.Random(f"delays {seed} {rank}")
        late = self._random.sample(NAMES, self._random.choice((0, 1, 1, 2, 4)))
        self._late = {name: self._random.choice(SECONDS) for name in late}
        self.reads_late = self._random.random() < 0.4
        """Reading does not begin before the rank waits for it, as if the storage were slow."""

    def at(self, step: str) -> None:
        seconds = self._late.get(step, 0)
        if seconds and self._random.random() < 0.7:
            time.sleep(self._random.uniform(0, 2 * seconds))


current = Delays(0, 0)


def around(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    def delayed(*arguments: Any) -> Any:
        current.at(f"before {name}")
        result = work(*arguments)
        current.at(f"behind {name}")
        return result

    return delayed


def start_late(start: Callable[..., None], wait: Callable[..., None]) -> None:
    """Has PieceReader.wait() begin what PieceReader.start() was asked for."""
    asked: WeakKeyDictionary[Any, list[tuple[Any, ...]]] = WeakKeyDictionary()

    def note(self: Any, *arguments: Any) -> None:
        rounds = asked.setdefault(self, [])
        if current.reads_late:
            rounds.append(arguments)
        else:
            start(self, *arguments)

    def begin_and_wait(self: Any, number: int) -> None:
        rounds = asked[self]
        while rounds and len(self._left) <= number:
            start(self, *rounds.pop(0))
        wait(self, number)

    reader.PieceReader.start = note  # type: ignore[method-assign]
    reader.PieceReader.wait = begin_and_wait  # type: ignore[method-assign]


def wishes_of(seed: int, names: list[str]) -> list[list[str]]:
    """What each rank wants; every other rank or so nothing."""
    generator = random.Random(f"wishes {seed}")
    ranks = dist.get_world_size()
    wishes = []
    for rank in range(ranks):
        kind = generator.choice(("nothing", "everything", "some", "one", "own"))
        share = generator.random()
        wishes.append(
            {
                "nothing": [],
                "everything": names,
                "some": [name for name in names if generator.random() < share],
                "one": [generator.choice(names)],
                "own": names[rank::ranks],
            }[kind]
        )
    return wishes


# Of this rank: a load may follow another one in it.
used = SafetensorsStreamer()


def load(seed: int, contents: dict[str, bytes], files: list[str]) -> tuple[list[str], str]:
    """(names of tensors that came wrong, how bytes travelled). In some loads a rank leaves early:
    then the others fail, or have got everything."""
    generator = random.Random(f"load {seed}")
    os.environ["RUNAI_STREAMER_DIST_BUFFER_MIN_BYTESIZE"] = str(generator.choice((8, 16, 60)) << 10)
    os.environ["RUNAI_STREAMER_PARTITION_POLICY"] = generator.choice(("spans", "chunks", "files"))
    os.environ["RUNAI_STREAMER_MEMORY_LIMIT"] = generator.choice(("0", "50000", "-1"))
    wanted = wishes_of(seed, list(contents))[my_rank()]
    leaver = generator.choice((*range(dist.get_world_size()), *[None] * 20))
    limit = generator.randrange(6) if leaver == my_rank() else None
    own = random.Random(f"use {seed} {my_rank()}")
    use = Use(own, contents, wanted, partial(current.at, CONSUMED), limit)
    way = "left early"
    with used if own.random() < 0.5 else SafetensorsStreamer() as streamer:
        try:
            if own.random() < 0.3:  # concerns no other rank
                streamer.open_files(files)
                use.read_a_part(streamer)
            streamer.stream_files(files, is_distributed=True, tensor_names=wanted.__contains__)
            use.run(streamer)
            if leaver is None:
                way = streamer.stats().notes["distributed_way"] if wanted else "nothing wanted"
        except StreamerError:
            if leaver in (None, my_rank()):
                raise
    return use.wrong(), way


def delayed_loads() -> dict[str, Any]:
    """Loads for each seed of JOB["seeds"], up to the first one that goes wrong."""
    global current
    for owner, name in STEPS:
        setattr(owner, name, around(name, getattr(owner, name)))
    start_late(reader.PieceReader.start, reader.PieceReader.wait)
    contents = {name: blob for path in JOB["files"] for name, blob in models.blobs(path).items()}
    ways: Counter[str] = Counter()
    for seed in range(*JOB["seeds"]):
        current = Delays(seed, my_rank())
        try:
            wrong, way = load(seed, contents, JOB["files"])
        except Exception as error:
            raise RuntimeError(f"seed {seed}: {error!r}") from error
        # Nobody goes on with other files while somebody compares these.
        failed = torch.tensor([len(wrong)])
        dist.all_reduce(failed)
        if int(failed):
            return {"seed": seed, "wrong": wrong, "ways": dict(ways)}
        ways[way] += 1
    return {"seed": None, "wrong": [], "ways": dict(ways)}
