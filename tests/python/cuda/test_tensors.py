"""What arrives in device memory, and how much memory that takes."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import torch

from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer._device import cuda as cuda
from runai_model_streamer._errors import RunaiStreamerInvalidInputException
from runai_model_streamer._file_streamer import FileStreamer
from runai_model_streamer._requests import FileChunks
from tests.python.cuda.loads import expected, large_file, load
from tests.support.cuda_standin import Standin, StandinMemory
from tests.support.models import MIB, check_same


def test_every_tensor_arrives_and_stays(standin: Standin, checkpoint: list[Path]) -> None:
    tensors = load(checkpoint)
    check_same(tensors, expected(checkpoint))
    assert standin.counts().device_bytes > 0  # kept after the streamer was closed
    for tensor in tensors.values():
        if tensor.numel() > 0:
            assert tensor.data_ptr() % 512 == 0
            assert tensor.untyped_storage().nbytes() == tensor.nbytes
    places = [tensor.data_ptr() for tensor in tensors.values() if tensor.numel() > 0]
    assert len(set(places)) == len(places)


def test_order_is_that_of_the_files(standin: Standin, checkpoint: list[Path]) -> None:
    def names(device: str) -> list[str]:
        with SafetensorsStreamer() as streamer:
            streamer.stream_files([str(path) for path in checkpoint], device=device)
            return [name for name, _ in streamer.get_tensors()]

    assert names("cuda:0") == names("cpu")


@pytest.mark.parametrize("alignment", ["16", "256", "4096", "65536"])
def test_tensors_are_aligned_as_the_setting_says(
    standin: Standin, checkpoint: list[Path], monkeypatch: pytest.MonkeyPatch, alignment: str
) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_CUDA_ALIGNMENT", alignment)
    tensors = load(checkpoint)
    check_same(tensors, expected(checkpoint))
    for tensor in tensors.values():
        if tensor.numel() > 0:
            assert tensor.data_ptr() % int(alignment) == 0


@pytest.mark.parametrize("alignment", ["48", "7", "none"])
def test_an_invalid_alignment_is_refused(
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
    check_same(load(checkpoint), expected(checkpoint))
    if memory_limit == "1048576":
        assert standin.counts().pinned_peak <= MIB


def check_one_by_one(path: Path, wanted: dict[str, torch.Tensor]) -> None:
    """Loads without keeping anything."""
    names = []
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(str(path), device="cuda:0")
        for name, tensor in streamer.get_tensors():
            assert torch.equal(tensor, wanted[name])
            names.append(name)
            del tensor
    assert names == list(wanted)


def test_device_memory_beyond_what_is_kept_is_bounded(
    standin: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, wanted = large_file(tmp_path, 40, 2 * MIB)
    limit = 8 * MIB
    monkeypatch.setenv("RUNAI_STREAMER_CUDA_MEMORY_LIMIT", str(limit))
    check_one_by_one(path, wanted)
    # The tensor in the consumer's hands comes on top.
    assert standin.counts().device_peak <= limit + 2 * MIB
    assert standin.counts().copied_bytes == 40 * 2 * MIB


def test_what_an_alignment_costs_is_bounded_too(
    standin: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, wanted = large_file(tmp_path, 20, MIB)
    limit = 8 * MIB
    monkeypatch.setenv("RUNAI_STREAMER_CUDA_MEMORY_LIMIT", str(limit))
    monkeypatch.setenv("RUNAI_STREAMER_CUDA_ALIGNMENT", str(MIB))
    check_one_by_one(path, wanted)
    assert standin.counts().device_peak <= limit + 2 * MIB


def test_a_tensor_above_the_limit_goes_alone(
    standin: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, wanted = large_file(tmp_path, 3, 5 * MIB)
    monkeypatch.setenv("RUNAI_STREAMER_CUDA_MEMORY_LIMIT", str(MIB))
    check_same(load([path]), wanted)


def test_reads_of_tensors_above_the_usual_limit_overlap(
    standin: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, wanted = large_file(tmp_path, 4, 5 * MIB)
    monkeypatch.setattr(cuda, "_AHEAD", 4 * MIB)
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(str(path), device="cuda:0")
        assert standin.counts().device_bytes == 2 * 5 * MIB
        check_same(dict(streamer.get_tensors()), wanted)


def test_a_device_that_is_nearly_full_gets_no_more_than_the_usual_limit(
    standin: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, wanted = large_file(tmp_path, 4, 5 * MIB)
    monkeypatch.setattr(cuda, "_AHEAD", 4 * MIB)
    monkeypatch.setattr(StandinMemory, "free_bytes", lambda self: 39 * MIB)
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(str(path), device="cuda:0")
        assert standin.counts().device_bytes == 5 * MIB
        check_same(dict(streamer.get_tensors()), wanted)


def test_a_kept_small_tensor_holds_little(standin: Standin, checkpoint: list[Path]) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(path) for path in checkpoint], device="cuda:0")
        kept = [tensor for name, tensor in streamer.get_tensors() if name == "1.norm200"]
    gc.collect()
    assert 0 < standin.counts().device_bytes <= sum(tensor.nbytes for tensor in kept)
    del kept


def test_names_are_filtered_before_anything_is_read(
    standin: Standin, checkpoint: list[Path]
) -> None:
    tensors = load(checkpoint, tensor_names=["*.half", "0.wide"])
    wanted = expected(checkpoint)
    check_same(tensors, {name: wanted[name] for name in ("0.half", "0.wide", "1.half")})
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
    check_same(tensors, wanted)
    for name, target in targets.items():
        assert tensors[name] is target
    # Empty tensors apart, no device memory but the caller's was needed.
    assert standin.counts().device_peak == before
    assert standin.counts().copied_bytes == sum(
        t.numel() * t.element_size() for t in wanted.values()
    )


def test_into_for_one_tensor_leaves_the_others_to_the_load(
    standin: Standin, checkpoint: list[Path]
) -> None:
    wanted = expected(checkpoint)
    memory = standin.allocate(0, 700 * 1024 * 4)
    assert memory is not None
    target = memory.view(torch.float32).view(700, 1024)
    del memory
    tensors = load(checkpoint, into={"1.embed": target})
    check_same(tensors, wanted)
    assert tensors["1.embed"] is target


def test_chunks_of_the_file_streamer_reach_a_device(standin: Standin, tmp_path: Path) -> None:
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


def test_a_default_device_and_dtype_do_not_matter(standin: Standin, checkpoint: list[Path]) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            tensors = load(checkpoint)
    finally:
        torch.set_default_dtype(before)
    check_same(tensors, expected(checkpoint))
