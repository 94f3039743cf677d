"""Files that are no safetensors files, or odd ones: the error says what they are."""

from __future__ import annotations

import gzip
import io
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from runai_model_streamer import SafetensorsStreamer, StreamerError, _errors
from tests.support.models import file_bytes, load, same, write

SOUND = file_bytes({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}, b"1234")
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5368709120\n"


def zipped() -> bytes:
    out = io.BytesIO()
    torch.save({"a": torch.zeros(4)}, out)
    return out.getvalue()


def zipped_without_flags() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a", b"0" * 1000)
    return out.getvalue()


ODD = {
    "a Git LFS pointer": (LFS, "Git LFS pointer.*git lfs pull"),
    "an HTML page": (b"<!DOCTYPE html><title>Sign in</title>", "HTML page"),
    "the error of a server": (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "XML"),
    "an index": (b'{"metadata": {}, "weight_map": {"a": "model.safetensors"}}', "JSON document"),
    "a pickle": (pickle.dumps({"a": [1, 2]}), "pickle"),
    "an old pickle": (pickle.dumps({"a": [1, 2]}, protocol=2), "pickle"),
    "a checkpoint of torch": (zipped(), r"ZIP archive \(torch\.save"),
    "a zip": (zipped_without_flags(), "ZIP archive"),
    "gzip": (gzip.compress(SOUND), "gzip"),
    "gzip without a time": (gzip.compress(SOUND, mtime=0), "gzip"),
    "GGUF": (b"GGUF\x03\0\0\0" + bytes(64), "GGUF"),
    "zeros": (bytes(4096), "begins with zeros"),
    "nothing": (b"", "truncated: it is empty"),
    "seven bytes": (SOUND[:7], "truncated: 7 bytes do not hold"),
    "a part of the header": (SOUND[:20], "truncated: its header has"),
    "a part of the data": (SOUND[:-1], "truncated: its header describes 4 bytes"),
    "trailing bytes": (SOUND + b"x", "1 extra trailing bytes"),
    "a header padded with NUL": (file_bytes(b"{}\0\0\0"), "a NUL byte behind the value"),
}


@pytest.mark.parametrize(("content", "words"), ODD.values(), ids=ODD)
def test_the_error_names_what_the_file_is(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(StreamerError, match=words) as caught:
        load(path)
    assert caught.value.path == str(path)
    assert caught.value.code in ("format", "short_read")
    truncated = caught.value.code == "short_read"
    assert truncated is isinstance(caught.value, _errors.StreamerShortReadError)
    assert truncated is not isinstance(caught.value, _errors.SafetensorsHeaderError)


def test_a_directory_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(StreamerError, match="cannot read a directory"):
        load(tmp_path / "model.safetensors")


@pytest.mark.parametrize("padding", range(8))
def test_tensors_are_aligned_at_any_offset_of_the_data_section(
    padding: int, tmp_path: Path
) -> None:
    header = b'{"a":{"dtype":"F32","shape":[3],"data_offsets":[1,13]},'
    header += b'"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}' + b" " * padding
    want = torch.arange(3.0)
    data = b"x" + want.numpy().tobytes()
    path = write(tmp_path / "a.safetensors", header, data)
    streamer = SafetensorsStreamer()
    streamer.stream_file(path)
    found = dict(streamer.get_tensors())
    assert same(found["a"], want)
    assert found["a"].data_ptr() % 4 == 0
    in_file = (8 + len(header) + 1) % 4
    assert streamer.unaligned_copies == (1 if in_file else 0)


def test_a_name_with_nul_and_a_lone_surrogate(tmp_path: Path) -> None:
    place = '"dtype":"U8","shape":[1],"data_offsets":[0,1]'
    path = write(tmp_path / "a.safetensors", f'{{"a\\u0000b":{{{place}}}}}'.encode(), b"x")
    assert set(load(path)) == {"a\0b"}
    path = write(tmp_path / "b.safetensors", f'{{"a\\ud800":{{{place}}}}}'.encode(), b"x")
    with pytest.raises(StreamerError, match="a lone surrogate"):
        load(path)
