"""What is missing, fails, or is full."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import torch

from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer._device import cuda as cuda
from runai_model_streamer._errors import (
    StreamerDeviceError,
    StreamerError,
    StreamerOutOfMemoryError,
)
from tests.python.cuda.loads import expected, large_file, load
from tests.support.cuda_standin import Standin, StandinMemory
from tests.support.models import MIB, check_same


def test_the_consumer_may_raise(standin: Standin, checkpoint: list[Path]) -> None:
    with (
        pytest.raises(RuntimeError, match="mine"),
        SafetensorsStreamer() as streamer,
    ):
        streamer.stream_files([str(path) for path in checkpoint], device="cuda:0")
        for _ in streamer.get_tensors():
            raise RuntimeError("mine")


def test_out_of_device_memory_says_how_much_and_frees_everything(
    standin: Standin, tmp_path: Path
) -> None:
    path, _ = large_file(tmp_path, 10, 4 * MIB)
    standin.reset(1, 14 * MIB)
    kept = []
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(str(path), device="cuda:0")
        with pytest.raises(StreamerOutOfMemoryError) as failure:
            for _, tensor in streamer.get_tensors():
                kept.append(tensor)
                del tensor
        assert f"cuda:0 has no memory for the next {4 * MIB} bytes" in str(failure.value)
        assert failure.value.path == str(path)
        assert isinstance(failure.value, MemoryError)
        gc.collect()
        assert standin.counts().device_bytes == len(kept) * 4 * MIB
        assert standin.counts().pinned_bytes == 0
    assert len(kept) == 3


def test_a_full_device_waits_for_the_consumer(standin: Standin, tmp_path: Path) -> None:
    path, wanted = large_file(tmp_path, 20, 4 * MIB)
    standin.reset(1, 9 * MIB)  # two tensors, and the limit is far above
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(str(path), device="cuda:0")
        seen = 0
        for name, tensor in streamer.get_tensors():
            assert torch.equal(tensor, wanted[name])
            seen += 1
            del tensor
    assert seen == 20


def test_pinned_memory_that_cannot_be_had(standin: Standin, checkpoint: list[Path]) -> None:
    standin.fail("cuMemHostRegister_v2", 2, times=1000)
    with pytest.raises(StreamerOutOfMemoryError, match="bytes of host memory can't be pinned"):
        load(checkpoint)


def test_a_sticky_error_names_its_cause(standin: Standin, checkpoint: list[Path]) -> None:
    standin.fail("run copy", 700, after=1, sticky=True)
    with pytest.raises(StreamerDeviceError, match="CUDA_ERROR_ILLEGAL_ADDRESS") as failure:
        load(checkpoint)
    assert failure.value.server_code == "CUDA_ERROR_ILLEGAL_ADDRESS"
    assert "CUDA_LAUNCH_BLOCKING" in str(failure.value)
    # The host path does not depend on it.
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(path) for path in checkpoint])
        check_same(dict(streamer.get_tensors()), expected(checkpoint))
    gc.collect()
    standin.reset()


def test_a_truncated_file_is_an_error(standin: Standin, tmp_path: Path) -> None:
    path, _ = large_file(tmp_path, 4, MIB)
    with SafetensorsStreamer() as streamer, pytest.raises(StreamerError) as failure:
        streamer.stream_file(str(path), device="cuda:0", tensor_names=["t000"])
        os.truncate(path, 2 * MIB)
        streamer.stream_file(str(path), device="cuda:0")
    assert failure.value.path == str(path)


def test_a_device_that_does_not_exist_is_an_error(standin: Standin, checkpoint: list[Path]) -> None:
    with SafetensorsStreamer() as streamer, pytest.raises(StreamerDeviceError, match="sees 2"):
        streamer.stream_files([str(path) for path in checkpoint], device="cuda:5")


def test_a_machine_without_a_driver_is_told_so(
    standin: Standin, checkpoint: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_CUDA_LIBRARY", "/nonexistent/libcuda.so.1")
    with pytest.raises(StreamerDeviceError, match="no usable GPU driver"):
        load(checkpoint)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this PyTorch has a GPU")
def test_pytorch_without_a_gpu_is_an_error(checkpoint: list[Path]) -> None:
    for device in ("cuda", "cuda:0", torch.device("cuda", 1)):
        with (
            SafetensorsStreamer() as streamer,
            pytest.raises(StreamerDeviceError, match="can't be used") as failure,
        ):
            streamer.stream_files([str(path) for path in checkpoint], device=device)
        assert isinstance(failure.value, ValueError)


def test_a_child_that_forks_during_a_load(standin: Standin, tmp_path: Path) -> None:
    path, wanted = large_file(tmp_path, 8, 2 * MIB)
    standin.link(200 * MIB)
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(str(path), device="cuda:0")
        tensors = streamer.get_tensors()
        found = dict([next(tensors)])
        child = os.fork()
        if child == 0:
            refused = False
            try:
                load([path])
            except StreamerDeviceError as error:
                refused = "forked" in str(error)
            os._exit(0 if refused else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        found.update(tensors)
    check_same(found, wanted)


def test_a_context_that_fails_between_two_allocations(
    standin: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = large_file(tmp_path, 6, 4 * MIB)

    class Failing(StandinMemory):
        left = 2

        def allocate(self, size: int) -> torch.Tensor:
            if Failing.left == 0:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            Failing.left -= 1
            return super().allocate(size)

    monkeypatch.setattr(cuda, "memory_factory", Failing)
    monkeypatch.setenv("RUNAI_STREAMER_CUDA_MEMORY_LIMIT", str(8 * MIB))
    with pytest.raises(StreamerDeviceError, match="illegal memory access") as failure:
        load([path])
    assert "CUDA_LAUNCH_BLOCKING" in str(failure.value)
    assert failure.value.path == str(path)


def test_a_process_that_forked_after_the_gpu_was_used(
    checkpoint: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    with pytest.raises(StreamerDeviceError, match="before this process was forked") as failure:
        load(checkpoint)
    assert "spawn" in str(failure.value)
