"""Streaming into device memory: the whole path from Python, on the stand-in driver."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from standin import Standin, StandinMemory

from runai_model_streamer import SafetensorsStreamer, cuda
from runai_model_streamer.errors import (
    RunaiStreamerInvalidInputException,
    StreamerDeviceError,
    StreamerError,
    StreamerOutOfMemoryError,
)
from runai_model_streamer.file_streamer import FileChunks, FileStreamer

MIB = 1 << 20


def expected(paths: list[Path]) -> dict[str, torch.Tensor]:
    return {name: tensor for path in paths for name, tensor in load_file(path).items()}


def load(paths: list[Path], **options: object) -> dict[str, torch.Tensor]:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(path) for path in paths], device="cuda:0", **options)
        return dict(streamer.get_tensors())


def check(tensors: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert tensors.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert tensors[name].dtype == tensor.dtype
        assert tensors[name].shape == tensor.shape
        assert torch.equal(tensors[name], tensor), name


def large_file(folder: Path, count: int, size: int) -> tuple[Path, dict[str, torch.Tensor]]:
    """`count` tensors of `size` bytes."""
    tensors = {
        f"t{index:03}": torch.full((size,), index % 251, dtype=torch.uint8)
        for index in range(count)
    }
    path = folder / "large.safetensors"
    save_file(tensors, path)
    return path, tensors


def test_every_tensor_arrives_and_stays(standin: Standin, checkpoint: list[Path]) -> None:
    tensors = load(checkpoint)
    check(tensors, expected(checkpoint))
    assert standin.counts().device_bytes > 0  # kept after the streamer was closed
    for tensor in tensors.values():
        if tensor.numel() > 0:
            assert tensor.data_ptr() % 512 == 0


def test_order_is_that_of_the_files(standin: Standin, checkpoint: list[Path]) -> None:
    def names(device: str) -> list[str]:
        with SafetensorsStreamer() as streamer:
            streamer.stream_files([str(path) for path in checkpoint], device=device)
            return [name for name, _ in streamer.get_tensors()]

    assert names("cuda:0") == names("cpu")


@pytest.mark.parametrize("alignment", ["16", "256", "4096", "65536"])
def test_alignment(
    standin: Standin, checkpoint: list[Path], monkeypatch: pytest.MonkeyPatch, alignment: str
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_CUDA_ALIGNMENT", alignment)
    tensors = load(checkpoint)
    check(tensors, expected(checkpoint))
    for tensor in tensors.values():
        if tensor.numel() > 0:
            assert tensor.data_ptr() % int(alignment) == 0


@pytest.mark.parametrize("alignment", ["48", "7", "none"])
def test_alignment_that_is_none(
    standin: Standin, checkpoint: list[Path], monkeypatch: pytest.MonkeyPatch, alignment: str
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_CUDA_ALIGNMENT", alignment)
    with pytest.raises(RunaiStreamerInvalidInputException, match="RUNAI_STREAMER_CUDA_ALIGNMENT"):
        load(checkpoint)


@pytest.mark.parametrize("memory_limit", ["0", "-1", "1048576"])
@pytest.mark.parametrize("concurrency", ["1", "5"])
def test_limits_of_the_host(
    standin: Standin,
    checkpoint: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    memory_limit: str,
    concurrency: str,
) -> None:
    """The host's memory may be far below the largest tensor."""
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", memory_limit)
    monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", concurrency)
    check(load(checkpoint), expected(checkpoint))
    if memory_limit == "1048576":
        assert standin.counts().pinned_peak <= MIB


def test_device_memory_beyond_what_is_kept_is_bounded(
    standin: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, wanted = large_file(tmp_path, 40, 2 * MIB)
    limit = 8 * MIB
    monkeypatch.setenv("RUNAI_STREAMER_CUDA_MEMORY_LIMIT", str(limit))
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(str(path), device="cuda:0")
        for name, tensor in streamer.get_tensors():
            assert torch.equal(tensor, wanted[name])
            del tensor
    # The tensor in the consumer's hands comes on top.
    assert standin.counts().device_peak <= limit + 2 * MIB
    assert standin.counts().copied_bytes == 40 * 2 * MIB


def test_a_tensor_above_the_limit_goes_alone(
    standin: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, wanted = large_file(tmp_path, 3, 5 * MIB)
    monkeypatch.setenv("RUNAI_STREAMER_CUDA_MEMORY_LIMIT", str(MIB))
    check(load([path]), wanted)


def test_a_kept_small_tensor_holds_little(standin: Standin, checkpoint: list[Path]) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(path) for path in checkpoint], device="cuda:0")
        kept = [tensor for name, tensor in streamer.get_tensors() if name == "1.norm200"]
    gc.collect()
    assert 0 < standin.counts().device_bytes <= MIB
    del kept


def test_names_are_filtered_before_anything_is_read(
    standin: Standin, checkpoint: list[Path]
) -> None:
    tensors = load(checkpoint, tensor_names=["*.half", "0.wide"])
    wanted = expected(checkpoint)
    check(tensors, {name: wanted[name] for name in ("0.half", "0.wide", "1.half")})
    assert standin.counts().copied_bytes == 2 * 333 * 111 * 2 + 5 * 3 * 2 * 8


def test_into_writes_where_the_tensors_are(standin: Standin, checkpoint: list[Path]) -> None:
    wanted = expected(checkpoint)
    targets = {}
    for name, tensor in wanted.items():
        memory = standin.allocate(0, tensor.numel() * tensor.element_size())
        assert memory is not None
        targets[name] = memory.view(tensor.dtype).view(tensor.shape)
        del memory
    before = standin.counts().device_peak
    tensors = load(checkpoint, into=targets)
    check(tensors, wanted)
    for name, target in targets.items():
        assert tensors[name] is target
    # Empty tensors apart, no device memory but the caller's was needed.
    assert standin.counts().device_peak == before
    assert standin.counts().copied_bytes == sum(
        t.numel() * t.element_size() for t in wanted.values()
    )


def test_into_some(standin: Standin, checkpoint: list[Path]) -> None:
    wanted = expected(checkpoint)
    memory = standin.allocate(0, 700 * 1024 * 4)
    assert memory is not None
    target = memory.view(torch.float32).view(700, 1024)
    del memory
    tensors = load(checkpoint, into={"1.embed": target})
    check(tensors, wanted)
    assert tensors["1.embed"] is target


def test_chunks_of_the_file_streamer(standin: Standin, tmp_path: Path) -> None:
    content = os.urandom(3 * MIB)
    path = tmp_path / "bytes"
    path.write_bytes(content)
    sizes = [0, 5, MIB, 1000, 3 * MIB - MIB - 1005]
    with FileStreamer() as streamer:
        streamer.stream_files([FileChunks(7, str(path), 0, sizes)], device="cuda:0")
        found = {index: chunk.clone() for _, index, chunk in streamer.get_chunks()}
    offset = 0
    for index, size in enumerate(sizes):
        assert found[index].shape == (1, size)
        assert bytes(found[index].flatten().tolist()) == content[offset : offset + size]
        offset += size


def test_stats_say_what_was_used(standin: Standin, checkpoint: list[Path]) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(path) for path in checkpoint], device="cuda:0")
        for _ in streamer.get_tensors():
            pass
        stats = streamer.stats()
    assert stats.device == "cuda:0"
    assert stats.bytes == sum(path.stat().st_size for path in checkpoint) - headers(checkpoint)
    assert int(stats.notes["cuda:0 pinned bytes"]) > 0


def headers(paths: list[Path]) -> int:
    return sum(8 + int.from_bytes(path.read_bytes()[:8], "little") for path in paths)


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
    check(load([path]), wanted)
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


def test_abandoned_in_the_middle(
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


def test_a_sticky_error(standin: Standin, checkpoint: list[Path]) -> None:
    standin.fail("run copy", 700, after=1, sticky=True)
    with pytest.raises(StreamerDeviceError, match="CUDA_ERROR_ILLEGAL_ADDRESS") as failure:
        load(checkpoint)
    assert failure.value.server_code == "CUDA_ERROR_ILLEGAL_ADDRESS"
    assert "CUDA_LAUNCH_BLOCKING" in str(failure.value)
    # The host path does not depend on it.
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(path) for path in checkpoint])
        check(dict(streamer.get_tensors()), expected(checkpoint))
    gc.collect()
    standin.reset()


def test_a_truncated_file(standin: Standin, tmp_path: Path) -> None:
    path, _ = large_file(tmp_path, 4, MIB)
    with SafetensorsStreamer() as streamer, pytest.raises(StreamerError) as failure:
        streamer.stream_file(str(path), device="cuda:0", tensor_names=["t000"])
        os.truncate(path, 2 * MIB)
        streamer.stream_file(str(path), device="cuda:0")
    assert failure.value.path == str(path)


def test_no_such_device(standin: Standin, checkpoint: list[Path]) -> None:
    with SafetensorsStreamer() as streamer, pytest.raises(StreamerDeviceError, match="sees 2"):
        streamer.stream_files([str(path) for path in checkpoint], device="cuda:5")


def test_no_driver(
    standin: Standin, checkpoint: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_CUDA_LIBRARY", "/nonexistent/libcuda.so.1")
    with pytest.raises(StreamerDeviceError, match="no usable GPU driver"):
        load(checkpoint)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this PyTorch has a GPU")
def test_pytorch_without_a_gpu(checkpoint: list[Path]) -> None:
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
    check(found, wanted)


def test_two_streamers_and_two_devices(standin: Standin, checkpoint: list[Path]) -> None:
    standin.use(1)
    wanted = expected(checkpoint)
    names = [str(path) for path in checkpoint]
    with SafetensorsStreamer() as one, SafetensorsStreamer() as other:
        one.stream_files(names, device="cuda:0")
        other.stream_files(names, device="cuda:1")
        pairs = list(zip(one.get_tensors(), other.get_tensors(), strict=True))
    check(dict(pair[0] for pair in pairs), wanted)
    check(dict(pair[1] for pair in pairs), wanted)
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


def test_under_a_default_device_and_dtype(standin: Standin, checkpoint: list[Path]) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            tensors = load(checkpoint)
    finally:
        torch.set_default_dtype(before)
    check(tensors, expected(checkpoint))


# Devices that only PyTorch can copy to.


def test_meta(checkpoint: list[Path]) -> None:
    wanted = expected(checkpoint)
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(path) for path in checkpoint], device="meta")
        tensors = dict(streamer.get_tensors())
        assert streamer.stats().device == "meta"
    assert tensors.keys() == wanted.keys()
    for name, tensor in tensors.items():
        assert tensor.device.type == "meta"
        assert tensor.dtype == wanted[name].dtype
        assert tensor.shape == wanted[name].shape
        assert tensor.is_contiguous()


def test_into_of_a_device_that_only_pytorch_can_copy_to(checkpoint: list[Path]) -> None:
    target = torch.empty(700, 1024, device="meta")
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(
            [str(path) for path in checkpoint], device="meta", into={"0.embed": target}
        )
        tensors = dict(streamer.get_tensors())
    assert tensors["0.embed"] is target


def test_a_moved_placement_moves_the_bytes(
    checkpoint: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same path with a device whose bytes can be looked at."""
    from runai_model_streamer import device as devices

    monkeypatch.setattr(
        "runai_model_streamer.file_streamer.file_streamer.parse_device",
        lambda _: devices.MovedPlacement("elsewhere", torch.device("cpu")),
    )
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(path) for path in checkpoint])
        check(dict(streamer.get_tensors()), expected(checkpoint))


# Reading, copying and consuming overlap.


def test_a_trace_shows_the_overlap(standin: Standin, tmp_path: Path) -> None:
    """With a link as slow as the consumer, the load takes about as long as one of them."""
    report = tmp_path / "report.json"
    subprocess.run(
        [sys.executable, "-m", "benchmarks.overlap", "--driver", str(standin.path)]
        + ["--json", str(report)],
        check=True,
        cwd=Path(__file__).parents[3],
    )
    result = json.loads(report.read_text())
    assert result["bytes_equal"]
    # Of the time in which copies ran, most had a read and the consumer at work beside it.
    assert result["copy_seconds"] > 0
    assert result["read_while_copying"] > 0.3, textwrap.shorten(str(result), 500)
    assert result["consume_while_copying"] > 0.3, textwrap.shorten(str(result), 500)
