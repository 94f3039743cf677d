"""Arrivals at a barrier have names: only members count, each once per number."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from runai_model_streamer._distributed.peer_errors import PeerError
from runai_model_streamer._distributed.rendezvous import Barrier, Channel
from runai_model_streamer._errors import StreamerError


class Counted:
    """A store that counts the calls, and says when a rank has polled."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.calls: Counter[str] = Counter()
        self._changed = threading.Condition()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            result = getattr(self._store, name)(*arguments)
            with self._changed:
                self.calls[name] += 1
                self._changed.notify_all()
            return result

        return call

    def wait_for_calls(self, more: int) -> None:
        with self._changed:
            target = self.calls.total() + more
            assert self._changed.wait_for(lambda: self.calls.total() >= target, 60)


@pytest.fixture(params=["HashStore", "FileStore", "TCPStore"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "HashStore":
        yield dist.HashStore()
    elif request.param == "FileStore":
        yield dist.FileStore(str(tmp_path / "store"), 3)
    else:
        limit = timedelta(seconds=60)
        yield dist.TCPStore("127.0.0.1", 0, None, True, timeout=limit, wait_for_workers=False)


class Waiting:
    """A barrier's wait() in a thread."""

    def __init__(self, barrier: Barrier) -> None:
        self.error: BaseException | None = None

        def run() -> None:
            try:
                barrier.wait()
            except BaseException as error:
                self.error = error

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def ends(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error

    def still_waits(self, store: Counted) -> None:
        """Also after it has looked a few more times."""
        store.wait_for_calls(8)
        assert self._thread.is_alive()


def channels(store: Any, ranks: list[int], timeout: float = 60) -> dict[int, Channel]:
    made = {rank: Channel(store, "stream", ranks, rank, timeout) for rank in ranks}
    for channel in made.values():
        channel.store = Counted(channel.store)
    return made


def test_a_barrier_holds_until_the_last_member_has_come(store: Any) -> None:
    made = channels(store, [0, 1, 2])
    barriers = {rank: channel.barrier() for rank, channel in made.items()}
    for _ in range(4):
        early = {rank: Waiting(barriers[rank]) for rank in (0, 2)}
        for rank, waiting in early.items():
            waiting.still_waits(made[rank].store)
        barriers[1].wait()
        for waiting in early.values():
            waiting.ends()


def test_others_do_not_count(store: Any) -> None:
    """Rank 0 is no member: it may neither wait, nor is its arrival elsewhere an arrival here."""
    made = channels(store, [0, 1, 2])
    with pytest.raises(ValueError, match=r"rank 0 of the ranks .* barrier of the ranks \[1, 2\]"):
        made[0].barrier([1, 2])
    with pytest.raises(ValueError, match=r"barrier of the ranks \[1, 7\]"):
        made[1].barrier([1, 7])
    waiting = Waiting(made[1].barrier([1, 2]))
    others = [made[0].barrier([0, 1, 2]), made[2].barrier([0, 1, 2])]
    passing = [Waiting(barrier) for barrier in others]
    made[1].barrier([0, 1, 2]).wait()
    for one in passing:
        one.ends()
    made[0].barrier([0]).wait()
    waiting.still_waits(made[1].store)
    made[2].barrier([2, 1]).wait()
    waiting.ends()


def test_a_repeated_arrival_counts_once(store: Any) -> None:
    """Of a rank that comes again after it was told to give up."""
    made = channels(store, [0, 1, 2])
    barriers = {rank: channel.barrier() for rank, channel in made.items()}
    waiting = Waiting(barriers[0])
    for _ in range(3):
        assert not made[1].call(barriers[1]._arrive)
    waiting.still_waits(made[0].store)
    second = Waiting(barriers[1])
    barriers[2].wait()
    waiting.ends()
    second.ends()
    with pytest.raises(ValueError, match="made before"):
        made[0].barrier()


def test_a_rank_that_came_last_and_ended_holds_nobody(store: Any) -> None:
    """Before it could open the gate."""
    made = channels(store, [0, 1])
    waiting = Waiting(made[0].barrier())
    made[0].store.wait_for_calls(4)
    last = made[1].barrier()
    made[1].store.set(f"{last._at}/1", "0")
    waiting.ends()


def test_a_rank_that_aborts_wakes_those_at_a_barrier(store: Any) -> None:
    made = channels(store, [0, 1, 2])
    barriers = [made[rank].barrier([0, 1]) for rank in (0, 1)]
    for _ in range(2):
        waiting = Waiting(barriers[0])
        barriers[1].wait()
        waiting.ends()
    waiting = Waiting(barriers[0])
    made[0].store.wait_for_calls(4)
    made[1].abort(StreamerError("no luck"))
    with pytest.raises(StreamerError, match=r"rank 1 on .*no luck"):
        waiting.ends()


def test_members_that_are_missing_are_named(store: Any) -> None:
    made = channels(store, [0, 1, 2], timeout=1)
    assert not made[1].call(made[1].barrier()._arrive)
    waiting = Waiting(made[0].barrier())
    with pytest.raises(PeerError, match=r"no word from rank 2 for 1 s"):
        waiting.ends()


@pytest.mark.parametrize("members", [2, 8, 70])
def test_the_store_is_asked_little_and_keeps_nothing(members: int) -> None:
    """Without the polls of those that wait: one call to say, one to look, two to open."""
    store = dist.HashStore()
    made = channels(store, list(range(members)))
    barriers = [channel.barrier() for channel in made.values()]
    sizes = []
    for _ in range(6):
        for barrier in barriers:
            before = barrier._channel.store.calls.total()
            barrier._channel.call(barrier._arrive)
            assert barrier._channel.store.calls.total() - before <= 3 + -(-members // 32)
        for barrier in barriers:
            before = barrier._channel.store.calls.total()
            barrier.wait()
            assert barrier._channel.store.calls.total() - before <= 3 + -(-members // 32)
        sizes.append(store.num_keys())
    assert len(set(sizes)) == 1


@pytest.mark.parametrize("seed", range(4))
def test_sixty_four_ranks_copy_nothing_that_is_not_read(seed: int) -> None:
    """In any order: who copies finds every member's part of this round, and nobody has overwritten
    it. Some ranks are members of one group only, or have nothing to do."""
    generator = random.Random(seed)
    store = dist.HashStore()
    made = channels(store, list(range(64)))
    groups = [generator.sample(range(64), generator.choice((2, 31, 60))) for _ in range(2)]
    groups.append([*range(64)])

    def rounds(rank: int, group: int) -> Iterator[None]:
        """Yields where another rank may have its turn."""
        members = sorted(groups[group])
        barrier = made[rank].barrier(members)
        for number in range(3):
            staged[group][rank] = number
            for step in ("read", "copied"):
                passes = barrier._arrive()
                while not passes:
                    yield
                    passes = barrier._is_open()
                barrier._number += 1
                if step == "read":
                    yield
                    assert {staged[group][other] for other in members} == {number}

    staged: list[dict[int, int]] = [{}, {}, {}]
    running = [rounds(rank, n) for n, members in enumerate(groups) for rank in members]
    while running:
        one = generator.choice(running)
        if next(one, one) is one:
            running.remove(one)
    assert all(set(parts.values()) == {2} for parts in staged)


class Ranks(RuleBasedStateMachine):
    """Ranks that arrive, arrive again, and look, in any order, at barriers of different members."""

    RANKS = 4

    @initialize(
        sets=st.lists(st.sets(st.integers(0, RANKS - 1), min_size=2), min_size=1, max_size=3)
    )
    def begin(self, sets: list[set[int]]) -> None:
        store = dist.HashStore()
        made = [Channel(store, "s", range(self.RANKS), rank, 60) for rank in range(self.RANKS)]
        self.barriers = [
            (rank, members, made[rank].barrier(sorted(members)))
            for members in {frozenset(one) for one in sets}
            for rank in members
        ]
        self.arrived = Counter[tuple[int, frozenset[int]]]()
        self.passed = Counter[tuple[int, frozenset[int]]]()

    @rule(which=st.integers(0, 1 << 16), again=st.booleans())
    def move(self, which: int, again: bool) -> None:
        rank, members, barrier = self.barriers[which % len(self.barriers)]
        waits = self.arrived[rank, members] > self.passed[rank, members]
        self.arrived[rank, members] = self.passed[rank, members] + 1
        passes = barrier._is_open() if waits and not again else barrier._arrive()
        complete = all(
            self.arrived[other, members] >= self.arrived[rank, members] for other in members
        )
        assert passes == complete
        if passes:
            barrier._number += 1
            self.passed[rank, members] += 1

    @invariant()
    def nobody_is_two_ahead(self) -> None:
        for rank, members, _ in getattr(self, "barriers", []):
            least = min(self.arrived[other, members] for other in members)
            assert self.passed[rank, members] <= least


TestRanks = Ranks.TestCase
TestRanks.settings = settings(max_examples=200)
