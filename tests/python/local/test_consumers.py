"""Consumers that leave early, close, press Ctrl-C or fork: nothing hangs, nothing is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runai_model_streamer import SafetensorsStreamer, StreamerError
from runai_model_streamer._errors import RunaiStreamerInvalidInputException, StreamerClosedError
from tests.support.models import MIB, load, same, save_floats
from tests.support.processes import THREADS, python

from .conftest import Faulty


def test_a_consumer_that_abandons_the_iterator(strategy: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = save_floats(path, [200_000] * 20)
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([path])
        name, tensor = next(streamer.get_tensors())
    assert same(tensor, tensors[name])
    assert len(load(path)) == 20


def test_an_exception_in_the_loop_passes_through(strategy: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_floats(path, [200_000] * 20)
    with pytest.raises(ZeroDivisionError):
        with SafetensorsStreamer() as streamer:
            streamer.stream_files([path])
            for _ in streamer.get_tensors():
                raise ZeroDivisionError


def test_two_streamers_at_once(strategy: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = save_floats(path, [200_000] * 10)
    with SafetensorsStreamer() as one, SafetensorsStreamer() as other:
        one.stream_files([path])
        other.stream_files([path])
        for (name, left), (_, right) in zip(one.get_tensors(), other.get_tensors(), strict=True):
            assert same(left, tensors[name]) and same(right, tensors[name])


@pytest.fixture
def closed(strategy: str, tmp_path: Path) -> tuple[SafetensorsStreamer, Iterator[Any]]:
    """A streamer that was closed after its first tensor, and its iterator."""
    path = tmp_path / "a.safetensors"
    save_floats(path, [200_000] * 10)
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([path])
        tensors = streamer.get_tensors()
        next(tensors)
    return streamer, tensors


def test_an_iterator_of_a_closed_streamer_ends_in_an_error(closed) -> None:
    _, tensors = closed
    with pytest.raises(StreamerError, match="closed"):
        for _ in range(20):
            next(tensors)


def test_a_closed_streamer_has_no_load_to_iterate(closed) -> None:
    streamer, _ = closed
    with pytest.raises(StreamerError, match="stream_files"):
        next(streamer.get_tensors())


def test_a_closed_streamer_keeps_its_statistics(closed) -> None:
    streamer, _ = closed
    assert streamer.stats().bytes > 0


def test_use_before_anything_was_asked_for() -> None:
    with SafetensorsStreamer() as streamer:
        with pytest.raises(StreamerError, match="stream_files"):
            next(streamer.get_tensors())


# Reads hang for longer than any test may take.
FOR_GOOD = str(1 << 20)
WAIT_FOR_A_HANG = """
import os, time
def wait_for_a_hang():
    while not os.path.exists(os.environ["SHIM_FLAG"]):
        time.sleep(0.01)
"""

CLOSED = (
    WAIT_FOR_A_HANG
    + """
import sys, threading
from runai_model_streamer import SafetensorsStreamer, StreamerError
streamer = SafetensorsStreamer()
streamer.stream_files([sys.argv[1]])
found = []
def consume():
    try:
        for name, tensor in streamer.get_tensors():
            found.append(name)
        found.append("complete")
    except StreamerError as error:
        found.append(error.code)
thread = threading.Thread(target=consume)
thread.start()
wait_for_a_hang()
streamer.file_streamer.close()
thread.join()
print(found[-1])
"""
)


def test_closing_in_one_thread_while_another_waits(
    strategy: str, tmp_path: Path, faulty: Faulty
) -> None:
    path = tmp_path / "a.safetensors"
    save_floats(path, [300_000] * 10)
    found = faulty(
        CLOSED,
        path,
        SHIM_FROM=str(2 * MIB),
        SHIM_SECONDS=FOR_GOOD,
        SHIM_FLAG=str(tmp_path / "hangs"),
    )
    assert found == "cancelled"


def test_closing_again_and_again_while_others_read(strategy: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_floats(path, [100_000] * 40)
    for round in range(15):
        streamer = SafetensorsStreamer()
        streamer.stream_files([path])
        ended: list[type | None] = []

        def consume(streamer: SafetensorsStreamer = streamer, ended: list = ended) -> None:
            try:
                for _, tensor in streamer.get_tensors():
                    tensor.sum()
                ended.append(None)
            except StreamerError as error:
                ended.append(type(error))

        thread = threading.Thread(target=consume)
        thread.start()
        time.sleep(0.001 * round)
        streamer.file_streamer.close()
        thread.join(60)
        assert not thread.is_alive()
        assert ended[0] in (None, StreamerClosedError, RunaiStreamerInvalidInputException)


FORKED = """
import os, sys
from runai_model_streamer import SafetensorsStreamer, StreamerError
path, when = sys.argv[1:]
def load():
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([path])
        return sum(tensor.numel() for _, tensor in streamer.get_tensors())
held = None
if when == "used":
    load()
if when == "live":
    held = SafetensorsStreamer()
    held.stream_files([path])
    tensors = held.get_tensors()
    first = next(tensors)
child = os.fork()
if child == 0:
    code = 3
    try:
        ok = load() == 4_000_000
        if held is not None:
            try:
                for _ in tensors:
                    pass
                ok = False
            except StreamerError as error:
                ok = ok and "fork" in str(error)
            ok = ok and float(first[1].sum()) != 0
            del first, tensors
            held.file_streamer.close()
        code = 0 if ok else 1
    finally:
        os._exit(code)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status))
if held is not None:
    print(1 + sum(1 for _ in tensors))
else:
    print(load())
"""


@pytest.mark.parametrize("when", ["imported", "used", "live"])
def test_a_forked_child_streams(strategy: str, when: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_floats(path, [200_000] * 20)
    assert python(FORKED, str(path), when).split() == ["0", "20" if when == "live" else "4000000"]


ROUNDS = (
    THREADS
    + """
import os, re, sys
from runai_model_streamer import SafetensorsStreamer
def memory():
    text = open("/proc/self/status").read()
    return int(re.search(r"RssAnon:\\s+(\\d+)", text)[1]) >> 10
def counts(most=None):
    return threads(most), len(os.listdir("/proc/self/fd"))
for round in range(200):
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([sys.argv[1]])
        for number, (name, tensor) in enumerate(streamer.get_tensors()):
            if number == round % 10:
                break
        del tensor
    if round == 49:
        before, used = counts(), memory()
after = counts(before[0])
print(after[0] <= before[0], after[1] <= before[1], memory() - used < 24)
"""
)


def test_two_hundred_rounds_leave_nothing_behind(strategy: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_floats(path, [100_000] * 10)
    assert python(ROUNDS, str(path)) == "True True True"


INTERRUPTED = (
    WAIT_FOR_A_HANG
    + """
import signal, sys, threading
import torch
from runai_model_streamer import SafetensorsStreamer
into = None
if sys.argv[2] == "into":
    into = {f"t{i:04}": torch.zeros(300_000) for i in range(10)}
streamer = SafetensorsStreamer()
streamer.stream_files([sys.argv[1]], into=into)
waiting = threading.Event()
def press():
    wait_for_a_hang()
    waiting.wait()
    os.kill(os.getpid(), signal.SIGINT)
# A shell that starts something in the background leaves it this signal ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Thread(target=press, daemon=True).start()
try:
    with streamer:
        waiting.set()
        for name, tensor in streamer.get_tensors():
            pass
        print("complete")
except KeyboardInterrupt:
    print("interrupted")
sys.stdout.flush()
"""
)


@pytest.mark.parametrize("into", ["", "into"])
def test_ctrl_c_while_the_storage_hangs(
    strategy: str, into: str, tmp_path: Path, faulty: Faulty
) -> None:
    path = tmp_path / "a.safetensors"
    save_floats(path, [300_000] * 10)
    found = faulty(
        INTERRUPTED,
        path,
        into,
        SHIM_FROM=str(2 * MIB),
        SHIM_SECONDS=FOR_GOOD,
        SHIM_FLAG=str(tmp_path / "hangs"),
    )
    assert found == "interrupted"
