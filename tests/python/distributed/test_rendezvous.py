"""Ranks that end in the middle of a message."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch.distributed as dist

from runai_model_streamer._distributed import processes, rendezvous
from runai_model_streamer._distributed.peer_errors import PeerError
from runai_model_streamer._distributed.processes import (
    _started,
    host_name,
    lives,
    process_identity,
)
from runai_model_streamer._distributed.rendezvous import Channel


def test_a_rank_that_ended_before_it_came_to_a_barrier_is_named() -> None:
    """The timeout would be 60 s."""
    store = dist.HashStore()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    channel = Channel(store, "stream", [0, 1], 0, timeout=60)
    channel.introduce(host_name(), 1, {**process_identity(), "pid": ended.pid, "started": "1"})
    with pytest.raises(PeerError, match=r"rank 1 on .* ended before the stream did"):
        channel.barrier().wait()


def test_what_everybody_has_read_leaves_the_store() -> None:
    store = dist.HashStore()
    large = bytes(5 << 20)  # more than one value
    said: dict[int, list[list[bytes]]] = {}

    def talk(rank: int) -> None:
        channel = Channel(store, "stream", [0, 1], rank, timeout=60)
        mine = [large + bytes([rank]), b"second", b"third"]
        said[rank] = [channel.exchange(str(step), value) for step, value in enumerate(mine)]

    threads = [threading.Thread(target=talk, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said[0] == said[1]
    assert said[0][0] == [large + b"\0", large + b"\1"]
    left = [f"stream/{step}/{rank}" for step in (0, 1) for rank in (0, 1)]
    assert not any(store.check([key]) for key in [*left, "stream/0/0/1", "stream/0/1/1"])


@pytest.mark.skipif(
    not hasattr(dist.Store, "list_keys"), reason="this torch can't list the keys of a store"
)
def test_the_last_rank_that_retires_leaves_an_empty_store() -> None:
    store = dist.HashStore()
    ranks = [Channel(store, "stream", [3, 5, 7], rank, timeout=60) for rank in (3, 5, 7)]

    def talk(channel: Channel) -> None:
        channel.exchange("step", bytes(5 << 20))
        channel.barrier([3, 5, 7]).wait()

    threads = [threading.Thread(target=talk, args=(channel,)) for channel in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.set("of another", "")
    kept = store.num_keys()
    for channel in ranks[:2]:
        channel.retire()
        channel.retire()
        assert store.num_keys() == kept + 1  # how many have retired
    ranks[2].abort(ValueError("told to nobody"))
    ranks[2].retire()
    assert store.list_keys() == ["of another"]


class _StoreIsGone:
    def check(self, keys: list[str]) -> bool:
        raise RuntimeError("Connection reset by peer")


@pytest.mark.skipif(
    not hasattr(dist.Store, "list_keys"), reason="this torch can't list the keys of a store"
)
@pytest.mark.parametrize("after", range(8))
def test_a_word_of_a_stream_that_all_have_left_does_not_stay(after: int) -> None:
    """A rank that was closed tells the others so. All retire after its call of that number."""
    store = dist.HashStore()
    ranks = [Channel(store, "stream", [0, 1], rank, timeout=60) for rank in (0, 1)]
    for channel in ranks:
        channel.barrier()
    inner, calls = ranks[0].store, iter(range(100))

    class Watched:
        def __getattr__(self, name: str) -> object:
            def call(*arguments: object) -> object:
                number, result = next(calls), getattr(inner, name)(*arguments)
                if number == after:
                    ranks[1].retire()
                    ranks[0].retire()
                return result

            return call

    ranks[0].store = Watched()
    ranks[0].abort(PeerError("closed"))
    ranks[1].retire()
    ranks[0].retire()
    assert store.num_keys() == 0


def test_a_rank_that_took_the_store_with_it_is_named() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    channel = Channel(dist.HashStore(), "stream", [0, 1], 0, timeout=60)
    channel.introduce(host_name(), 1, {**process_identity(), "pid": ended.pid, "started": "1"})
    channel.store = _StoreIsGone()
    with pytest.raises(PeerError, match=r"rank 1 on .* ended before the stream did"):
        channel.check()


def test_a_rank_that_still_ends_when_its_connection_is_gone_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rendezvous, "_ENDING", 60.0)  # a busy machine ends processes slowly
    ending = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert ending.stdin is not None
    channel = Channel(dist.HashStore(), "stream", [0, 1], 0, timeout=60)
    process = {**process_identity(), "pid": ending.pid, "started": _started(ending.pid)}
    channel.introduce(host_name(), 1, process)
    threading.Timer(0.2, ending.stdin.close).start()
    try:
        error = channel.lost(RuntimeError("connection closed by peer"), None, 0)
    finally:
        ending.wait()
    assert "rank 1 on " in str(error)
    assert "ended before the stream did" in str(error)


def test_ctrl_c_while_a_thread_starts_ends_what_the_thread_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    channel = Channel(dist.HashStore(), "stream", [0, 1], 0, timeout=60)
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        started.append(thread)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(threading.Thread, "start", interrupted)
        channel.exchange("step", b"nobody answers")
    started[0].join(30)  # half of the timeout
    assert not started[0].is_alive()


def test_a_lost_connection_to_a_rank_of_another_node_says_so_at_once() -> None:
    channel = Channel(dist.HashStore(), "stream", [0, 1], 0, timeout=60)
    channel.introduce("another-node", 1, process_identity())
    error = channel.lost(RuntimeError("connection closed by peer"), None, 0)
    assert "rank 1 on another-node" in str(error)
    assert "connection closed by peer" in str(error)


def test_a_process_that_proc_hides_is_not_taken_for_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc mounted with hidepid, and ranks of several users."""
    living = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert living.stdin is not None
    identity = {**process_identity(), "pid": living.pid, "started": _started(living.pid)}
    assert lives(identity)
    monkeypatch.setattr(processes, "_read", lambda path: "")
    assert lives(identity)
    living.stdin.close()
    living.wait()
    assert not lives(identity)


def test_another_process_with_the_number_of_one_that_ended_is_not_it() -> None:
    assert not lives({**process_identity(), "started": "1"})
