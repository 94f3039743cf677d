"""Streams of the caller, streams that nobody finishes, several at once."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import torch

from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer._device import cuda as cuda
from runai_model_streamer._requests import FileChunks
from runai_model_streamer._session import Session
from tests.python.cuda.loads import expected, large_file, load
from tests.support.cuda_standin import Standin, StandinMemory
from tests.support.models import MIB, check_same


def test_copies_wait_for_the_callers_stream(
    standin: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory from a caching allocator may still be in use by work of the caller's stream."""
    path, wanted = large_file(tmp_path, 4, MIB)
    stream = standin.stream()
    monkeypatch.setattr(StandinMemory, "stream_handle", stream)

    class Busy(StandinMemory):
        def allocate(self, size: int) -> torch.Tensor:
            memory = super().allocate(size)
            standin.fill_later(stream, memory, 0xEE, 20)
            return memory

    monkeypatch.setattr(cuda, "memory_factory", Busy)
    check_same(load([path]), wanted)
    standin.destroy_stream(stream)


def test_another_stream_than_at_allocation_is_told_to_the_allocator(
    standin: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = large_file(tmp_path, 4, MIB)
    stream = standin.stream()
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(str(path), device="cuda:0")
        tensors = streamer.get_tensors()
        _, first = next(tensors)
        assert StandinMemory.used == []
        monkeypatch.setattr(StandinMemory, "stream_handle", stream)
        _, second = next(tensors)
        assert StandinMemory.used == [second.data_ptr()]
        assert first.data_ptr() not in StandinMemory.used
    standin.destroy_stream(stream)


def test_memory_of_the_loads_own_stream_waits_for_no_kernel_of_the_caller(
    standin: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, wanted = large_file(tmp_path, 6, MIB)
    own, callers = standin.stream(), standin.stream()
    monkeypatch.setattr(StandinMemory, "stream_handle", callers)
    monkeypatch.setattr(StandinMemory, "loading_stream", lambda self: own)
    fences = []
    submit = Session.submit

    def noted(self: Session, requests: list[FileChunks], *device: int) -> None:
        fences.extend([device[-1]] * len(requests))
        submit(self, requests, *device)

    monkeypatch.setattr(Session, "submit", noted)
    loaded = load([path])
    check_same(loaded, wanted)
    assert fences == [own] * 6
    # The allocator knows who uses it.
    assert StandinMemory.used == [tensor.data_ptr() for tensor in loaded.values()]
    # What the caller gives may still be used by its kernels.
    load([path], into=loaded)
    assert fences[6:] and set(fences[6:]) == {callers}
    standin.destroy_stream(own)
    standin.destroy_stream(callers)


def test_nothing_is_freed_under_a_copy(
    standin: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is freed under a copy, whoever dies first."""
    path, wanted = large_file(tmp_path, 16, 2 * MIB)
    standin.link(200 * MIB)
    # The context manager is left early.
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(str(path), device="cuda:0")
        name, kept = next(iter(streamer.get_tensors()))
    assert torch.equal(kept, wanted[name])
    # Nobody closes anything.
    streamer = SafetensorsStreamer()
    streamer.stream_file(str(path), device="cuda:0")
    tensors = streamer.get_tensors()
    next(tensors)
    del streamer
    del tensors
    gc.collect()
    assert standin.counts().violations == 0, standin.violation()
    # A cycle that only the garbage collector finds.
    streamer = SafetensorsStreamer()
    streamer.stream_file(str(path), device="cuda:0")
    cycle: list[object] = [streamer, streamer.get_tensors()]
    next(cycle[1])  # type: ignore[call-overload]
    cycle.append(cycle)
    del streamer, cycle
    gc.collect()
    assert standin.counts().violations == 0, standin.violation()


def test_two_streamers_and_two_devices(standin: Standin, checkpoint: list[Path]) -> None:
    standin.use(1)
    wanted = expected(checkpoint)
    names = [str(path) for path in checkpoint]
    with SafetensorsStreamer() as one, SafetensorsStreamer() as other:
        one.stream_files(names, device="cuda:0")
        other.stream_files(names, device="cuda:1")
        pairs = list(zip(one.get_tensors(), other.get_tensors(), strict=True))
    check_same(dict(pair[0] for pair in pairs), wanted)
    check_same(dict(pair[1] for pair in pairs), wanted)
    assert standin.counts().contexts_made == 2
    del pairs


def test_many_rounds_leave_nothing(standin: Standin, checkpoint: list[Path]) -> None:
    threads = len(os.listdir("/proc/self/task"))
    for _ in range(30):
        load(checkpoint)
    gc.collect()
    assert standin.counts().device_bytes == 0
    assert standin.counts().context_references == 1
    assert len(os.listdir("/proc/self/task")) <= threads + 8  # the stand-in has some of its own
