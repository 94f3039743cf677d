"""Iterators of a load on a device that come and go."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch

from runai_model_streamer import SafetensorsStreamer, StreamerError
from tests.python.cuda.loads import expected, large_file
from tests.support import iterating
from tests.support.cuda_standin import Standin, StandinMemory
from tests.support.models import MIB, check_same


def test_a_loop_continues_after_a_look_and_a_break(
    standin: Standin, checkpoint: list[Path]
) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(path) for path in checkpoint], device="cuda:0")
        found = dict([next(streamer.get_tensors())])
        for name, tensor in streamer.get_tensors():
            found[name] = tensor
            if len(found) == 100:
                break
        found.update(streamer.get_tensors())
    check_same(expected(checkpoint), found)


def test_a_tensor_is_held_by_the_consumer_alone(standin: Standin, tmp_path: Path) -> None:
    path, _ = large_file(tmp_path, 6, MIB)
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(str(path), device="cuda:0")
        for _, tensor in streamer.get_tensors():
            dropped = weakref.ref(tensor)
            del tensor
            assert dropped() is None


def test_runs_that_were_taken_elsewhere_are_missing(standin: Standin, tmp_path: Path) -> None:
    """Whatever loses a block: an error, not a loop that waits for nothing."""
    path, _ = large_file(tmp_path, 6, MIB)
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(str(path), device="cuda:0")
        session = streamer.file_streamer._reader.session
        assert session is not None
        assert len(list(session.runs())) == 6
        with pytest.raises(StreamerError, match="everything was delivered, but for 6 blocks"):
            list(streamer.get_tensors())


def test_random_use_on_a_device_yields_every_tensor_once(
    standin: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_CUDA_MEMORY_LIMIT", str(MIB))
    memory = StandinMemory(torch.device("cuda", 0))

    def destination(tensor: torch.Tensor) -> torch.Tensor:
        return memory.allocate(tensor.nbytes).view(tensor.dtype).view(tensor.shape)

    iterating.explore(
        iterating.Iterating,
        60,
        base=str(tmp_path),
        files=iterating.write_files(tmp_path),
        device="cuda:0",
        destination=staticmethod(destination),
    )
