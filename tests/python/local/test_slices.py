"""Parts of tensors: exactly their bytes, in every way of reading."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from runai_model_streamer import SafetensorsStreamer, StreamerError, safe_open
from runai_model_streamer._distributed.assembler import scatter
from runai_model_streamer._formats.safetensors.tensor_slice import SliceReader
from runai_model_streamer._session import Session
from runai_model_streamer._spans import Along, Spans, spans_of
from tests.support import models, slices

MODEL = slices.random_model(1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "model.safetensors"
    safetensors.torch.save_file(MODEL, target)
    return target


def along_of(chance: random.Random, size: int) -> Along:
    if size >= 4 and chance.random() < 0.3:
        stride = chance.randint(2, 3)
        width = chance.randint(1, stride - 1)
        return Along(0, width, size // stride, stride)
    start = chance.randint(0, size)
    return Along(start, chance.randint(0, size - start))


def bytes_of(shape: list[int], part: list[Along], element: int) -> list[int]:
    """The bytes of `part` of a tensor of `shape`, one by one."""
    numbers = torch.arange(torch.Size(shape).numel()).view(shape)
    for dimension, one in enumerate(part):
        held = [one.start + k * one.stride + j for k in range(one.count) for j in range(one.width)]
        numbers = numbers.index_select(dimension, torch.tensor(held, dtype=torch.long))
    return [
        number * element + byte for number in numbers.flatten().tolist() for byte in range(element)
    ]


class TestSpans:
    @pytest.mark.parametrize("seed", range(120))
    def test_are_the_bytes_of_the_part(self, seed: int) -> None:
        chance = random.Random(seed)
        shape = [chance.randint(0, 6) for _ in range(chance.randint(1, 4))]
        part = [along_of(chance, size) for size in shape]
        element = chance.choice([1, 2, 8])
        wanted = bytes_of(shape, part, element)
        spans = spans_of(shape, element, part)
        assert [byte for start, end in spans.intervals() for byte in range(start, end)] == wanted
        assert spans.size == len(wanted)
        gap = chance.randint(0, 20)
        joined = list(spans.intervals(gap))
        assert set(wanted) <= {byte for start, end in joined for byte in range(start, end)}
        assert all(start - end > gap for (_, end), (start, _) in itertools.pairwise(joined))
        if wanted:
            assert (joined[0][0], joined[-1][1]) == (wanted[0], wanted[-1] + 1)
            assert spans.extent == wanted[-1] + 1 - wanted[0]

    @pytest.mark.parametrize("seed", range(60))
    def test_scatter_takes_them_from_pieces_of_any_size(self, seed: int) -> None:
        chance = random.Random(seed)
        shape = [chance.randint(1, 6) for _ in range(chance.randint(1, 4))]
        part = [along_of(chance, size) for size in shape]
        wanted = bytes_of(shape, part, 2)
        spans = spans_of(shape, 2, part)
        file = torch.randint(0, 256, (torch.Size(shape).numel() * 2 + 9,), dtype=torch.uint8)
        memory = torch.zeros(spans.size, dtype=torch.uint8)
        done, place = 0, 0
        while place < spans.extent:
            size = chance.randint(1, max(1, spans.extent // 2))
            data = file[spans.start + place :][: min(size, spans.extent - place)]
            done += scatter(data, place, Spans(0, spans.run, spans.levels), memory)
            place += data.numel()
        assert done == len(wanted)
        assert memory.tolist() == file[torch.tensor(wanted, dtype=torch.long)].tolist()


class TestSlices:
    @pytest.mark.parametrize("seed", range(8))
    def test_give_what_slicing_the_whole_tensor_gives(
        self, strategy: str, path: Path, seed: int
    ) -> None:
        chosen = slices.random_slices(MODEL, seed)
        expected = slices.sliced(MODEL, chosen)
        with SafetensorsStreamer() as streamer:
            streamer.stream_file(path, slices=chosen)
            found = dict(streamer.get_tensors())
            stats = streamer.stats()
        models.check_same(expected, found)
        assert list(found) == [name for name in streamer.keys() if name in expected]  # noqa: SIM118
        assert all(tensor.is_contiguous() for tensor in found.values())
        size = sum(tensor.nbytes for tensor in expected.values())
        assert (stats.bytes, stats.bytes_asked, streamer.total_size) == (size, size, size)
        assert stats.bytes_read >= size

    @pytest.mark.parametrize("seed", range(4))
    def test_parts_fill_tensors_of_their_shape(self, path: Path, seed: int) -> None:
        chosen = slices.random_slices(MODEL, seed)
        expected = slices.sliced(MODEL, chosen)
        into = {name: torch.empty_like(tensor) for name, tensor in expected.items()}
        into = {name: torch.empty(t.shape, dtype=t.dtype) for name, t in into.items()}
        with SafetensorsStreamer() as streamer:
            streamer.stream_file(path, slices=chosen, into=into)
            found = dict(streamer.get_tensors())
        models.check_same(expected, into)
        assert all(found[name] is into[name] for name in into)

    def test_patterns_and_functions_choose_parts(self, path: Path) -> None:
        def rows(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Any:
            assert (shape, dtype) == (tuple(MODEL[name].shape), MODEL[name].dtype)
            return slice(1) if name.startswith("t0") else None

        with SafetensorsStreamer() as streamer:
            streamer.stream_file(path, slices=rows)
            found = dict(streamer.get_tensors())
            models.check_same({n: t[:1] for n, t in MODEL.items() if n[:2] == "t0"}, found)
            chosen = {"t0*": slice(1), "t05": None, "t06": (slice(2),)}
            streamer.stream_file(path, tensor_names=["t*"], slices=chosen)
            found = dict(streamer.get_tensors())
        chosen = {f"t0{i}": slice(1) for i in range(10)} | {"t05": None, "t06": slice(2)}
        expected = slices.sliced({n: t for n, t in MODEL.items() if n[0] == "t"}, chosen)
        models.check_same(expected, found)

    @pytest.mark.parametrize(
        ("chosen", "text"),
        [
            ({"wide": (slice(1), slice(1), slice(1))}, "'wide' has 3 dimensions, the tensor 2"),
            ({"wide": slice(0, 4, 2)}, "'wide' has a step of 2 in dimension 0"),
            ({"wide": (slice(None), slice(None, None, -1))}, "step of -1 in dimension 1"),
            ({"wide": slice(None, None, 0)}, "bounds of 'wide' in dimension 0"),
            ({"wide": slice("a")}, "bounds of 'wide' in dimension 0"),
            ({"wide": 3}, "'wide' has a int for dimension 0"),
            ({"wide": (slice(1), [0])}, "'wide' has a list for dimension 1"),
            ({"wide": (..., ...)}, "'wide' has more than one '...'"),
            ({"scalar": slice(1)}, "'scalar' has 1 dimensions, the tensor 0"),
            ({"nothing": slice(1)}, "the files have no tensor 'nothing'"),
            ({"no*": slice(1), "nor*": None}, "the files have no tensor 'no*', 'nor*'"),
            ({7: slice(1)}, "slices: 7 is not text"),
            ([("wide", slice(1))], "slices takes a mapping"),
            (lambda name, shape, dtype: (1.5,) * len(shape), "has a float for dimension 0"),
        ],
    )
    def test_errors_name_the_tensor_before_anything_is_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: Any, text: str
    ) -> None:
        path = tmp_path / "model.safetensors"
        safetensors.torch.save_file({"wide": torch.ones(4, 6), "scalar": torch.ones(())}, path)
        monkeypatch.setattr(Session, "submit", lambda *_: pytest.fail("data was asked for"))
        with SafetensorsStreamer() as streamer, pytest.raises(StreamerError) as error:
            streamer.stream_file(path, slices=chosen)
        assert text in str(error.value)

    def test_of_halves_of_bytes(self, tmp_path: Path) -> None:
        """Two F4 are one element of torch; F6 is no dtype of torch."""
        data = bytes(range(48))
        header = {"four": {"dtype": "F4", "shape": [6, 16], "data_offsets": [0, 48]}}
        path = models.write(tmp_path / "four.safetensors", header, data)
        if not hasattr(torch, "float4_e2m1fn_x2"):
            pytest.skip("this torch has no F4")
        with SafetensorsStreamer() as streamer:
            streamer.stream_file(path, slices={"four": (slice(1, 5), slice(2, 5))})
            ((_, tensor),) = streamer.get_tensors()
            part = streamer.get_slice("four")[1:5, 2:5]
        expected = torch.arange(48, dtype=torch.uint8).view(6, 8)[1:5, 2:5]
        assert torch.equal(tensor.view(torch.uint8), expected)
        assert torch.equal(part.view(torch.uint8), expected)
        header = {"six": {"dtype": "F6_E2M3", "shape": [4, 4], "data_offsets": [0, 12]}}
        path = models.write(tmp_path / "six.safetensors", header, bytes(12))
        with SafetensorsStreamer() as streamer, pytest.raises(StreamerError, match="'F6_E2M3'"):
            streamer.stream_file(path, slices={"six": slice(1)})

    def test_read_little_more_than_they_keep(self, tmp_path: Path, strategy: str) -> None:
        path = tmp_path / "model.safetensors"
        safetensors.torch.save_file({"t": torch.randn(2048, 4096)}, path)
        for chosen, most in [(slice(512, 1024), 1.0), ((slice(None), slice(2048, 4096)), 1.0)]:
            with SafetensorsStreamer() as streamer:
                streamer.stream_file(path, slices={"t": chosen})
                for _ in streamer.get_tensors():
                    pass
                stats = streamer.stats()
            # Past the page cache a device reads what lies between rows, too.
            if "direct" not in stats.bytes_by_strategy:
                assert stats.bytes_read <= stats.bytes * most

    def test_stay_within_the_memory_limit(self, tmp_path: Path) -> None:
        """Of a column only the column counts."""
        path = tmp_path / "model.safetensors"
        tensors = {f"t{number}": torch.randn(1024, 2048) for number in range(6)}
        safetensors.torch.save_file(tensors, path)
        limit = 4 << 20
        with SafetensorsStreamer(memory_limit=limit) as streamer:
            streamer.stream_file(path, slices={"t*": (slice(None), slice(512, 1024))})
            for name, tensor in streamer.get_tensors():
                assert torch.equal(tensor, tensors[name][:, 512:1024])
                del tensor
            stats = streamer.stats()
        assert stats.memory_limit == limit
        assert stats.peak_memory <= limit


class TestGetSlice:
    @pytest.mark.parametrize("seed", range(20))
    def test_gives_what_the_tensor_gives(self, path: Path, seed: int) -> None:
        chance = random.Random(seed)

        def item(size: int) -> Any:
            start = chance.randint(-size - 1, size + 1)
            kinds: list[Any] = [slice(start, None), slice(None, start, 2), slice(None)]
            if size:
                kinds += [chance.randrange(-size, size)] * 3 + [[0, size - 1]]
            return chance.choice(kinds)

        with safe_open(path) as file:
            for name, tensor in MODEL.items():
                index = [item(size) for size in tensor.shape[: chance.randint(0, tensor.dim())]]
                if sum(isinstance(part, list) for part in index) > 1:
                    continue
                if len(index) == tensor.dim() and chance.random() < 0.5:
                    index.insert(chance.randint(0, len(index)), chance.choice([None, ...]))
                try:
                    expected = tensor[tuple(index)]
                except RuntimeError as error:  # old versions of torch lack kernels for float8
                    with pytest.raises(RuntimeError, match=re.escape(str(error))):
                        file.get_slice(name)[tuple(index)]
                    continue
                found = file.get_slice(name)[tuple(index)]
                pair = [t.clone(memory_format=torch.contiguous_format) for t in (found, expected)]
                assert models.same(*pair), index

    def test_reads_each_byte_once_in_loops(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "model.safetensors"
        tensor = torch.randn(300, 40, 5)
        safetensors.torch.save_file({"t": tensor}, path)
        read: list[int] = []
        plain: Callable[..., None] = SliceReader.read

        def counting(self: SliceReader, file: Any, part: Any, *memory: Any) -> None:
            read.append(part.end - part.start)
            plain(self, file, part, *memory)

        monkeypatch.setattr(SliceReader, "read", counting)
        with safe_open(path) as file:
            part = file.get_slice("t")
            assert len(part) == 300
            assert torch.equal(torch.stack(list(part)), tensor)
            assert (len(read), sum(read)) == (1, tensor.nbytes)
            read.clear()
            columns = [part[:, number] for number in range(40)]
            assert torch.equal(torch.stack(columns, dim=1), tensor)
            assert sum(read) == tensor.nbytes
            with pytest.raises(IndexError, match="has 3 dimensions"):
                part[0, 0, 0, 0]
            with pytest.raises(IndexError, match="index 40 is out of range for dimension 1"):
                part[0, 40]
