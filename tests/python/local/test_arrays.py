"""Arrays of numpy and DLPack of the same files, compared with torch's."""

from __future__ import annotations

import gc
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import save_file

import runai_model_streamer.dlpack as by_dlpack
import runai_model_streamer.numpy as by_numpy
from runai_model_streamer import SafetensorsStreamer, StreamerError, StreamerUnsupportedError
from runai_model_streamer._formats.safetensors import numpy_arrays
from runai_model_streamer._formats.safetensors.dtypes import ELEMENT_BYTES, TORCH_NAMES
from runai_model_streamer._formats.safetensors.header import SafetensorMetadata
from runai_model_streamer._formats.safetensors.torch_dtypes import safetensors_to_torch_dtype
from runai_model_streamer._native_api import Buffer
from tests.support import models, slices

SHAPES = [(), (3,), (0, 4), (5, 0), (2, 3, 4), (70_000,), (1, 300_001)]
NUMPY = [
    ["BOOL", "U8", "I8", "I16", "U16", "F16", "I32", "U32", "F32", "C64", "F64", "I64", "U64"],
    ["BF16", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"],
]


def write(path: Path, dtypes: list[str]) -> Path:
    """Every shape of every dtype, with bytes that all differ."""
    generator = torch.Generator().manual_seed(7)
    tensors = {}
    for dtype in dtypes:
        for number, shape in enumerate(SHAPES):
            size = torch.Size(shape).numel() * ELEMENT_BYTES[dtype]
            high = 2 if dtype == "BOOL" else 256
            flat = torch.randint(0, high, (size,), dtype=torch.uint8, generator=generator)
            kind = getattr(torch, TORCH_NAMES[dtype])
            tensors[f"{dtype}.{number}"] = flat.view(kind).reshape(shape)
    save_file(tensors, path)
    return path


def loaded(path: Path) -> list[tuple[str, torch.Tensor]]:
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(path)
        return list(streamer.get_tensors())


def raw(array: Any) -> bytes:
    return numpy.ascontiguousarray(array).tobytes()


def raw_of(tensor: torch.Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def is_taken(dtype: str) -> bool:
    """Whether this torch takes such elements by DLPack."""
    tensor = SafetensorMetadata("a", (1,), dtype, 0, ELEMENT_BYTES[dtype])
    try:
        torch.from_dlpack(by_dlpack.HostTensor(tensor, Buffer.allocate([8]), 0))
    except (BufferError, RuntimeError):
        return False
    return True


def test_arrays_are_those_of_torch(strategy: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", NUMPY[0])
    expected = loaded(path)
    found = list(by_numpy.stream_files([path]))
    assert [name for name, _ in found] == [name for name, _ in expected]
    for (_, array), (name, tensor) in zip(found, expected, strict=True):
        assert array.dtype == tensor.numpy().dtype, name
        assert array.shape == tuple(tensor.shape)
        assert raw(array) == raw_of(tensor)
        assert array.flags.writeable and array.flags.aligned
        if array.size:
            array.reshape(-1).view(numpy.uint8)[:] = 0
    assert all(raw_of(tensor) == raw_of(dict(loaded(path))[name]) for name, tensor in expected[:9])
    kept = by_numpy.load_file(path)
    assert {name: raw(array) for name, array in kept.items()} == {
        name: raw_of(tensor) for name, tensor in expected
    }


def test_dtypes_that_ml_dtypes_adds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for name in NUMPY[1] if name in safetensors_to_torch_dtype]
    path = write(tmp_path / "a.safetensors", names)
    numpy_arrays._dtype_of.cache_clear()
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(StreamerUnsupportedError, match=r"numpy has no .*float") as caught:
        by_numpy.stream_files([path])
    assert caught.value.hint is not None and "ml_dtypes" in caught.value.hint
    kinds = {TORCH_NAMES[name]: f"V{ELEMENT_BYTES[name]}" for name in names}
    monkeypatch.setitem(sys.modules, "ml_dtypes", types.SimpleNamespace(**kinds))
    numpy_arrays._dtype_of.cache_clear()
    try:
        found = by_numpy.load_file(path)
    finally:
        numpy_arrays._dtype_of.cache_clear()
    for name, tensor in loaded(path):
        assert raw(found[name]) == raw_of(tensor)
        assert found[name].shape == tuple(tensor.shape)


def test_capsules_are_the_tensors_of_torch(strategy: str, tmp_path: Path) -> None:
    known = [name for name in safetensors_to_torch_dtype if name != "F4"]
    plain = [name for name in known if is_taken(name)]
    assert {"BOOL", "U8", "F16", "BF16", "F32", "I64"} <= {*plain}
    assert plain == known or not hasattr(torch, "float8_e8m0fnu")  # older ones take fewer
    path = write(tmp_path / "a.safetensors", plain)
    expected = dict(loaded(path))
    found = dict(by_dlpack.stream_files([path]))
    assert list(found) == list(expected)
    for name, exported in found.items():
        tensor = torch.from_dlpack(exported)
        assert exported.__dlpack_device__() == (1, 0)
        assert (exported.name, exported.shape) == (name, tuple(expected[name].shape))
        assert exported.dtype == name.split(".")[0]
        assert models.same(tensor, expected[name]), name
        again = torch.from_dlpack(exported)
        assert again.data_ptr() == tensor.data_ptr()
        assert name in repr(exported)


@pytest.mark.skipif("F4" not in safetensors_to_torch_dtype, reason="this torch has no F4")
def test_pairs_of_four_bits(tmp_path: Path) -> None:
    header = {"a": {"dtype": "F4", "shape": [2, 6], "data_offsets": [0, 6]}}
    path = models.write(tmp_path / "a.safetensors", header, b"abcdef")
    ((_, exported),) = by_dlpack.stream_files([path])
    tensor = torch.from_dlpack(exported)
    assert (tensor.shape, raw_of(tensor)) == ((2, 3), b"abcdef")
    ((_, exported),) = by_dlpack.stream_files([path], slices={"a": (slice(1, 2), slice(1, 3))})
    assert (exported.shape, raw_of(torch.from_dlpack(exported))) == ((1, 4), b"ef")
    with pytest.raises(StreamerUnsupportedError, match="numpy has no float4_e2m1fn_x2"):
        by_numpy.stream_files([path])


@pytest.mark.parametrize("seed", range(3))
def test_parts_are_those_of_torch(strategy: str, tmp_path: Path, seed: int) -> None:
    dtypes = (torch.bfloat16, torch.float8_e4m3fn)
    model = {n: t for n, t in slices.random_model(seed).items() if t.dtype not in dtypes}
    path = tmp_path / "a.safetensors"
    save_file(model, path)
    chosen = slices.random_slices(model, seed)
    expected = slices.sliced(model, chosen)
    arrays = dict(by_numpy.stream_files([path], slices=chosen))
    tensors = dict(by_dlpack.stream_files([path], slices=chosen))
    models.check_same(expected, {name: torch.from_numpy(a) for name, a in arrays.items()})
    models.check_same(expected, {name: torch.from_dlpack(t) for name, t in tensors.items()})

    def first_rows(name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        assert shape == tuple(model[name].shape)
        kinds.add(str(dtype))
        return slice(1) if shape else None

    kinds: set[str] = set()
    for _, array in by_numpy.stream_files([path], None, ["t*"], first_rows):
        assert array.shape[0] <= 1
    for _, tensor in by_dlpack.stream_files([path], None, ["t*"], first_rows):
        assert tensor.shape[0] <= 1
    assert {"float32", "F32"} <= kinds
    for stream_files in (by_numpy.stream_files, by_dlpack.stream_files):
        with pytest.raises(StreamerError, match="'scalar' has 1 dimensions, the tensor 0"):
            stream_files([path], slices={"scalar": slice(1)})


def test_memory_lives_as_long_as_what_was_made_of_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", ["F32"])
    expected = dict(loaded(path))
    arrays = [array for _, array in by_numpy.stream_files([path])]
    tensors = [torch.from_dlpack(exported) for _, exported in by_dlpack.stream_files([path])]
    capsules = [exported.__dlpack__() for _, exported in by_dlpack.stream_files([path])]
    path.unlink()
    gc.collect()
    for array, tensor, wanted in zip(arrays, tensors, expected.values(), strict=True):
        assert raw(array) == raw_of(tensor) == raw_of(wanted)
    del capsules  # that nobody took
    gc.collect()


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return [write(tmp_path / f"{dtype}.safetensors", [dtype]) for dtype in ("F32", "I64")]


EACH_WAY = pytest.mark.parametrize("stream_files", [by_numpy.stream_files, by_dlpack.stream_files])


@EACH_WAY
def test_names_and_patterns_select_tensors(
    paths: list[Path], stream_files: Callable[..., Any]
) -> None:
    assert [n for n, _ in stream_files(paths, None, ["*.1", "F32.0"])] == [
        name for path in paths for name, _ in loaded(path) if name in ("F32.1", "I64.1", "F32.0")
    ]
    assert list(stream_files([])) == []


@EACH_WAY
def test_wrong_paths_are_errors_at_once(
    paths: list[Path], tmp_path: Path, stream_files: Callable[..., Any]
) -> None:
    with pytest.raises(StreamerError, match=r"errno 2"):
        stream_files([tmp_path / "none"])
    with pytest.raises(StreamerError, match="takes a list of paths"):
        stream_files(str(paths[0]))


@EACH_WAY
def test_an_iterator_may_end_early(paths: list[Path], stream_files: Callable[..., Any]) -> None:
    stream = stream_files(paths)
    next(stream)
    stream.close()
    assert list(stream) == []
    stream_files(paths)  # dropped without a step


@EACH_WAY
def test_a_dtype_that_nothing_has_is_refused(
    tmp_path: Path, stream_files: Callable[..., Any]
) -> None:
    header = {"a": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]}}
    odd = models.write(tmp_path / "odd.safetensors", header, b"abc")
    with pytest.raises(StreamerUnsupportedError, match=r"has no F6_E2M3, the dtype of tensor 'a'"):
        stream_files([odd])


def test_a_capsule_is_for_the_host_and_no_copy(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", ["F32"])
    (_, exported), *_ = by_dlpack.stream_files([path])
    for options in ({"stream": 1}, {"dl_device": (2, 0)}, {"copy": True}):
        with pytest.raises(BufferError):
            exported.__dlpack__(**options)
    assert exported.__dlpack__(max_version=(1, 0), dl_device=(1, 0), copy=False)
