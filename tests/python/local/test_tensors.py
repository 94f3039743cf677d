"""What comes out: every dtype and shape, by each strategy; whose the memory is, and how long."""

from __future__ import annotations

import gc
import json
import math
import os
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch

from runai_model_streamer import (
    FileChunks,
    FileStreamer,
    SafetensorsStreamer,
    StreamerError,
    StreamerUnsupportedError,
)
from runai_model_streamer._formats.safetensors.dtypes import torch_shape
from runai_model_streamer._formats.safetensors.torch_dtypes import safetensors_to_torch_dtype
from runai_model_streamer._native_api import safetensors_dtype_bits as BITS
from tests.support.models import MIB, load, same, save_floats, write
from tests.support.processes import python

PLAIN = [name for name in BITS if name not in ("F4", "F6_E2M3", "F6_E3M2")]


@pytest.mark.parametrize("dtype", PLAIN)
def test_a_tensor_of_each_dtype_has_its_bytes(dtype: str, tmp_path: Path) -> None:
    bits = BITS[dtype]
    count = 6
    raw = bytes((i * 37) % 256 for i in range(count * bits // 8))
    if dtype == "BOOL":
        raw = bytes(i % 2 for i in range(count))
    path = write(
        tmp_path / "a.safetensors",
        {"x": {"dtype": dtype, "shape": [2, 3], "data_offsets": [0, len(raw)]}},
        raw,
    )
    if dtype not in safetensors_to_torch_dtype:
        lacking = rf"'{dtype}' of tensor 'x': torch {re.escape(torch.__version__)} has no "
        with pytest.raises(StreamerUnsupportedError, match=lacking):
            load(path)
        return
    tensor = load(path)["x"]
    assert tensor.dtype == safetensors_to_torch_dtype[dtype]
    assert tensor.shape == (2, 3) and tensor.is_contiguous() and not tensor.requires_grad
    assert bytes(tensor.view(torch.uint8).flatten().tolist()) == raw


@pytest.mark.parametrize("dtype", [*PLAIN, "F4"])
def test_neighbours_that_are_alike(dtype: str, tmp_path: Path) -> None:
    if dtype not in safetensors_to_torch_dtype:
        pytest.skip(f"this torch has no {dtype}")
    shapes = [[2, 4], [1, 4], [0, 4], [3, 4], [4, 3], [4], [8], [], [], [16]]
    if dtype == "F4":
        shapes = [[2, 4], [1, 4], [3, 4], [4, 2], [4], [8]]
    header, data = {}, b""
    for index, shape in enumerate(shapes):
        size = math.prod(shape) * BITS[dtype] // 8
        place = [len(data), len(data) + size]
        header[f"t{index:02}"] = {"dtype": dtype, "shape": shape, "data_offsets": place}
        data += bytes((index + i) % 2 for i in range(size))
    found = load(write(tmp_path / "a.safetensors", header, data))
    for name, info in header.items():
        start, end = info["data_offsets"]
        tensor = found[name]
        want = torch.tensor(list(data[start:end]), dtype=torch.uint8)
        want = want.view(tensor.dtype).view(torch_shape(dtype, tuple(info["shape"])))
        assert tensor.is_contiguous() and tensor.shape == want.shape
        assert torch.equal(tensor.reshape(-1).view(torch.uint8), want.reshape(-1).view(torch.uint8))
        # Is seen in no other. Old versions of torch can't fill tensors of eight bits.
        tensor.reshape(-1).view(torch.uint8).zero_()


def test_the_table_of_dtypes_is_complete() -> None:
    lacking = {"F6_E2M3", "F6_E3M2", "F4"}
    if not hasattr(torch, "float8_e8m0fnu"):
        lacking.add("F8_E8M0")
    assert set(BITS) - set(safetensors_to_torch_dtype) <= lacking


@pytest.mark.skipif(not hasattr(torch, "float4_e2m1fn_x2"), reason="this torch has no float4")
def test_two_f4_elements_are_one_of_torch(tmp_path: Path) -> None:
    raw = bytes(range(12))
    path = write(
        tmp_path / "a.safetensors",
        {"x": {"dtype": "F4", "shape": [3, 8], "data_offsets": [0, 12]}},
        raw,
    )
    tensor = load(path)["x"]
    assert tensor.dtype == torch.float4_e2m1fn_x2
    assert tensor.shape == (3, 4)
    assert bytes(tensor.view(torch.uint8).flatten().tolist()) == raw


@pytest.mark.parametrize("dtype", ["F6_E2M3", "F6_E3M2"])
def test_f6_is_refused_by_name(dtype: str, tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.safetensors",
        {"odd": {"dtype": dtype, "shape": [4], "data_offsets": [0, 3]}},
        bytes(3),
    )
    with pytest.raises(StreamerError, match=f"Unsupported dtype '{dtype}' of tensor 'odd'"):
        load(path)


def test_scalars_and_tensors_without_elements(strategy: str, tmp_path: Path) -> None:
    tensors = {
        "a": torch.tensor(3.5),
        "b": torch.empty(0, 4, dtype=torch.bfloat16),
        "c": torch.arange(5, dtype=torch.int64),
        "d": torch.empty(3, 0, 2),
        "e": torch.tensor(True),
        "f": torch.randn(200_000),
        "g": torch.empty(0),
    }
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(tensors, path)
    found = load(path)
    assert set(found) == set(tensors)
    assert all(same(found[name], tensors[name]) for name in tensors)


def test_a_file_without_tensors_yields_nothing(strategy: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", {"__metadata__": {"made": "by hand"}})
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(path)
        assert list(streamer.get_tensors()) == []
        assert streamer.metadata() == {"made": "by hand"}
        assert streamer.total_size == 0


@pytest.mark.parametrize("padding", range(8))
def test_tensors_are_aligned_behind_headers_of_any_length(
    strategy: str, padding: int, tmp_path: Path
) -> None:
    """The data may start at any byte: tensors are aligned to their elements all the same."""
    count = 100_000
    values = torch.arange(count, dtype=torch.float64)
    end = 8 * count
    places = {"big": ("F64", count, 0, end), "half": ("F16", 3, end, end + 6)}
    places["long"] = ("I64", 1, end + 6, end + 14)
    header = {
        name: {"dtype": dtype, "shape": [size], "data_offsets": [start, stop]}
        for name, (dtype, size, start, stop) in places.items()
    }
    text = json.dumps(header).encode()
    text += b" " * padding
    data = values.numpy().tobytes() + bytes(range(6)) + (77).to_bytes(8, "little")
    found = load(write(tmp_path / "a.safetensors", text, data))
    assert torch.equal(found["big"], values)
    assert found["long"].item() == 77
    for tensor in found.values():
        assert tensor.data_ptr() % tensor.element_size() == 0


def test_bytes_are_those_of_safetensors(strategy: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_floats(path, [1, 10, 100_000, 3, 1_500_000, 70_000, 70_000, 1])
    found, expected = load(path), safetensors.torch.load_file(path)
    assert set(found) == set(expected)
    assert all(same(found[name], expected[name]) for name in expected)


def test_the_order_is_that_of_the_files_and_their_bytes(strategy: str, tmp_path: Path) -> None:
    names = []
    paths = []
    for number in (2, 0, 1):
        path = tmp_path / f"{number}.safetensors"
        tensors = {f"{number}-{i}": torch.full((i * 20_000 + 1,), i) for i in (3, 1, 2, 0)}
        safetensors.torch.save_file(tensors, path)
        with safetensors.safe_open(path, "pt") as file:
            names += file.offset_keys()
        paths.append(path)
    for _ in range(3):
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(paths)
            assert streamer.keys() == names
            assert [name for name, _ in streamer.get_tensors()] == names


def test_no_memory_is_ever_written_again(strategy: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", str(2 * MIB))
    path = tmp_path / "a.safetensors"
    tensors = save_floats(path, [300_000, 10, 1000] * 20)
    kept = load(path)
    copies = {name: tensor.clone() for name, tensor in kept.items()}
    for _ in range(3):  # others use the memory that is free again
        for tensor in load(path).values():
            tensor.fill_(1)
    gc.collect()
    assert all(same(kept[name], copies[name]) for name in kept)
    assert all(same(kept[name], tensors[name]) for name in kept)


def test_what_the_consumer_writes_stays_in_its_tensor(strategy: str, tmp_path: Path) -> None:
    """Neighbours in a page, and the file, are untouched."""
    path = tmp_path / "a.safetensors"
    tensors = save_floats(path, [1000, 300_000, 1000, 10, 300_001])
    content = path.read_bytes()
    kept = {}
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([path])
        for name, tensor in streamer.get_tensors():
            kept[name] = tensor
            assert same(tensor, tensors[name])
            tensor.zero_()
    assert all(not tensor.any() for tensor in kept.values())
    del tensor, kept["t0001"]  # its pages go, those of the others stay
    assert all(not tensor.any() for tensor in kept.values())
    assert path.read_bytes() == content
    assert same(load(path)["t0001"], tensors["t0001"])


def test_the_same_file_twice_gives_tensors_of_their_own(strategy: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = save_floats(path, [300_000])
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([path, path])
        (_, one), (_, other) = streamer.get_tensors()
        one.zero_()
        assert same(other, tensors["t0000"])
        other.fill_(2)
        del one
        assert torch.equal(other, torch.full_like(other, 2))


KEPT = """
import re, sys
from runai_model_streamer import SafetensorsStreamer
def memory():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10
with SafetensorsStreamer() as streamer:
    streamer.stream_files([sys.argv[1]], tensor_names=["t0000"])
    list(streamer.get_tensors())
before, kept = memory(), {}
with SafetensorsStreamer() as streamer:
    streamer.stream_files([sys.argv[1]])
    for name, tensor in streamer.get_tensors():
        if tensor.numel() < 10_000:
            kept[name] = tensor
    del tensor
print(len(kept), (memory() - before) >> 20)
"""


def test_keeping_small_tensors_holds_no_large_ones(strategy: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_floats(path, [1000, 1_000_000] * 30)  # 120 MB, of which 120 KB are kept
    count, grown = python(KEPT, str(path), RUNAI_STREAMER_MEMORY_LIMIT=str(16 * MIB)).split()
    assert count == "30"
    assert int(grown) < 40


def test_the_memory_limit_bounds_what_the_process_holds(strategy: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_floats(path, [1_000_000] * 60)  # 240 MB
    code = """
import re, sys
from runai_model_streamer import SafetensorsStreamer
def memory():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10
with SafetensorsStreamer() as streamer:
    streamer.stream_files([sys.argv[1]], tensor_names=["t0000"])
    list(streamer.get_tensors())
before = most = memory()
with SafetensorsStreamer() as streamer:
    streamer.stream_files([sys.argv[1]])
    for name, tensor in streamer.get_tensors():
        tensor.sum()
        most = max(most, memory())
    print((most - before) >> 20, streamer.stats().peak_memory <= 20 << 20)
"""
    grown, within = python(code, str(path), RUNAI_STREAMER_MEMORY_LIMIT=str(20 * MIB)).split()
    assert within == "True"
    assert int(grown) < 20 + 64


def test_marks_on_tensors_and_storages_survive(strategy: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_floats(path, [10, 300_000])
    for tensor in load(path).values():
        tensor.mark = 1  # type: ignore[attr-defined]
        tensor.untyped_storage().mark = True  # type: ignore[attr-defined]
        assert tensor.view(-1).untyped_storage().mark  # type: ignore[attr-defined]
        assert tensor.mark == 1  # type: ignore[attr-defined]


def test_other_defaults_of_torch_change_nothing(strategy: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = save_floats(path, [10, 300_000, 0])
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.bfloat16)
        with torch.device("meta"):
            found = load(path)
    finally:
        torch.set_default_dtype(before)
    assert all(tensor.device.type == "cpu" for tensor in found.values())
    assert all(same(found[name], tensors[name]) for name in tensors)


class TestFileStreamer:
    def test_ranges_may_be_anywhere_in_any_order(self, strategy: str, tmp_path: Path) -> None:
        content = os.urandom(3 * MIB)
        path = tmp_path / "blob.bin"
        path.write_bytes(content)
        offsets = [2 * MIB, 5, 5, 0, 3 * MIB, 100]
        sizes = [MIB, 10, MIB, 0, 0, 2 * MIB]
        with FileStreamer() as streamer:
            streamer.stream_files([FileChunks(9, path, offsets, sizes)])
            found = list(streamer.get_chunks())
        assert [(id, index) for id, index, _ in found] == [(9, i) for i in range(6)]
        for (_, _, chunk), offset, size in zip(found, offsets, sizes, strict=True):
            assert chunk.dtype == torch.uint8 and chunk.shape == (1, size)
            assert chunk.numpy().tobytes() == content[offset : offset + size]

    def test_one_offset_means_consecutive_ranges(self, tmp_path: Path) -> None:
        path = tmp_path / "blob.bin"
        path.write_bytes(bytes(range(100)))
        one = FileChunks(1, str(path), 10, [5, 0, 7])
        assert one.offsets == [10, 15, 15] and one.total_size() == 12
        assert one.max_chunk_size() == 7
        assert one == FileChunks.contiguous(1, str(path), 10, [5, 0, 7])
        with FileStreamer() as streamer:
            streamer.stream_files([one, FileChunks(2, path, 0, [])])
            chunks = [chunk.flatten().tolist() for _, _, chunk in streamer.get_chunks()]
        assert chunks == [list(range(10, 15)), [], list(range(15, 22))]

    def test_ranges_behind_the_end_are_an_error(self, strategy: str, tmp_path: Path) -> None:
        path = tmp_path / "blob.bin"
        path.write_bytes(bytes(100))
        with FileStreamer() as streamer, pytest.raises(StreamerError, match="ends behind"):
            streamer.stream_files([FileChunks(1, path, 99, [2])])

    @pytest.mark.parametrize(("offsets", "sizes"), [([1], [1, 2]), (-1, [1]), ([0], [-1])])
    def test_ranges_that_make_no_sense(self, offsets: object, sizes: list[int]) -> None:
        with pytest.raises(ValueError):
            FileChunks(1, "x", offsets, sizes)  # type: ignore[arg-type]

    def test_a_memory_limit_of_its_own_is_checked(self, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setenv("RUNAI_STREAMER_FS_STRATEGY", "buffered")
        path = tmp_path / "blob.bin"
        path.write_bytes(bytes(MIB))
        with FileStreamer() as streamer:
            with pytest.raises(StreamerError, match="memory limit"):
                streamer.stream_files([FileChunks(1, path, 0, [MIB])], memory_limit=1000)
            with pytest.raises(StreamerError, match="memory_limit -7"):
                streamer.stream_files([FileChunks(1, path, 0, [MIB])], memory_limit=-7)

    def test_list_files_selects_by_patterns(self, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        for name in ("b.bin", "a.txt", "sub/c.bin"):
            (tmp_path / name).write_bytes(b"123")
        streamer = FileStreamer()
        found = streamer.list_files(str(tmp_path), allow_patterns=["*.bin"])
        assert found == [(str(tmp_path / "b.bin"), 3), (str(tmp_path / "sub/c.bin"), 3)]
        assert streamer.list_files(str(tmp_path), False, ignore_patterns=["*.bin"]) == [
            (str(tmp_path / "a.txt"), 3)
        ]


def test_messages_have_no_bytes_in_them(tmp_path: Path) -> None:
    with pytest.raises(StreamerError) as caught:
        load(tmp_path / "n\u00e4me.safetensors")
    assert not re.search(r"\bb['\"]", str(caught.value))
    assert "n\u00e4me.safetensors" in str(caught.value)


class TestPairsOfF4:
    @pytest.mark.parametrize("shape", [[2, 3], [2000, 603], [6, 1]])
    @pytest.mark.parametrize("way", ["all", "names", "into", "slice"])
    def test_an_odd_last_dimension_is_refused(self, way, shape, tmp_path: Path) -> None:
        odd = r"'odd' of F4.*must be even"
        if "F4" not in safetensors_to_torch_dtype:
            odd = "'F4' of tensor 'odd': torch .* has no float4_e2m1fn_x2"
        size = math.prod(shape) // 2
        entry = {"dtype": "F4", "shape": shape, "data_offsets": [0, size]}
        path = write(tmp_path / "m.safetensors", {"odd": entry}, bytes(size))
        with SafetensorsStreamer() as streamer:
            with pytest.raises(StreamerUnsupportedError, match=odd) as caught:
                if way == "slice":
                    streamer.open_files([path])
                    streamer.get_slice("odd")
                elif way == "into":
                    streamer.stream_file(path, into={"odd": torch.zeros(1)})
                else:
                    streamer.stream_file(path, tensor_names=["odd"] if way == "names" else None)
            assert caught.value.path == path

    def test_one_that_is_not_wanted_is_no_obstacle(self, tmp_path: Path) -> None:
        header = {
            "odd": {"dtype": "F4", "shape": [2, 3], "data_offsets": [0, 3]},
            "fine": {"dtype": "U8", "shape": [2], "data_offsets": [3, 5]},
        }
        path = write(tmp_path / "m.safetensors", header, bytes(range(5)))
        assert load(path, tensor_names=["fine"])["fine"].tolist() == [3, 4]
