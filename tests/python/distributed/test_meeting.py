"""How calls of several ranks find each other. Ranks are threads, and the store is in memory."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch.distributed as dist

from runai_model_streamer._distributed import meeting
from runai_model_streamer._distributed.meeting import Call
from runai_model_streamer._distributed.peer_errors import PeerError
from runai_model_streamer._distributed.processes import process_identity
from runai_model_streamer._errors import RunaiStreamerInvalidInputException, StreamerError

FILES = ["/m/a.safetensors", "/m/b.safetensors", "/m/c.safetensors"]
LIMIT = (30.0, "THE_LIMIT")
SEEDS = int(os.environ.get("DELAY_SEEDS", "40"))


class Rank:
    """A thread that does what it is told, and remembers what came out."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.value: Any = None
        self.error: BaseException | None = None

        def run() -> None:
            try:
                self.value = work()
            except BaseException as error:
                self.error = error

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def ends(self) -> Rank:
        self._thread.join(60)
        assert not self._thread.is_alive(), "a rank waits for ever"
        return self


class World:
    """Ranks 0 to N - 1 of a store. `seconds` is the limit of a wait for other ranks."""

    def __init__(self, ranks: int, seconds: float = LIMIT[0]) -> None:
        self.store = dist.HashStore()
        self.ranks = list(range(ranks))
        self.limit = (seconds, LIMIT[1])

    def call(
        self,
        rank: int,
        files: list[str] | None = None,
        fails: BaseException | None = None,
        alone: str = "",
        ranks: list[int] | None = None,
    ) -> list[bytes]:
        """A call of stream_files(): what the ranks of its stream tell each other."""
        ranks = ranks or self.ranks
        with Call(self.store, None, rank, FILES if files is None else files) as call:
            if fails is not None:
                raise fails
            if alone:
                call.read_alone(alone)
                return []
            channel = call.meet(ranks, self.limit, 60)
            return channel.exchange("hello", str(files).encode(), self.limit)

    def all(self, *work: Callable[[], Any]) -> list[Rank]:
        """Does `work` at the same time, or a call on every rank."""
        calls = work or [lambda rank=rank: self.call(rank) for rank in self.ranks]
        return [rank.ends() for rank in [Rank(one) for one in calls]]

    def all_meet(self) -> None:
        for rank in self.all():
            assert rank.error is None, repr(rank.error)
            assert len(rank.value) == len(self.ranks)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., World]]:
    yield World


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Differences need not last."""
    monkeypatch.setattr(meeting, "_LAST", 0.3)


def test_calls_meet_again_and_again(world: Callable[..., World]) -> None:
    ranks = world(3)
    for _ in range(5):
        ranks.all_meet()


@pytest.mark.parametrize("missed", [1, 3])
def test_ranks_meet_after_one_has_missed_calls(world: Callable[..., World], missed: int) -> None:
    ranks = world(2, seconds=0.4)
    for _ in range(missed):
        (one,) = ranks.all(lambda: ranks.call(0))
        assert isinstance(one.error, PeerError)
        assert "no word from rank 1 for 0.4 s (THE_LIMIT)" in str(one.error)
    ranks.limit = LIMIT
    for _ in range(3):
        ranks.all_meet()


def test_a_rank_that_joins_later_meets_the_others(world: Callable[..., World]) -> None:
    """It has called less often."""
    ranks = world(3)
    ranks.ranks = [0, 1]
    for _ in range(3):
        ranks.all_meet()
    ranks.ranks = [0, 1, 2]
    for _ in range(3):
        ranks.all_meet()


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("CUDA error: an illegal memory access"),
        AssertionError("the host's hook"),
        StreamerError("no luck"),
        KeyboardInterrupt(),
        SystemExit(3),
    ],
    ids=lambda failure: type(failure).__name__,
)
@pytest.mark.parametrize("late", ["it", "the others"])
def test_what_fails_on_one_rank_ends_the_wait_of_the_others(
    world: Callable[..., World], quick: None, failure: BaseException, late: str
) -> None:
    ranks = world(3, seconds=300)

    def fail() -> None:
        if late == "it":
            for rank in (0, 2):  # they wait
                while not ranks.store.check([f"runai_model_streamer/world/call/{rank}"]):
                    time.sleep(0.001)
        ranks.call(1, fails=failure)

    if late == "it":
        first, failed, second = ranks.all(lambda: ranks.call(0), fail, lambda: ranks.call(2))
    else:
        (failed,) = ranks.all(fail)
        first, second = ranks.all(lambda: ranks.call(0), lambda: ranks.call(2))
    assert failed.error is failure
    for other in (first, second):
        assert isinstance(other.error, StreamerError)
        assert "rank 1 on " in str(other.error)
        assert other.error.rank == 1
        assert str(failure) in str(other.error)
    ranks.all_meet()


def test_ctrl_c_while_a_rank_waits_reaches_the_others(
    world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In patiently(), as the main thread gets it."""
    ranks = world(3, seconds=300)
    patiently = meeting.StoreClient.patiently
    waits = threading.Event()

    def interrupted(self: Any, work: Callable[[], Any]) -> Any:
        if self.rank != 1 or not hasattr(self, "store"):
            return patiently(self, work)
        Rank(work)
        waits.set()
        while not ranks.store.check(["runai_model_streamer/world/call/1"]):
            time.sleep(0.001)
        self.cancelled = lambda: True
        raise KeyboardInterrupt

    monkeypatch.setattr(meeting.StoreClient, "patiently", interrupted)
    first, second = ranks.all(lambda: ranks.call(0), lambda: ranks.call(1))
    assert isinstance(second.error, KeyboardInterrupt)
    assert isinstance(first.error, StreamerError)
    assert "KeyboardInterrupt" in str(first.error)


def test_a_rank_that_reads_alone_is_named(world: Callable[..., World]) -> None:
    ranks = world(2, seconds=300)
    _, one = ranks.all(lambda: ranks.call(1, alone="DIST=0"), lambda: ranks.call(0))
    assert isinstance(one.error, RunaiStreamerInvalidInputException)
    assert "does not take part (DIST=0), others do" in str(one.error)


def test_what_a_rank_has_said_about_another_call_is_not_taken_for_this_one(
    world: Callable[..., World], quick: None
) -> None:
    """A draft model that each rank reads alone, then one that they share; rank 1 is late."""
    ranks = world(2)
    for rank in (0, 1):
        ranks.call(rank, alone="small")
        ranks.call(rank, ["/m/draft"], alone="small")

    def late() -> list[bytes]:
        time.sleep(1.5)  # the other one looks a few times
        return ranks.call(1)

    for one in ranks.all(lambda: ranks.call(0), late):
        assert one.error is None, one.error


def test_two_threads_of_each_rank_meet_by_their_files(world: Callable[..., World]) -> None:
    ranks = world(2)
    orders = [(["a"], ["b"], ["a"]), (["b"], ["a"], ["a"])]

    def calls(rank: int) -> Iterator[Callable[[], Any]]:
        for position, files in enumerate(orders[rank]):

            def work(files: list[str] = files, pause: float = 0.2 * position) -> list[bytes]:
                time.sleep(pause)
                return ranks.call(rank, files)

            yield work

    for one in ranks.all(*calls(0), *calls(1)):
        assert one.error is None, one.error
        assert len(set(one.value)) == 1


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ([FILES[0], FILES[2], FILES[1]], f"file 2: '{FILES[1]}' and '{FILES[2]}'"),
        (FILES[::-1], f"file 1: '{FILES[0]}' and '{FILES[2]}'"),
        (FILES[:2], f"file 3: '{FILES[2]}' and none"),
        ([], f"file 1: '{FILES[0]}' and none"),
    ],
)
def test_the_first_difference_between_files_is_shown(
    world: Callable[..., World], quick: None, other: list[str], text: str
) -> None:
    ranks = world(3, seconds=300)
    calls = [FILES, FILES, other]
    found = ranks.all(*(lambda r=r: ranks.call(r, calls[r]) for r in range(3)))
    for one in found:
        assert isinstance(one.error, RunaiStreamerInvalidInputException)
        assert "rank 0 on " in str(one.error) and "rank 2 on " in str(one.error)
        assert f"3 files from '{FILES[0]}'" in str(one.error)
        assert f"{len(other)} files from " in str(one.error)
        assert str(one.error).endswith(f"the first difference is {text}")
    ranks.all_meet()


def test_secrets_in_addresses_are_not_shown(world: Callable[..., World], quick: None) -> None:
    ranks = world(2, seconds=300)
    address = "https://host/m.safetensors?signature="
    found = ranks.all(*(lambda r=r: ranks.call(r, [f"{address}secret-{r}"]) for r in (0, 1)))
    for one in found:
        assert "differ in the list of files" in str(one.error)
        assert "secret" not in str(one.error)


@pytest.mark.parametrize("order", [None, *itertools.permutations(range(3))])
def test_ranks_that_disagree_about_who_shares_are_told(
    world: Callable[..., World],
    quick: None,
    monkeypatch: pytest.MonkeyPatch,
    order: tuple[int, ...] | None,
) -> None:
    """Each looks around only when those before it in `order` have been told."""
    ranks = world(3, seconds=300)
    groups = [[0, 1], [0, 1, 2], [0, 1, 2]]
    ended = [threading.Event() for _ in range(3)]
    look = Call._look

    def in_order(self: Any, client: Any, missing: Any) -> None:
        for rank in order[: order.index(client.rank)] if order else ():
            assert ended[rank].wait(30)
        look(self, client, missing)

    monkeypatch.setattr(Call, "_look", in_order)

    def call(rank: int) -> None:
        try:
            ranks.call(rank, ranks=groups[rank])
        finally:
            ended[rank].set()

    for one in ranks.all(*(lambda r=r: call(r) for r in range(3))):
        assert "differ in the ranks that share: 2 ranks from rank 0 and 3 ranks" in str(one.error)


def test_all_missing_ranks_are_named_and_a_warning_comes_before(
    world: Callable[..., World], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(meeting, "_WARN", 0.5)
    ranks = world(4, seconds=1.5)
    both, wait = threading.Barrier(2), meeting.StoreClient.wait

    def wait_together(self: Any, *arguments: Any) -> None:
        """So that a rank that is slow is not missing."""
        both.wait(60)
        try:
            wait(self, *arguments)
        finally:
            both.wait(60)

    monkeypatch.setattr(meeting.StoreClient, "wait", wait_together)
    with caplog.at_level(logging.WARNING):
        found = ranks.all(*(lambda r=r: ranks.call(r) for r in (0, 2)))
    for one in found:
        assert isinstance(one.error, PeerError)
        assert "no word from ranks 1, 3 for 1.5 s (THE_LIMIT)" in str(one.error)
    assert "for ranks 1, 3 to call stream_files() with is_distributed=True" in caplog.text


def test_ranks_that_never_called_are_missing_when_nodes_are_looked_for(
    world: Callable[..., World],
) -> None:
    ranks = world(3, seconds=0.7)
    with (
        pytest.raises(PeerError, match=r"no word from ranks 1, 2 for 0.7 s"),
        Call(ranks.store, None, 0, FILES) as call,
    ):
        call.nodes(3, ranks.limit)
    ranks.limit = LIMIT

    def find(rank: int) -> list[list[int]]:
        with Call(ranks.store, None, rank, FILES) as call:
            return call.nodes(3, ranks.limit)

    for one in ranks.all(*(lambda r=r: find(r) for r in range(3))):
        assert one.value == [[0, 1, 2]]


def test_a_rank_whose_process_has_ended_is_named_at_once(world: Callable[..., World]) -> None:
    ranks = world(2, seconds=300)
    ranks.all_meet()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    identity = {**process_identity(), "pid": ended.pid, "started": "1"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meeting, "process_identity", lambda: identity)
        ranks.call(1, alone="small")
    (one,) = ranks.all(lambda: ranks.call(0, ["other"]))
    assert "rank 1 on " in str(one.error) and "ended before the stream did" in str(one.error)


def test_streams_leave_nothing_new_in_the_store(world: Callable[..., World]) -> None:
    ranks = world(3)
    sizes = []
    for _ in range(8):
        ranks.all(*(lambda r=r: Call(ranks.store, None, r, FILES).meet([0, 1, 2], LIMIT, 60)
                    for r in range(3)))  # fmt: skip
        ranks.call(1, alone="small")
        sizes.append(ranks.store.num_keys())
    assert len(set(sizes[4:])) == 1, sizes


@pytest.mark.parametrize("seed", range(SEEDS))
def test_whatever_ranks_do_they_meet_when_they_agree(
    world: Callable[..., World], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Ranks call, fail, leave out calls, read alone and share with some of the others at random,
    each for itself. No call waits for ever, those that meet are for the same files, and in the end
    every rank succeeds."""
    monkeypatch.setattr(meeting, "_LAST", 0.3)
    monkeypatch.setattr("runai_model_streamer._distributed.store_client.SLICE", 0.02)
    generator = random.Random(seed)
    count = generator.choice((2, 3, 4))
    ranks = world(count, seconds=0.3)

    def chaos(rank: int, own: random.Random) -> list[Any]:
        came = []
        for _ in range(own.randrange(4)):
            time.sleep(own.choice((0, 0, 0.01, 0.1)))
            files = own.choice(([*FILES], [*FILES], ["other"]))
            kind = own.choice(("call", "call", "call", "fail", "alone", "some"))
            more: dict[str, Any] = {}
            if kind == "fail":
                more["fails"] = own.choice((RuntimeError("chaos"), KeyboardInterrupt()))
            elif kind == "alone":
                more["alone"] = "chaos"
            elif kind == "some":
                more["ranks"] = sorted({rank, *own.sample(ranks.ranks, count - 1)})
            with contextlib.suppress(StreamerError, RuntimeError, KeyboardInterrupt):
                came.append((files, ranks.call(rank, files, **more)))
        return came

    for one in ranks.all(
        *(lambda r=r: chaos(r, random.Random(f"{seed} {r}")) for r in ranks.ranks)
    ):
        assert one.error is None, repr(one.error)
        for files, heard in one.value:
            assert set(heard) <= {str(files).encode()}
    for seconds in (5.0, LIMIT[0]):  # what was told before can end one call of a rank
        ranks.limit = (seconds, LIMIT[1])
        found = ranks.all()
        monkeypatch.setattr(meeting, "_LAST", LIMIT[0])  # a rank that is slow does not differ
        if not any(one.error for one in found):
            break
    for one in found:
        assert one.error is None, repr(one.error)
        assert len(one.value) == count
