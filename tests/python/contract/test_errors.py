"""The types of errors, and the words that tests of consumers match."""

from __future__ import annotations

import pickle
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from runai_model_streamer import (
    RunaiStreamerInvalidInputException,
    RunaiStreamerMemoryLimitException,
    SafetensorsStreamer,
)
from tests.support.models import load, write
from tests.support.processes import python


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


HEADERS = [
    ("not valid JSON", b"{", b""),
    ("not valid UTF-8", b'{"\xff":1}', b""),
    ("Shape claims 8 bytes.*offsets reserve 12", {"a": entry("F32", [2], 0, 12)}, bytes(12)),
    (
        "overlaps with next tensor",
        {"x": entry("U8", [4], 0, 4), "y": entry("U8", [4], 2, 6)},
        bytes(6),
    ),
    ("Gaps", {"x": entry("U8", [4], 0, 4), "y": entry("U8", [2], 6, 8)}, bytes(8)),
    ("does not start at the beginning", {"a": entry("U8", [4], 4, 8)}, bytes(8)),
    ("Unsupported dtype 'Q5'", {"a": entry("Q5", [4], 0, 4)}, bytes(4)),
    ("truncated", {"a": entry("U8", [4], 0, 4)}, bytes(3)),
    ("extra trailing bytes", {"a": entry("U8", [4], 0, 4)}, bytes(5)),
]


@pytest.mark.parametrize(("text", "header", "data"), HEADERS, ids=[row[0] for row in HEADERS])
def test_a_broken_header_is_an_error_in_the_words_that_consumers_match(
    tmp_path: Path, text: str, header: object, data: bytes
) -> None:
    path = write(tmp_path / "bad.safetensors", header, data)
    with pytest.raises(ValueError, match=text) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "b'" not in str(caught.value)
    assert caught.value.hint, "no cure"


def test_a_header_over_the_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.safetensors"
    path.write_bytes(struct.pack("<Q", (100 << 20) + 1) + b"{}")
    with pytest.raises(ValueError, match="exceeds limit"):
        load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none.safetensors"
    with pytest.raises(ValueError, match=r"none\.safetensors") as caught:
        load(path)
    assert isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize(
    ("path", "cure"),
    [
        ("s3:/bucket/model.safetensors", r"Write two slashes: s3://bucket/model\.safetensors"),
        ("HTTPS:/host/model.safetensors", "Write two slashes: HTTPS://host/model"),
        ("c:/model.safetensors", "Check the path"),
        ("/nowhere/*.safetensors", r"list_checkpoint\(\) expands it"),
        ("/nowhere/model.safetensors", "Check the path, and that the volume is mounted"),
    ],
)
def test_the_cure_of_a_missing_file_depends_on_its_path(path: str, cure: str) -> None:
    with pytest.raises(FileNotFoundError, match=cure):
        load(path)


@pytest.mark.needs("another user")
def test_a_file_that_may_not_be_read(folder: Path, public_directory: Path) -> None:
    path = public_directory / "model-1.safetensors"
    shutil.copy(folder / path.name, path)
    path.chmod(0)
    out = python(
        "import sys, os\n"
        "from runai_model_streamer import SafetensorsStreamer\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try:\n"
        "    with SafetensorsStreamer() as s: s.stream_file(sys.argv[1])\n"
        "except ValueError as e: print(isinstance(e, PermissionError), sys.argv[1] in str(e))\n",
        str(path),
    )
    assert out == "True True"


def test_local_and_remote_paths_in_one_load_are_refused(files) -> None:
    with pytest.raises(RunaiStreamerInvalidInputException):
        load([files[0], "s3://bucket/model.safetensors"])


def test_a_device_that_is_none(files) -> None:
    with SafetensorsStreamer() as streamer:
        with pytest.raises(RunaiStreamerInvalidInputException):
            streamer.stream_files(files, device="toaster")


def test_a_limit_below_the_largest_tensor_is_an_error(tmp_path: Path, monkeypatch) -> None:
    save_file({"a": torch.zeros(1 << 20)}, tmp_path / "a.safetensors")
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", "100000")
    # Where the file's own pages are handed out no memory is needed, and no limit is in the way.
    monkeypatch.setenv("RUNAI_STREAMER_FS_STRATEGY", "buffered")
    with pytest.raises(RunaiStreamerMemoryLimitException):
        load(tmp_path / "a.safetensors")
    for enough in ("0", "-1", str(8 << 20)):
        monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", enough)
        load(tmp_path / "a.safetensors")


def test_errors_can_be_sent_to_another_process(tmp_path: Path) -> None:
    try:
        load(tmp_path / "none.safetensors")
    except ValueError as error:
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert str(copy) == str(error)
        assert copy.path == error.path
    else:
        pytest.fail("no error")
