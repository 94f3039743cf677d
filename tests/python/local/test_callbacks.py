"""The native stream's callbacks: what is ready comes to a thread of its own."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from runai_model_streamer import StreamerError, _native

PART = 300_000  # not grouped with its neighbours
DATA = bytes(range(256)) * (40 * PART // 256)


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RUNAI_STREAMER_FS_STRATEGY", "buffered")  # a few parts at once
    path = tmp_path / "file.bin"
    path.write_bytes(DATA)
    stream = _native.Stream({"memory_limit": _native.MemoryLimit.bytes(4 * PART)})
    assert stream.opened(stream.open_begin([str(path)]))[0].error is None
    offsets = list(range(0, len(DATA), PART))
    stream.submit([_native.FileRanges(0, offsets, [PART] * len(offsets))])
    yield stream
    stream.close()


class Consumer:
    """Takes what comes, and knows how it ended."""

    def __init__(self, fail_at: int = -1) -> None:
        self.fail_at = fail_at
        self.parts: list[bytes] = []
        self.ends: list[Exception | None] = []
        self.threads: set[int] = set()
        self.ended = threading.Event()

    def ready(self, batch: list[_native.Ready]) -> None:
        self.threads.add(threading.get_ident())
        for ready in batch:
            assert ready.error is None and ready.memory is not None
            memory = memoryview(ready.memory)
            self.parts += [bytes(memory[at : at + PART]) for at in ready.positions]
        if len(self.parts) > self.fail_at >= 0:
            raise KeyError("the consumer's own")

    def end(self, error: Exception | None) -> None:
        self.ends.append(error)
        self.ended.set()


def test_everything_comes_in_order_and_then_the_end(stream) -> None:
    consumer = Consumer()
    stream.deliver(consumer.ready, consumer.end)
    assert consumer.ended.wait(60)
    assert b"".join(consumer.parts) == DATA
    assert consumer.ends == [None]
    assert len(consumer.threads) == 1 and threading.get_ident() not in consumer.threads


def test_a_callback_that_raises_ends_it(stream) -> None:
    consumer = Consumer(fail_at=3)
    stream.deliver(consumer.ready, consumer.end)
    assert consumer.ended.wait(60)
    stream.close()
    (error,) = consumer.ends
    assert isinstance(error, KeyError)
    assert 3 < len(consumer.parts) < 40


def test_closing_ends_it(stream) -> None:
    consumer = Consumer()
    begun = threading.Event()

    def take_time(runs: list[_native.Ready]) -> None:  # ten times, if nothing ends it
        begun.set()
        time.sleep(0.2)

    stream.deliver(take_time, consumer.end)
    assert begun.wait(60)
    stream.close()
    (error,) = consumer.ends
    assert isinstance(error, StreamerError) and error.code == "cancelled"


def test_it_may_be_closed_by_its_callback(stream) -> None:
    consumer = Consumer()
    stream.deliver(lambda runs: stream.close(), consumer.end)
    assert consumer.ended.wait(60)
    assert isinstance(consumer.ends[0], StreamerError)


def test_an_end_that_raises_is_reported_and_harms_nobody(stream, monkeypatch) -> None:
    reported = threading.Event()
    monkeypatch.setattr("sys.unraisablehook", lambda unraisable: reported.set())

    def end(error: Exception | None) -> None:
        raise KeyError("no such end")

    stream.deliver(lambda runs: None, end)
    assert reported.wait(60)


def test_a_second_delivery_of_a_stream_is_refused(stream) -> None:
    consumer = Consumer()
    stream.deliver(consumer.ready, consumer.end)
    with pytest.raises(ValueError, match="deliver"):
        stream.deliver(consumer.ready, consumer.end)
    assert consumer.ended.wait(60)
