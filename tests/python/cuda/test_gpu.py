"""Streaming to a GPU, with bytes compared there. Without one most of it runs on the stand-in driver
(gpus.py); what only a real one has is skipped.
"""

from __future__ import annotations

import gc
import os
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer._errors import StreamerDeviceError, StreamerOutOfMemoryError
from tests.python.cuda import loads
from tests.python.cuda.loads import large_file, load
from tests.support.models import MIB, check_same
from tests.support.processes import python, threads

pytestmark = pytest.mark.gpu

DEVICE = "cuda:0"
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU")


def expected(gpu: Any, paths: list[Path]) -> dict[str, torch.Tensor]:
    return {name: gpu.put(tensor) for name, tensor in loads.expected(paths).items()}


@pytest.mark.parametrize("strategy", ["auto", "buffered", "direct", "mapped"])
def test_every_tensor_arrives(
    gpu: Any, big_files: list[Path], monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_FS_STRATEGY", strategy)
    for path in big_files:  # cold, if the file system drops its pages
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    tensors = load(big_files)
    check_same(tensors, expected(gpu, big_files))
    assert all(t.data_ptr() % 512 == 0 for t in tensors.values() if t.numel() > 0)


@pytest.mark.parametrize("memory_limit", ["0", "-1", "1048576"])
def test_limits_of_the_host(
    gpu: Any, big_files: list[Path], monkeypatch: pytest.MonkeyPatch, memory_limit: str
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", memory_limit)
    check_same(load(big_files), expected(gpu, big_files))


def test_device_memory_beyond_what_is_kept_is_bounded(gpu: Any, tmp_path: Path) -> None:
    path, _ = large_file(tmp_path, 75, 16 * MIB // gpu.scale)
    gpu.restart_peak()
    before = gpu.allocated()
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(str(path), device=DEVICE)
        for name, tensor in streamer.get_tensors():
            assert int(tensor[0]) == int(name[1:]) % 251
            del tensor
        pinned = int(streamer.stats().notes["cuda:0 pinned bytes"])
    assert gpu.peak() - before <= 256_000_000
    assert pinned <= 512_000_000


def test_a_module_is_filled_in_place(gpu: Any, tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3000, 1000), torch.nn.Linear(1000, 10))
    for parameter in module.parameters():
        parameter.data = gpu.put(parameter.data)
    wanted = {name: torch.randn_like(p) for name, p in module.state_dict().items()}
    path = tmp_path / "model.safetensors"
    save_file({name: tensor.cpu() for name, tensor in wanted.items()}, path)
    gpu.restart_peak()
    before = gpu.allocated()
    load([path], into=module)
    assert gpu.peak() - before <= MIB
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, wanted[name])


@needs_gpu
def test_memory_that_the_callers_stream_still_uses(tmp_path: Path) -> None:
    """The allocator reuses memory in the order of a stream; copies must keep that order."""
    path, wanted = large_file(tmp_path, 8, 16 * MIB)
    torch.cuda.empty_cache()
    for stream in (torch.cuda.current_stream(), torch.cuda.Stream()):
        with torch.cuda.stream(stream):
            busy = [torch.empty(16 * MIB, dtype=torch.uint8, device=DEVICE) for _ in range(8)]
            torch.cuda._sleep(200_000_000)
            for memory in busy:
                memory.fill_(0xEE)
            del busy, memory  # reused below, with the work above not done
            tensors = load([path])
            for name, tensor in tensors.items():
                assert torch.equal(tensor, wanted[name].to(DEVICE)), name
        torch.cuda.synchronize()


def test_an_abandoned_load_does_not_write_to_freed_memory(gpu: Any, tmp_path: Path) -> None:
    path, _ = large_file(tmp_path, 64, 8 * MIB // gpu.scale)
    for _ in range(5):
        streamer = SafetensorsStreamer()
        streamer.stream_file(str(path), device=DEVICE)
        tensors = streamer.get_tensors()
        next(tensors)
        del streamer, tensors
        gc.collect()
        # What was freed is the next caller's: nobody writes there any more.
        mine = gpu.put(torch.zeros(256 * MIB // gpu.scale, dtype=torch.uint8))
        assert not mine.any()
        del mine


def test_many_rounds_leave_nothing(gpu: Any, big_files: list[Path]) -> None:
    load(big_files)
    gc.collect()
    before = gpu.allocated()
    before_threads = threads()
    for _ in range(20 // gpu.scale):
        load(big_files)
    gc.collect()
    assert gpu.allocated() == before
    assert threads(before_threads) <= before_threads


def test_a_full_device_is_an_error(gpu: Any, tmp_path: Path) -> None:
    size = 64 * MIB // gpu.scale
    path, _ = large_file(tmp_path, 12, size)
    before = gpu.allocated()
    kept = []
    with SafetensorsStreamer() as streamer, gpu.room(6 * size + size // 4):
        full = gpu.allocated() - before
        streamer.stream_file(str(path), device=DEVICE)
        with pytest.raises(StreamerOutOfMemoryError, match=f"{size} bytes"):
            for _, tensor in streamer.get_tensors():
                kept.append(tensor)
                del tensor
        gc.collect()
        assert 0 < gpu.allocated() - before - full <= len(kept) * size


def test_a_device_that_does_not_exist_is_an_error(gpu: Any, big_files: list[Path]) -> None:
    with pytest.raises(StreamerDeviceError, match="cuda:99"):
        load(big_files, device="cuda:99")


@needs_gpu
def test_a_fork_after_cuda_was_initialised(big_files: list[Path]) -> None:
    python(
        textwrap.dedent("""
        import os, sys, torch
        from runai_model_streamer import SafetensorsStreamer
        from runai_model_streamer._errors import StreamerDeviceError
        torch.zeros(1, device="cuda:0")
        child = os.fork()
        if child == 0:
            try:
                with SafetensorsStreamer() as streamer:
                    streamer.stream_file(sys.argv[1], device="cuda:0")
                    list(streamer.get_tensors())
            except StreamerDeviceError:
                os._exit(0)
            os._exit(1)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """),
        big_files[0],
    )


@needs_gpu
def test_a_context_that_has_failed(big_files: list[Path]) -> None:
    python(
        textwrap.dedent("""
        import sys, torch
        from runai_model_streamer import SafetensorsStreamer
        from runai_model_streamer._errors import StreamerError
        data = torch.zeros(10, device="cuda:0")
        try:
            data[torch.full((1,), 1 << 20, device="cuda:0")] += 1
            torch.cuda.synchronize()
            sys.exit("the kernel did not fail")
        except RuntimeError:
            pass
        try:
            with SafetensorsStreamer() as streamer:
                streamer.stream_file(sys.argv[1], device="cuda:0")
                list(streamer.get_tensors())
            sys.exit("the load did not fail")
        except StreamerError as error:
            print(error)
        with SafetensorsStreamer() as streamer:  # the host path does not depend on it
            streamer.stream_file(sys.argv[1])
            list(streamer.get_tensors())
        """),
        big_files[0],
    )


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_tensors_reach_a_device_that_is_not_the_current_one(big_files: list[Path]) -> None:
    tensors = load(big_files, device="cuda:1")
    wanted = {name: tensor.to("cuda:1") for name, tensor in loads.expected(big_files).items()}
    check_same(tensors, wanted)
